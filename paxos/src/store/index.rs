//! Where each entry of the log lies: 16 bytes of memory per slot.
//!
//! One place per slot, and not one range per frame: a truncation, a repair in the middle and a
//! restart are then nothing but changes of places, and what no place uses can be removed.

use std::collections::VecDeque;

use crate::store::limits::GAP_SLOTS_MAX;
use crate::types::Slot;

/// Where an entry's record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// As [`Index::add_segment`] numbered it.
    pub(super) segment: u32,
    pub(super) offset: u32,
    /// 0 if the entry cannot be had.
    pub(super) bytes: u32,
    /// The entry's checksum.
    pub(super) crc: u32,
}

impl Place {
    /// The entry cannot be had.
    pub(super) const LOST: Place = Place {
        segment: 0,
        offset: 0,
        bytes: 0,
        crc: 0,
    };

    pub(super) fn is_lost(self) -> bool {
        self.bytes == 0
    }
}

/// A segment, oldest first in the index.
#[derive(Debug)]
pub(super) struct Segment<H> {
    /// The sequence number of its first frame, which names it.
    pub(super) sequence: u64,
    /// What is needed to read it.
    pub(super) handle: H,
    /// How many places are in it.
    live: u64,
}

/// The log's slots, from `first` to `end`. Those that have no place are lost.
#[derive(Debug)]
pub(super) struct Index<H> {
    first: Slot,
    end: Slot,
    /// The slot of the first of `places`.
    start: Slot,
    places: VecDeque<Place>,
    segments: VecDeque<Segment<H>>,
    /// The number of the first of `segments`.
    oldest: u32,
}

impl<H> Index<H> {
    pub(super) fn new() -> Index<H> {
        Index {
            first: Slot(1),
            end: Slot::NONE,
            start: Slot(1),
            places: VecDeque::new(),
            segments: VecDeque::new(),
            oldest: 0,
        }
    }

    pub(super) fn first(&self) -> Slot {
        self.first
    }

    pub(super) fn end(&self) -> Slot {
        self.end
    }

    /// Adds the newest segment; its number.
    pub(super) fn add_segment(&mut self, sequence: u64, handle: H) -> u32 {
        self.segments.push_back(Segment {
            sequence,
            handle,
            live: 0,
        });
        self.newest()
    }

    /// The number of the newest segment.
    pub(super) fn newest(&self) -> u32 {
        self.oldest + (self.segments.len() as u32).saturating_sub(1)
    }

    /// All segments, the oldest first.
    pub(super) fn segments(&self) -> impl Iterator<Item = &Segment<H>> {
        self.segments.iter()
    }

    pub(super) fn segment(&self, number: u32) -> Option<&Segment<H>> {
        let index = number.checked_sub(self.oldest)?;
        self.segments.get(index as usize)
    }

    /// Takes out the oldest segment if no place is in it and it is not the newest.
    pub(super) fn take_unused(&mut self) -> Option<Segment<H>> {
        let unused = self.segments.len() > 1 && self.segments.front()?.live == 0;
        let segment = unused.then(|| self.segments.pop_front())??;
        self.oldest += 1;
        Some(segment)
    }

    /// The place of a slot of the log.
    pub(super) fn place(&self, slot: Slot) -> Option<Place> {
        if !(self.first..=self.end).contains(&slot) {
            return None;
        }
        let index = slot.0.checked_sub(self.start.0);
        let place = index.and_then(|index| self.places.get(usize::try_from(index).ok()?));
        Some(place.copied().unwrap_or(Place::LOST))
    }

    /// The first slot after `after` whose entry is lost.
    pub(super) fn first_lost(&self, after: Slot) -> Option<Slot> {
        let from = after.next().max(self.first);
        if from > self.end {
            return None;
        }
        let Some(skip) = from.0.checked_sub(self.start.0) else {
            return Some(from);
        };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let places = self.places.iter().skip(skip);
        let readable = places.take_while(|place| !place.is_lost()).count();
        let lost = Slot(from.0 + readable as u64);
        (lost <= self.end).then_some(lost)
    }

    /// An entry of the slot was written, or is lost, there.
    pub(super) fn put(&mut self, slot: Slot, place: Place) {
        if self.places.is_empty() {
            self.start = slot;
        }
        let behind = self.behind();
        let gap = self.start.0.saturating_sub(slot.0) + slot.0.saturating_sub(behind.0);
        if gap > GAP_SLOTS_MAX {
            self.clear();
            self.start = slot;
        }
        while self.start > slot {
            self.places.push_front(Place::LOST);
            self.start = self.start.previous();
        }
        let index = (slot.0 - self.start.0) as usize;
        while self.places.len() <= index {
            self.places.push_back(Place::LOST);
        }
        let old = std::mem::replace(&mut self.places[index], place);
        self.count(old, |live| live - 1);
        self.count(place, |live| live + 1);
    }

    /// The log goes from `first` to `end` now.
    pub(super) fn set_bounds(&mut self, first: Slot, end: Slot) {
        self.first = first;
        self.end = end;
        self.forget_after(end);
        while self.start < first && !self.places.is_empty() {
            if let Some(place) = self.places.pop_front() {
                self.count(place, |live| live - 1);
            }
            self.start = self.start.next();
        }
    }

    /// What is after `slot` is lost.
    pub(super) fn forget_after(&mut self, slot: Slot) {
        while !self.places.is_empty() && self.behind().previous() > slot {
            if let Some(place) = self.places.pop_back() {
                self.count(place, |live| live - 1);
            }
        }
    }

    /// Everything is lost.
    pub(super) fn clear(&mut self) {
        self.forget_after(Slot::NONE);
        self.places.clear();
    }

    /// The slot behind the last that has a place.
    fn behind(&self) -> Slot {
        Slot(self.start.0.saturating_add(self.places.len() as u64))
    }

    fn count(&mut self, place: Place, change: fn(u64) -> u64) {
        if place.is_lost() {
            return;
        }
        let index = place.segment.checked_sub(self.oldest);
        let segment = index.and_then(|index| self.segments.get_mut(index as usize));
        if let Some(segment) = segment {
            segment.live = change(segment.live);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(segment: u32, offset: u32) -> Place {
        Place {
            segment,
            offset,
            bytes: 1,
            crc: 0,
        }
    }

    fn index(slots: std::ops::RangeInclusive<u64>) -> Index<()> {
        let mut index = Index::new();
        index.add_segment(1, ());
        let end = Slot(*slots.end());
        let first = Slot(*slots.start());
        slots.for_each(|slot| index.put(Slot(slot), at(0, slot as u32)));
        index.set_bounds(first, end);
        index
    }

    #[test]
    fn a_truncation_a_repair_and_a_cut_change_the_places() {
        let mut index = index(1..=9);
        index.add_segment(2, ());
        index.put(Slot(3), at(1, 30));
        index.set_bounds(Slot(2), Slot(7));
        assert_eq!(index.place(Slot(1)), None);
        assert_eq!(index.place(Slot(2)), Some(at(0, 2)));
        assert_eq!(index.place(Slot(3)), Some(at(1, 30)));
        assert_eq!(index.place(Slot(8)), None);
    }

    #[test]
    fn a_segment_is_unused_when_no_place_is_in_it() {
        let mut index = index(1..=3);
        index.add_segment(2, ());
        index.put(Slot(4), at(1, 0));
        index.put(Slot(2), at(1, 1));
        index.set_bounds(Slot(3), Slot(4));
        assert!(index.take_unused().is_none(), "slot 3 is in the first");
        index.set_bounds(Slot(4), Slot(4));
        assert_eq!(index.take_unused().map(|segment| segment.sequence), Some(1));
        assert_eq!(index.place(Slot(4)), Some(at(1, 0)));
        index.set_bounds(Slot(5), Slot(4));
        assert!(index.take_unused().is_none(), "it is the newest");
    }

    #[test]
    fn slots_without_a_place_are_lost_wherever_they_are() {
        let mut index = index(5..=8);
        assert_eq!(index.first_lost(Slot::NONE), None);
        index.set_bounds(Slot(3), Slot(10));
        assert_eq!(index.first_lost(Slot::NONE), Some(Slot(3)));
        assert_eq!(index.first_lost(Slot(4)), Some(Slot(9)));
        assert_eq!(index.first_lost(Slot(10)), None);
        index.put(Slot(10), at(0, 10));
        index.put(Slot(3), at(0, 3));
        assert_eq!(index.first_lost(Slot(2)), Some(Slot(4)));
        assert_eq!(index.first_lost(Slot(4)), Some(Slot(9)));
        assert_eq!(index.place(Slot(10)), Some(at(0, 10)));
    }

    #[test]
    fn a_log_that_begins_far_away_takes_no_memory_for_what_is_between() {
        let mut index = index(1..=3);
        let far = 1 << 60;
        index.put(Slot(far), at(0, 1));
        index.set_bounds(Slot(1), Slot(far));
        assert_eq!(index.places.len(), 1);
        assert_eq!(index.place(Slot(far)), Some(at(0, 1)));
        assert_eq!(index.first_lost(Slot::NONE), Some(Slot(1)));
        index.put(Slot(u64::MAX), at(0, 1));
        index.set_bounds(Slot(1), Slot(u64::MAX));
        assert!(index.places.len() <= 1);
    }
}
