//! Timers of one leadership other than leases: ends of waits, of breaks, and of closed locks.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use lockd_protocol::{LockName, Millis, Sequence, SessionId, Token};
use paxos::Time;

/// What happens when a timer ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Alarm {
    /// An acquisition has waited as long as it wanted to.
    WaitOver {
        /// The waiter's session.
        session: SessionId,
        /// Number of its acquisition.
        acquire: Sequence,
    },
    /// A lock has been closed for as long as it was to be.
    ClosedLongEnough {
        /// The lock.
        lock: LockName,
        /// Token of the grant whose end closed it.
        token: Token,
    },
    /// A holder that was told to let go has, or its lease must have ended.
    BreakOver {
        /// The lock.
        lock: LockName,
        /// Token of the grant that ends.
        token: Token,
    },
}

/// Alarms by time. Dropped with the leadership.
#[derive(Debug, Default)]
#[cfg_attr(feature = "model", derive(Clone))]
pub(super) struct Timers(BinaryHeap<Entry>);

#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(feature = "model", derive(Clone))]
struct Entry {
    at: Time,
    alarm: Alarm,
}

impl Ord for Entry {
    /// The earliest is the greatest, as the heap wants it.
    fn cmp(&self, other: &Entry) -> Ordering {
        other.at.cmp(&self.at)
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Timers {
    /// Sets an alarm for `span` after `now`.
    pub(super) fn set(&mut self, now: Time, span: Millis, alarm: Alarm) {
        let at = Time(now.0.saturating_add(span.0.saturating_mul(1000)));
        self.0.push(Entry { at, alarm });
    }

    /// The next alarm that is due.
    pub(super) fn due(&mut self, now: Time) -> Option<Alarm> {
        if self.0.peek()?.at > now {
            return None;
        }
        self.0.pop().map(|entry| entry.alarm)
    }

    /// When the next alarm is due.
    pub(super) fn next(&self) -> Option<Time> {
        self.0.peek().map(|entry| entry.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_come_when_they_are_due_and_in_order() {
        let mut timers = Timers::default();
        let alarm = |n| Alarm::WaitOver {
            session: SessionId(n),
            acquire: Sequence(1),
        };
        timers.set(Time(0), Millis(20), alarm(2));
        timers.set(Time(0), Millis(10), alarm(1));
        assert_eq!(timers.next(), Some(Time(10_000)));
        assert_eq!(timers.due(Time(9_999)), None);
        assert_eq!(timers.due(Time(30_000)), Some(alarm(1)));
        assert_eq!(timers.due(Time(30_000)), Some(alarm(2)));
        assert_eq!(timers.due(Time(30_000)), None);
    }
}
