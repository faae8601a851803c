//! How a log that is behind or of an older ballot comes up: entries wait here, in order, until
//! they are known to be decided or the whole log can be exchanged at once.

use std::collections::VecDeque;

use crate::limits::{OPEN_SLOTS_MAX, WINDOW_BYTES_MAX};
use crate::log::size;
use crate::types::{Entry, Slot};

/// Entries of another's log that follow this replica's decided ones without a gap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Stage {
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Stage {
    pub(crate) fn clear(&mut self) {
        *self = Stage::default();
    }

    /// The last slot that is staged or decided.
    pub(crate) fn end(&self, decided: Slot) -> Slot {
        self.entries.back().map_or(decided, |entry| entry.slot)
    }

    /// Takes the entry if it is the next one and there is room.
    pub(crate) fn offer(&mut self, entry: Entry, decided: Slot) {
        let room = (self.entries.len() as u64) < OPEN_SLOTS_MAX
            && self.bytes + size(&entry) <= 2 * WINDOW_BYTES_MAX;
        if room && entry.slot == self.end(decided).next() {
            self.bytes += size(&entry);
            self.entries.push_back(entry);
        }
    }

    /// The first entry, if it lies at or before `last`.
    pub(crate) fn pop_up_to(&mut self, last: Slot) -> Option<Entry> {
        if self.entries.front()?.slot > last {
            return None;
        }
        let entry = self.entries.pop_front()?;
        self.bytes -= size(&entry);
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::limits::PAYLOAD_BYTES_MAX;
    use crate::types::{Ballot, EntryKind};

    fn entry(slot: u64, bytes: usize) -> Entry {
        let payload = Bytes::from(vec![1; bytes]);
        Entry::new(Slot(slot), Ballot::NONE, EntryKind::Command, payload)
    }

    #[test]
    fn only_the_next_entry_is_staged() {
        let mut stage = Stage::default();
        stage.offer(entry(7, 0), Slot(5));
        assert_eq!(stage.end(Slot(5)), Slot(5));
        stage.offer(entry(6, 0), Slot(5));
        stage.offer(entry(6, 0), Slot(5));
        stage.offer(entry(7, 0), Slot(5));
        assert_eq!(stage.end(Slot(5)), Slot(7));
        assert_eq!(stage.pop_up_to(Slot(6)), Some(entry(6, 0)));
        assert_eq!(stage.pop_up_to(Slot(6)), None);
    }

    #[test]
    fn what_is_staged_is_bounded_in_slots_and_in_bytes() {
        let mut many = Stage::default();
        (1..=OPEN_SLOTS_MAX + 5).for_each(|slot| many.offer(entry(slot, 0), Slot::NONE));
        assert_eq!(many.end(Slot::NONE), Slot(OPEN_SLOTS_MAX));
        let mut large = Stage::default();
        let fits = (2 * WINDOW_BYTES_MAX / size(&entry(1, PAYLOAD_BYTES_MAX))) as u64;
        (1..=fits + 5).for_each(|slot| large.offer(entry(slot, PAYLOAD_BYTES_MAX), Slot::NONE));
        assert_eq!(large.end(Slot::NONE), Slot(fits));
        for popped in 1..=3 {
            assert!(large.pop_up_to(Slot(popped)).is_some());
            for slot in fits + popped..fits + popped + 2 {
                large.offer(entry(slot, PAYLOAD_BYTES_MAX), Slot(popped));
            }
            assert_eq!(large.end(Slot::NONE), Slot(fits + popped), "room for one");
        }
    }
}
