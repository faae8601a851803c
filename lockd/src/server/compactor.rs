//! The thread that makes snapshots, at leisure: each of the one before and of the decided entries
//! after it, read from the disk and applied to a state of its own.
//!
//! So the serving state is neither copied nor paused, and every pass reads again what nobody else
//! reads: the old snapshot and the log. It works in small steps with a pause after each, and gives
//! its state up when it is done, so that the node does not hold two for good.

use std::panic::resume_unwind;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Instant;

use paxos::store::{FileStore, Files, LogStore as _, StoreError};
use paxos::{Membership, Slot, SnapshotMeta};

use super::core::Fatal;
use super::core::compaction::{Base, Compact, CompactFailure};
use super::core::replay::Replay;
use super::files::is_missing;
use super::report::{Done, Reports};
use super::worker::Worker;
use crate::limits::{COMPACT_PAUSE, COMPACT_STEP_BYTES};
use crate::state::State;
use crate::state::snapshot::{Decoder, SnapshotError};

/// The node's side of the thread.
pub(super) struct Compactor {
    /// Dropped first: a pass that is under way then stops.
    _alive: Arc<()>,
    thread: Worker<Compact>,
}

impl Compactor {
    pub(super) fn start(store: Arc<FileStore>, reports: Reports) -> std::io::Result<Compactor> {
        let _alive = Arc::new(());
        let wanted = Arc::downgrade(&_alive);
        let thread = Worker::start("lockd-compactor", move |inbox| {
            work(&store, &inbox, &wanted, &reports);
        })?;
        Ok(Compactor { _alive, thread })
    }

    pub(super) fn compact(&self, order: Compact) {
        self.thread.order(order);
    }
}

fn work(store: &FileStore, inbox: &Receiver<Compact>, wanted: &Weak<()>, reports: &Reports) {
    for order in inbox {
        let mut pace = || {
            if wanted.strong_count() == 0 {
                return Err(Stop::Asked);
            }
            thread::sleep(COMPACT_PAUSE);
            Ok(())
        };
        let begun = Instant::now();
        let done = match on_its_own_thread(|| compact(store, order, &mut pace)) {
            Ok(meta) => {
                let took_ms = begun.elapsed().as_millis() as u64;
                tracing::info!(
                    slot = meta.slot.0,
                    bytes = meta.bytes,
                    took_ms,
                    "made a snapshot"
                );
                Done::SnapshotTaken(meta)
            }
            Err(Stop::Asked) => return,
            Err(Stop::Damaged(slot)) => {
                tracing::warn!(slot = slot.0, "an entry of the log is damaged");
                reports.put(Done::Damaged(slot));
                Done::NotTaken(CompactFailure::DamagedLog)
            }
            Err(Stop::Overtaken) => Done::NotTaken(CompactFailure::Overtaken),
            Err(Stop::NoThread(error)) => {
                tracing::warn!(%error, "no thread for a snapshot could be started");
                Done::NotTaken(CompactFailure::NoThread)
            }
            Err(Stop::DamagedSnapshot(reason)) => {
                tracing::warn!(
                    reason,
                    "the last snapshot is damaged, or not there any more"
                );
                Done::NotTaken(CompactFailure::DamagedSnapshot)
            }
            Err(Stop::Diverged(slot)) => Done::Diverged(slot),
            Err(Stop::Unreadable(reason)) => Done::Unreadable(reason),
            Err(Stop::Disk(error)) => Done::Failed(error),
        };
        reports.put(done);
    }
}

/// Runs a pass on a thread that ends with it. The allocator gives back what the second state took
/// when the thread that took it ends, and keeps it for a thread that waits for its next order.
fn on_its_own_thread<T: Send>(pass: impl FnOnce() -> Result<T, Stop> + Send) -> Result<T, Stop> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("lockd-snapshot".to_owned());
        let thread = thread.spawn_scoped(scope, pass).map_err(Stop::NoThread)?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Why a pass ended without a snapshot.
#[derive(Debug)]
pub(super) enum Stop {
    /// The node ends.
    Asked,
    /// The system has no thread for it.
    NoThread(std::io::Error),
    /// The log was cut or replaced meanwhile.
    Overtaken,
    /// This entry cannot be read.
    Damaged(Slot),
    /// The snapshot before cannot be read, and why.
    DamagedSnapshot(String),
    /// What was read makes another state than the node's own.
    Diverged(Slot),
    /// What was read is of another version.
    Unreadable(String),
    /// The disk failed.
    Disk(StoreError),
}

impl From<Fatal> for Stop {
    fn from(fatal: Fatal) -> Stop {
        Stop::Unreadable(fatal.to_string())
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Stop {
        Stop::Disk(error)
    }
}

/// One pass. `pace` is called after each step.
pub(super) fn compact<F: Files>(
    store: &FileStore<F>,
    order: Compact,
    pace: &mut dyn FnMut() -> Result<(), Stop>,
) -> Result<SnapshotMeta, Stop> {
    let mut replay = match order.base {
        Base::Nothing => Replay::default(),
        Base::Snapshot(meta) => {
            let state = read_snapshot(store, &meta, pace)?;
            Replay::from_snapshot(&meta, state)
        }
        Base::State(replay) => *replay,
    };
    let from = replay.slot;
    // What is applied need not be durable here yet; until it is, its slots may hold what another
    // leader had proposed there and nobody decided.
    let durable = order.to.min(store.numbers().decided);
    read_log(store, &mut replay, durable, pace)?;
    let whole = replay.slot == order.to;
    if whole
        && order
            .digest
            .is_some_and(|digest| digest != replay.state.digest())
    {
        return Err(Stop::Diverged(order.to));
    }
    // An order names the membership of its last slot, which is not that of an earlier one.
    let membership = replay.membership.take();
    let membership = membership.or_else(|| whole.then_some(order.membership));
    match membership {
        Some(membership) if replay.slot > from || from == order.to => {
            write_snapshot(store, &replay, membership, pace)
        }
        _ => Err(Stop::Overtaken),
    }
}

fn read_snapshot<F: Files>(
    store: &FileStore<F>,
    meta: &SnapshotMeta,
    pace: &mut dyn FnMut() -> Result<(), Stop>,
) -> Result<State, Stop> {
    let reader = store.snapshots().open(meta.slot).map_err(unreadable)?;
    if reader.meta() != meta {
        let reason = "it is another than the log goes on from".to_owned();
        return Err(Stop::DamagedSnapshot(reason));
    }
    let (mut decoder, mut offset) = (Decoder::default(), 0);
    while offset < meta.bytes {
        let bytes = reader
            .read_at(offset, COMPACT_STEP_BYTES)
            .map_err(unreadable)?;
        decoder.feed(&bytes).map_err(wrong)?;
        offset += bytes.len().max(1) as u64;
        pace()?;
    }
    decoder.finish().map_err(wrong)
}

fn unreadable(error: StoreError) -> Stop {
    match error {
        StoreError::Snapshot { .. } => Stop::DamagedSnapshot(error.to_string()),
        error if is_missing(&error) => Stop::DamagedSnapshot(error.to_string()),
        error => Stop::Disk(error),
    }
}

fn wrong(error: SnapshotError) -> Stop {
    match error {
        SnapshotError::Version { .. } => Stop::Unreadable(error.to_string()),
        error => Stop::DamagedSnapshot(error.to_string()),
    }
}

/// Applies the entries up to `to`, or as many of them as are durable yet.
fn read_log<F: Files>(
    store: &FileStore<F>,
    replay: &mut Replay,
    to: Slot,
    pace: &mut dyn FnMut() -> Result<(), Stop>,
) -> Result<(), Stop> {
    while replay.slot < to {
        let read = store.read(replay.slot.next(), to, COMPACT_STEP_BYTES)?;
        for entry in &read.entries {
            replay.apply(entry)?;
        }
        match read.damaged {
            Some(slot) => return Err(Stop::Damaged(slot)),
            None if read.entries.is_empty() => return Ok(()),
            None => pace()?,
        }
    }
    Ok(())
}

fn write_snapshot<F: Files>(
    store: &FileStore<F>,
    replay: &Replay,
    membership: Membership,
    pace: &mut dyn FnMut() -> Result<(), Stop>,
) -> Result<SnapshotMeta, Stop> {
    let mut writer = store
        .snapshots()
        .create(replay.slot, replay.origin, membership)?;
    for chunk in replay.state.encode() {
        writer.append(&chunk)?;
        pace()?;
    }
    Ok(writer.finish()?)
}

#[cfg(test)]
mod tests;
