//! Reading entries, while others are being written: every one is checked.

use std::sync::Arc;

use crate::limits::ENTRY_OVERHEAD_BYTES;
use crate::store::Read;
use crate::store::error::StoreError;
use crate::store::file_store::FileStore;
use crate::store::files::{DataFile, Files, is_unreadable};
use crate::store::frame::{ENTRY_HEAD_BYTES, decode_entry};
use crate::store::index::Place;
use crate::store::limits::{READ_BYTES_MAX, READ_GAP_BYTES_MAX};
use crate::types::{Entry, Slot};

/// Entries that lie one after the other in one segment.
struct Run<F: Files> {
    file: Arc<F::File>,
    sequence: u64,
    first: Slot,
    places: Vec<Place>,
}

impl<F: Files> Run<F> {
    fn begin(&self) -> u64 {
        self.places.first().map_or(0, |place| place.offset.into())
    }

    fn end(&self) -> u64 {
        let end = |place: &Place| u64::from(place.offset) + u64::from(place.bytes);
        self.places.last().map_or(0, end)
    }

    fn takes(&self, sequence: u64, place: Place) -> bool {
        let offset = u64::from(place.offset);
        let after = offset.checked_sub(self.end());
        self.sequence == sequence
            && after.is_some_and(|gap| gap <= READ_GAP_BYTES_MAX)
            && offset + u64::from(place.bytes) - self.begin() <= READ_BYTES_MAX
    }
}

pub(super) fn read<F: Files>(
    store: &FileStore<F>,
    first: Slot,
    last: Slot,
    bytes_max: usize,
) -> Result<Read, StoreError> {
    let (runs, mut damaged) = plan(store, first, last, bytes_max);
    let mut entries = Vec::new();
    for run in runs {
        let lost = read_run(store, &run, &mut entries)?;
        if lost.is_some() {
            damaged = lost;
            break;
        }
    }
    Ok(Read { entries, damaged })
}

/// What to read, and the slot at which it ends because its entry is lost.
fn plan<F: Files>(
    store: &FileStore<F>,
    first: Slot,
    last: Slot,
    bytes_max: usize,
) -> (Vec<Run<F>>, Option<Slot>) {
    let index = store.index();
    let mut runs: Vec<Run<F>> = Vec::new();
    let (mut slot, mut bytes) = (first, 0_usize);
    while slot <= last {
        let Some(place) = index.place(slot) else {
            break;
        };
        let segment = Some(place).filter(|place| !place.is_lost());
        let Some(segment) = segment.and_then(|place| index.segment(place.segment)) else {
            return (runs, Some(slot));
        };
        let payload = (place.bytes as usize).saturating_sub(ENTRY_HEAD_BYTES);
        bytes = bytes.saturating_add(payload + ENTRY_OVERHEAD_BYTES);
        if bytes > bytes_max && slot > first {
            break;
        }
        match runs.last_mut() {
            Some(run) if run.takes(segment.sequence, place) => run.places.push(place),
            _ => runs.push(Run {
                file: Arc::clone(&segment.handle),
                sequence: segment.sequence,
                first: slot,
                places: vec![place],
            }),
        }
        if slot == Slot(u64::MAX) {
            break;
        }
        slot = slot.next();
    }
    (runs, None)
}

/// Reads a run; the first slot of it that is damaged.
fn read_run<F: Files>(
    store: &FileStore<F>,
    run: &Run<F>,
    entries: &mut Vec<Entry>,
) -> Result<Option<Slot>, StoreError> {
    let begin = run.begin();
    let mut bytes = vec![0; (run.end() - begin) as usize];
    match run.file.read_full_at(begin, &mut bytes) {
        Ok(read) => bytes.truncate(read),
        Err(error) if is_unreadable(&error) => return read_singly(store, run, entries),
        Err(source) => return Err(StoreError::io(store.segment_path(run.sequence), source)),
    }
    store.scramble().apply(begin, &mut bytes);
    let mut slot = run.first;
    for place in &run.places {
        let at = (u64::from(place.offset) - begin) as usize;
        let record = bytes.get(at..at + place.bytes as usize);
        let entry = record.and_then(|record| decode_entry(slot, record));
        let Some(entry) = entry.filter(|entry| entry.crc == place.crc) else {
            return Ok(Some(slot));
        };
        entries.push(entry);
        slot = slot.next();
    }
    Ok(None)
}

/// The device cannot read all of a run at once: as far as it can.
fn read_singly<F: Files>(
    store: &FileStore<F>,
    run: &Run<F>,
    entries: &mut Vec<Entry>,
) -> Result<Option<Slot>, StoreError> {
    if run.places.len() == 1 {
        return Ok(Some(run.first));
    }
    let mut slot = run.first;
    for place in &run.places {
        let single = Run {
            file: Arc::clone(&run.file),
            sequence: run.sequence,
            first: slot,
            places: vec![*place],
        };
        let lost = read_run(store, &single, entries)?;
        if lost.is_some() {
            return Ok(lost);
        }
        slot = slot.next();
    }
    Ok(None)
}
