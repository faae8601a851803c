//! What a store finds when it is opened: every segment is read and replayed, every checksum is
//! looked at, and torn is told from damaged.
//!
//! As in Alagappan, Ganesan et al., *Protocol-Aware Recovery for Consensus-Based Storage*, FAST
//! 2018: a damaged entry neither shortens the log, which would break a promise, nor stops the
//! node, which would cost its vote while others could repair it.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::planted::{Plant, Planted};
use crate::store::error::StoreError;
use crate::store::files::{DataFile, Files, is_unreadable};
use crate::store::frame::{Base, Header, Numbers, Parts, SECTOR_BYTES, take_apart};
use crate::store::index::{Index, Place};
use crate::store::limits::{DAMAGES_MAX, SEGMENT_FILE_BYTES_MAX};
use crate::store::report::{Damage, Report};
use crate::store::scramble::Scramble;
use crate::store::segment::{self, find, is_blank, is_torn, is_unwritten, written_bytes};
use crate::types::{Incarnation, Slot};

/// A log, replayed.
pub(super) struct Recovery<F: Files> {
    pub(super) numbers: Numbers,
    pub(super) base: Base,
    pub(super) index: Index<Arc<F::File>>,
    /// The sequence number of the next frame.
    pub(super) sequence: u64,
    pub(super) newest: Extent,
    pub(super) report: Report,
}

/// How long a segment is, bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extent {
    /// Up to here there are frames.
    pub(super) used: u64,
    /// Up to here there is a file. What is behind the frames is zeros.
    pub(super) length: u64,
}

/// The replay so far.
struct Replay<'a, F: Files> {
    files: &'a F,
    incarnation: Incarnation,
    scramble: Scramble,
    index: Index<Arc<F::File>>,
    numbers: Option<Numbers>,
    /// The newest base and the sequence number of its frame.
    base: Option<(u64, Base)>,
    /// The sequence number of the next frame.
    expected: u64,
    /// The newest frame that was found where it does not belong.
    misplaced: u64,
    suspects: Vec<Suspect>,
    report: Report,
    plant: Plant,
}

/// A damaged place. Whether it matters is known in the end.
struct Suspect {
    damage: Damage,
    /// If any from `damage.slot` to this one is lost, this is why.
    last: Slot,
}

/// Reads and replays the log of a store, and cuts off what was never finished.
pub(super) fn recover<F: Files>(
    files: &F,
    incarnation: Incarnation,
    at_least: u64,
    plant: Plant,
) -> Result<Recovery<F>, StoreError> {
    let names = files.list();
    let names = names.map_err(|source| StoreError::io(files.path(""), source))?;
    let mut segments: Vec<u64> = names
        .iter()
        .filter_map(|n| segment::parse_name(n))
        .collect();
    segments.sort_unstable();
    let (Some(&first), Some(&newest)) = (segments.first(), segments.last()) else {
        return Err(StoreError::Damaged { what: "log" });
    };
    let mut replay = Replay::<F> {
        files,
        incarnation,
        scramble: Scramble::new(incarnation.0),
        index: Index::new(),
        numbers: None,
        base: None,
        expected: first,
        misplaced: 0,
        suspects: Vec::new(),
        report: Report::default(),
        plant,
    };
    let mut extent = Extent::default();
    for sequence in segments {
        extent = replay.segment(sequence, newest)?;
    }
    // A segment is begun, and a start counted, only when all before that is durable.
    // And a frame that is known to have been written, but elsewhere, is lost.
    let lost = replay.expected < newest || replay.expected <= at_least;
    if lost || replay.misplaced >= replay.expected {
        return Err(newest_lost());
    }
    replay.finish(extent)
}

/// Makes the newest frame durable before anyone relies on it: the process that wrote it may have
/// ended before its sync, or because of a failed one, after which a mere sync would do nothing.
fn settle(file: &impl DataFile, frame: Range<u64>) -> io::Result<()> {
    let mut bytes = vec![0; (frame.end - frame.start) as usize];
    match file.read_full_at(frame.start, &mut bytes) {
        Ok(read) => file.write_all_at(frame.start, &bytes[..read])?,
        // What cannot be read was told already, and nothing is better for being written.
        Err(error) if is_unreadable(&error) => {}
        Err(error) => return Err(error),
    }
    file.sync()
}

fn newest_lost() -> StoreError {
    StoreError::Damaged {
        what: "newest state",
    }
}

impl<F: Files> Replay<'_, F> {
    /// Replays a segment.
    fn segment(&mut self, sequence: u64, newest: u64) -> Result<Extent, StoreError> {
        let (before, newest) = match sequence == newest {
            true => (u64::MAX, true),
            false => (newest, false),
        };
        let name = segment::name(sequence);
        let failed = |source| StoreError::io(self.files.path(&name), source);
        let file = self.files.open(&name).map_err(failed)?;
        if file.length().map_err(failed)? > SEGMENT_FILE_BYTES_MAX {
            return Err(StoreError::Damaged { what: "log" });
        }
        let mut bytes = segment::read_whole(&file).map_err(failed)?;
        let misplaced = segment::misplaced(&bytes, self.incarnation, before);
        self.misplaced = self.misplaced.max(misplaced);
        let file = Arc::new(file);
        let number = self.index.add_segment(sequence, Arc::clone(&file));
        let (mut used, mut last) = (0, 0);
        let mut torn = false;
        while let Some(header) = find(&bytes, used, self.incarnation, self.expected) {
            let begin = header.offset as usize;
            let end = begin.saturating_add(header.frame_bytes());
            let present = end.min(bytes.len());
            if newest && is_torn(&bytes[begin..present], &header) {
                let next = find(&bytes, end, self.incarnation, self.expected + 1);
                if next.is_none() && !self.plant.has(Planted::TornTaken) {
                    torn = true;
                    break;
                }
            }
            if begin > used {
                self.damaged(&name, used as u64, None);
            }
            let parts = take_apart(&header, self.scramble, &mut bytes[begin..present]);
            if newest && parts.damaged && self.plant.has(Planted::DamageTaken) {
                torn = true;
                break;
            }
            self.frame(number, &name, &header, parts);
            (used, last) = (end, begin);
            if end > bytes.len() {
                break;
            }
        }
        let rest = bytes.get(used..).unwrap_or_default();
        let mut length = bytes.len() as u64;
        if written_bytes(rest) > 0 && !newest {
            self.damaged(&name, used as u64, None);
        } else if written_bytes(rest) > 0 {
            if !torn && !is_blank(rest) {
                return Err(newest_lost());
            }
            let mut sectors = rest.chunks_exact(SECTOR_BYTES);
            if sectors.remainder().is_empty() && sectors.all(is_unwritten) {
                self.damaged(&name, used as u64, None);
            } else {
                self.report.torn_bytes += written_bytes(rest) as u64;
            }
            length = used as u64;
            file.truncate(length).map_err(failed)?;
        }
        if newest {
            let frame = last as u64..used.min(bytes.len()) as u64;
            settle(&*file, frame).map_err(failed)?;
            let synced = self.files.sync_directory();
            synced.map_err(|source| StoreError::io(self.files.path(""), source))?;
        }
        Ok(Extent {
            used: used as u64,
            length,
        })
    }

    fn frame(&mut self, number: u32, name: &str, header: &Header, parts: Parts) {
        if header.sequence > self.expected {
            // Frames are lost. They may have replaced any entry that was not decided.
            let decided = self.numbers.map_or(Slot::NONE, |numbers| numbers.decided);
            let lost = (decided.next(), header.numbers.end);
            self.damaged(name, header.offset, Some(lost));
            self.index.forget_after(decided);
        }
        if parts.damaged && parts.records.iter().all(|record| record.crc.is_some()) {
            self.damaged(name, header.offset, None);
        }
        let mut slot = header.first_entry;
        for record in &parts.records {
            let offset = header.offset + record.offset as u64;
            let place = match (record.crc, u32::try_from(offset)) {
                (Some(crc), Ok(offset)) => Place {
                    segment: number,
                    offset,
                    bytes: record.bytes as u32,
                    crc,
                },
                _ => Place::LOST,
            };
            if place.is_lost() {
                self.damaged(name, offset, Some((slot, slot)));
            }
            self.index.put(slot, place);
            slot = slot.next();
        }
        let Numbers { first, end, .. } = header.numbers;
        self.index.set_bounds(first, end);
        if header.base_bytes > 0 {
            self.base = parts.base.map(|base| (header.sequence, base));
        }
        self.numbers = Some(header.numbers);
        self.expected = header.sequence.saturating_add(1);
    }

    fn damaged(&mut self, name: &str, offset: u64, lost: Option<(Slot, Slot)>) {
        if self.suspects.len() >= DAMAGES_MAX {
            self.report.untold += 1;
            return;
        }
        let damage = Damage {
            file: self.files.path(name),
            offset,
            slot: lost.map(|(first, _)| first),
        };
        let last = lost.map_or(Slot::NONE, |(_, last)| last);
        self.suspects.push(Suspect { damage, last });
    }

    fn finish(self, newest: Extent) -> Result<Recovery<F>, StoreError> {
        let mut report = self.report;
        let numbers = self.numbers.ok_or_else(newest_lost)?;
        let base = match self.base {
            Some((sequence, base)) if sequence == numbers.base => base,
            _ => return Err(StoreError::Damaged { what: "membership" }),
        };
        for Suspect { mut damage, last } in self.suspects {
            let before = damage.slot.map_or(Slot::NONE, Slot::previous);
            let lost = self.index.first_lost(before);
            damage.slot = lost.filter(|slot| *slot <= last);
            if damage.slot.is_some() {
                report.damaged.push(damage);
            } else {
                report.harmless += 1;
            }
        }
        Ok(Recovery {
            numbers,
            base,
            index: self.index,
            sequence: self.expected,
            newest,
            report,
        })
    }
}
