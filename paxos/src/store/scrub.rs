//! Reading again, a little at a time, what nobody reads: damage is to be found while the others
//! still have a copy.

use crate::limits::ENTRY_OVERHEAD_BYTES;
use crate::store::error::StoreError;
use crate::store::file_store::FileStore;
use crate::store::files::{DataFile as _, Files};
use crate::store::{LogStore, snapshot::SnapshotReader};
use crate::types::{Slot, SnapshotMeta};

/// How far a scrub has come. The default is at its beginning.
#[derive(Debug)]
pub struct Scrub<F: Files> {
    /// The next slot of the log; none before a pass has begun.
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
    /// How much was read, bytes.
    pub bytes: u64,
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
    /// Reads the next `bytes` bytes or so, from the disk and not from the system's memory: first
    /// the log, then its snapshot.
    ///
    /// # Errors
    /// If the file system fails otherwise than by not being able to read some place.
    pub fn step(&mut self, store: &FileStore<F>, bytes: usize) -> Result<Scrubbed, StoreError> {
        let mut found = Scrubbed::default();
        if self.snapshot.is_none() {
            let (first, end) = {
                let index = store.index();
                if self.next == Slot::NONE {
                    let segments = index.segments();
                    segments.for_each(|segment| segment.handle.forget_cached());
                }
                (index.first(), index.end())
            };
            self.next = self.next.max(first);
            if self.next <= end {
                let read = store.read(self.next, end, bytes)?;
                let size = |payload: usize| (payload + ENTRY_OVERHEAD_BYTES) as u64;
                found.bytes = read.entries.iter().map(|e| size(e.payload.len())).sum();
                self.next = Slot(self.next.0 + read.entries.len() as u64);
                if let Some(slot) = read.damaged {
                    found.damaged.push(slot);
                    self.next = slot.next();
                }
                return Ok(found);
            }
        }
        let meta = store.snapshot();
        let reading = self.snapshot.as_ref().map(|(snapshot, _)| snapshot.meta());
        if reading.is_some_and(|reading| Some(reading) != meta.as_ref()) {
            // Another took its place, which was read when it was made, and this one is gone.
            found.complete = true;
        } else {
            match self.step_snapshot(store, meta.as_ref(), bytes) {
                Ok((read, complete)) => (found.bytes, found.complete) = (read, complete),
                Err(StoreError::Snapshot { .. }) => {
                    // It may have gone since it was looked up.
                    found.snapshot_damaged = store.snapshot() == meta;
                    found.complete = true;
                }
                Err(error) => return Err(error),
            }
        }
        if found.complete {
            *self = Scrub::default();
        }
        Ok(found)
    }

    /// How many bytes were read, and whether those were the last.
    fn step_snapshot(
        &mut self,
        store: &FileStore<F>,
        meta: Option<&SnapshotMeta>,
        bytes: usize,
    ) -> Result<(u64, bool), StoreError> {
        let Some(meta) = meta else {
            return Ok((0, true));
        };
        if self.snapshot.is_none() {
            let snapshot = store.snapshots().open(meta.slot)?;
            snapshot.forget_cached();
            self.snapshot = Some((snapshot, 0));
        }
        let Some((snapshot, offset)) = &mut self.snapshot else {
            return Ok((0, true));
        };
        let read = snapshot.read_at(*offset, bytes)?.len() as u64;
        *offset += read;
        Ok((read, *offset >= meta.bytes))
    }
}
