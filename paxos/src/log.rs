//! The log as far as it is in memory: all that is undecided, and a tail of what is decided.
//!
//! Knows nothing of disks or peers; what it forgets can be read from the store.

use std::collections::VecDeque;

use crate::limits::{Bounds, ENTRY_OVERHEAD_BYTES, MESSAGE_ENTRIES_MAX, TAIL_CACHE_BYTES_MAX};
use crate::types::{Ballot, Entry, EntryKind, Slot};

/// A contiguous end of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Log {
    /// The slot of the first entry in memory, or the one after `end` if there is none.
    first: Slot,
    entries: VecDeque<Entry>,
    decided: Slot,
    /// Where the present epoch ends, if its last entry is in the log.
    stop: Option<Slot>,
    bytes: usize,
    open_bytes: usize,
    bounds: Bounds,
}

impl Log {
    pub(crate) fn new(decided: Slot, open: Vec<Entry>) -> Log {
        let mut log = Log {
            first: decided.next(),
            entries: VecDeque::new(),
            decided,
            stop: None,
            bytes: 0,
            open_bytes: 0,
            bounds: Bounds::default(),
        };
        open.into_iter().for_each(|entry| log.append(entry));
        log
    }

    #[cfg(feature = "sim")]
    pub(crate) fn tighten(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    pub(crate) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// The first slot in memory; `end` + 1 if there is none.
    pub(crate) fn first(&self) -> Slot {
        self.first
    }

    pub(crate) fn end(&self) -> Slot {
        Slot(self.first.0 + self.entries.len() as u64 - 1)
    }

    pub(crate) fn decided(&self) -> Slot {
        self.decided
    }

    pub(crate) fn open_slots(&self) -> u64 {
        self.end().0 - self.decided.0
    }

    /// The slot of the entry that ends the present epoch, decided or not.
    pub(crate) fn stop(&self) -> Option<Slot> {
        self.stop
    }

    /// The epoch that the stop entry ended is over.
    pub(crate) fn forget_stop(&mut self) {
        self.stop = None;
    }

    /// Everything up to `decided` is known by other means: the log is empty and begins after it.
    pub(crate) fn restart(&mut self, decided: Slot) {
        assert!(decided > self.decided, "a log restarts further on only");
        *self = Log {
            bounds: self.bounds,
            ..Log::new(decided, Vec::new())
        };
    }

    /// Bytes of the undecided entries.
    pub(crate) fn open_bytes(&self) -> usize {
        self.open_bytes
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&Entry> {
        let index = slot.0.checked_sub(self.first.0)?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// The ballot under which the entry of a slot was proposed, if the entry is in memory.
    pub(crate) fn origin(&self, slot: Slot) -> Option<Ballot> {
        self.get(slot).map(|entry| entry.origin)
    }

    pub(crate) fn append(&mut self, entry: Entry) {
        assert_eq!(entry.slot, self.end().next(), "the log is contiguous");
        self.bytes += size(&entry);
        self.open_bytes += size(&entry);
        if entry.kind == EntryKind::Stop {
            self.stop = Some(entry.slot);
        }
        self.entries.push_back(entry);
    }

    /// Removes `from` and everything after it.
    pub(crate) fn truncate_from(&mut self, from: Slot) {
        assert!(from > self.decided, "what is decided is never removed");
        while self.end() >= from {
            let removed = self
                .entries
                .pop_back()
                .expect("undecided entries are in memory");
            self.bytes -= size(&removed);
            self.open_bytes -= size(&removed);
        }
        self.stop = self.stop.filter(|stop| *stop < from);
    }

    /// Marks everything up to `to` as decided; the entries that were not before.
    pub(crate) fn decide(&mut self, to: Slot) -> Vec<Entry> {
        assert!(to <= self.end(), "only what is known can be decided");
        let mut newly = Vec::new();
        while self.decided < to {
            let slot = self.decided.next();
            let entry = self
                .get(slot)
                .expect("undecided entries are in memory")
                .clone();
            self.open_bytes -= size(&entry);
            self.decided = slot;
            newly.push(entry);
        }
        newly
    }

    /// Forgets old entries beyond the bounds of the cache, but none after `keep_after`.
    pub(crate) fn evict(&mut self, keep_after: Slot) {
        let evictable = keep_after.min(self.decided);
        while self.first <= evictable
            && (self.bytes > TAIL_CACHE_BYTES_MAX + self.open_bytes
                || self.entries.len() > self.bounds.tail_cache_entries + self.open_entries())
        {
            let evicted = self
                .entries
                .pop_front()
                .expect("decided entries up to the end");
            self.bytes -= size(&evicted);
            self.first = self.first.next();
        }
    }

    /// The entries from `first` to `last` that are in memory and fit one message. Empty if the
    /// first is not in memory.
    pub(crate) fn message_part(&self, first: Slot, last: Slot) -> Vec<Entry> {
        let Some(skip) = first.0.checked_sub(self.first.0) else {
            return Vec::new();
        };
        let count = (last.0 + 1).saturating_sub(first.0);
        let from = self.entries.iter().skip(skip as usize);
        self.fitting(from.take(count as usize))
    }

    /// The first of `entries` that fit one message together; at least one.
    pub(crate) fn fitting<'a>(&self, entries: impl Iterator<Item = &'a Entry>) -> Vec<Entry> {
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += size(entry);
            first || bytes <= self.bounds.message_entries_bytes
        };
        let some = entries.take(MESSAGE_ENTRIES_MAX).take_while(fits);
        some.cloned().collect()
    }

    /// The entries from `from` to the end.
    pub(crate) fn suffix(&self, from: Slot) -> Vec<Entry> {
        assert!(from >= self.first, "what was not written yet is in memory");
        let skip = (from.0 - self.first.0) as usize;
        self.entries.iter().skip(skip).cloned().collect()
    }

    fn open_entries(&self) -> usize {
        self.open_slots() as usize
    }
}

/// What an entry counts for in every bound that is in bytes.
pub(crate) fn size(entry: &Entry) -> usize {
    entry.payload.len() + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::limits::{MESSAGE_ENTRIES_BYTES_MAX, PAYLOAD_BYTES_MAX};
    use crate::types::EntryKind;

    fn entry(slot: u64, bytes: usize) -> Entry {
        let payload = Bytes::from(vec![1; bytes]);
        Entry::new(Slot(slot), Ballot::NONE, EntryKind::Command, payload)
    }

    fn log(entries: u64, bytes: usize) -> Log {
        let entries = (1..=entries).map(|slot| entry(slot, bytes)).collect();
        Log::new(Slot::NONE, entries)
    }

    #[test]
    fn a_message_takes_entries_up_to_its_limit_of_bytes() {
        let log = log(3, PAYLOAD_BYTES_MAX / 2);
        let part = log.message_part(Slot(1), Slot(3));
        assert_eq!(part.len(), 2);
        assert!(part.iter().map(size).sum::<usize>() <= MESSAGE_ENTRIES_BYTES_MAX);
        assert_eq!(
            log.message_part(Slot(3), Slot(3)),
            [entry(3, PAYLOAD_BYTES_MAX / 2)]
        );
    }

    #[test]
    fn a_message_takes_no_more_entries_than_its_limit_of_entries() {
        let log = log(2 * MESSAGE_ENTRIES_MAX as u64, 0);
        assert_eq!(
            log.message_part(Slot(1), log.end()).len(),
            MESSAGE_ENTRIES_MAX
        );
    }

    #[test]
    fn the_tail_that_is_kept_is_bounded_in_bytes_and_in_entries() {
        let mut large = log(400, PAYLOAD_BYTES_MAX);
        large.decide(Slot(400));
        large.evict(Slot(400));
        assert!(large.bytes <= TAIL_CACHE_BYTES_MAX);
        assert!(large.bytes + size(&entry(1, PAYLOAD_BYTES_MAX)) > TAIL_CACHE_BYTES_MAX);
        // What is undecided is no part of the tail, and takes no room in it.
        let one = size(&entry(1, PAYLOAD_BYTES_MAX));
        let fits = TAIL_CACHE_BYTES_MAX / one;
        let mut half = log(2 * fits as u64, PAYLOAD_BYTES_MAX);
        half.decide(Slot(fits as u64));
        half.evict(Slot(fits as u64));
        assert_eq!((half.first(), half.entries.len()), (Slot(1), 2 * fits));
        let limit = Bounds::default().tail_cache_entries;
        let mut many = log(limit as u64 + 10, 0);
        many.decide(many.end());
        many.evict(many.end());
        assert_eq!(many.entries.len(), limit);
        assert_eq!(many.first(), Slot(11));
    }

    #[test]
    fn a_tail_that_fills_its_room_to_the_byte_is_kept() {
        let rest = TAIL_CACHE_BYTES_MAX % size(&entry(1, PAYLOAD_BYTES_MAX));
        let last = rest
            .checked_sub(ENTRY_OVERHEAD_BYTES)
            .expect("room for one more");
        let full = TAIL_CACHE_BYTES_MAX / size(&entry(1, PAYLOAD_BYTES_MAX));
        for (bytes, first) in [(last, Slot(1)), (last + 1, Slot(2))] {
            let mut log = log(full as u64, PAYLOAD_BYTES_MAX);
            log.append(Entry {
                slot: log.end().next(),
                ..entry(1, bytes)
            });
            log.decide(log.end());
            log.evict(log.end());
            assert_eq!(log.first(), first, "with {bytes} bytes in the last");
        }
    }

    #[test]
    fn what_is_undecided_or_not_written_is_kept_whatever_the_bounds() {
        let mut log = log(400, PAYLOAD_BYTES_MAX);
        log.evict(Slot(400));
        assert_eq!(log.first(), Slot(1), "nothing is decided");
        log.decide(Slot(300));
        log.evict(Slot(20));
        assert_eq!(log.first(), Slot(21), "the rest is not written");
    }

    #[test]
    fn bytes_are_counted_as_entries_come_are_decided_and_go() {
        let one = size(&entry(1, 10));
        assert_eq!(one, 10 + ENTRY_OVERHEAD_BYTES);
        let mut log = log(5, 10);
        assert_eq!((log.bytes, log.open_bytes()), (5 * one, 5 * one));
        log.truncate_from(Slot(5));
        assert_eq!(
            (log.end(), log.bytes, log.open_bytes()),
            (Slot(4), 4 * one, 4 * one)
        );
        log.truncate_from(Slot(5));
        assert_eq!(log.end(), Slot(4), "there is nothing behind it");
        assert_eq!(log.decide(Slot(3)).len(), 3);
        assert_eq!(
            (log.bytes, log.open_bytes(), log.open_slots()),
            (4 * one, one, 1)
        );
        log.tighten(Bounds {
            tail_cache_entries: 1,
            ..Bounds::default()
        });
        log.evict(Slot(4));
        assert_eq!(
            (log.first(), log.bytes, log.open_bytes()),
            (Slot(3), 2 * one, one)
        );
    }

    #[test]
    fn an_entry_is_found_by_its_slot_as_long_as_it_is_in_memory() {
        let mut log = log(5, 10);
        log.decide(Slot(4));
        log.tighten(Bounds {
            tail_cache_entries: 1,
            ..Bounds::default()
        });
        log.evict(Slot(5));
        assert_eq!(log.get(Slot(3)), None);
        assert_eq!(log.get(Slot(4)), Some(&entry(4, 10)));
        assert_eq!(log.get(Slot(6)), None);
        assert_eq!(log.suffix(Slot(5)), [entry(5, 10)]);
        assert_eq!(log.suffix(Slot(4)), [entry(4, 10), entry(5, 10)]);
        assert_eq!(log.message_part(Slot(3), Slot(5)), []);
        assert_eq!(log.message_part(Slot(4), Slot(4)), [entry(4, 10)]);
        assert_eq!(log.message_part(Slot(5), Slot(4)), []);
    }

    #[test]
    fn the_end_of_an_epoch_is_known_while_it_is_in_the_log() {
        let end = Entry::new(Slot(4), Ballot::NONE, EntryKind::Stop, Bytes::new());
        let mut log = log(3, 10);
        assert_eq!(log.stop(), None);
        log.append(end.clone());
        assert_eq!(log.stop(), Some(Slot(4)));
        log.truncate_from(Slot(5));
        assert_eq!(log.stop(), Some(Slot(4)));
        log.truncate_from(Slot(4));
        assert_eq!(log.stop(), None);
        log.append(end);
        log.forget_stop();
        assert_eq!(log.stop(), None);
    }

    #[test]
    fn a_log_that_restarts_is_empty_and_keeps_its_bounds() {
        let mut log = log(3, 10);
        let bounds = Bounds {
            window_slots: 7,
            ..Bounds::default()
        };
        log.tighten(bounds);
        log.restart(Slot(9));
        assert_eq!(
            (log.first(), log.end(), log.decided()),
            (Slot(10), Slot(9), Slot(9))
        );
        assert_eq!((log.bytes, log.open_bytes(), *log.bounds()), (0, 0, bounds));
    }

    #[test]
    #[should_panic(expected = "what is decided is never removed")]
    fn removing_what_is_decided_stops_the_process() {
        let mut log = log(3, 0);
        log.decide(Slot(2));
        log.truncate_from(Slot(2));
    }
}
