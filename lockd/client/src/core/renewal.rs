//! KeepAlives of one session, and the deadline that follows from their answers.
//!
//! The deadline moves only with an answered KeepAlive, and counts from the time at which that
//! very KeepAlive was *sent*: not from the receipt, not from any other answer. At the beginning
//! it counts from the first sending of Open. Sends nothing itself.

use std::collections::VecDeque;
use std::time::Duration;

use lockd_protocol::Millis;
use lockd_protocol::planted::{self, Planted};

use super::time::Time;

/// Unanswered KeepAlives remembered. An older one could only move the deadline less far.
const UNANSWERED_MAX: usize = 64;

/// Shortest time between two KeepAlives of a session.
const RETRY_MIN: Duration = Duration::from_millis(50);

/// A renewal is tried again after this part of the lease that is left.
const RETRY_PART: u32 = 8;

/// Renewals of one session.
#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone))]
pub(super) struct Renewal {
    lease: Duration,
    interval: Duration,
    deadline: Time,
    next_number: u64,
    next_send: Time,
    unanswered: VecDeque<(u64, Time)>,
}

impl Renewal {
    /// Renewals of a session with this TTL, one every `interval` while all is well.
    pub(super) fn new(ttl: Millis, interval: Duration) -> Renewal {
        Renewal {
            lease: ttl.client_lease().into(),
            interval,
            deadline: Time::default(),
            next_number: 1,
            next_send: Time::default(),
            unanswered: VecDeque::new(),
        }
    }

    /// The session is open: its lease counts from the first sending of Open.
    pub(super) fn opened(&mut self, first_sent: Time) {
        self.deadline = self.deadline.max(first_sent.after(self.lease));
        self.next_send = first_sent.after(self.interval);
    }

    /// Number of the KeepAlive that is being sent now.
    pub(super) fn send(&mut self, now: Time) -> u64 {
        if planted::has(Planted::RenewalNumberReused)
            && let Some((number, sent)) = self.unanswered.back_mut()
        {
            *sent = now;
            self.next_send = now.after(RETRY_MIN);
            return *number;
        }
        let number = self.next_number;
        self.next_number += 1;
        if self.unanswered.len() == UNANSWERED_MAX {
            self.unanswered.pop_front();
        }
        self.unanswered.push_back((number, now));
        let left = self.deadline.since(now) / RETRY_PART;
        self.next_send = now.after(left.max(RETRY_MIN).min(self.interval));
        number
    }

    /// KeepAlive `number` was answered. Says whether the deadline moved.
    pub(super) fn answered(&mut self, number: u64) -> bool {
        let Some(at) = self.unanswered.iter().position(|(n, _)| *n == number) else {
            return false;
        };
        let Some((_, sent)) = self.unanswered.drain(..=at).next_back() else {
            return false;
        };
        if self.unanswered.is_empty() {
            self.next_send = sent.after(self.interval);
        }
        let before = self.deadline;
        self.deadline = self.deadline.max(sent.after(self.lease));
        self.deadline > before
    }

    /// From when on the session must not be believed in any more.
    pub(super) fn deadline(&self) -> Time {
        self.deadline
    }

    /// When the next KeepAlive is due.
    pub(super) fn next_send(&self) -> Time {
        self.next_send
    }

    /// Since when the oldest unanswered KeepAlive has been under way.
    pub(super) fn waiting_since(&self) -> Option<Time> {
        self.unanswered.front().map(|(_, sent)| *sent)
    }

    /// How long the lease is, by this client's count.
    pub(super) fn lease(&self) -> Duration {
        self.lease
    }

    /// All that decides what renewals do next: numbers from `last` on are not told apart, and no
    /// send time from which nothing can follow any more.
    #[cfg(feature = "model")]
    pub(super) fn hash<H: std::hash::Hasher>(&self, now: Time, last: u64, hasher: &mut H) {
        use std::hash::Hash as _;
        let left = |time: Time| time.since(now);
        (left(self.deadline), self.next_number.min(last + 1)).hash(hasher);
        if self.next_number <= last {
            left(self.next_send).hash(hasher);
        }
        let rest = |(number, sent): &(u64, Time)| (*number, left(sent.after(self.lease)));
        let numbers = self.unanswered.iter().filter(|(number, _)| *number <= last);
        numbers.map(rest).collect::<Vec<_>>().hash(hasher);
    }

    /// Whether an answer to this KeepAlive could move the deadline.
    #[cfg(feature = "model")]
    pub(super) fn waits_for(&self, now: Time, number: u64) -> bool {
        let mut unanswered = self.unanswered.iter();
        unanswered.any(|(n, sent)| *n == number && sent.after(self.lease) > now)
    }

    /// What is under way will not be answered any more on this connection. An answer that comes
    /// all the same would still count.
    pub(super) fn next_send_now(&mut self, now: Time) {
        self.next_send = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Millis = Millis(10_000);
    const INTERVAL: Duration = Duration::from_millis(3_333);

    fn at(ms: u64) -> Time {
        Time::from_micros(ms * 1000)
    }

    fn lease() -> Duration {
        TTL.client_lease().into()
    }

    fn opened(ms: u64) -> Renewal {
        let mut renewal = Renewal::new(TTL, INTERVAL);
        renewal.opened(at(ms));
        renewal
    }

    #[test]
    fn the_lease_counts_from_the_first_sending_of_open() {
        assert_eq!(opened(100).deadline(), at(100).after(lease()));
    }

    #[test]
    fn a_late_answer_extends_from_the_send_time_of_its_own_number() {
        let mut renewal = opened(0);
        let first = renewal.send(at(3_000));
        let second = renewal.send(at(4_000));
        assert!(renewal.answered(first));
        assert_eq!(renewal.deadline(), at(3_000).after(lease()));
        assert!(renewal.answered(second));
        assert_eq!(renewal.deadline(), at(4_000).after(lease()));
    }

    #[test]
    fn an_answer_out_of_order_never_moves_the_deadline_back() {
        let mut renewal = opened(0);
        let first = renewal.send(at(3_000));
        let second = renewal.send(at(4_000));
        assert!(renewal.answered(second));
        assert!(!renewal.answered(first));
        assert_eq!(renewal.deadline(), at(4_000).after(lease()));
    }

    #[test]
    fn an_answer_to_a_number_never_sent_or_answered_before_extends_nothing() {
        let mut renewal = opened(0);
        let number = renewal.send(at(1_000));
        assert!(!renewal.answered(number + 1));
        assert!(renewal.answered(number));
        assert!(!renewal.answered(number));
    }

    #[test]
    fn renewals_come_at_their_interval_and_faster_as_the_deadline_nears() {
        let mut renewal = opened(0);
        assert_eq!(renewal.next_send(), at(0).after(INTERVAL));
        let number = renewal.send(at(3_333));
        renewal.answered(number);
        assert_eq!(renewal.next_send(), at(3_333).after(INTERVAL));

        let mut previous = Duration::MAX;
        for _ in 0..8 {
            let now = renewal.next_send();
            renewal.send(now);
            let wait = renewal.next_send().since(now);
            assert!(wait <= previous && wait >= RETRY_MIN);
            previous = wait;
        }
        assert!(previous < INTERVAL / 4);
    }

    #[test]
    fn only_a_bounded_number_of_unanswered_renewals_is_remembered() {
        let mut renewal = opened(0);
        let first = renewal.send(at(1));
        for ms in 2..=UNANSWERED_MAX as u64 + 1 {
            renewal.send(at(ms));
        }
        assert_eq!(renewal.unanswered.len(), UNANSWERED_MAX);
        assert!(!renewal.answered(first));
    }
}
