//! Writing a snapshot of one's own state.

use crate::membership::Membership;
use crate::store::error::StoreError;
use crate::store::files::{DataFile, Files};
use crate::store::snapshot::body::{BodyWriter, file_bytes};
use crate::store::snapshot::reader::SnapshotReader;
use crate::store::snapshot::{remove, snapshot_name, write_headers};
use crate::types::{Ballot, Slot, SnapshotMeta};

/// A snapshot that is being written. Dropped before it is finished, it leaves a file that the next
/// one, or the next start, removes.
#[derive(Debug)]
pub struct SnapshotWriter<F: Files> {
    files: F,
    file: F::File,
    slot: Slot,
    origin: Ballot,
    membership: Membership,
    body: BodyWriter,
}

impl<F: Files> SnapshotWriter<F> {
    pub(super) fn create(
        files: F,
        slot: Slot,
        origin: Ballot,
        membership: Membership,
    ) -> Result<SnapshotWriter<F>, StoreError> {
        let name = snapshot_name(slot, ".tmp");
        remove(&files, &name)?;
        let file = files.create(&name);
        let file = file.map_err(|source| StoreError::io(files.path(&name), source))?;
        Ok(SnapshotWriter {
            files,
            file,
            slot,
            origin,
            membership,
            body: BodyWriter::new(slot),
        })
    }

    /// Appends a part of the state, of any length. Syncs now and then.
    ///
    /// # Errors
    /// If it could not be written. This snapshot is lost then.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let appended = self.body.append(&self.file, bytes);
        appended.map_err(|source| self.failed(source))
    }

    /// Makes the snapshot durable and reads it again. On return it is there and was found right.
    ///
    /// # Errors
    /// If it could not be written, or is not right. This snapshot is lost then.
    pub fn finish(mut self) -> Result<SnapshotMeta, StoreError> {
        let written = self.body.finish(&self.file);
        let meta = SnapshotMeta {
            slot: self.slot,
            origin: self.origin,
            membership: self.membership.clone(),
            bytes: self.body.bytes(),
            crc: self.body.crc(),
        };
        written
            .and_then(|()| write_headers(&self.file, &meta))
            .and_then(|()| self.file.truncate(file_bytes(meta.bytes)))
            .and_then(|()| self.file.sync())
            .map_err(|source| self.failed(source))?;
        let temporary = snapshot_name(self.slot, ".tmp");
        publish(&self.files, &temporary, &meta)?;
        Ok(meta)
    }

    fn failed(&self, source: std::io::Error) -> StoreError {
        let name = snapshot_name(self.slot, ".tmp");
        StoreError::io(self.files.path(&name), source)
    }
}

/// Reads a complete and synced file again, and gives it the name of a snapshot if it is right.
pub(super) fn publish<F: Files>(
    files: &F,
    name: &str,
    meta: &SnapshotMeta,
) -> Result<(), StoreError> {
    let written = SnapshotReader::open_name(files, name)?;
    if written.meta() != meta {
        return Err(StoreError::Snapshot {
            path: files.path(name),
            what: "its header is not what was written",
        });
    }
    written.verify()?;
    let snapshot = snapshot_name(meta.slot, ".snap");
    let renamed = files
        .rename(name, &snapshot)
        .and_then(|()| files.sync_directory());
    renamed.map_err(|source| StoreError::io(files.path(&snapshot), source))
}
