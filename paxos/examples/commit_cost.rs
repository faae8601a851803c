//! How long the store takes to make a batch durable, and how much CPU, by the number of its
//! entries.
//!
//! `cargo run --release -p paxos --example commit_cost [DIRECTORY]`; the directory decides which
//! disk is measured.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use paxos::sim::SimFiles;
use paxos::store::{FileStore, Files, LogStore, OsFiles};
use paxos::{
    Ballot, CellId, Entry, EntryKind, Epoch, Identity, Incarnation, Membership, NodeId, PersistId,
    Slot, WriteBatch,
};

const ENTRY_BYTES: usize = 200;
const COMMITS: usize = 2000;

fn main() -> Result<(), Box<dyn Error>> {
    let base = std::env::args()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = tempfile::TempDir::new_in(base)?;
    println!("on disk, in {}:", directory.path().display());
    measure(OsFiles::new(&directory.path().join("data")))?;
    println!("on simulated files:");
    measure(SimFiles::new(1))
}

fn measure<F: Files>(files: F) -> Result<(), Box<dyn Error>> {
    let node = NodeId(1);
    let identity = Identity {
        cell: CellId([1; 16]),
        node,
        incarnation: Incarnation(1),
    };
    let membership = Membership::first([node])?;
    let store = FileStore::create_in(files.clone(), identity, &membership)?;
    let mut end = Slot::NONE;
    for count in [1, 32, 256] {
        let batches: Vec<_> = (0..COMMITS).map(|_| batch(&mut end, count)).collect();
        let mut micros = Vec::with_capacity(COMMITS);
        let cpu_before = cpu_micros()?;
        for batch in &batches {
            let started = Instant::now();
            store.write(batch)?;
            micros.push(started.elapsed().as_nanos() as f64 / 1000.0);
        }
        let cpu = cpu_micros()?.zip(cpu_before);
        let cpu = cpu.map(|(now, before)| (now - before) / COMMITS as f64);
        micros.sort_unstable_by(f64::total_cmp);
        let at = |per_mille: usize| micros[(COMMITS - 1) * per_mille / 1000];
        println!(
            "{count:>4} entries of {ENTRY_BYTES} bytes: p50 {:.1} us, p99 {:.1} us, max {:.0} us, \
             CPU {}",
            at(500),
            at(990),
            at(1000),
            cpu.map_or("unknown".to_owned(), |cpu| format!("{cpu:.1} us")),
        );
    }
    drop(store);
    let started = Instant::now();
    let store = FileStore::open_in(files, identity.cell, node)?;
    let (millis, end) = (started.elapsed().as_millis(), store.numbers().end);
    println!("opened and checked again, {end} entries: {millis} ms");
    Ok(())
}

/// CPU time of this thread so far, microseconds, where the system tells it in nanoseconds.
fn cpu_micros() -> Result<Option<f64>, Box<dyn Error>> {
    let Ok(statistics) = fs::read_to_string("/proc/thread-self/schedstat") else {
        return Ok(None);
    };
    let nanos = statistics.split_whitespace().next().unwrap_or_default();
    Ok(Some(nanos.parse::<f64>()? / 1000.0))
}

fn batch(end: &mut Slot, count: usize) -> WriteBatch {
    let origin = Ballot {
        epoch: Epoch::FIRST,
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
        membership: None,
        snapshot: None,
        restart: false,
        keep_from: Slot::NONE,
        truncate_from: None,
        entries,
        decided,
    }
}
