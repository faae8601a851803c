//! Whoever writes: the acceptor's numbers, and the segment that frames are appended to.
//!
//! After a failure nothing more is written: what reached the disk is unknown, and another try may
//! seem to succeed without it.

use std::sync::Arc;

use crate::membership::Membership;
use crate::planted::{Plant, Planted};
use crate::store::error::StoreError;
use crate::store::files::{DataFile, Files};
use crate::store::frame::{self, Base, Header, Numbers, RecordAt};
use crate::store::index::Index;
use crate::store::limits::{FRAME_BYTES_WITH_ZEROS_MAX, SEGMENT_BYTES, ZEROS_BYTES};
use crate::store::recovery::{Extent, Recovery};
use crate::store::report::Report;
use crate::store::scramble::Scramble;
use crate::store::segment;
use crate::types::{Entry, Incarnation, Recovered, Slot};

/// The state of whoever writes.
#[derive(Debug)]
pub(super) struct Writer<F: Files> {
    incarnation: Incarnation,
    scramble: Scramble,
    numbers: Numbers,
    base: Base,
    /// The newest frame with a base has another one.
    base_changed: bool,
    /// The sequence number of the next frame.
    sequence: u64,
    segment: Arc<F::File>,
    segment_name: String,
    extent: Extent,
    segment_bytes: u64,
    frame: Vec<u8>,
    /// Why nothing more is written.
    failed: Option<StoreError>,
    plant: Plant,
}

/// A frame that is durable.
pub(super) struct Written<F: Files> {
    pub(super) numbers: Numbers,
    /// The segment that was begun with it.
    pub(super) new_segment: Option<(u64, Arc<F::File>)>,
    /// Where it begins in the newest segment.
    pub(super) offset: u64,
    pub(super) records: Vec<RecordAt>,
}

/// What becomes of a replayed log.
type GoneOn<F> = (Writer<F>, Index<Arc<<F as Files>::File>>, Report);

impl<F: Files> Writer<F> {
    /// Begins a log: one segment with one frame, that nothing was promised.
    pub(super) fn create(
        files: &F,
        incarnation: Incarnation,
        membership: &Membership,
    ) -> Result<Writer<F>, StoreError> {
        let fresh = Recovered::fresh(membership.clone());
        let numbers = Numbers {
            promised: fresh.promised,
            accepted: fresh.accepted,
            decided: fresh.decided,
            first: fresh.first,
            end: fresh.claimed,
            base: 0,
        };
        let mut writer = Writer {
            incarnation,
            scramble: Scramble::new(incarnation.0),
            numbers,
            base: Base {
                membership: fresh.membership,
                snapshot: None,
            },
            base_changed: true,
            sequence: 1,
            segment: Arc::new(new_segment(files, 1)?),
            segment_name: segment::name(1),
            extent: Extent::default(),
            // No zeros behind the first frame: its file may be all that is ever needed.
            segment_bytes: 0,
            frame: Vec::new(),
            failed: None,
            plant: Plant::default(),
        };
        writer.append(files, numbers, &[])?;
        writer.segment_bytes = SEGMENT_BYTES;
        Ok(writer)
    }

    /// Goes on with a log that was replayed.
    pub(super) fn go_on(
        recovery: Recovery<F>,
        incarnation: Incarnation,
        plant: Plant,
    ) -> Result<GoneOn<F>, StoreError> {
        let index = recovery.index;
        let newest = index.segment(index.newest());
        let newest = newest.ok_or(StoreError::Damaged { what: "log" })?;
        let writer = Writer {
            incarnation,
            scramble: Scramble::new(incarnation.0),
            numbers: recovery.numbers,
            base: recovery.base,
            base_changed: false,
            sequence: recovery.sequence,
            segment: Arc::clone(&newest.handle),
            segment_name: segment::name(newest.sequence),
            extent: recovery.newest,
            segment_bytes: SEGMENT_BYTES,
            frame: Vec::new(),
            failed: None,
            plant,
        };
        Ok((writer, index, recovery.report))
    }

    /// The next frame is to hold the base.
    pub(super) fn change_base(&mut self) {
        self.base_changed = true;
    }

    /// A new segment is begun when the present one has this length.
    pub(super) fn set_segment_bytes(&mut self, bytes: u64) {
        self.segment_bytes = bytes.min(SEGMENT_BYTES);
    }

    pub(super) fn segment(&self) -> &Arc<F::File> {
        &self.segment
    }

    pub(super) fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    pub(super) fn base(&self) -> &Base {
        &self.base
    }

    /// How many frames were ever written.
    pub(super) fn frames(&self) -> u64 {
        self.sequence - 1
    }

    /// Whether anything may still be written.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Nothing more is to be written.
    pub(super) fn fail(&mut self, error: &StoreError) {
        self.failed = Some(error.clone());
    }

    /// Makes a frame durable after which the numbers, and the base if it is given, are these.
    pub(super) fn write(
        &mut self,
        files: &F,
        numbers: Numbers,
        base: Option<Base>,
        entries: &[Entry],
    ) -> Result<Written<F>, StoreError> {
        let base = base.filter(|base| *base != self.base);
        self.base_changed |= base.is_some();
        let before = base.map(|base| std::mem::replace(&mut self.base, base));
        let written = self.append(files, numbers, entries);
        if let Err(error) = &written {
            self.fail(error);
            // Nobody is to be told what may not be durable.
            self.base = before.unwrap_or_else(|| self.base.clone());
        }
        written
    }

    fn append(
        &mut self,
        files: &F,
        mut numbers: Numbers,
        entries: &[Entry],
    ) -> Result<Written<F>, StoreError> {
        let full = self.extent.used >= self.segment_bytes && self.extent.used > 0;
        let new_segment = if full { Some(self.roll(files)?) } else { None };
        let with_base = self.base_changed || self.extent.used == 0;
        numbers.base = if with_base {
            self.sequence
        } else {
            self.numbers.base
        };
        let offset = self.extent.used;
        let mut header = Header {
            incarnation: self.incarnation,
            sequence: self.sequence,
            offset,
            body_bytes: 0,
            count: 0,
            base_bytes: 0,
            first_entry: Slot::NONE,
            numbers,
        };
        let base = with_base.then_some(&self.base);
        let records = frame::encode(&mut self.frame, &mut header, self.scramble, base, entries);
        self.append_frame()
            .map_err(|source| StoreError::io(files.path(&self.segment_name), source))?;
        self.numbers = numbers;
        self.sequence += 1;
        self.base_changed = false;
        Ok(Written {
            numbers,
            new_segment,
            offset,
            records,
        })
    }

    fn append_frame(&mut self) -> std::io::Result<()> {
        let end = self.extent.used + self.frame.len() as u64;
        if end > self.extent.length {
            self.extent.length = end;
            if self.frame.len() <= FRAME_BYTES_WITH_ZEROS_MAX {
                let zeros = self.segment_bytes.saturating_sub(end).min(ZEROS_BYTES);
                self.extent.length += zeros;
                self.frame.resize(self.frame.len() + zeros as usize, 0);
            }
        }
        self.segment.write_all_at(self.extent.used, &self.frame)?;
        let synced = self.segment.sync();
        if synced.is_err() && self.plant.has(Planted::SyncRetried) {
            self.segment.sync()?;
        } else {
            synced?;
        }
        self.extent.used = end;
        Ok(())
    }

    /// Begins the next segment.
    fn roll(&mut self, files: &F) -> Result<(u64, Arc<F::File>), StoreError> {
        self.segment = Arc::new(new_segment(files, self.sequence)?);
        self.segment_name = segment::name(self.sequence);
        self.extent = Extent::default();
        Ok((self.sequence, Arc::clone(&self.segment)))
    }
}

/// A new empty segment, whose name is durable before anything in it is acknowledged.
fn new_segment<F: Files>(files: &F, sequence: u64) -> Result<F::File, StoreError> {
    let name = segment::name(sequence);
    let created = files.create(&name).and_then(|file| {
        files.sync_directory()?;
        Ok(file)
    });
    created.map_err(|source| StoreError::io(files.path(&name), source))
}
