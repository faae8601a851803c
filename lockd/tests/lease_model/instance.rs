//! Instances: what is bounded, and how far.

use std::sync::Arc;
use std::time::Instant;

use lockd_protocol::planted::Planted;
use stateright::{Checker, HasDiscoveries, Model, Path};

use crate::catalog::Known;
use crate::cell::{Action, Cell, State};
use crate::clock::Pace;
use crate::marks::Mark;
use crate::past::Fault;

/// Says which steps a search for one fault takes.
pub(crate) type Steer = fn(&Cell, &[Arc<Known>; 3], &Action) -> bool;

/// What is checked: everything that three nodes and a client can do within these bounds.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) name: String,
    /// For each epoch, who owns the first ballot, the second, and so on. In the first epoch node 1
    /// leads under the first one at the start.
    pub(crate) ballots: Vec<Vec<u64>>,
    /// KeepAlives that the client sends; those after them are lost.
    pub(crate) renewals: u8,
    pub(crate) pace: Pace,
    /// Time stands still.
    pub(crate) timeless: bool,
    /// After so many ticks nothing is looked at any more.
    pub(crate) ticks_max: u8,
    /// The session is opened on the way, not before.
    pub(crate) opening: bool,
    /// The disk of node 1 takes its time.
    pub(crate) slow: bool,
    /// How often a leadership takes a KeepAlive that it has taken already.
    pub(crate) repeats: u8,
    /// Also looks at whether the session ends too early, which takes more states.
    pub(crate) early: bool,
    /// Goes on when the client has given up.
    pub(crate) lasting: bool,
    pub(crate) reads: u8,
    pub(crate) writes: u8,
    pub(crate) crashes: u8,
    pub(crate) heartbeats: u8,
    /// Leaders note in the log who is silent.
    pub(crate) notes: bool,
    /// A leader of the first epoch may remove these nodes.
    pub(crate) removes: Vec<u64>,
    pub(crate) bugs: &'static [Planted],
    pub(crate) replica_bug: Option<paxos::Planted>,
    /// The only fault that counts.
    pub(crate) only: Option<Fault>,
    pub(crate) steer: Option<Steer>,
}

/// Above the lines that [`Instance::check`] prints.
pub(crate) const TABLE_HEAD: &str = "\
| instance | distinct states | generated | depth | distinct nodes | runs of the code | seconds |
|---|---|---|---|---|---|---|";

/// What a check came to.
pub(crate) struct Outcome {
    pub(crate) states: usize,
    pub(crate) fault: Option<(Fault, Vec<String>)>,
    pub(crate) unreached: Vec<Mark>,
}

impl Instance {
    /// What is planted: without the notes of who is silent there is much less to look at.
    pub(crate) fn planted(&self) -> Vec<Planted> {
        let mut bugs = self.bugs.to_vec();
        if !self.notes {
            bugs.push(Planted::SilenceNotNoted);
        }
        bugs
    }

    pub(crate) fn has(&self, bug: Planted) -> bool {
        self.bugs.contains(&bug)
    }

    /// Whether an answer counts for the client although it is to no KeepAlive that it waits for.
    pub(crate) fn minds_late_answers(&self) -> bool {
        let confused = [
            Planted::LeaseFromReceipt,
            Planted::LeaseFromOpened,
            Planted::RenewalNumberReused,
        ];
        confused.iter().any(|bug| self.has(*bug))
    }

    /// Whether a message may have an effect that `Label::is_dead` says can have none.
    pub(crate) fn keeps_dead_messages(&self) -> bool {
        self.replica_bug == Some(paxos::Planted::EchoOfOlderBallot)
    }

    pub(crate) fn minds(&self, fault: Fault) -> bool {
        self.only.is_none_or(|only| only == fault)
    }

    /// Checks every state, or those up to the first fault, and prints one line of a table.
    pub(crate) fn check(self, threads: usize) -> Outcome {
        let started = Instant::now();
        let name = self.name.clone();
        let checker = Cell::new(self)
            .checker()
            .threads(threads)
            .finish_when(HasDiscoveries::AnyFailures)
            .spawn_bfs()
            .join();
        let cell = checker.model();
        let discoveries = checker.discoveries();
        let found = Fault::ALL.into_iter().find_map(|fault| {
            let path = discoveries.get(fault.property())?;
            Some((fault, tell(cell, path)))
        });
        let (nodes, runs) = cell.catalog.sizes();
        println!(
            "| `{name}` | {} | {} | {} | {nodes} | {runs} | {:.1} |",
            checker.unique_state_count(),
            checker.state_count(),
            checker.max_depth(),
            started.elapsed().as_secs_f64(),
        );
        let unreached = Mark::ALL.into_iter();
        Outcome {
            states: checker.unique_state_count(),
            fault: found,
            unreached: unreached
                .filter(|mark| !cell.marks.reached(*mark))
                .collect(),
        }
    }
}

/// The steps of a path, one line each.
fn tell(cell: &Cell, path: &Path<State, Action>) -> Vec<String> {
    let actions = path.clone().into_actions();
    actions
        .iter()
        .map(|action| cell.format_action(action))
        .collect()
}
