//! Session leases of one leadership: timers, and renewals that wait for their confirmation.
//!
//! Renewals never touch the log. A renewal restarts its session's timer when it is *received* and
//! is answered when an accept quorum has echoed a confirm number that was sent after it came in.
//! The quorum of echoes meets the promise quorum of any later leader, which restarts every
//! session at its full TTL after its phase 1; and the client counts from the time at which it
//! *sent* the renewal. So a client's deadline never ends after the earliest possible expiry,
//! given only a bound on the rates of clocks.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use lockd_protocol::planted::{self, Planted};
use lockd_protocol::{Millis, SessionId};
use paxos::{ConfirmNumber, Time};

use super::clients::ConnectionId;
use crate::limits::{
    EXPIRIES_PER_TURN_MAX, EXPIRY_GRACE, PENDING_RENEWALS_MAX, RENEWALS_PER_SESSION_MAX,
};

/// The leases that one leadership keeps. Dropped with it.
#[derive(Debug, Default)]
#[cfg_attr(feature = "model", derive(Clone))]
pub(super) struct Leases {
    timers: BTreeMap<SessionId, Timer>,
    /// One entry for each timer, at or before the time at which it ends.
    queue: BinaryHeap<Reverse<(Time, SessionId)>>,
    renewals: VecDeque<Renewal>,
}

#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone))]
struct Timer {
    ttl: Duration,
    ends: Time,
    /// An entry that ends the session is on its way into the log: nothing renews it any more.
    ending: bool,
    /// Its renewals that wait for their confirmation.
    renewals: usize,
}

/// A renewal that waits for its confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "model", derive(Hash))]
pub(super) struct Renewal {
    confirm: ConfirmNumber,
    pub(super) connection: ConnectionId,
    pub(super) session: SessionId,
    pub(super) number: u64,
}

impl Leases {
    /// Starts a session's timer at its full TTL. One that runs goes on as it is: a retry of the
    /// opening renews nothing, and must not save a session whose end is on its way into the log.
    pub(super) fn start(&mut self, now: Time, session: SessionId, ttl: Millis) {
        if self.timers.contains_key(&session) {
            return;
        }
        let ttl = Duration::from(ttl);
        let ends = after(now, ttl);
        self.timers.insert(
            session,
            Timer {
                ttl,
                ends,
                ending: false,
                renewals: 0,
            },
        );
        self.queue.push(Reverse((ends, session)));
    }

    /// The session has ended.
    pub(super) fn forget(&mut self, session: SessionId) {
        self.timers.remove(&session);
    }

    /// Nothing was heard for a while, for which the sessions are not to blame: all start anew.
    pub(super) fn restart_all(&mut self, now: Time) {
        for timer in self.timers.values_mut().filter(|timer| !timer.ending) {
            timer.ends = after(now, timer.ttl);
        }
    }

    /// The session was heard of: its TTL begins again.
    pub(super) fn restart(&mut self, now: Time, session: SessionId) {
        if let Some(timer) = self.timers.get_mut(&session) {
            let halved = planted::has(Planted::ExpiredTooSoon);
            let ttl = if halved { timer.ttl / 2 } else { timer.ttl };
            timer.ends = after(now, ttl);
        }
    }

    /// An entry that ends the session was handed to the log.
    pub(super) fn mark_ending(&mut self, session: SessionId) {
        if let Some(timer) = self.timers.get_mut(&session) {
            timer.ending = true;
        }
    }

    /// Takes in a renewal, to be answered once `confirm` is. `false`: dropped.
    pub(super) fn renew(
        &mut self,
        now: Time,
        connection: ConnectionId,
        session: SessionId,
        number: u64,
        confirm: ConfirmNumber,
    ) -> bool {
        let ending = self.timers.get(&session).is_some_and(|timer| timer.ending);
        if ending && !planted::has(Planted::RenewedWhileExpiring) {
            return false;
        }
        if !planted::has(Planted::TimerFromAnswer) {
            self.restart(now, session);
        }
        let timer = self.timers.get_mut(&session);
        let own = timer.as_ref().map_or(0, |timer| timer.renewals);
        if own >= RENEWALS_PER_SESSION_MAX || self.renewals.len() >= PENDING_RENEWALS_MAX {
            return false;
        }
        if let Some(timer) = timer {
            timer.renewals += 1;
        }
        self.renewals.push_back(Renewal {
            confirm,
            connection,
            session,
            number,
        });
        true
    }

    /// The next renewal that a confirmation of `number` answers.
    pub(super) fn confirmed(&mut self, number: ConfirmNumber) -> Option<Renewal> {
        if self.renewals.front()?.confirm > number {
            return None;
        }
        let renewal = self.renewals.pop_front()?;
        if let Some(timer) = self.timers.get_mut(&renewal.session) {
            timer.renewals = timer.renewals.saturating_sub(1);
        }
        Some(renewal)
    }

    /// Sessions whose timers have ended, marked as ending: a bounded number of them.
    pub(super) fn expired(&mut self, now: Time) -> Vec<SessionId> {
        let mut expired = Vec::new();
        while expired.len() < EXPIRIES_PER_TURN_MAX {
            let Some(Reverse((at, session))) = self.queue.peek().copied() else {
                break;
            };
            if after(at, EXPIRY_GRACE) > now {
                break;
            }
            self.queue.pop();
            let Some(timer) = self.timers.get_mut(&session) else {
                continue;
            };
            if timer.ends > at {
                self.queue.push(Reverse((timer.ends, session)));
            } else if !timer.ending {
                timer.ending = true;
                expired.push(session);
            }
        }
        expired
    }

    /// Whether a renewal of this number waits for its confirmation.
    #[cfg(feature = "model")]
    pub(super) fn is_renewing(&self, number: u64) -> bool {
        let mut renewals = self.renewals.iter();
        renewals.any(|renewal| renewal.number == number)
    }

    /// All that decides what the leases do next, with times as `relative` makes them.
    #[cfg(feature = "model")]
    pub(super) fn hash<H: std::hash::Hasher>(
        &self,
        relative: impl Fn(Time) -> i64,
        hasher: &mut H,
    ) {
        use std::hash::Hash as _;
        for (session, timer) in &self.timers {
            (session, timer.ttl, relative(timer.ends), timer.ending).hash(hasher);
        }
        let mut queue = self.queue.clone().into_sorted_vec();
        queue.retain(|Reverse((_, session))| self.timers.contains_key(session));
        for Reverse((at, session)) in queue {
            (relative(at), session).hash(hasher);
        }
        self.renewals.hash(hasher);
    }

    /// When to look for expired sessions next.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.queue
            .peek()
            .map(|Reverse((at, _))| after(*at, EXPIRY_GRACE))
    }

    /// What is left of a session's TTL.
    pub(super) fn left(&self, now: Time, session: SessionId) -> Millis {
        let ends = self
            .timers
            .get(&session)
            .map_or(Time(0), |timer| timer.ends);
        Millis(ends.0.saturating_sub(now.0) / 1000)
    }
}

fn after(time: Time, span: Duration) -> Time {
    Time(
        time.0
            .saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Millis = Millis(1000);
    const CONNECTION: ConnectionId = ConnectionId(1);

    fn ms(millis: u64) -> Time {
        Time(millis * 1000)
    }

    fn leases() -> Leases {
        let mut leases = Leases::default();
        leases.start(ms(0), SessionId(1), TTL);
        leases
    }

    #[test]
    fn a_silent_session_expires_after_its_ttl_and_the_grace_and_only_once() {
        let mut leases = leases();
        assert_eq!(leases.expired(ms(1049)), []);
        assert_eq!(leases.next_deadline(), Some(ms(1050)));
        assert_eq!(leases.expired(ms(1050)), [SessionId(1)]);
        assert_eq!(leases.expired(ms(9999)), []);
    }

    #[test]
    fn a_renewal_restarts_the_timer_when_it_is_received() {
        let mut leases = leases();
        assert!(leases.renew(ms(900), CONNECTION, SessionId(1), 7, ConfirmNumber(3)));
        assert_eq!(leases.expired(ms(1900)), []);
        assert_eq!(leases.expired(ms(1951)), [SessionId(1)]);
    }

    #[test]
    fn a_renewal_is_answered_by_its_confirm_number_and_not_by_an_earlier_one() {
        let mut leases = leases();
        leases.renew(ms(1), CONNECTION, SessionId(1), 7, ConfirmNumber(3));
        assert_eq!(leases.confirmed(ConfirmNumber(2)), None);
        let renewal = leases.confirmed(ConfirmNumber(3)).expect("answered");
        assert_eq!((renewal.session, renewal.number), (SessionId(1), 7));
        assert_eq!(leases.confirmed(ConfirmNumber(9)), None);
    }

    #[test]
    fn a_session_has_a_few_renewals_waiting_and_no_more() {
        let mut leases = leases();
        let mut renew = |at, confirm| {
            let confirm = ConfirmNumber(confirm);
            leases.renew(ms(at), CONNECTION, SessionId(1), at, confirm)
        };
        let taken = (1..=100).filter(|at| renew(*at, 3)).count();
        assert_eq!(taken, RENEWALS_PER_SESSION_MAX);
        while leases.confirmed(ConfirmNumber(3)).is_some() {}
        let again = leases.renew(ms(200), CONNECTION, SessionId(1), 200, ConfirmNumber(4));
        assert!(again);
    }

    #[test]
    fn nothing_renews_a_session_whose_end_is_on_its_way_into_the_log() {
        let mut leases = leases();
        leases.expired(ms(1050));
        assert!(!leases.renew(ms(1051), CONNECTION, SessionId(1), 8, ConfirmNumber(4)));
        let mut leases = super::tests::leases();
        leases.mark_ending(SessionId(1));
        assert!(!leases.renew(ms(1), CONNECTION, SessionId(1), 8, ConfirmNumber(4)));
    }

    #[test]
    fn a_retry_of_the_opening_saves_no_session_whose_end_is_on_its_way_into_the_log() {
        let mut leases = leases();
        leases.expired(ms(1050));
        leases.start(ms(1060), SessionId(1), TTL);
        assert!(!leases.renew(ms(1061), CONNECTION, SessionId(1), 8, ConfirmNumber(4)));
    }

    #[test]
    fn after_a_stall_every_session_has_its_full_ttl_again() {
        let mut leases = leases();
        leases.restart_all(ms(5000));
        assert_eq!(leases.expired(ms(6000)), []);
        assert_eq!(leases.expired(ms(6050)), [SessionId(1)]);
    }

    #[test]
    fn a_mass_expiry_comes_in_bounded_portions() {
        let mut leases = Leases::default();
        for n in 0..EXPIRIES_PER_TURN_MAX as u64 + 5 {
            leases.start(ms(0), SessionId(n), TTL);
        }
        assert_eq!(leases.expired(ms(2000)).len(), EXPIRIES_PER_TURN_MAX);
        assert_eq!(leases.expired(ms(2000)).len(), 5);
    }
}
