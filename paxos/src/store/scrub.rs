//! Reading again, a little at a time, what nobody reads: damage is to be found while the others
//! still have a copy.

use crate::store::error::StoreError;
use crate::store::file_store::FileStore;
use crate::store::files::Files;
use crate::store::{LogStore, snapshot::SnapshotReader};
use crate::types::Slot;

/// How far a scrub has come. The default is at its beginning.
#[derive(Debug)]
pub struct Scrub<F: Files> {
    /// The next slot of the log.
    next: Slot,
    snapshot: Option<(SnapshotReader<F>, u64)>,
}

/// What a step of a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Slots of the log whose entry cannot be read.
    pub damaged: Vec<Slot>,
    /// The snapshot that the log refers to is damaged or gone.
    pub snapshot_damaged: bool,
    /// Everything was read once. The next step begins again.
    pub complete: bool,
}

impl<F: Files> Default for Scrub<F> {
    fn default() -> Scrub<F> {
        Scrub {
            next: Slot::NONE,
            snapshot: None,
        }
    }
}

impl<F: Files> Scrub<F> {
    /// Reads the next `bytes` bytes or so: first the log, then its snapshot.
    ///
    /// # Errors
    /// If the file system fails otherwise than by not being able to read some place.
    pub fn step(&mut self, store: &FileStore<F>, bytes: usize) -> Result<Scrubbed, StoreError> {
        let mut found = Scrubbed::default();
        if self.snapshot.is_none() {
            let (first, end) = {
                let index = store.index();
                (index.first(), index.end())
            };
            self.next = self.next.max(first);
            if self.next <= end {
                let read = store.read(self.next, end, bytes)?;
                self.next = Slot(self.next.0 + read.entries.len() as u64);
                if let Some(slot) = read.damaged {
                    found.damaged.push(slot);
                    self.next = slot.next();
                }
                return Ok(found);
            }
        }
        match self.step_snapshot(store, bytes) {
            Ok(complete) => found.complete = complete,
            Err(StoreError::Snapshot { .. }) => {
                found.snapshot_damaged = true;
                found.complete = true;
            }
            Err(error) => return Err(error),
        }
        if found.complete {
            *self = Scrub::default();
        }
        Ok(found)
    }

    fn step_snapshot(&mut self, store: &FileStore<F>, bytes: usize) -> Result<bool, StoreError> {
        if self.snapshot.is_none() {
            let Some(meta) = store.snapshot() else {
                return Ok(true);
            };
            self.snapshot = Some((store.snapshots().open(meta.slot)?, 0));
        }
        let Some((snapshot, offset)) = &mut self.snapshot else {
            return Ok(true);
        };
        *offset += snapshot.read_at(*offset, bytes)?.len() as u64;
        Ok(*offset >= snapshot.meta().bytes)
    }
}
