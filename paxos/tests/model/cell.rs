//! The whole cell as a state machine for `stateright`.

use std::sync::atomic::{AtomicBool, Ordering};

use paxos::limits::Bounds;
use paxos::{Ballot, EntryKind};
use stateright::{Model, Property};

use crate::catalog::{Catalog, Known, Step};
use crate::faults::Fault;
use crate::instance::Instance;
use crate::marks::{Mark, Marks};
use crate::network::{Kind, Network};
use crate::node::{Event, SetUp};
use crate::past::Past;

/// A state of the cell. All that is large is in the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    nodes: Vec<u32>,
    network: Network,
    past: Past,
    crashes: u8,
    confirms: u8,
    heartbeats: u8,
    asks: u8,
    fault: Option<Fault>,
}

/// A step: something happens to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Action {
    node: usize,
    event: Event,
}

/// The cell of one instance.
pub(crate) struct Cell {
    pub(crate) instance: Instance,
    pub(crate) catalog: Catalog,
    pub(crate) marks: Marks,
    /// A fault was found: the first is told, and nothing is looked for behind it.
    found: AtomicBool,
}

impl Cell {
    pub(crate) fn new(instance: Instance) -> Cell {
        let mut bounds = Bounds::default();
        if instance.one_entry_per_message {
            bounds.message_entries_bytes = 1;
        }
        let set_up = SetUp {
            nodes: instance.nodes(),
            first: instance.first.clone(),
            next: instance.next.clone(),
            bounds,
            instant_disks: instance.instant_disks,
            first_disk_slow: instance.first_disk_slow,
            quiet: instance.quiet,
            greetings: instance.greetings,
            planted: instance.planted,
        };
        Cell {
            instance,
            catalog: Catalog::new(set_up),
            marks: Marks::default(),
            found: AtomicBool::new(false),
        }
    }

    fn offer(&self, state: &State, node: usize, actions: &mut Vec<Action>) {
        let known = self.catalog.node(state.nodes[node]);
        let mut offer = |event| actions.push(Action { node, event });
        let epoch = (known.epoch.0 as usize).checked_sub(1);
        let ballots = epoch.and_then(|epoch| self.instance.ballots.get(epoch));
        for (owner, round) in ballots.into_iter().flatten().zip(1u64..) {
            if *owner == node as u64 + 1 && round > known.promised.round {
                offer(Event::Campaign { round });
            }
        }
        if state.asks < self.instance.asks {
            for other in &self.catalog.set_up.nodes {
                offer(Event::Ask { node: *other });
            }
        }
        if known.standing.ballot.is_some() && state.heartbeats < self.instance.heartbeats {
            offer(Event::Heartbeat);
        }
        if known.standing.leads {
            if known.end.0 < self.instance.slots {
                for value in 1..=self.instance.values {
                    offer(Event::Propose { value });
                }
            }
            if known.epoch == self.instance.first.epoch && self.instance.next.is_some() {
                offer(Event::Reconfigure);
            }
            if state.confirms < self.instance.confirms {
                offer(Event::Confirm);
            }
        }
        offer(Event::Loaded);
        if known.writing {
            offer(Event::Persisted);
        }
        if state.crashes < self.instance.crashes {
            offer(Event::Crash { written: false });
            offer(Event::Crash { written: true });
        }
    }

    /// The state after a step of a node, before it is judged.
    fn advance(&self, state: &State, node: usize, step: &Step) -> State {
        let mut next = state.clone();
        next.nodes[node] = step.node;
        for message in &step.sent {
            next.network.insert(*message);
        }
        if !self.instance.keeps_dead_messages() {
            self.forget_dead(&mut next, node);
        }
        next
    }

    fn forget_dead(&self, state: &mut State, node: usize) {
        let standings: Vec<_> = self
            .known(state)
            .iter()
            .map(|known| known.standing)
            .collect();
        for number in state.network.clone().messages() {
            let label = self.catalog.message(number).label;
            let (from, to) = (label.from.0 as usize - 1, label.to.0 as usize - 1);
            let concerned = from == node || to == node;
            if concerned && label.is_dead(standings[from], standings[to]) {
                state.network.remove(number);
            }
        }
    }

    fn known(&self, state: &State) -> Vec<std::sync::Arc<Known>> {
        state
            .nodes
            .iter()
            .map(|node| self.catalog.node(*node))
            .collect()
    }

    /// Notes what was reached.
    fn mark(&self, before: &State, action: Action, step: &Step, nodes: &[std::sync::Arc<Known>]) {
        for mark in &step.marks {
            self.marks.reach(*mark);
        }
        if nodes.iter().filter(|known| known.standing.leads).count() > 1 {
            self.marks.reach(Mark::TwoLeaders);
        }
        let leading = nodes.iter().filter(|known| known.standing.leads);
        let mut epochs = leading.map(|known| known.epoch);
        if let Some(epoch) = epochs.next()
            && epochs.any(|other| other != epoch)
        {
            self.marks.reach(Mark::BothEpochsLed);
        }
        let joiner = action.node >= self.instance.first.members.len();
        if joiner && step.spoken > Ballot::NONE {
            self.marks.reach(Mark::JoinerVotes);
        }
        for entry in &step.applied {
            let entry = self.catalog.entry(*entry);
            if entry.origin.epoch > self.instance.first.epoch {
                self.marks.reach(Mark::SecondEpochDecided);
            }
            if entry.kind == EntryKind::Command {
                self.marks.reach(Mark::CommandApplied);
            }
        }
        if let Event::Deliver(message) = action.event {
            let label = self.catalog.message(message).label;
            let late = label.kind == Kind::Log && label.ballot < before.past.highest_leader();
            if late && step.node != before.nodes[action.node] {
                self.marks.reach(Mark::LateMessage);
            }
        }
        for (ballot, _) in &step.confirmed {
            self.marks.reach(Mark::Confirmed);
            if ballot.round > 1 {
                self.marks.reach(Mark::ConfirmedBySuccessor);
            }
        }
    }
}

impl Model for Cell {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let nodes = self.catalog.start();
        vec![State {
            past: Past::new(nodes.len()),
            nodes,
            network: Network::default(),
            crashes: 0,
            confirms: 0,
            heartbeats: 0,
            asks: 0,
            fault: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.fault.is_some() {
            return;
        }
        for message in state.network.messages() {
            let node = self.catalog.message(message).label.to.0 as usize - 1;
            actions.push(Action {
                node,
                event: Event::Deliver(message),
            });
        }
        for node in 0..state.nodes.len() {
            self.offer(state, node, actions);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let node = action.node;
        let step = self.catalog.step(state.nodes[node], action.event)?;
        let mut next = self.advance(state, node, &step);
        match action.event {
            Event::Crash { .. } => next.crashes += 1,
            Event::Confirm => next.confirms += 1,
            Event::Heartbeat => next.heartbeats += 1,
            Event::Ask { .. } => next.asks += 1,
            _ => {}
        }
        let nodes = self.known(&next);
        self.mark(state, action, &step, &nodes);
        let fault = next.past.judge(&self.catalog, node, &step, &nodes);
        next.fault = step
            .fault
            .or(fault)
            .filter(|fault| self.instance.minds(*fault));
        (next != *state).then_some(next)
    }

    fn format_action(&self, action: &Action) -> String {
        format!(
            "node {} {}",
            action.node + 1,
            self.catalog.tell(action.event)
        )
    }

    fn properties(&self) -> Vec<Property<Cell>> {
        macro_rules! holds {
            ($($fault:ident),*) => {
                vec![$(Property::always(Fault::$fault.property(), |cell: &Cell, state: &State| {
                    cell.holds(state, Fault::$fault)
                })),*]
            };
        }
        holds![
            TwoValues,
            NotDurable,
            Ghost,
            PromiseLowered,
            PromiseNotDurable,
            AcceptanceNotDurable,
            NotAMember,
            StaleConfirm,
            Panicked
        ]
    }
}

impl Cell {
    /// False for the first state with this fault, so that the way to it is the one that is told.
    fn holds(&self, state: &State, fault: Fault) -> bool {
        state.fault != Some(fault) || self.found.swap(true, Ordering::Relaxed)
    }
}
