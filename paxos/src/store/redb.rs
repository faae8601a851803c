//! The log store on `redb`: one transaction and one sync per batch.

use std::path::Path;

use thiserror::Error;

use crate::store::LogStore;
use crate::types::{CellId, Entry, Identity, NodeId, Recovered, Slot, WriteBatch};

/// A log store in one file.
#[derive(Debug)]
pub struct RedbStore {
    identity: Identity,
}

/// Why the store could not do it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Not yet.
    #[error("not yet")]
    Missing,
}

impl RedbStore {
    /// Creates the store of a new node. Refuses a file that exists.
    pub fn create(
        _path: &Path,
        _identity: Identity,
        _members: &[NodeId],
    ) -> Result<RedbStore, StoreError> {
        Err(StoreError::Missing)
    }

    /// Opens the store of `node` in `cell`.
    pub fn open(_path: &Path, _cell: CellId, _node: NodeId) -> Result<RedbStore, StoreError> {
        Err(StoreError::Missing)
    }

    /// Whom the store belongs to.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }
}

impl LogStore for RedbStore {
    type Error = StoreError;

    fn load(&self) -> Result<Recovered, StoreError> {
        Err(StoreError::Missing)
    }

    fn write(&self, _batch: &WriteBatch) -> Result<(), StoreError> {
        Err(StoreError::Missing)
    }

    fn read(&self, _: Slot, _: Slot, _: usize) -> Result<Vec<Entry>, StoreError> {
        Err(StoreError::Missing)
    }
}
