//! The last changes of who holds what, which every node remembers, leader or not: a client that
//! comes back after a change of leader goes on where it was.

use std::collections::VecDeque;

use lockd_protocol::EventNumber;
use lockd_protocol::client::Event;

use crate::limits::{HISTORY_BYTES_MAX, HISTORY_EVENTS_MAX};

/// How much is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryBounds {
    /// Events.
    pub events: usize,
    /// Their bytes, with names and metadata.
    pub bytes: usize,
}

impl Default for HistoryBounds {
    fn default() -> HistoryBounds {
        HistoryBounds {
            events: HISTORY_EVENTS_MAX,
            bytes: HISTORY_BYTES_MAX,
        }
    }
}

/// Events without a gap, up to the last one.
#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone))]
pub(super) struct History {
    bounds: HistoryBounds,
    events: VecDeque<Event>,
    bytes: usize,
    last: EventNumber,
}

impl History {
    /// Remembers nothing up to `last`.
    pub(super) fn new(bounds: HistoryBounds, last: EventNumber) -> History {
        History {
            bounds,
            events: VecDeque::new(),
            bytes: 0,
            last,
        }
    }

    /// The state is another one now: nothing up to `last` is known.
    pub(super) fn start_anew(&mut self, last: EventNumber) {
        *self = History::new(self.bounds, last);
    }

    /// The number of the last event.
    pub(super) fn last(&self) -> EventNumber {
        self.last
    }

    /// After so many events a watch that is told nothing is told that there was nothing, so that it
    /// can come back.
    pub(super) fn reminder(&self) -> u64 {
        (self.bounds.events as u64 / 4).max(1)
    }

    /// Takes the next event, and forgets the oldest ones.
    pub(super) fn push(&mut self, event: Event) {
        debug_assert_eq!(event.number, self.last.next(), "events are numbered");
        self.last = event.number;
        self.bytes += bytes_of(&event);
        self.events.push_back(event);
        while self.events.len() > self.bounds.events || self.bytes > self.bounds.bytes {
            let Some(oldest) = self.events.pop_front() else {
                return;
            };
            self.bytes -= bytes_of(&oldest);
        }
    }

    /// The oldest event that is remembered, or would be.
    pub(super) fn first(&self) -> EventNumber {
        let first = self.events.front();
        first.map_or(self.last.next(), |event| event.number)
    }

    /// Every event from this one on; `None` if not all of them are remembered, or if it is none
    /// that comes next.
    pub(super) fn from(&self, number: EventNumber) -> Option<impl Iterator<Item = &Event>> {
        let (first, next) = (self.first(), self.last.next());
        let known = number >= first && number <= next;
        known.then(|| self.events.range((number.0 - first.0) as usize..))
    }
}

fn bytes_of(event: &Event) -> usize {
    let holder = &event.holder;
    let metadata = holder.metadata.as_ref();
    let value = metadata.map_or(0, |metadata| metadata.value.as_bytes().len());
    size_of::<Event>() + holder.lock.as_str().len() + value
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockd_protocol::client::{Change, Holder, Metadata, Value};
    use lockd_protocol::{LockName, Mode, SessionId, Token};

    fn event(number: u64, bytes: usize) -> Event {
        let number = EventNumber(number);
        Event {
            number,
            change: Change::Granted,
            holder: Holder {
                lock: LockName::new("a").expect("a name"),
                token: Token(1),
                session: SessionId(1),
                mode: Mode::Exclusive,
                slot: 0,
                metadata: Some(Metadata {
                    version: number,
                    value: Value::new(&vec![0; bytes]).expect("short"),
                }),
            },
        }
    }

    fn numbers(history: &History, from: u64) -> Option<Vec<u64>> {
        let events = history.from(EventNumber(from))?;
        Some(events.map(|event| event.number.0).collect())
    }

    #[test]
    fn what_is_remembered_is_without_gaps_and_bounded_in_count_and_bytes() {
        let bounds = HistoryBounds {
            events: 3,
            bytes: 3 * 1000,
        };
        let mut history = History::new(bounds, EventNumber(5));
        assert_eq!(numbers(&history, 6), Some(vec![]));
        assert_eq!(numbers(&history, 5), None, "nobody knows what 5 was");
        (6..=9).for_each(|number| history.push(event(number, 0)));
        assert_eq!(numbers(&history, 7), Some(vec![7, 8, 9]));
        assert_eq!(numbers(&history, 10), Some(vec![]));
        assert_eq!(numbers(&history, 6), None, "forgotten");
        assert_eq!(numbers(&history, 11), None, "it cannot have been seen");
        history.push(event(10, 2500));
        assert_eq!(numbers(&history, 9), Some(vec![9, 10]), "too many bytes");
        history.push(event(11, 4000));
        assert_eq!((history.first(), history.bytes), (EventNumber(12), 0));
        history.start_anew(EventNumber(99));
        assert_eq!(numbers(&history, 100), Some(vec![]));
    }
}
