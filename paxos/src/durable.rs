//! What has been given to the disk, what is still to be given, and what waits for it.
//!
//! At most one write is in flight; all that changes meanwhile goes into the next one. A message
//! that speaks of something is held here until that something is durable.

use crate::message::Body;
use crate::types::{Ballot, NodeId, PersistId, Slot, Time};

/// A message that may be sent once what it speaks of is durable.
pub(crate) type Held = (NodeId, Body);

/// The difference between memory and disk.
#[derive(Debug)]
pub(crate) struct Durable {
    last_id: PersistId,
    in_flight: Option<InFlight>,
    /// What the store will hold when every write given out is done.
    written_end: Slot,
    /// Memory has a promise or an accepted ballot that no write has been given.
    ballots_changed: bool,
    /// The log from here on has not been given to a write.
    dirty_from: Option<Slot>,
    waiting: Vec<Held>,
    /// What the store is known to hold.
    promised: Ballot,
    accepted: Ballot,
    /// Up to here the log in the store is the log in memory.
    clean_end: Slot,
}

#[derive(Debug)]
struct InFlight {
    id: PersistId,
    since: Time,
    promised: Ballot,
    accepted: Ballot,
    end: Slot,
    released: Vec<Held>,
}

/// Which part of the log a write must carry.
#[derive(Debug)]
pub(crate) struct Dirty {
    pub(crate) id: PersistId,
    pub(crate) truncate_from: Option<Slot>,
    pub(crate) entries_from: Option<Slot>,
}

impl Durable {
    pub(crate) fn new(promised: Ballot, accepted: Ballot, end: Slot) -> Durable {
        Durable {
            last_id: PersistId(0),
            in_flight: None,
            written_end: end,
            ballots_changed: false,
            dirty_from: None,
            waiting: Vec::new(),
            promised,
            accepted,
            clean_end: end,
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

    /// How long the write in flight has taken; 0 if there is none.
    pub(crate) fn write_micros(&self, now: Time) -> u64 {
        self.in_flight
            .as_ref()
            .map_or(0, |write| now.micros_since(write.since))
    }

    /// The process stood still: the write's answer may wait in a queue, so begin to count anew.
    pub(crate) fn forgive_stall(&mut self, now: Time) {
        if let Some(write) = &mut self.in_flight {
            write.since = now;
        }
    }

    pub(crate) fn ballots_changed(&mut self) {
        self.ballots_changed = true;
    }

    pub(crate) fn appended(&mut self, slot: Slot) {
        self.dirty_from = Some(self.dirty_from.map_or(slot, |dirty| dirty.min(slot)));
    }

    pub(crate) fn truncated_from(&mut self, slot: Slot) {
        self.appended(slot);
        let kept = slot.previous();
        self.clean_end = self.clean_end.min(kept);
        if let Some(write) = &mut self.in_flight {
            write.end = write.end.min(kept);
        }
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
        if self.in_flight.is_some() || !self.is_dirty() {
            return None;
        }
        self.last_id = PersistId(self.last_id.0 + 1);
        let dirty_from = self.dirty_from.take();
        let truncate_from = dirty_from.filter(|from| *from <= self.written_end);
        self.written_end = end;
        self.ballots_changed = false;
        self.in_flight = Some(InFlight {
            id: self.last_id,
            since: now,
            promised,
            accepted,
            end,
            released: std::mem::take(&mut self.waiting),
        });
        Some(Dirty {
            id: self.last_id,
            truncate_from,
            entries_from: dirty_from.filter(|from| *from <= end),
        })
    }

    /// The write is done: what was held for it.
    pub(crate) fn finish(&mut self, id: PersistId) -> Vec<Held> {
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
        write.released
    }

    fn is_dirty(&self) -> bool {
        self.ballots_changed || self.dirty_from.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Accepted, Promise, Standing};
    use crate::types::ConfirmNumber;

    const BALLOT: Ballot = Ballot {
        round: 1,
        node: NodeId(2),
    };

    fn fresh() -> Durable {
        Durable::new(Ballot::NONE, Ballot::NONE, Slot::NONE)
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
        durable.ballots_changed();
        let write = durable
            .begin(Time(0), BALLOT, Ballot::NONE, Slot::NONE)
            .unwrap();
        assert_eq!(durable.hold(promise()), None);
        durable.appended(Slot(1));
        assert_eq!(durable.hold(acknowledgement(1)), None);
        assert_eq!(durable.finish(write.id), [promise()]);
        let write = durable.begin(Time(0), BALLOT, BALLOT, Slot(1)).unwrap();
        assert_eq!(durable.finish(write.id), [acknowledgement(1)]);
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
        let released = durable.finish(write.id);
        assert_eq!(
            released.iter().filter(|held| **held == promise()).count(),
            1
        );
        assert_eq!(released.last(), Some(&acknowledgement(100)));
        assert!(released.len() < 110);
    }

    #[test]
    fn a_truncation_during_a_write_takes_back_what_that_write_made_durable() {
        let mut durable = fresh();
        durable.appended(Slot(1));
        let write = durable.begin(Time(0), BALLOT, BALLOT, Slot(3)).unwrap();
        durable.truncated_from(Slot(2));
        durable.finish(write.id);
        assert_eq!(durable.clean_end(), Slot(1));
        let next = durable.begin(Time(0), BALLOT, BALLOT, Slot(2)).unwrap();
        assert_eq!(
            (next.truncate_from, next.entries_from),
            (Some(Slot(2)), Some(Slot(2)))
        );
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
