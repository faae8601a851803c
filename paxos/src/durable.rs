//! What has been given to the disk, what is still to be given, and what waits for it.
//!
//! At most one write is in flight; all that changes meanwhile goes into the next one. A message
//! that speaks of something is held here until that something is durable.

use std::collections::VecDeque;

use crate::limits::REPAIRS_MAX;
use crate::message::Body;
use crate::types::{Ballot, Entry, NodeId, PersistId, Slot, Time};

/// A message that may be sent once what it speaks of is durable.
pub(crate) type Held = (NodeId, Body);

/// The difference between memory and disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Durable {
    last_id: PersistId,
    in_flight: Option<InFlight>,
    /// What the store will hold when every write given out is done.
    written_end: Slot,
    /// Memory has a promise, an accepted ballot, a membership or a snapshot that no write has been
    /// given.
    numbers_changed: bool,
    /// The log from here on has not been given to a write.
    dirty_from: Option<Slot>,
    /// The log was cut here since the last write was given out.
    truncate_from: Option<Slot>,
    /// The log was given up since then: it begins again after a snapshot.
    restart: bool,
    /// Entries to be put back in the place of damaged ones. Each goes alone into a write.
    repairs: VecDeque<Entry>,
    waiting: Vec<Held>,
    /// What the store is known to hold.
    promised: Ballot,
    accepted: Ballot,
    /// Up to here the log in the store is the log in memory.
    clean_end: Slot,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct InFlight {
    id: PersistId,
    since: Time,
    promised: Ballot,
    accepted: Ballot,
    end: Slot,
    repaired: Vec<Slot>,
    released: Vec<Held>,
}

/// What a write must carry.
#[derive(Debug)]
pub(crate) struct Dirty {
    pub(crate) id: PersistId,
    pub(crate) what: Part,
}

/// Which part of memory a write carries.
#[derive(Debug)]
pub(crate) enum Part {
    /// All that has changed.
    Changes {
        restart: bool,
        truncate_from: Option<Slot>,
        entries_from: Option<Slot>,
    },
    /// Contiguous entries that the disk had damaged.
    Repair(Vec<Entry>),
}

/// What a write that is done has done.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) released: Vec<Held>,
    pub(crate) repaired: Vec<Slot>,
}

impl Durable {
    /// The store holds these ballots and a log to `end`, of which everything up to `clean_end` can
    /// be read.
    pub(crate) fn new(promised: Ballot, accepted: Ballot, clean_end: Slot, end: Slot) -> Durable {
        Durable {
            last_id: PersistId(0),
            in_flight: None,
            written_end: end,
            numbers_changed: false,
            dirty_from: None,
            truncate_from: None,
            restart: false,
            repairs: VecDeque::new(),
            waiting: Vec::new(),
            promised,
            accepted,
            clean_end,
        }
    }

    pub(crate) fn promised(&self) -> Ballot {
        self.promised
    }

    pub(crate) fn accepted(&self) -> Ballot {
        self.accepted
    }

    /// The last slot that is durable as part of the log of `ballot`, if that log is durable.
    pub(crate) fn end_under(&self, ballot: Ballot) -> Option<Slot> {
        (self.accepted == ballot).then_some(self.clean_end)
    }

    pub(crate) fn clean_end(&self) -> Slot {
        self.clean_end
    }

    pub(crate) fn is_writing(&self) -> bool {
        self.in_flight.is_some()
    }

    /// How long the write in flight has taken so far, microseconds.
    pub(crate) fn write_micros(&self, now: Time) -> u64 {
        self.in_flight
            .as_ref()
            .map_or(0, |write| now.micros_since(write.since))
    }

    /// The process stood still: the disk may have answered long ago.
    pub(crate) fn forgive_stall(&mut self, now: Time) {
        if let Some(write) = &mut self.in_flight {
            write.since = now;
        }
    }

    pub(crate) fn numbers_changed(&mut self) {
        self.numbers_changed = true;
    }

    pub(crate) fn appended(&mut self, slot: Slot) {
        self.dirty_from = Some(self.dirty_from.map_or(slot, |dirty| dirty.min(slot)));
    }

    pub(crate) fn truncated_from(&mut self, slot: Slot) {
        self.truncate_from = Some(self.truncate_from.map_or(slot, |from| from.min(slot)));
        let kept = slot.previous();
        self.dirty_from = self.dirty_from.filter(|dirty| *dirty <= kept);
        self.clean_end = self.clean_end.min(kept);
        if let Some(write) = &mut self.in_flight {
            write.end = write.end.min(kept);
        }
    }

    /// The log is empty, and begins again after a snapshot.
    pub(crate) fn restarted(&mut self) {
        self.restart = true;
        self.truncate_from = None;
        self.dirty_from = None;
        self.repairs.clear();
        self.numbers_changed = true;
        self.clean_end = Slot::NONE;
        if let Some(write) = &mut self.in_flight {
            write.end = Slot::NONE;
        }
    }

    /// The log begins again after a snapshot, with entries that no write was given yet.
    pub(crate) fn restarted_before(&mut self, first: Slot, end: Slot) {
        self.restarted();
        self.dirty_from = (first <= end).then_some(first);
    }

    /// Everything up to here is in a snapshot, and what followed is forgotten: none of it is
    /// written any more.
    pub(crate) fn covered(&mut self, slot: Slot) {
        self.dirty_from = self.dirty_from.filter(|dirty| *dirty > slot);
    }

    /// Whether the entry of this slot is yet to be given to a write, with what precedes it.
    pub(crate) fn is_unwritten(&self, slot: Slot) -> bool {
        self.dirty_from.is_some_and(|dirty| dirty <= slot)
    }

    /// Puts an intact copy of a damaged entry in its place.
    pub(crate) fn repair(&mut self, entry: Entry) {
        if !self.is_repairing(entry.slot) && self.repairs.len() < REPAIRS_MAX {
            self.repairs.push_back(entry);
        }
    }

    /// Whether a copy of the entry is on its way to the disk.
    pub(crate) fn is_repairing(&self, slot: Slot) -> bool {
        let writing = self.in_flight.as_ref();
        self.repairs.iter().any(|entry| entry.slot == slot)
            || writing.is_some_and(|write| write.repaired.contains(&slot))
    }

    /// Holds a message until everything that memory says now is durable. Gives it back if it
    /// already is.
    pub(crate) fn hold(&mut self, held: Held) -> Option<Held> {
        let queue = if self.is_dirty() {
            &mut self.waiting
        } else if let Some(write) = &mut self.in_flight {
            &mut write.released
        } else {
            return Some(held);
        };
        // Repeated questions must not fill the queue while the disk is slow. Acknowledgements are
        // cumulative, so of two that wait for the same write the later one says all.
        if let (Some((to, Body::Accepted(old))), Body::Accepted(new)) = (queue.last(), &held.1)
            && *to == held.0
            && old.ballot == new.ballot
            && !old.gap
        {
            queue.pop();
        }
        if queue.contains(&held) {
            return None;
        }
        queue.push(held);
        None
    }

    /// Begins the next write, if there is something to write and none is in flight.
    pub(crate) fn begin(
        &mut self,
        now: Time,
        promised: Ballot,
        accepted: Ballot,
        end: Slot,
    ) -> Option<Dirty> {
        if self.in_flight.is_some() {
            return None;
        }
        if !self.repairs.is_empty() {
            return Some(self.begin_repair(now));
        }
        if !self.is_dirty() {
            return None;
        }
        self.last_id = PersistId(self.last_id.0 + 1);
        self.numbers_changed = false;
        let restart = std::mem::take(&mut self.restart);
        let truncate_from = self.truncate_from.take();
        let truncate_from = truncate_from.filter(|from| !restart && *from <= self.written_end);
        let entries_from = self.dirty_from.take().filter(|from| *from <= end);
        if restart || truncate_from.is_some() {
            self.written_end = end;
        }
        self.written_end = self.written_end.max(end);
        self.in_flight = Some(InFlight {
            id: self.last_id,
            since: now,
            promised,
            accepted,
            end,
            repaired: Vec::new(),
            released: std::mem::take(&mut self.waiting),
        });
        Some(Dirty {
            id: self.last_id,
            what: Part::Changes {
                restart,
                truncate_from,
                entries_from,
            },
        })
    }

    /// A write of nothing but entries to be put back: what else has changed goes into the next one,
    /// whole.
    fn begin_repair(&mut self, now: Time) -> Dirty {
        let mut entries: Vec<Entry> = self.repairs.pop_front().into_iter().collect();
        while let (Some(last), Some(next)) = (entries.last(), self.repairs.front())
            && last.slot.next() == next.slot
        {
            entries.extend(self.repairs.pop_front());
        }
        self.last_id = PersistId(self.last_id.0 + 1);
        self.in_flight = Some(InFlight {
            id: self.last_id,
            since: now,
            promised: self.promised,
            accepted: self.accepted,
            end: self.clean_end,
            repaired: entries.iter().map(|entry| entry.slot).collect(),
            released: Vec::new(),
        });
        Dirty {
            id: self.last_id,
            what: Part::Repair(entries),
        }
    }

    /// The write is done: what was held for it.
    pub(crate) fn finish(&mut self, id: PersistId) -> Finished {
        let write = self
            .in_flight
            .take()
            .expect("a write that is done was in flight");
        assert_eq!(
            write.id, id,
            "writes end in the order in which they were given out"
        );
        self.promised = write.promised;
        self.accepted = write.accepted;
        self.clean_end = write.end;
        Finished {
            released: write.released,
            repaired: write.repaired,
        }
    }

    /// Whether memory and store are the same, as far as memory goes.
    pub(crate) fn is_clean(&self) -> bool {
        self.in_flight.is_none() && !self.is_dirty() && self.repairs.is_empty()
    }

    /// Memory holds the log up to `slot` again, as the store does.
    pub(crate) fn reread(&mut self, slot: Slot) {
        self.clean_end = slot;
    }

    fn is_dirty(&self) -> bool {
        self.numbers_changed
            || self.restart
            || self.dirty_from.is_some()
            || self.truncate_from.is_some()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::message::{Accepted, Promise, Standing};
    use crate::types::{ConfirmNumber, EntryKind, Epoch};

    const BALLOT: Ballot = Ballot {
        epoch: Epoch(1),
        round: 1,
        node: NodeId(2),
    };

    fn fresh() -> Durable {
        Durable::new(Ballot::NONE, Ballot::NONE, Slot::NONE, Slot::NONE)
    }

    fn acknowledgement(end: u64) -> Held {
        let standing = Standing::Synced {
            persisted: Slot(end),
            received: Slot(end),
        };
        let confirm = ConfirmNumber(0);
        (
            NodeId(2),
            Body::Accepted(Accepted {
                ballot: BALLOT,
                standing,
                gap: false,
                confirm,
            }),
        )
    }

    fn promise() -> Held {
        let (accepted, end, decided) = (Ballot::NONE, Slot::NONE, Slot::NONE);
        (
            NodeId(2),
            Body::Promise(Promise {
                ballot: BALLOT,
                accepted,
                end,
                decided,
            }),
        )
    }

    #[test]
    fn a_message_is_not_held_when_there_is_nothing_to_wait_for() {
        assert_eq!(fresh().hold(promise()), Some(promise()));
    }

    #[test]
    fn a_message_waits_for_the_write_in_flight_and_for_no_later_one() {
        let mut durable = fresh();
        durable.numbers_changed();
        let write = durable
            .begin(Time(0), BALLOT, Ballot::NONE, Slot::NONE)
            .unwrap();
        assert_eq!(durable.hold(promise()), None);
        durable.appended(Slot(1));
        assert_eq!(durable.hold(acknowledgement(1)), None);
        assert_eq!(durable.finish(write.id).released, [promise()]);
        let write = durable.begin(Time(0), BALLOT, BALLOT, Slot(1)).unwrap();
        assert_eq!(durable.finish(write.id).released, [acknowledgement(1)]);
    }

    #[test]
    fn one_write_is_in_flight_at_a_time() {
        let mut durable = fresh();
        durable.appended(Slot(1));
        assert!(durable.begin(Time(0), BALLOT, BALLOT, Slot(1)).is_some());
        durable.appended(Slot(2));
        assert!(durable.begin(Time(0), BALLOT, BALLOT, Slot(2)).is_none());
    }

    #[test]
    fn repeated_questions_do_not_fill_the_queue() {
        let mut durable = fresh();
        durable.appended(Slot(1));
        for end in 1..100 {
            assert_eq!(durable.hold(promise()), None);
            assert_eq!(durable.hold(acknowledgement(end)), None);
            assert_eq!(durable.hold(acknowledgement(end + 1)), None);
        }
        let write = durable.begin(Time(0), BALLOT, BALLOT, Slot(1)).unwrap();
        let released = durable.finish(write.id).released;
        assert_eq!(
            released.iter().filter(|held| **held == promise()).count(),
            1
        );
        assert_eq!(released.last(), Some(&acknowledgement(100)));
        assert!(released.len() < 110);
    }

    #[test]
    fn an_acknowledgement_takes_the_place_of_an_earlier_one_to_the_same_node_and_ballot_only() {
        let to_another = (NodeId(3), acknowledgement(2).1);
        let (to, mut body) = acknowledgement(3);
        if let Body::Accepted(accepted) = &mut body {
            accepted.ballot.round += 1;
        }
        let of_another_ballot = (to, body);
        let mut durable = fresh();
        durable.appended(Slot(1));
        let all = [
            acknowledgement(1),
            to_another,
            acknowledgement(2),
            of_another_ballot,
        ];
        for held in &all {
            assert_eq!(durable.hold(held.clone()), None);
        }
        let write = durable.begin(Time(0), BALLOT, BALLOT, Slot(1)).unwrap();
        assert_eq!(durable.finish(write.id).released, all);
    }

    #[test]
    fn an_answer_that_tells_of_a_gap_is_not_replaced_by_a_later_one() {
        let mut durable = fresh();
        durable.appended(Slot(1));
        let (to, mut body) = acknowledgement(1);
        if let Body::Accepted(accepted) = &mut body {
            accepted.gap = true;
        }
        let gap = (to, body);
        assert_eq!(durable.hold(gap.clone()), None);
        assert_eq!(durable.hold(acknowledgement(2)), None);
        let write = durable.begin(Time(0), BALLOT, BALLOT, Slot(1)).unwrap();
        assert_eq!(durable.finish(write.id).released, [gap, acknowledgement(2)]);
    }

    #[test]
    fn what_a_snapshot_covers_is_not_written_any_more() {
        let mut durable = fresh();
        durable.appended(Slot(3));
        durable.covered(Slot(2));
        assert!(durable.is_unwritten(Slot(3)) && !durable.is_unwritten(Slot(2)));
        durable.covered(Slot(3));
        assert!(durable.begin(Time(0), BALLOT, BALLOT, Slot(3)).is_none());
    }

    #[test]
    fn repairs_are_bounded_each_is_made_once_and_every_write_has_a_number_of_its_own() {
        let entry = |slot| Entry::new(Slot(slot), BALLOT, EntryKind::Command, Bytes::new());
        let mut durable = fresh();
        durable.appended(Slot(1));
        let first = durable.begin(Time(0), BALLOT, BALLOT, Slot(1)).unwrap();
        durable.finish(first.id);
        for slot in (1..=2 * REPAIRS_MAX as u64).flat_map(|slot| [slot, slot]) {
            durable.repair(entry(2 * slot));
        }
        let mut ids = vec![first.id];
        while let Some(write) = durable.begin(Time(0), BALLOT, BALLOT, Slot(1)) {
            assert!(matches!(&write.what, Part::Repair(entries) if entries.len() == 1));
            ids.push(write.id);
            durable.finish(write.id);
        }
        let numbers = (1..=1 + REPAIRS_MAX as u64).map(PersistId);
        assert_eq!(ids, numbers.collect::<Vec<PersistId>>());
    }

    #[test]
    fn a_truncation_during_a_write_takes_back_what_that_write_made_durable() {
        let mut durable = fresh();
        durable.appended(Slot(1));
        let write = durable.begin(Time(0), BALLOT, BALLOT, Slot(3)).unwrap();
        durable.truncated_from(Slot(2));
        durable.appended(Slot(2));
        durable.finish(write.id);
        assert_eq!(durable.clean_end(), Slot(1));
        let next = durable.begin(Time(0), BALLOT, BALLOT, Slot(2)).unwrap();
        assert!(matches!(
            next.what,
            Part::Changes {
                truncate_from: Some(Slot(2)),
                entries_from: Some(Slot(2)),
                restart: false,
            }
        ));
    }

    /// What the next write says of the log: whether it begins again, where the old one is cut, and
    /// from where on entries are written.
    fn changes(durable: &mut Durable, end: u64) -> (bool, Option<Slot>, Option<Slot>) {
        let write = durable.begin(Time(0), BALLOT, BALLOT, Slot(end)).unwrap();
        durable.finish(write.id);
        match write.what {
            Part::Changes {
                restart,
                truncate_from,
                entries_from,
            } => (restart, truncate_from, entries_from),
            Part::Repair(_) => panic!("no repair was asked for"),
        }
    }

    #[test]
    fn the_store_is_told_to_cut_only_what_it_was_given() {
        let mut durable = fresh();
        durable.appended(Slot(1));
        assert_eq!(changes(&mut durable, 9), (false, None, Some(Slot(1))));
        durable.truncated_from(Slot(9));
        assert_eq!(changes(&mut durable, 8), (false, Some(Slot(9)), None));
        durable.truncated_from(Slot(9));
        durable.numbers_changed();
        assert_eq!(changes(&mut durable, 8), (false, None, None), "it is cut");
    }

    #[test]
    fn what_was_not_written_before_a_cut_still_is_if_the_cut_leaves_it() {
        let mut durable = fresh();
        durable.appended(Slot(1));
        changes(&mut durable, 1);
        durable.appended(Slot(2));
        durable.truncated_from(Slot(3));
        assert_eq!(changes(&mut durable, 2).2, Some(Slot(2)));
        durable.appended(Slot(3));
        durable.truncated_from(Slot(3));
        durable.numbers_changed();
        assert_eq!(changes(&mut durable, 2).2, None);
    }

    #[test]
    fn a_log_that_begins_again_is_not_cut_as_well_and_is_written_if_there_is_any() {
        let mut durable = fresh();
        durable.appended(Slot(1));
        changes(&mut durable, 9);
        durable.restarted_before(Slot(5), Slot(4));
        durable.truncated_from(Slot(5));
        assert_eq!(changes(&mut durable, 4), (true, None, None));
        durable.restarted_before(Slot(5), Slot(5));
        assert_eq!(changes(&mut durable, 5), (true, None, Some(Slot(5))));
        durable.restarted_before(Slot(5), Slot(7));
        assert_eq!(changes(&mut durable, 7), (true, None, Some(Slot(5))));
    }

    #[test]
    #[should_panic(expected = "a write that is done was in flight")]
    fn a_write_that_ends_twice_stops_the_process() {
        let mut durable = fresh();
        durable.appended(Slot(1));
        let write = durable.begin(Time(0), BALLOT, BALLOT, Slot(1)).unwrap();
        durable.finish(write.id);
        durable.finish(write.id);
    }
}
