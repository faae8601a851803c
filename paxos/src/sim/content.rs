//! What a simulated file holds, and what of it would be left after a crash.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::sim::dice::Dice;

/// What a disk writes whole or not at all, bytes.
pub(super) const SECTOR_BYTES: usize = 512;

/// The bytes of a file as a reader sees them, and how to go back to those on the disk.
#[derive(Default)]
pub(super) struct Content {
    bytes: Vec<u8>,
    /// The length on the disk.
    durable_length: usize,
    /// What was done since the last sync, oldest first, and what never arrives.
    undo: Vec<Undo>,
    unreadable: BTreeSet<usize>,
    /// How often it is open.
    pub(super) handles: u32,
}

/// One change that is not on the disk.
struct Undo {
    offset: usize,
    /// How much was changed.
    length: usize,
    /// What was there before, as far as there was something.
    before: Vec<u8>,
    /// It never reaches the disk, whatever is synced.
    lost: bool,
}

impl Undo {
    fn end(&self) -> usize {
        self.offset + self.length
    }

    /// What is left of it beside another range.
    fn beside(&self, other: &Undo) -> Vec<Undo> {
        let parts = [
            self.offset..self.end().min(other.offset),
            self.offset.max(other.end())..self.end(),
        ];
        let part = |range: Range<usize>| {
            let before = self.before.iter().skip(range.start - self.offset);
            Undo {
                offset: range.start,
                length: range.len(),
                before: before.take(range.len()).copied().collect(),
                lost: self.lost,
            }
        };
        let parts = parts.into_iter().filter(|range| !range.is_empty());
        parts.map(part).collect()
    }
}

impl Content {
    pub(super) fn durable(bytes: Vec<u8>) -> Content {
        Content {
            durable_length: bytes.len(),
            bytes,
            ..Content::default()
        }
    }

    /// An empty file, in memory that was used before.
    pub(super) fn in_memory(mut memory: Vec<u8>) -> Content {
        memory.clear();
        Content {
            bytes: memory,
            ..Content::default()
        }
    }

    /// The memory of a file that is gone.
    pub(super) fn take_memory(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// How much was read; nothing if a sector cannot be read.
    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> Option<usize> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let there = self.bytes.get(offset..).unwrap_or_default();
        let count = there.len().min(into.len());
        if !self.unreadable.is_empty() && count > 0 {
            let sectors = offset / SECTOR_BYTES..=(offset + count - 1) / SECTOR_BYTES;
            if self.unreadable.range(sectors).next().is_some() {
                return None;
            }
        }
        into[..count].copy_from_slice(&there[..count]);
        Some(count)
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8], lost: bool) {
        let offset = offset as usize;
        let end = offset + bytes.len();
        let old_length = self.bytes.len();
        let before = self.bytes.get(offset..end.min(old_length));
        self.undo.push(Undo {
            offset,
            length: bytes.len(),
            before: before.map(<[u8]>::to_vec).unwrap_or_default(),
            lost,
        });
        if offset == old_length {
            self.bytes.extend_from_slice(bytes);
        } else {
            self.bytes.resize(old_length.max(end), 0);
            self.bytes[offset..end].copy_from_slice(bytes);
        }
        if !self.unreadable.is_empty() {
            let written = offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES);
            self.unreadable.retain(|sector| !written.contains(sector));
        }
    }

    /// Changes what is on the disk at once, within the file.
    pub(super) fn overwrite(&mut self, offset: u64, bytes: &[u8]) {
        let there = self.bytes.get_mut(offset as usize..).unwrap_or_default();
        let count = there.len().min(bytes.len());
        there[..count].copy_from_slice(&bytes[..count]);
    }

    pub(super) fn truncate(&mut self, length: u64) {
        let length = length as usize;
        let before = self.bytes.get(length..).unwrap_or_default().to_vec();
        self.undo.push(Undo {
            offset: length,
            length: before.len(),
            before,
            lost: false,
        });
        self.bytes.resize(length, 0);
    }

    pub(super) fn sync(&mut self) {
        let mut lost: Vec<Undo> = Vec::new();
        for undo in self.undo.drain(..) {
            if undo.lost {
                lost.push(undo);
            } else if !lost.is_empty() {
                // What was lost has arrived where it was written once more.
                lost = lost.iter().flat_map(|lost| lost.beside(&undo)).collect();
            }
        }
        self.undo = lost;
        self.durable_length = self.bytes.len();
    }

    /// What was to be synced counts as synced, and is not.
    pub(super) fn fail_sync(&mut self) {
        self.undo.iter_mut().for_each(|undo| undo.lost = true);
    }

    pub(super) fn flip(&mut self, offset: u64, mask: u8) -> Option<()> {
        let byte = self.bytes.get_mut(usize::try_from(offset).ok()?)?;
        *byte ^= mask;
        Some(())
    }

    pub(super) fn make_unreadable(&mut self, offset: u64) {
        self.unreadable.insert(offset as usize / SECTOR_BYTES);
    }

    /// Keeps each sector that was not synced with the given probability.
    pub(super) fn crash(&mut self, dice: &mut Dice, kept: f64) {
        if self.undo.is_empty() && self.durable_length == self.bytes.len() {
            return;
        }
        let (mut dirty, mut lost) = (BTreeSet::new(), BTreeSet::new());
        let mut disk = self.bytes.clone();
        for undo in self.undo.drain(..).rev() {
            let end = undo.end();
            disk.resize(disk.len().max(end), 0);
            let (before, beyond) = disk[undo.offset..end].split_at_mut(undo.before.len());
            before.copy_from_slice(&undo.before);
            beyond.fill(0);
            let sectors = undo.offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES);
            dirty.extend(sectors.clone());
            if undo.lost {
                lost.extend(sectors);
            }
        }
        let lengths = [self.durable_length, self.bytes.len()];
        let length = match kept {
            0.0 => lengths[0],
            1.0 => lengths[1],
            _ => {
                let [low, high] = lengths.map(|length| (length / SECTOR_BYTES) as u64);
                let between = dice.between(low.min(high), low.max(high)) as usize;
                // No shorter than it was and shall be: that much is durable.
                let between = (between * SECTOR_BYTES).max(lengths[0].min(lengths[1]));
                dice.pick(&[lengths[0], lengths[1], between])
            }
        };
        disk.resize(length, 0);
        for sector in dirty {
            let begin = sector * SECTOR_BYTES;
            let end = (begin + SECTOR_BYTES).min(self.bytes.len()).min(length);
            if begin < end && !lost.contains(&sector) && dice.chance(kept) {
                disk[begin..end].copy_from_slice(&self.bytes[begin..end]);
            }
        }
        self.durable_length = disk.len();
        self.bytes = disk;
    }
}
