//! What a replica's driver needs of a disk, and the store that provides it.
//!
//! The one place in this crate that does I/O.

mod record;
mod redb;

pub use redb::{RedbStore, StoreError};

use crate::types::{Entry, Recovered, Slot, WriteBatch};

/// A durable log with the few numbers that an acceptor must never forget.
///
/// One thread at a time writes; others may read meanwhile.
pub trait LogStore {
    /// Why an operation failed. After a failed write the process must end: what reached the disk
    /// is unknown, and trying again may seem to succeed without it.
    type Error: std::error::Error + Send + Sync + 'static;

    /// What the store remembers: the state to start a replica with.
    ///
    /// # Errors
    ///
    /// If the store cannot be read, or what it holds is damaged.
    fn load(&self) -> Result<Recovered, Self::Error>;

    /// Makes the batch durable, all of it or nothing. On return it is.
    ///
    /// # Errors
    ///
    /// If it could not be made durable, or it may not have been.
    fn write(&self, batch: &WriteBatch) -> Result<(), Self::Error>;

    /// The entries from `first` to `last`, as many of them as fit `bytes_max` bytes (each counted
    /// with [`ENTRY_OVERHEAD_BYTES`](crate::limits::ENTRY_OVERHEAD_BYTES) beside its payload),
    /// but at least one. Fewer only at the end of the log.
    ///
    /// # Errors
    ///
    /// If an entry cannot be read, or is damaged.
    fn read(&self, first: Slot, last: Slot, bytes_max: usize) -> Result<Vec<Entry>, Self::Error>;
}
