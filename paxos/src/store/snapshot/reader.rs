//! Reading a snapshot, every byte of it checked.

use std::io::ErrorKind;
use std::path::PathBuf;

use bytes::Bytes;

use crate::store::error::StoreError;
use crate::store::files::{DataFile, Files, is_unreadable};
use crate::store::snapshot::body::{file_bytes, locate, read_block};
use crate::store::snapshot::{read_headers, snapshot_name};
use crate::types::{Slot, SnapshotMeta};

/// An open snapshot. It can be read even when it has been removed meanwhile.
#[derive(Debug)]
pub struct SnapshotReader<F: Files> {
    file: F::File,
    path: PathBuf,
    meta: SnapshotMeta,
    /// One of the two headers is damaged, which does no harm.
    header_damaged: bool,
}

impl<F: Files> SnapshotReader<F> {
    pub(super) fn open(files: &F, slot: Slot) -> Result<SnapshotReader<F>, StoreError> {
        let reader = SnapshotReader::open_name(files, &snapshot_name(slot, ".snap"))?;
        if reader.meta.slot == slot {
            Ok(reader)
        } else {
            Err(reader.wrong("the snapshot of another slot"))
        }
    }

    pub(super) fn open_name(files: &F, name: &str) -> Result<SnapshotReader<F>, StoreError> {
        let path = files.path(name);
        let file = match files.open(name) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let what = "there is no such snapshot";
                return Err(StoreError::Snapshot { path, what });
            }
            file => file.map_err(|source| StoreError::io(path.clone(), source))?,
        };
        let Some((meta, header_damaged)) = read_headers(&file)? else {
            let what = "the snapshot's header is damaged";
            return Err(StoreError::Snapshot { path, what });
        };
        Ok(SnapshotReader {
            file,
            path,
            meta,
            header_damaged,
        })
    }

    /// Whether one of the two copies of its header is damaged.
    pub(in crate::store) fn header_damaged(&self) -> bool {
        self.header_damaged
    }

    /// What it is a snapshot of.
    #[must_use]
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// `bytes` bytes of the state from `offset`; fewer only at its end.
    ///
    /// # Errors
    /// If it cannot be read, or is damaged there.
    pub fn read_at(&self, offset: u64, bytes: usize) -> Result<Bytes, StoreError> {
        let left = self.meta.bytes.saturating_sub(offset);
        let bytes = bytes.min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut read = Vec::new();
        while read.len() < bytes {
            let (block, from) = locate(offset + read.len() as u64);
            let data = self.block(block)?;
            let wanted = data.get(from..).unwrap_or_default();
            read.extend_from_slice(&wanted[..wanted.len().min(bytes - read.len())]);
        }
        Ok(read.into())
    }

    /// Has it read from the disk, not from memory: see [`DataFile::forget_cached`].
    pub(in crate::store) fn forget_cached(&self) {
        self.file.forget_cached();
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// If anything of it cannot be read, or is damaged.
    pub fn verify(&self) -> Result<(), StoreError> {
        let (mut crc, mut offset) = (0, 0);
        while offset < self.meta.bytes {
            let data = self.block(locate(offset).0)?;
            crc = crc32c::crc32c_append(crc, &data);
            offset += data.len() as u64;
        }
        let length = self.file.length();
        let length = length.map_err(|source| StoreError::io(self.path.clone(), source))?;
        if crc != self.meta.crc || length != file_bytes(self.meta.bytes) {
            return Err(self.wrong("the snapshot is not what its header says"));
        }
        Ok(())
    }

    fn block(&self, block: u64) -> Result<Vec<u8>, StoreError> {
        match read_block(&self.file, self.meta.slot, block, self.meta.bytes) {
            Ok(Some(data)) => Ok(data),
            Ok(None) => Err(self.wrong("the snapshot is damaged")),
            Err(error) if is_unreadable(&error) => Err(self.wrong("the snapshot is unreadable")),
            Err(source) => Err(StoreError::io(self.path.clone(), source)),
        }
    }

    fn wrong(&self, what: &'static str) -> StoreError {
        StoreError::Snapshot {
            path: self.path.clone(),
            what,
        }
    }
}
