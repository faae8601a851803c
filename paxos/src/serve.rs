//! What others ask of this replica's decided log and snapshot, and what that asks of the store.
//!
//! Answers need no ballot: what is decided is a fact, whoever says it. So learners, members of an
//! older epoch and nodes with a damaged disk are all helped in the same way.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::core::Core;
use crate::interface::Output;
use crate::limits::{CHUNK_BYTES_MAX, LEARNERS_MAX};
use crate::message::{Behind, Body, Chunk, FetchChunk, Learn, Learned, Offer};
use crate::planted::Planted;
use crate::types::{Ballot, Entry, Epoch, LoadId, NodeId, Slot, Time};

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

/// Answers a question of a node that is in `epoch`.
pub(crate) fn on_learn(core: &mut Core, from: NodeId, epoch: Epoch, learn: Learn) {
    let removed = core.membership.has_removed(from);
    if removed {
        core.send(from, Body::Removed);
        if epoch >= core.epoch() {
            return;
        }
        // It may have to know how its epoch ended before it may go.
    }
    if !removed && !core.membership.contains(from) {
        let now = core.now;
        core.learners.heard(from, learn.durable, now);
    }
    let log = core.acceptor.log();
    let lax = core.plant.has(Planted::RepairUndecided);
    let last = learn.last.min(if lax { log.end() } else { log.decided() });
    if learn.first > last {
        return answer(core, from, Vec::new());
    }
    if learn.first >= log.first() {
        let entries = log.message_part(learn.first, last);
        return answer(core, from, entries);
    }
    if learn.first >= core.acceptor.keep_from() {
        let bytes_max = log.bounds().message_entries_bytes;
        let last = last.min(log.first().previous());
        let what = What::Entries { first: learn.first };
        if let Some(id) = core.loads.begin(from, what) {
            core.output(Output::Load {
                id,
                first: learn.first,
                last,
                bytes_max,
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
    let bytes_max = core.acceptor.log().bounds().message_entries_bytes;
    if let Some(id) = core.loads.begin(core.node, what) {
        core.output(Output::Load {
            id,
            first,
            last,
            bytes_max,
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
    use crate::limits::Bounds;
    use crate::testing::{command, commands, core, recovered, sent, snapshot, write};
    use crate::types::SnapshotMeta;

    const PEER: NodeId = NodeId(2);

    /// Nine decided entries, of which memory has the last three, and an open one.
    fn with_nine() -> Core {
        let mut core = core(recovered(Vec::new(), 1));
        core.acceptor.tighten(Bounds {
            tail_cache_entries: 3,
            ..Bounds::default()
        });
        core.acceptor.learn(commands(1..=9, 1));
        write(&mut core);
        core.acceptor.append_own(command(10, 1));
        core
    }

    fn learn(first: u64, last: u64) -> Learn {
        Learn {
            first: Slot(first),
            last: Slot(last),
            durable: Slot(3),
        }
    }

    fn asks(core: &mut Core, first: u64, last: u64) -> Vec<(u64, Body)> {
        on_learn(core, PEER, Epoch(1), learn(first, last));
        sent(core)
    }

    fn learned(entries: Vec<Entry>) -> [(u64, Body); 1] {
        let decided = Slot(9);
        [(2, Body::Learned(Learned { entries, decided }))]
    }

    /// What is to be read from the store.
    fn loads(core: &mut Core) -> Vec<(LoadId, u64, u64)> {
        let outputs = std::iter::from_fn(|| core.pop_output());
        let loads = outputs.filter_map(|output| match output {
            Output::Load {
                id, first, last, ..
            } => Some((id, first.0, last.0)),
            Output::LoadChunk {
                id, offset, bytes, ..
            } => Some((id, offset, bytes as u64)),
            _ => None,
        });
        loads.collect()
    }

    #[test]
    fn what_is_asked_for_comes_from_memory_as_far_as_it_is_decided() {
        let mut core = with_nine();
        assert_eq!(core.acceptor.log().first(), Slot(7));
        assert_eq!(asks(&mut core, 7, 8), learned(commands(7..=8, 1)));
        assert_eq!(asks(&mut core, 9, 20), learned(commands(9..=9, 1)));
        assert_eq!(asks(&mut core, 10, 20), learned(Vec::new()));
    }

    #[test]
    fn what_is_not_in_memory_is_read_from_the_store() {
        let mut core = with_nine();
        on_learn(&mut core, PEER, Epoch(1), learn(2, 20));
        let read = loads(&mut core);
        let [(id, 2, 6)] = read[..] else {
            panic!("{read:?}");
        };
        on_learn(&mut core, PEER, Epoch(1), learn(2, 20));
        assert_eq!(loads(&mut core), [], "that is being read");
        let mut entries = commands(2..=4, 1);
        entries.push(command(6, 1));
        on_loaded(&mut core, id, &entries);
        assert_eq!(
            sent(&mut core),
            learned(commands(2..=4, 1)),
            "without a gap"
        );
        on_loaded(&mut core, id, &entries);
        assert_eq!(sent(&mut core), [], "once");
    }

    #[test]
    fn what_was_cut_off_is_offered_as_a_snapshot() {
        let mut core = with_nine();
        core.acceptor.snapshot_taken(snapshot(5, 1), Slot(4));
        let meta = snapshot(5, 1);
        assert_eq!(asks(&mut core, 3, 9), [(2, Body::Offer(Offer { meta }))]);
        on_learn(&mut core, PEER, Epoch(1), learn(4, 20));
        assert_eq!(loads(&mut core).len(), 1);
    }

    #[test]
    fn only_nodes_without_a_vote_are_noted_as_learners_and_removed_ones_are_told() {
        let mut core = with_nine();
        asks(&mut core, 9, 9);
        assert_eq!(core.learners.all(), []);
        on_learn(&mut core, NodeId(4), Epoch(1), learn(9, 9));
        assert_eq!(core.learners.all(), [(NodeId(4), Slot(3))]);
        core.learners.forget(NodeId(4));
        assert_eq!(core.learners.all(), []);
        core.membership.newest = NodeId(4);
        sent(&mut core);
        on_learn(&mut core, NodeId(4), Epoch(1), learn(9, 9));
        assert_eq!(sent(&mut core), [(4, Body::Removed)]);
        assert_eq!(core.learners.all(), []);
    }

    #[test]
    fn a_removed_node_that_is_behind_in_epochs_is_told_how_its_epoch_ended() {
        let mut core = with_nine();
        core.membership.newest = NodeId(4);
        let mut told = |epoch| {
            on_learn(&mut core, NodeId(4), Epoch(epoch), learn(9, 9));
            let bodies = sent(&mut core).into_iter();
            bodies.map(|(_, body)| body).collect::<Vec<_>>()
        };
        let [(_, entry)] = learned(commands(9..=9, 1));
        assert_eq!(told(0), [Body::Removed, entry]);
        assert_eq!(told(1), [Body::Removed]);
        assert_eq!(core.learners.all(), [], "it is none");
    }

    fn fetch(crc: u32, offset: u64) -> FetchChunk {
        let slot = Slot(5);
        FetchChunk { slot, crc, offset }
    }

    fn chunk(fetch: FetchChunk, bytes: usize) -> [(u64, Body); 1] {
        let FetchChunk { slot, crc, offset } = fetch;
        let bytes = Bytes::from(vec![0; bytes]);
        let chunk = Chunk {
            slot,
            crc,
            offset,
            bytes,
        };
        [(2, Body::Chunk(chunk))]
    }

    #[test]
    fn a_snapshot_is_read_part_by_part_and_answered_by_nothing_if_it_is_not_there() {
        let mut core = with_nine();
        let bytes = CHUNK_BYTES_MAX as u64 + 10;
        let meta = SnapshotMeta {
            bytes,
            ..snapshot(5, 1)
        };
        core.acceptor.snapshot_taken(meta, Slot(1));
        for strange in [fetch(1, 0), fetch(0, bytes + 1)] {
            on_fetch_chunk(&mut core, PEER, strange);
            assert_eq!(sent(&mut core), chunk(strange, 0));
        }
        on_fetch_chunk(&mut core, PEER, fetch(0, 0));
        let read = loads(&mut core);
        assert_eq!((read[0].1, read[0].2), (0, CHUNK_BYTES_MAX as u64));
        on_chunk_loaded(&mut core, read[0].0, Bytes::from(vec![0; CHUNK_BYTES_MAX]));
        assert_eq!(sent(&mut core), chunk(fetch(0, 0), CHUNK_BYTES_MAX));
        on_fetch_chunk(&mut core, PEER, fetch(0, CHUNK_BYTES_MAX as u64));
        let read = loads(&mut core);
        assert_eq!((read[0].1, read[0].2), (CHUNK_BYTES_MAX as u64, 10));
        let too_much = Bytes::from(vec![0; CHUNK_BYTES_MAX + 1]);
        on_chunk_loaded(&mut core, read[0].0, too_much);
        assert_eq!(sent(&mut core), chunk(fetch(0, CHUNK_BYTES_MAX as u64), 0));
    }

    #[test]
    fn the_own_log_is_read_from_where_memory_ends() {
        let mut core = with_nine();
        load_own(&mut core, Slot(15));
        let read = loads(&mut core);
        assert_eq!((read[0].1, read[0].2), (11, 15));
        on_chunk_loaded(&mut core, read[0].0, Bytes::new());
        assert_eq!(sent(&mut core), [], "that was no part of a snapshot");
    }

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
