//! How long the store takes to make a batch durable, by the number of its entries.
//!
//! `cargo run --release -p paxos --example commit_cost [DIRECTORY]`; the directory decides which
//! disk is measured.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use paxos::store::{LogStore, RedbStore};
use paxos::{
    Ballot, CellId, Entry, EntryKind, Identity, Incarnation, NodeId, PersistId, Slot, WriteBatch,
};

const ENTRY_BYTES: usize = 200;
const COMMITS: usize = 500;

fn main() -> Result<(), Box<dyn Error>> {
    let base = std::env::args()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = tempfile::TempDir::new_in(base)?;
    let node = NodeId(1);
    let identity = Identity {
        cell: CellId([1; 16]),
        node,
        incarnation: Incarnation(1),
    };
    let store = RedbStore::create(&directory.path().join("log.redb"), identity, &[node])?;
    let mut end = Slot::NONE;
    for count in [1, 32, 256] {
        let mut micros = Vec::with_capacity(COMMITS);
        for _ in 0..COMMITS {
            let batch = batch(&mut end, count);
            let started = Instant::now();
            store.write(&batch)?;
            micros.push(started.elapsed().as_micros());
        }
        micros.sort_unstable();
        let at = |per_mille: usize| micros[(COMMITS - 1) * per_mille / 1000];
        println!(
            "{count:>4} entries of {ENTRY_BYTES} bytes: p50 {} us, p99 {} us, max {} us",
            at(500),
            at(990),
            at(1000)
        );
    }
    Ok(())
}

fn batch(end: &mut Slot, count: usize) -> WriteBatch {
    let origin = Ballot {
        round: 1,
        node: NodeId(1),
    };
    let decided = *end;
    let payload = Bytes::from(vec![7; ENTRY_BYTES]);
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        *end = end.next();
        entries.push(Entry::new(
            *end,
            origin,
            EntryKind::Command,
            payload.clone(),
        ));
    }
    WriteBatch {
        id: PersistId(1),
        promised: None,
        accepted: None,
        truncate_from: None,
        entries,
        decided,
    }
}
