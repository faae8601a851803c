//! What the tests of single parts share: a cell of three, its ballots and entries, and the core of
//! node 1 to act on.

use bytes::Bytes;

use crate::core::Core;
use crate::interface::{Config, Output, Timing};
use crate::membership::Membership;
use crate::message::Body;
use crate::types::{
    Ballot, Entry, EntryKind, Epoch, NodeId, Recovered, Slot, SnapshotMeta, Time, WriteBatch,
};

pub(crate) const OWN: NodeId = NodeId(1);

/// Nodes 1 to 3, in this epoch.
pub(crate) fn membership(epoch: u32) -> Membership {
    Membership {
        epoch: Epoch(epoch),
        ..Membership::first((1..=3).map(NodeId)).unwrap()
    }
}

/// A ballot of the first epoch.
pub(crate) fn ballot_of(round: u64, node: u64) -> Ballot {
    Ballot {
        epoch: Epoch::FIRST,
        round,
        node: NodeId(node),
    }
}

/// The ballot of this round of node 2.
pub(crate) fn ballot(round: u64) -> Ballot {
    ballot_of(round, 2)
}

pub(crate) fn command(slot: u64, round: u64) -> Entry {
    let payload = Bytes::from_static(b"x");
    Entry::new(Slot(slot), ballot(round), EntryKind::Command, payload)
}

pub(crate) fn commands(slots: std::ops::RangeInclusive<u64>, round: u64) -> Vec<Entry> {
    slots.map(|slot| command(slot, round)).collect()
}

/// The end of the first epoch; the next one has the same members.
pub(crate) fn stop(slot: u64, round: u64) -> Entry {
    let next = membership(2).encode();
    Entry::new(Slot(slot), ballot(round), EntryKind::Stop, next)
}

pub(crate) fn snapshot(slot: u64, round: u64) -> SnapshotMeta {
    SnapshotMeta {
        slot: Slot(slot),
        origin: ballot(round),
        membership: membership(1),
        bytes: 1,
        crc: 0,
    }
}

/// A store with a log of these entries, from slot 1 on, under this round.
pub(crate) fn recovered(entries: Vec<Entry>, round: u64) -> Recovered {
    let claimed = entries.last().map_or(Slot::NONE, |last| last.slot);
    Recovered {
        promised: ballot(round),
        accepted: ballot(round),
        entries,
        claimed,
        ..Recovered::fresh(membership(1))
    }
}

/// Node 1, started from this.
pub(crate) fn core(recovered: Recovered) -> Core {
    let config = Config {
        node: OWN,
        seeds: Vec::new(),
        timing: Timing::default(),
        seed: 1,
    };
    Core::new(&config, recovered, Time(0))
}

/// What the core has sent since the last call.
pub(crate) fn sent(core: &mut Core) -> Vec<(u64, Body)> {
    let outputs = std::iter::from_fn(|| core.pop_output());
    let sends = outputs.filter_map(|output| match output {
        Output::Send { to, message } => Some((to.0, message.body)),
        _ => None,
    });
    sends.collect()
}

/// Gives out the next write and ends it.
pub(crate) fn write(core: &mut Core) -> WriteBatch {
    let batch = core
        .acceptor
        .begin_write(core.now)
        .expect("something to write");
    let finished = core.acceptor.end_write(batch.id);
    for (to, body) in finished.released {
        core.send(to, body);
    }
    batch
}

/// Of every core here.
pub(crate) fn timing() -> Timing {
    Timing::default()
}
