//! Passes over real stores.

use super::*;
use crate::state::command::{Batch, Command};
use bytes::Bytes;
use lockd_protocol::{Millis, Nonce};
use paxos::{
    Ballot, CellId, Entry, EntryKind, Epoch, Identity, Incarnation, NodeId, PersistId, WriteBatch,
};
use tempfile::TempDir;

const ORIGIN: Ballot = Ballot {
    epoch: Epoch::FIRST,
    round: 1,
    node: NodeId(1),
};

struct Bench {
    store: FileStore,
    written: u64,
    entries: Vec<Entry>,
    membership: Membership,
    dir: TempDir,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let identity = Identity {
            cell: CellId([1; 16]),
            node: NodeId(1),
            incarnation: Incarnation(1),
        };
        let membership = Membership::first([NodeId(1)]).expect("a membership");
        let store = FileStore::create(dir.path(), identity, &membership).expect("a store");
        Bench {
            store,
            written: 0,
            entries: Vec::new(),
            membership,
            dir,
        }
    }

    fn batch(&mut self, entries: Vec<Entry>) -> WriteBatch {
        self.written += 1;
        let end = entries.last().map_or(Slot::NONE, |entry| entry.slot);
        WriteBatch {
            id: PersistId(self.written),
            promised: Some(ORIGIN),
            accepted: Some(ORIGIN),
            membership: None,
            snapshot: None,
            restart: false,
            keep_from: Slot(1),
            truncate_from: None,
            entries,
            decided: end,
        }
    }

    /// Opens so many sessions, one entry each.
    fn open(&mut self, count: u64) {
        let first = self.entries.len() as u64 + 1;
        let entries = (first..first + count).map(|slot| {
            let mut batch = Batch::default();
            batch.push(&Command::Open {
                nonce: Nonce(slot.into()),
                ttl: Millis(1000),
                identity: "client".to_owned(),
                about: lockd_protocol::client::About::described("x".repeat(100)),
            });
            let payload = Bytes::from(batch.take());
            Entry::new(Slot(slot), ORIGIN, EntryKind::Command, payload)
        });
        self.write(entries.collect());
    }

    fn write(&mut self, entries: Vec<Entry>) {
        self.entries.extend(entries.clone());
        for part in entries.chunks(100) {
            let batch = self.batch(part.to_vec());
            self.store.write(&batch).expect("written");
        }
    }

    /// What all entries make.
    fn state(&self) -> State {
        let mut replay = Replay::default();
        for entry in &self.entries {
            replay.apply(entry).expect("an entry of this version");
        }
        replay.state
    }

    fn end(&self) -> Slot {
        Slot(self.entries.len() as u64)
    }

    fn order(&self, base: Base) -> Compact {
        Compact {
            base,
            to: self.end(),
            membership: self.membership.clone(),
            digest: Some(self.state().digest()),
        }
    }

    fn compact(&self, order: Compact) -> Result<SnapshotMeta, Stop> {
        compact(&self.store, order, &mut || Ok(()))
    }

    fn read(&self, meta: &SnapshotMeta) -> State {
        read_snapshot(&self.store, meta, &mut || Ok(())).expect("a snapshot")
    }

    fn log_file(&self) -> std::path::PathBuf {
        let files = std::fs::read_dir(self.dir.path()).expect("a directory");
        let files = files.map(|file| file.expect("a file").path());
        files
            .filter(|path| path.extension().is_some_and(|e| e == "seg"))
            .min()
            .expect("a log")
    }
}

/// Changes a sector in the middle of what is written of a file: more than any padding in it.
fn damage(path: &std::path::Path) {
    let mut bytes = std::fs::read(path).expect("read");
    let used = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .expect("it is written");
    let middle = used / 2;
    bytes[middle..middle + 4096]
        .iter_mut()
        .for_each(|byte| *byte ^= 0x10);
    std::fs::write(path, bytes).expect("written");
}

#[test]
fn a_snapshot_is_made_of_the_log_and_the_next_of_that_one_and_the_log_after_it() {
    let mut bench = Bench::new();
    bench.open(500);
    let first = bench.compact(bench.order(Base::Nothing)).expect("made");
    assert_eq!((first.slot, first.origin), (Slot(500), ORIGIN));
    assert_eq!(first.membership, bench.membership);
    assert_eq!(bench.read(&first), bench.state());
    bench.open(300);
    let order = bench.order(Base::Snapshot(first));
    let second = bench.compact(order).expect("made");
    assert_eq!(second.slot, Slot(800));
    assert_eq!(bench.read(&second), bench.state());
}

#[test]
fn the_membership_is_that_of_the_last_stop_before_the_end() {
    let mut bench = Bench::new();
    bench.open(5);
    let next = Membership {
        epoch: Epoch(2),
        ..Membership::first([NodeId(1), NodeId(2)]).expect("a membership")
    };
    let stop = Entry::new(Slot(6), ORIGIN, EntryKind::Stop, next.encode());
    bench.write(vec![stop]);
    bench.open(5);
    let meta = bench.compact(bench.order(Base::Nothing)).expect("made");
    assert_eq!(meta.membership, next);
    bench.open(5);
    let order = bench.order(Base::Snapshot(meta));
    let meta = bench.compact(order).expect("made");
    assert_eq!(meta.membership, next, "the snapshot before said so");
}

#[test]
fn a_state_that_is_not_what_the_log_makes_is_found() {
    let mut bench = Bench::new();
    bench.open(50);
    let mut order = bench.order(Base::Nothing);
    order.digest = Some(1);
    let stopped = bench.compact(order);
    assert!(
        matches!(stopped, Err(Stop::Diverged(Slot(50)))),
        "{stopped:?}"
    );
}

#[test]
fn entries_that_are_not_durable_yet_are_left_for_the_next_time() {
    let mut bench = Bench::new();
    bench.open(50);
    let mut order = bench.order(Base::Nothing);
    order.to = Slot(60);
    let stopped = bench.compact(order);
    let unknown = matches!(stopped, Err(Stop::Overtaken));
    assert!(unknown, "whose membership it is is not known: {stopped:?}");
    let first = bench.compact(bench.order(Base::Nothing)).expect("made");
    bench.open(50);
    let mut order = bench.order(Base::Snapshot(first));
    order.to = Slot(160);
    let meta = bench.compact(order).expect("as far as it goes");
    assert_eq!(meta.slot, Slot(100));
    assert_eq!(bench.read(&meta), bench.state());
}

#[test]
fn a_damaged_snapshot_is_told_apart_and_the_nodes_own_state_takes_its_place() {
    let mut bench = Bench::new();
    bench.open(500);
    let first = bench.compact(bench.order(Base::Nothing)).expect("made");
    bench.open(10);
    let files = std::fs::read_dir(bench.dir.path()).expect("a directory");
    let mut snapshots = files.map(|file| file.expect("a file").path());
    let is_snapshot = |path: &std::path::PathBuf| path.extension().is_some_and(|e| e == "snap");
    let snapshot = snapshots.find(is_snapshot).expect("a snapshot");
    damage(&snapshot);
    let stopped = bench.compact(bench.order(Base::Snapshot(first)));
    assert!(
        matches!(stopped, Err(Stop::DamagedSnapshot(_))),
        "{stopped:?}"
    );
    let membership = Some(bench.membership.clone());
    let own = Replay::at(bench.end(), ORIGIN, membership, bench.state());
    let order = bench.order(Base::State(Box::new(own)));
    let meta = bench.compact(order).expect("made");
    assert_eq!(bench.read(&meta), bench.state());
}

#[test]
fn a_damaged_entry_ends_the_pass_and_is_named() {
    let mut bench = Bench::new();
    bench.open(500);
    damage(&bench.log_file());
    let stopped = bench.compact(bench.order(Base::Nothing));
    let Err(Stop::Damaged(slot)) = stopped else {
        panic!("{stopped:?}");
    };
    assert!(slot > Slot(100) && slot < Slot(400), "{slot}");
}

#[test]
fn a_pass_stops_when_the_node_does() {
    let mut bench = Bench::new();
    bench.open(5000);
    let mut steps = 0;
    let mut pace = || {
        steps += 1;
        if steps < 3 { Ok(()) } else { Err(Stop::Asked) }
    };
    let stopped = compact(&bench.store, bench.order(Base::Nothing), &mut pace);
    assert!(matches!(stopped, Err(Stop::Asked)), "{stopped:?}");
    assert_eq!(steps, 3);
    assert_eq!(bench.store.snapshots().list().expect("listed"), []);
}
