//! The store on simulated files: what it remembers, what it refuses, what it survives.

mod crashes;
mod damage;
mod failures;
mod lost_writes;
mod remembering;
mod snapshots;

use bytes::Bytes;

use crate::membership::Membership;
use crate::sim::SimFiles;
use crate::store::{FileStore, LogStore, StoreError};
use crate::types::{
    Ballot, CellId, Entry, EntryKind, Epoch, Identity, Incarnation, NodeId, PersistId, Recovered,
    Slot, SnapshotMeta, WriteBatch,
};

const CELL: CellId = CellId([1; 16]);
const NODE: NodeId = NodeId(2);
const IDENTITY: Identity = Identity {
    cell: CELL,
    node: NODE,
    incarnation: Incarnation(5),
};

/// So small that every few batches begin a segment.
const SEGMENT_BYTES: u64 = 4096;

type SimStore = FileStore<SimFiles>;

fn membership() -> Membership {
    Membership::first((1..=3).map(NodeId)).unwrap()
}

fn create(files: &SimFiles) -> SimStore {
    let store = FileStore::create_in(files.clone(), IDENTITY, &membership()).unwrap();
    store.with_segment_bytes(SEGMENT_BYTES)
}

fn open(files: &SimFiles) -> Result<SimStore, StoreError> {
    let store = FileStore::open_in(files.clone(), CELL, NODE)?;
    Ok(store.with_segment_bytes(SEGMENT_BYTES))
}

fn reopen(store: SimStore, files: &SimFiles) -> SimStore {
    drop(store);
    open(files).unwrap()
}

fn load(files: &SimFiles) -> Recovered {
    open(files).unwrap().load().unwrap()
}

fn ballot(round: u64) -> Ballot {
    Ballot {
        epoch: Epoch::FIRST,
        round,
        node: NodeId(1),
    }
}

fn entry(slot: u64, origin: u64) -> Entry {
    let payload = Bytes::from(format!("command {slot} of {origin}"));
    Entry::new(Slot(slot), ballot(origin), EntryKind::Command, payload)
}

fn entries(slots: std::ops::RangeInclusive<u64>, origin: u64) -> Vec<Entry> {
    slots.map(|slot| entry(slot, origin)).collect()
}

fn batch(entries: Vec<Entry>) -> WriteBatch {
    WriteBatch {
        id: PersistId(1),
        promised: None,
        accepted: None,
        membership: None,
        snapshot: None,
        restart: false,
        keep_from: Slot::NONE,
        truncate_from: None,
        entries,
        decided: Slot::NONE,
    }
}

/// A promise by itself, of a round.
fn promise(round: u64) -> WriteBatch {
    WriteBatch {
        promised: Some(ballot(round)),
        ..batch(Vec::new())
    }
}

/// A batch that only says that so much is decided, and lets the log be cut.
fn decide(slot: u64, keep_from: u64) -> WriteBatch {
    WriteBatch {
        keep_from: Slot(keep_from),
        decided: Slot(slot),
        ..batch(Vec::new())
    }
}

/// The newest segment's name, and its frames without the zeros behind them.
fn newest_segment(files: &SimFiles) -> (String, Vec<u8>) {
    let names = crate::store::Files::list(files).unwrap();
    let name = names
        .into_iter()
        .filter(|name| name.ends_with(".seg"))
        .max();
    let name = name.unwrap();
    let mut frames = files.contents(&name).unwrap();
    frames.truncate(crate::store::segment::written_bytes(&frames));
    (name, frames)
}

/// A snapshot of the state after a slot, durable, with this many bytes.
fn take_snapshot(store: &SimStore, slot: u64, bytes: usize) -> SnapshotMeta {
    let snapshots = store.snapshots();
    let writer = snapshots.create(Slot(slot), ballot(1), membership());
    let mut writer = writer.unwrap();
    writer.append(&state(slot, bytes)).unwrap();
    writer.finish().unwrap()
}

fn state(slot: u64, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at as u64 * 7 + slot) as u8).collect()
}
