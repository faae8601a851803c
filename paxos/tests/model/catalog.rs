//! Every distinct node, message and entry of an instance, and what each event does to each node.
//!
//! The production code is deterministic, so it runs once for every distinct (node, event). What it
//! did is remembered, and most steps of the checker are look-ups of integers.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, PoisonError, RwLock};

use paxos::message::{Body, Standing};
use paxos::{Ballot, Entry, EntryKind, Epoch, Slot};

use crate::arena::Arena;
use crate::faults::Fault;
use crate::marks::Mark;
use crate::network::{Label, Position};
use crate::node::{Effects, Envelope, Event, Node, SetUp};

/// A node, with what the checker asks of it all the time.
pub(crate) struct Known {
    node: Node,
    pub(crate) standing: Position,
    pub(crate) promised: Ballot,
    pub(crate) epoch: Epoch,
    pub(crate) applied: Slot,
    pub(crate) end: Slot,
    pub(crate) writing: bool,
    /// The disk's log, as numbers of entries.
    pub(crate) log: Vec<u32>,
}

/// A message, with what the checker asks of it all the time.
pub(crate) struct Sent {
    envelope: Envelope,
    pub(crate) label: Label,
}

/// What an event does to a node.
pub(crate) struct Step {
    pub(crate) node: u32,
    pub(crate) sent: Vec<u32>,
    /// The highest ballot that it says, in what is sent, to have promised.
    pub(crate) spoken: Ballot,
    pub(crate) applied: Vec<u32>,
    pub(crate) replayed: Option<Vec<u32>>,
    pub(crate) asked: Option<(Ballot, u64)>,
    pub(crate) confirmed: Vec<(Ballot, u64)>,
    pub(crate) fault: Option<Fault>,
    pub(crate) marks: Vec<Mark>,
}

type Steps = HashMap<(u32, Event), Option<Arc<Step>>>;

/// See the module.
pub(crate) struct Catalog {
    pub(crate) set_up: SetUp,
    nodes: Arena<Known>,
    messages: Arena<Sent>,
    entries: Arena<Entry>,
    steps: RwLock<Steps>,
}

impl Hash for Known {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.node.hash(state);
    }
}

impl Hash for Sent {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.envelope.hash(state);
    }
}

impl Catalog {
    pub(crate) fn new(set_up: SetUp) -> Catalog {
        Catalog {
            set_up,
            nodes: Arena::new(),
            messages: Arena::new(),
            entries: Arena::new(),
            steps: RwLock::default(),
        }
    }

    /// Every node as it first starts.
    pub(crate) fn start(&self) -> Vec<u32> {
        let fresh = |id| self.know(Node::fresh(id, &self.set_up));
        self.set_up.nodes.iter().copied().map(fresh).collect()
    }

    pub(crate) fn node(&self, number: u32) -> Arc<Known> {
        self.nodes.get(number)
    }

    pub(crate) fn message(&self, number: u32) -> Arc<Sent> {
        self.messages.get(number)
    }

    pub(crate) fn entry(&self, number: u32) -> Arc<Entry> {
        self.entries.get(number)
    }

    /// How many distinct nodes were met, and how often the production code ran.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        let steps = self.steps.read().unwrap_or_else(PoisonError::into_inner);
        (self.nodes.len(), steps.len())
    }

    /// What the event does to the node; none if it cannot happen.
    pub(crate) fn step(&self, node: u32, event: Event) -> Option<Arc<Step>> {
        let steps = self.steps.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(step) = steps.get(&(node, event)) {
            return step.clone();
        }
        drop(steps);
        let step = self.run(node, event).map(Arc::new);
        let mut steps = self.steps.write().unwrap_or_else(PoisonError::into_inner);
        steps.entry((node, event)).or_insert(step).clone()
    }

    fn run(&self, number: u32, event: Event) -> Option<Step> {
        let before = self.node(number);
        let message = match event {
            Event::Deliver(message) => Some(self.message(message)),
            _ => None,
        };
        let envelope = message.as_ref().map(|sent| &sent.envelope);
        let (after, effects) = before.node.after(event, envelope, &self.set_up)?;
        let marks = marks(&before.node, &after, event, envelope);
        Some(self.record(after, effects, marks))
    }

    fn record(&self, after: Node, effects: Effects, marks: Vec<Mark>) -> Step {
        let numbers = |entries: Vec<Entry>| {
            let number = |entry| self.entries.number(entry);
            entries.into_iter().map(number).collect::<Vec<u32>>()
        };
        let spoken = effects.sent.iter().map(|sent| spoken(&sent.message.body));
        let spoken = spoken.max().unwrap_or(Ballot::NONE);
        let number = |envelope: Envelope| {
            let label = Label::of(&envelope);
            self.messages.number(Sent { envelope, label })
        };
        let rounds = |(ballot, number): (Ballot, paxos::ConfirmNumber)| (ballot, number.0);
        Step {
            node: self.know(after),
            sent: effects.sent.into_iter().map(number).collect(),
            spoken,
            applied: numbers(effects.applied),
            replayed: effects.replayed.map(numbers),
            asked: effects.asked.map(rounds),
            confirmed: effects.confirmed.into_iter().map(rounds).collect(),
            fault: effects.fault,
            marks,
        }
    }

    fn know(&self, node: Node) -> u32 {
        let status = node.replica.status();
        let log = node.disk.log.iter().cloned();
        self.nodes.number(Known {
            standing: Position::of(&node),
            promised: status.promised,
            epoch: status.membership.epoch,
            applied: node.applied,
            end: status.end,
            writing: node.writing.is_some(),
            log: log.map(|entry| self.entries.number(entry)).collect(),
            node,
        })
    }

    /// The event in words.
    pub(crate) fn tell(&self, event: Event) -> String {
        match event {
            Event::Deliver(message) => {
                let sent = self.message(message);
                format!(
                    "gets from {}: {:?}",
                    sent.envelope.from, sent.envelope.message.body
                )
            }
            other => format!("{other:?}"),
        }
    }
}

/// The promise that a message speaks of.
fn spoken(body: &Body) -> Ballot {
    match body {
        Body::Prepare(prepare) => prepare.ballot,
        Body::Promise(promise) => promise.ballot,
        Body::Accepted(accepted) if matches!(accepted.standing, Standing::Synced { .. }) => {
            accepted.ballot
        }
        _ => Ballot::NONE,
    }
}

/// What is worth noting that a check has reached.
fn marks(before: &Node, after: &Node, event: Event, message: Option<&Envelope>) -> Vec<Mark> {
    let mut marks = Vec::new();
    let mut mark = |mark, reached| {
        if reached {
            marks.push(mark);
        }
    };
    let body = message.map(|envelope| &envelope.message.body);
    let elected = after.leads() && !before.leads();
    mark(
        Mark::LongerLogAdopted,
        elected && matches!(body, Some(Body::Entries(_))),
    );
    let under = after.disk.accepted;
    let older = after.disk.log[after.disk.decided.0 as usize..].iter();
    let reaccepted = under > before.disk.accepted && older.clone().any(|e| e.origin < under);
    mark(Mark::Reaccepted, reaccepted);
    let lost = before.writing.is_some() && event == (Event::Crash { written: false });
    mark(Mark::WriteLost, lost);
    mark(Mark::WriteKept, event == (Event::Crash { written: true }));
    mark(
        Mark::LeaderCrashed,
        before.leads() && matches!(event, Event::Crash { .. }),
    );
    mark(Mark::Loaded, event == Event::Loaded);
    let replaced = after
        .disk
        .log
        .iter()
        .zip(&before.disk.log)
        .any(|(new, old)| new != old);
    mark(
        Mark::EntryReplaced,
        replaced || after.disk.log.len() < before.disk.log.len(),
    );
    let ends = |entry: &Entry| entry.kind == EntryKind::Stop;
    let same_epoch = after.epoch() == before.epoch();
    let adopted = after.disk.log.last().is_some_and(ends);
    mark(Mark::StopAdopted, elected && adopted && same_epoch);
    let pairs = after.disk.log.iter().zip(&before.disk.log);
    let lost = pairs.clone().any(|(new, old)| ends(old) && new != old);
    mark(Mark::StopReplaced, lost);
    let removed = before.leads() && !same_epoch && !after.votes();
    mark(Mark::LeaderRemoved, removed);
    marks
}
