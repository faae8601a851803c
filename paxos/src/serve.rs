//! What others ask of this replica's decided log and snapshot, and what that asks of the store.
//!
//! Answers need no ballot: what is decided is a fact, whoever says it. So learners, members of an
//! older epoch and nodes with a damaged disk are all helped in the same way.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::core::Core;
use crate::interface::Output;
use crate::limits::{CHUNK_BYTES_MAX, LEARNERS_MAX, MESSAGE_ENTRIES_BYTES_MAX};
use crate::message::{Behind, Body, Chunk, FetchChunk, Learn, Learned, Offer};
use crate::types::{Ballot, Entry, LoadId, NodeId, Slot, Time};

/// What is being read from the store, and for whom: at most one thing for each peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Loads {
    last_id: LoadId,
    open: BTreeMap<LoadId, (NodeId, What)>,
}

/// What is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum What {
    Entries {
        first: Slot,
    },
    Chunk(FetchChunk),
    /// For this replica itself: the own log behind what was damaged, as accepted under this ballot.
    Own {
        accepted: Ballot,
    },
}

/// Nodes without a vote that ask for the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Learners(BTreeMap<NodeId, (Slot, Time)>);

impl Loads {
    /// A number for a new request, unless one for the same peer is open.
    fn begin(&mut self, node: NodeId, what: What) -> Option<LoadId> {
        if self.open.values().any(|(open, _)| *open == node) {
            return None;
        }
        self.last_id = LoadId(self.last_id.0 + 1);
        self.open.insert(self.last_id, (node, what));
        Some(self.last_id)
    }

    fn finish(&mut self, id: LoadId) -> Option<(NodeId, What)> {
        self.open.remove(&id)
    }
}

impl Learners {
    fn heard(&mut self, node: NodeId, durable: Slot, now: Time) {
        self.0.insert(node, (durable, now));
        if self.0.len() > LEARNERS_MAX {
            let silent = self.0.iter().min_by_key(|(_, (_, heard))| *heard);
            if let Some(node) = silent.map(|(node, _)| *node) {
                self.0.remove(&node);
            }
        }
    }

    pub(crate) fn forget(&mut self, node: NodeId) {
        self.0.remove(&node);
    }

    /// The last slot that the node has durably, if it asked since `earliest`.
    pub(crate) fn durable(&self, node: NodeId, earliest: Time) -> Option<Slot> {
        let (durable, heard) = self.0.get(&node)?;
        (*heard >= earliest).then_some(*durable)
    }

    /// All of them, by node, and what each has durably.
    pub(crate) fn all(&self) -> Vec<(NodeId, Slot)> {
        let each = self.0.iter();
        each.map(|(node, (durable, _))| (*node, *durable)).collect()
    }
}

/// Says that this replica has what the other one lacks.
pub(crate) fn hint(core: &mut Core, to: NodeId) {
    let decided = core.acceptor.log().decided();
    core.send(to, Body::Behind(Behind { decided }));
}

pub(crate) fn on_learn(core: &mut Core, from: NodeId, learn: Learn) {
    if core.membership.has_removed(from) {
        return core.send(from, Body::Removed);
    }
    if !core.membership.contains(from) {
        let now = core.now;
        core.learners.heard(from, learn.durable, now);
    }
    let log = core.acceptor.log();
    let last = learn.last.min(log.decided());
    if learn.first > last {
        return answer(core, from, Vec::new());
    }
    if learn.first >= log.first() {
        let entries = log.message_part(learn.first, last);
        return answer(core, from, entries);
    }
    if learn.first >= core.acceptor.keep_from() {
        let last = last.min(log.first().previous());
        let what = What::Entries { first: learn.first };
        if let Some(id) = core.loads.begin(from, what) {
            core.output(Output::Load {
                id,
                first: learn.first,
                last,
                bytes_max: MESSAGE_ENTRIES_BYTES_MAX,
            });
        }
        return;
    }
    match core.acceptor.snapshot().cloned() {
        Some(meta) => core.send(from, Body::Offer(Offer { meta })),
        None => answer(core, from, Vec::new()),
    }
}

fn answer(core: &mut Core, to: NodeId, entries: Vec<Entry>) {
    let decided = core.acceptor.log().decided();
    core.send(to, Body::Learned(Learned { entries, decided }));
}

pub(crate) fn on_fetch_chunk(core: &mut Core, from: NodeId, fetch: FetchChunk) {
    let own = core.acceptor.snapshot();
    let meta = own.filter(|meta| (meta.slot, meta.crc) == (fetch.slot, fetch.crc));
    let Some(left) = meta.and_then(|meta| meta.bytes.checked_sub(fetch.offset)) else {
        return send_chunk(core, from, fetch, Bytes::new());
    };
    let bytes = usize::try_from(left).map_or(CHUNK_BYTES_MAX, |left| left.min(CHUNK_BYTES_MAX));
    if let Some(id) = core.loads.begin(from, What::Chunk(fetch)) {
        core.output(Output::LoadChunk {
            id,
            slot: fetch.slot,
            offset: fetch.offset,
            bytes,
        });
    }
}

fn send_chunk(core: &mut Core, to: NodeId, fetch: FetchChunk, bytes: Bytes) {
    let chunk = Chunk {
        slot: fetch.slot,
        crc: fetch.crc,
        offset: fetch.offset,
        bytes,
    };
    core.send(to, Body::Chunk(chunk));
}

/// Entries came from the store. None if they cannot be read there: another peer may have them.
pub(crate) fn on_loaded(core: &mut Core, id: LoadId, entries: &[Entry]) {
    match core.loads.finish(id) {
        Some((node, What::Entries { first })) => {
            let slots = (first.0..).zip(entries);
            let asked_for = slots.take_while(|(slot, entry)| entry.slot.0 == *slot);
            let entries = core
                .acceptor
                .log()
                .fitting(asked_for.map(|(_, entry)| entry));
            answer(core, node, entries);
        }
        Some((_, What::Own { accepted })) => core.acceptor.reread(accepted, entries),
        Some((_, What::Chunk(_))) | None => {}
    }
}

/// Reads what the own store holds behind an entry that was damaged and has been put right.
pub(crate) fn load_own(core: &mut Core, last: Slot) {
    let first = core.acceptor.log().end().next();
    let what = What::Own {
        accepted: core.acceptor.accepted(),
    };
    if let Some(id) = core.loads.begin(core.node, what) {
        core.output(Output::Load {
            id,
            first,
            last,
            bytes_max: MESSAGE_ENTRIES_BYTES_MAX,
        });
    }
}

/// A part of the snapshot came from the store. Empty if it is not there any more.
pub(crate) fn on_chunk_loaded(core: &mut Core, id: LoadId, bytes: Bytes) {
    if let Some((node, What::Chunk(fetch))) = core.loads.finish(id) {
        let bytes = if bytes.len() <= CHUNK_BYTES_MAX {
            bytes
        } else {
            Bytes::new()
        };
        send_chunk(core, node, fetch, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_load_for_each_peer_is_open_at_a_time() {
        let mut loads = Loads::default();
        let what = What::Entries { first: Slot(3) };
        let first = loads.begin(NodeId(1), what).unwrap();
        assert_eq!(loads.begin(NodeId(1), what), None);
        assert!(loads.begin(NodeId(2), what).is_some());
        assert_eq!(loads.finish(first), Some((NodeId(1), what)));
        assert_eq!(loads.finish(first), None, "answered before");
        assert!(loads.begin(NodeId(1), what).is_some());
    }

    #[test]
    fn of_too_many_learners_the_one_that_was_silent_longest_is_forgotten() {
        let mut learners = Learners::default();
        for node in 1..=LEARNERS_MAX as u64 + 1 {
            learners.heard(NodeId(node), Slot(node), Time(100 - node));
        }
        assert_eq!(learners.all().len(), LEARNERS_MAX);
        let last = NodeId(LEARNERS_MAX as u64 + 1);
        assert_eq!(learners.durable(last, Time(0)), None);
        assert_eq!(learners.durable(NodeId(1), Time(99)), Some(Slot(1)));
        assert_eq!(learners.durable(NodeId(1), Time(100)), None);
    }
}
