//! The log as far as it is in memory: all that is undecided, and a tail of what is decided.
//!
//! Knows nothing of disks or peers; what it forgets can be read from the store.

use std::collections::VecDeque;

use crate::limits::{Bounds, ENTRY_OVERHEAD_BYTES, MESSAGE_ENTRIES_MAX, TAIL_CACHE_BYTES_MAX};
use crate::types::{Ballot, Entry, Slot};

/// A contiguous end of the log.
#[derive(Debug)]
pub(crate) struct Log {
    /// The slot of the first entry in memory, or the one after `end` if there is none.
    first: Slot,
    entries: VecDeque<Entry>,
    decided: Slot,
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
