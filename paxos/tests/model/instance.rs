//! Instances: what is bounded, and how far.

use std::time::Instant;

use paxos::{Membership, NodeId, Planted};
use stateright::{Checker, HasDiscoveries, Model, Path};

use crate::cell::{Action, Cell, State};
use crate::faults::Fault;
use crate::marks::Mark;

/// What is checked: everything that three nodes can do within these bounds.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) name: &'static str,
    /// For each epoch, who owns the first ballot, the second, and so on. Nodes are alike but for
    /// their ballots and memberships, so few lists stand for all.
    pub(crate) ballots: Vec<Vec<u64>>,
    /// Who votes at first.
    pub(crate) first: Membership,
    /// Who votes in the second epoch, if a leader may end the first.
    pub(crate) next: Option<Membership>,
    /// Questions for what is decided that nobody prompted, or that are asked again.
    pub(crate) asks: u8,
    /// A leader proposes no command behind this slot.
    pub(crate) slots: u64,
    /// Different commands that may be proposed for one slot.
    pub(crate) values: u8,
    pub(crate) crashes: u8,
    pub(crate) confirms: u8,
    pub(crate) heartbeats: u8,
    /// No write is ever in flight: what is to be durable is so at once.
    pub(crate) instant_disks: bool,
    /// But on node 1.
    pub(crate) first_disk_slow: bool,
    /// Refusals are lost, and heartbeats that confirm nothing.
    pub(crate) quiet: bool,
    /// If quiet, what a new leader sends first to nodes that have not promised is not lost. It is
    /// empty, and brings forth an answer that tells what such a node lacks.
    pub(crate) greetings: bool,
    /// Else as many entries as there are go into one message.
    pub(crate) one_entry_per_message: bool,
    pub(crate) planted: Option<Planted>,
    /// Only what users would notice counts as a fault.
    pub(crate) outcomes_only: bool,
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
    /// The first membership with these ballots, and none of what can go wrong.
    pub(crate) fn new(name: &'static str, first: Membership, ballots: Vec<Vec<u64>>) -> Instance {
        Instance {
            name,
            ballots,
            first,
            next: None,
            asks: 0,
            slots: 0,
            values: 1,
            crashes: 0,
            confirms: 0,
            heartbeats: 0,
            instant_disks: false,
            first_disk_slow: false,
            quiet: false,
            greetings: false,
            one_entry_per_message: false,
            planted: None,
            outcomes_only: false,
        }
    }

    /// All nodes, members or not.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        let memberships = self.next.iter().chain([&self.first]);
        let all = memberships.flat_map(|membership| &membership.members);
        let last = all.max().copied().unwrap_or_default();
        (1..=last.0).map(NodeId).collect()
    }

    /// Which messages can have no more effect is not known of those who break their promises.
    pub(crate) fn keeps_dead_messages(&self) -> bool {
        let keeps_promises = [
            Planted::AskedAfterStop,
            Planted::EchoAfterStop,
            Planted::ConfirmAfterStop,
            Planted::ProposalAfterStop,
            Planted::EpochOnUndecidedStop,
            Planted::EpochNotDurable,
        ];
        self.planted
            .is_some_and(|bug| !keeps_promises.contains(&bug))
    }

    pub(crate) fn minds(&self, fault: Fault) -> bool {
        !self.outcomes_only || fault.is_outcome()
    }

    /// Checks every state, or those up to the first fault, and prints one line of a table.
    pub(crate) fn check(self, threads: usize) -> Outcome {
        let started = Instant::now();
        let name = self.name;
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
            "| {name} | {} | {} | {} | {nodes} | {runs} | {:.1} |",
            checker.unique_state_count(),
            checker.state_count(),
            checker.max_depth(),
            started.elapsed().as_secs_f64(),
        );
        let unreached = Mark::ALL
            .into_iter()
            .filter(|mark| !cell.marks.reached(*mark));
        Outcome {
            states: checker.unique_state_count(),
            fault: found,
            unreached: unreached.collect(),
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
