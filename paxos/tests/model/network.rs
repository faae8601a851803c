//! The network: every message ever sent is on its way for ever, so that it may be lost, late,
//! repeated and overtaken. A message that can have no effect any more is forgotten.

use paxos::message::Body;
use paxos::{Ballot, NodeId, Slot};

use crate::node::{Envelope, Node};

/// Most distinct messages of one instance.
const MESSAGES_MAX: usize = 1024;

/// A set of messages, by their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Network([u64; MESSAGES_MAX / 64]);

impl Network {
    pub(crate) fn insert(&mut self, message: u32) {
        self.0[message as usize / 64] |= 1 << (message % 64);
    }

    pub(crate) fn remove(&mut self, message: u32) {
        self.0[message as usize / 64] &= !(1 << (message % 64));
    }

    pub(crate) fn messages(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().zip(0u32..).flat_map(|(word, index)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros();
                rest &= rest.wrapping_sub(1);
                (bit < 64).then_some(64 * index + bit)
            })
        })
    }
}

/// What decides whether a message to or from a node can still have an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// The ballot that the node campaigns or leads under.
    pub(crate) ballot: Option<Ballot>,
    pub(crate) leads: bool,
    pub(crate) durably_promised: Ballot,
    pub(crate) durably_accepted: Ballot,
    pub(crate) durably_decided: Slot,
}

impl Position {
    pub(crate) fn of(node: &Node) -> Position {
        Position {
            ballot: node.ballot(),
            leads: node.leads(),
            durably_promised: node.disk.promised,
            durably_accepted: node.disk.accepted,
            durably_decided: node.disk.decided,
        }
    }
}

/// What a message is about, in short.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) ballot: Ballot,
    /// What it says, or wants to know, to be decided.
    pub(crate) decided: Slot,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Prepare,
    /// Prepares aside, what a leader sends to a follower.
    Log,
    Fetch,
    ToCandidate,
    ToLeader,
    Reject,
    /// It tells what is decided, or that something is.
    Fact,
    /// It has no ballot, and is never known to be of no use.
    Other,
}

impl Label {
    pub(crate) fn of(envelope: &Envelope) -> Label {
        let (ballot, kind) = match &envelope.message.body {
            Body::Prepare(prepare) => (prepare.ballot, Kind::Prepare),
            Body::Promise(promise) => (promise.ballot, Kind::ToCandidate),
            Body::Fetch(fetch) => (fetch.ballot, Kind::Fetch),
            Body::Entries(entries) => (entries.ballot, Kind::ToCandidate),
            Body::Sync(sync) => (sync.ballot, Kind::Log),
            Body::Accept(accept) => (accept.ballot, Kind::Log),
            Body::Accepted(accepted) => (accepted.ballot, Kind::ToLeader),
            Body::Reject(reject) => (reject.ballot, Kind::Reject),
            Body::Behind(_) | Body::Learned(_) => (Ballot::NONE, Kind::Fact),
            Body::Learn(_) | Body::Removed => (Ballot::NONE, Kind::Other),
            Body::Ping(_)
            | Body::Pong(_)
            | Body::Offer(_)
            | Body::FetchChunk(_)
            | Body::Chunk(_) => unreachable!("no snapshots, and drivers here do not ping"),
        };
        let decided = match &envelope.message.body {
            Body::Behind(behind) => behind.decided,
            Body::Learned(learned) => learned.decided,
            _ => Slot::NONE,
        };
        let (from, to) = (envelope.from, envelope.to);
        Label {
            from,
            to,
            ballot,
            decided,
            kind,
        }
    }

    /// Whether it can never again change anything. Rests on what the replica guarantees without
    /// any planted bug: a ballot is used by one campaign only, also over a restart, and a durable
    /// promise and a durable ballot of a log only rise.
    pub(crate) fn is_dead(self, sender: Position, receiver: Position) -> bool {
        let answered_in_vain = sender.ballot != Some(self.ballot);
        match self.kind {
            // Who does not campaign under the ballot now never will again.
            Kind::ToCandidate => receiver.ballot != Some(self.ballot) || receiver.leads,
            Kind::ToLeader | Kind::Reject => receiver.ballot != Some(self.ballot),
            // Refused for ever, and the refusal would find nobody.
            Kind::Prepare => {
                receiver.durably_accepted >= self.ballot
                    || receiver.durably_promised > self.ballot && answered_in_vain
            }
            Kind::Log => receiver.durably_promised > self.ballot && answered_in_vain,
            // To who knows all that, it says nothing; to wait for an answer in vain is an event.
            Kind::Fact => receiver.durably_decided >= self.decided,
            Kind::Other => false,
            Kind::Fetch => receiver.durably_promised > self.ballot || answered_in_vain,
        }
    }
}
