//! How a log that is behind or of an older ballot comes up: entries wait here, in order, until
//! they are known to be decided or the whole log can be exchanged at once.
//!
//! Also keeps account of what was asked of the store for peers that are far behind.

use std::collections::{BTreeMap, VecDeque};

use crate::limits::{OPEN_SLOTS_MAX, WINDOW_BYTES_MAX};
use crate::log::size;
use crate::message::Fetch;
use crate::types::{Ballot, Entry, LoadId, NodeId, Slot};

/// Entries of another's log that follow this replica's decided ones without a gap.
#[derive(Debug, Default)]
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

/// For whom entries are being loaded from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoadFor {
    /// For a follower, by the leader of this ballot.
    Follower { node: NodeId, ballot: Ballot },
    /// For a candidate.
    Candidate { node: NodeId, fetch: Fetch },
}

impl LoadFor {
    fn node(&self) -> NodeId {
        match self {
            LoadFor::Follower { node, .. } | LoadFor::Candidate { node, .. } => *node,
        }
    }
}

/// Requests to the store that are not answered yet: at most one for each peer.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    last_id: LoadId,
    open: BTreeMap<LoadId, (LoadFor, Slot)>,
}

impl Loads {
    /// A number for a new request, unless one for the same peer is open.
    pub(crate) fn begin(&mut self, load: LoadFor, first: Slot) -> Option<LoadId> {
        if self
            .open
            .values()
            .any(|(open, _)| open.node() == load.node())
        {
            return None;
        }
        self.last_id = LoadId(self.last_id.0 + 1);
        self.open.insert(self.last_id, (load, first));
        Some(self.last_id)
    }

    /// For whom the request was, if its answer is what was asked for.
    pub(crate) fn finish(&mut self, id: LoadId, entries: &[Entry]) -> Option<LoadFor> {
        let (load, first) = self.open.remove(&id)?;
        let fits = !entries.is_empty()
            && (first.0..)
                .zip(entries)
                .all(|(slot, entry)| entry.slot.0 == slot);
        fits.then_some(load)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::limits::PAYLOAD_BYTES_MAX;
    use crate::types::EntryKind;

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
    }

    #[test]
    fn one_load_for_each_peer_is_open_at_a_time_and_wrong_answers_are_dropped() {
        let mut loads = Loads::default();
        let load = |node| LoadFor::Follower {
            node: NodeId(node),
            ballot: Ballot::NONE,
        };
        let first = loads.begin(load(1), Slot(3)).unwrap();
        assert_eq!(loads.begin(load(1), Slot(3)), None);
        let second = loads.begin(load(2), Slot(3)).unwrap();
        assert_eq!(
            loads.finish(first, &[entry(3, 0), entry(4, 0)]),
            Some(load(1))
        );
        assert_eq!(loads.finish(first, &[entry(3, 0)]), None, "answered before");
        assert_eq!(
            loads.finish(second, &[entry(4, 0)]),
            None,
            "another slot than asked for"
        );
        assert!(loads.begin(load(2), Slot(3)).is_some());
    }
}
