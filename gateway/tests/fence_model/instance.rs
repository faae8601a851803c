//! Instances: what can happen, and how often.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use crate::database::Form;
use crate::rules::{Rule, Rules};
use crate::world::{Fault, LIVE};

/// How often what may happen still does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Bounds {
    pub(crate) grants: u8,
    pub(crate) writes: u8,
    pub(crate) returns: u8,
    /// Connections beside the first one of each client.
    pub(crate) connections: u8,
    pub(crate) hang_ups: u8,
    pub(crate) crashes: u8,
    /// Answers that a gateway does not get.
    pub(crate) losses: u8,
    pub(crate) restarts: u8,
    pub(crate) floors: u8,
}

/// A world to be explored.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) name: &'static str,
    pub(crate) form: Form,
    pub(crate) gateways: u8,
    /// From this gateway on they are in transaction mode: they tell what a session carries.
    pub(crate) told_from: u8,
    /// For each client the locks that it acquires, together.
    pub(crate) wants: &'static [&'static [usize]],
    pub(crate) bounds: Bounds,
    /// What a gateway got an answer to survives a restart of the database. Otherwise a replica
    /// that lags behind may take its place.
    pub(crate) synchronous: bool,
    /// At the start the server may have forgotten marks, and no gateway has begun an era.
    pub(crate) forgetful: bool,
    /// Of the gateway's own connections only those break over which tickets are given back.
    pub(crate) spares_admissions: bool,
    /// Also asks of every state whether the newest holder can still be admitted.
    pub(crate) lively: bool,
    pub(crate) rules: Rules,
}

/// Above the lines that [`Instance::check`] prints.
pub(crate) const TABLE_HEAD: &str = "\
| instance | distinct states | generated | depth | seconds |
|---|---|---|---|---|";

/// What a check came to.
pub(crate) struct Outcome {
    pub(crate) states: usize,
    /// The property that does not hold, and the shortest way there.
    pub(crate) broken: Option<(&'static str, Vec<String>)>,
}

impl Instance {
    pub(crate) fn without(mut self, rules: &'static [Rule]) -> Instance {
        self.rules = Rules { off: rules };
        self
    }

    /// Looks at every state, or at those up to the first fault.
    pub(crate) fn check(self, threads: usize) -> Outcome {
        let (started, name) = (Instant::now(), self.name);
        let checker = self
            .checker()
            .threads(threads)
            .finish_when(HasDiscoveries::AnyFailures)
            .spawn_bfs()
            .join();
        println!(
            "| {name} | {} | {} | {} | {:.1} |",
            checker.unique_state_count(),
            checker.state_count(),
            checker.max_depth(),
            started.elapsed().as_secs_f64(),
        );
        let discoveries = checker.discoveries();
        let properties = Fault::ALL.into_iter().map(Fault::property).chain([LIVE]);
        let broken = properties.into_iter().find_map(|property| {
            let path = discoveries.get(property)?.clone();
            let steps = path.into_actions();
            let told = steps.iter().map(|action| format!("{action:?}")).collect();
            Some((property, told))
        });
        Outcome {
            states: checker.unique_state_count(),
            broken,
        }
    }
}
