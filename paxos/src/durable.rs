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
        // Acknowledgements are cumulative: of two to one leader that wait for the same write,
        // the later one says all.
        if let (Some((to, Body::Accepted(old))), Body::Accepted(new)) = (queue.last(), &held.1)
            && *to == held.0
            && old.ballot == new.ballot
            && !old.gap
        {
            queue.pop();
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
