//! What the node's threads tell its loop.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use paxos::store::StoreError;
use paxos::{Entry, LoadId, PersistId, Slot, SnapshotMeta};
use tokio::sync::Notify;

use super::core::compaction::CompactFailure;
use crate::state::State;

/// What a thread has done.
#[derive(Debug)]
pub(super) enum Done {
    /// A write is durable.
    Persisted(PersistId),
    /// Entries were read.
    Loaded(LoadId, Vec<Entry>),
    /// An entry of the log cannot be read.
    Damaged(Slot),
    /// The snapshot that the log goes on from cannot be read.
    SnapshotDamaged,
    /// Bytes of a snapshot were read.
    ChunkLoaded(LoadId, Bytes),
    /// So much of a peer's snapshot is kept.
    ChunkStored(SnapshotMeta, u64),
    /// A peer's snapshot is complete.
    SnapshotReady(SnapshotMeta, Box<State>),
    /// A snapshot was made.
    SnapshotTaken(SnapshotMeta),
    /// A snapshot could not be made.
    NotTaken(CompactFailure),
    /// The log makes another state than the node's own at this slot.
    Diverged(Slot),
    /// What the disk holds was written by another version.
    Unreadable(String),
    /// The disk failed: the node must end.
    Failed(StoreError),
}

/// Where threads put their reports. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Reports {
    done: Arc<Mutex<Vec<Done>>>,
    wake: Arc<Notify>,
}

impl Reports {
    pub(super) fn new(wake: Arc<Notify>) -> Reports {
        let done = Arc::default();
        Reports { done, wake }
    }

    pub(super) fn put(&self, done: Done) {
        let mut all = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(done);
        drop(all);
        self.wake.notify_one();
    }

    /// What was reported since the last call, in order.
    pub(super) fn take(&self) -> Vec<Done> {
        std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
