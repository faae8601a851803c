//! Receiving a snapshot from a peer, piece by piece, over restarts.

use crate::store::error::StoreError;
use crate::store::files::{DataFile, Files};
use crate::store::snapshot::body::{BodyWriter, file_bytes};
use crate::store::snapshot::writer::publish;
use crate::store::snapshot::{read_headers, remove, write_headers};
use crate::types::SnapshotMeta;

/// A snapshot of which a part is there. Dropped, that part stays, to go on from later.
#[derive(Debug)]
pub struct IncomingSnapshot<F: Files> {
    files: F,
    file: F::File,
    name: String,
    meta: SnapshotMeta,
    body: BodyWriter,
}

impl<F: Files> IncomingSnapshot<F> {
    pub(super) fn resume(
        files: F,
        name: String,
        meta: SnapshotMeta,
    ) -> Result<IncomingSnapshot<F>, StoreError> {
        let path = files.path(&name);
        let failed = |source| StoreError::io(path.clone(), source);
        let started = match files.open(&name) {
            Ok(file) if matches!(read_headers(&file), Ok(Some((found, _))) if found == meta) => {
                Some(file)
            }
            _ => None,
        };
        let file = match started {
            Some(file) => file,
            None => {
                remove(&files, &name)?;
                let file = files.create(&name).map_err(failed)?;
                write_headers(&file, &meta).map_err(failed)?;
                file
            }
        };
        let body = BodyWriter::resume(&file, meta.slot, meta.bytes).map_err(failed)?;
        Ok(IncomingSnapshot {
            files,
            file,
            name,
            meta,
            body,
        })
    }

    /// What it is a snapshot of.
    #[must_use]
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// How many bytes are there, counted from the beginning. The next are to follow them.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.body.bytes()
    }

    /// Appends bytes that begin at `offset` of the state; how many there are then. Bytes that do
    /// not follow those that are there are left out.
    ///
    /// # Errors
    /// If they could not be written. What has been received is lost then.
    pub fn append(&mut self, offset: u64, bytes: &[u8]) -> Result<u64, StoreError> {
        let left = self.meta.bytes.saturating_sub(self.stored());
        if offset == self.stored() && bytes.len() as u64 <= left {
            let appended = self.body.append(&self.file, bytes);
            appended.map_err(|source| StoreError::io(self.files.path(&self.name), source))?;
        }
        Ok(self.stored())
    }

    /// Whether all of it is there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.stored() == self.meta.bytes
    }

    /// Makes the snapshot durable and checks all of it. On return it is one of the store's.
    ///
    /// # Errors
    /// If it could not be written, or is not what its meta says: then it is removed, and may be
    /// received again.
    pub fn finish(mut self) -> Result<SnapshotMeta, StoreError> {
        let finished = self.complete();
        if finished.is_err() {
            remove(&self.files, &self.name)?;
        }
        finished.map(|()| self.meta)
    }

    fn complete(&mut self) -> Result<(), StoreError> {
        let path = self.files.path(&self.name);
        if !self.is_complete() || self.body.crc() != self.meta.crc {
            let what = "the snapshot received is not what its meta says";
            return Err(StoreError::Snapshot { path, what });
        }
        let written = self.body.finish(&self.file);
        let synced = written
            .and_then(|()| self.file.truncate(file_bytes(self.meta.bytes)))
            .and_then(|()| self.file.sync());
        synced.map_err(|source| StoreError::io(path, source))?;
        publish(&self.files, &self.name, &self.meta)
    }
}
