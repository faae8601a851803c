//! Session leases of one leadership: timers, and renewals that wait for their confirmation.
//!
//! A renewal restarts its session's timer when it is *received* and is answered when an accept
//! quorum has echoed a confirm number that was sent after it came in. The quorum of echoes meets
//! the promise quorum of any later leader, which restarts every session after its phase 1; and the
//! client counts from the time at which it *sent* the renewal. So a client's deadline never ends
//! after the earliest possible expiry, given only a bound on the rates of clocks.
//!
//! Renewals do not touch the log, with one exception. Who is silent is noted there, so that the
//! next leadership does not begin to count anew ([`crate::state`], `silence`); and a session so
//! noted is told that it was renewed only when the log says that it was heard. Nobody who renews in
//! time is ever noted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use lockd_protocol::planted::{self, Planted};
use lockd_protocol::{Millis, SessionId};
use paxos::{ConfirmNumber, Time};

use super::clients::ConnectionId;
use crate::limits::{
    EXPIRIES_PER_TURN_MAX, EXPIRY_GRACE, PENDING_RENEWALS_MAX, RENEWALS_PER_SESSION_MAX,
    SILENCE_PART,
};

/// The leases that one leadership keeps. Dropped with it.
#[derive(Debug, Default)]
#[cfg_attr(feature = "model", derive(Clone))]
pub(super) struct Leases {
    timers: BTreeMap<SessionId, Timer>,
    /// One entry for each timer, at or before the time at which it ends.
    queue: BinaryHeap<Reverse<(Time, SessionId)>>,
    /// One for each timer that still runs, at or about the time at which its silence is noted.
    notes: BinaryHeap<Reverse<(Time, SessionId)>>,
    renewals: VecDeque<Renewal>,
    /// The newest confirmed renewal of each session that the log has yet to say was heard.
    unheard: BTreeMap<SessionId, Renewal>,
}

#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone))]
struct Timer {
    ttl: Duration,
    ends: Time,
    /// It was renewed under this leadership.
    heard: bool,
    /// For how long the log says that it was silent, or will once an entry on its way is decided.
    noted: Option<Duration>,
    /// An entry that says that it was heard is on its way into the log.
    hearing: bool,
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

/// What the clock says of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It has been silent for so long; it goes on.
    Silent(SessionId, Millis),
    /// It has been silent for its TTL.
    Expired(SessionId),
}

/// What to do with a renewal that is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmed {
    /// Answer it.
    Answer,
    /// The log calls the session silent: have it say that it was heard, and answer then.
    Hear,
    /// That is on its way already.
    Wait,
}

impl Timer {
    fn starting(now: Time, ttl: Duration) -> Timer {
        Timer {
            ttl,
            ends: after(now, ttl),
            heard: false,
            noted: None,
            hearing: false,
            ending: false,
            renewals: 0,
        }
    }

    /// For how long the session is to have been silent when that is noted next. One that was
    /// renewed under this leadership is given more than the time between two renewals; one that
    /// was not has had a failover to come back from.
    fn next_note(&self) -> Option<Duration> {
        let part = self.ttl / SILENCE_PART;
        let next = match self.noted {
            Some(noted) => noted + part,
            None if self.heard => self.ttl / 2 + part,
            None => part,
        };
        (next < self.ttl && !self.hearing && !self.ending).then_some(next)
    }

    /// When to look whether its silence is to be noted.
    fn note_due(&self) -> Time {
        let next = self.next_note().unwrap_or(self.ttl);
        before(self.ends, self.ttl - next)
    }

    /// How long it has been silent.
    fn silence(&self, now: Time) -> Duration {
        let left = Duration::from_micros(self.ends.micros_since(now));
        self.ttl.saturating_sub(left)
    }
}

impl Leases {
    /// Starts a session's timer at its full TTL. One that runs goes on as it is: a retry of the
    /// opening renews nothing, and must not save a session whose end is on its way into the log.
    pub(super) fn start(&mut self, now: Time, session: SessionId, ttl: Millis) {
        if self.timers.contains_key(&session) {
            return;
        }
        let timer = Timer::starting(now, ttl.into());
        self.queue.push(Reverse((timer.ends, session)));
        self.notes.push(Reverse((timer.note_due(), session)));
        self.timers.insert(session, timer);
    }

    /// The same for a session that was opened just now, which was its client's first sign of life.
    pub(super) fn open(&mut self, now: Time, session: SessionId, ttl: Millis) {
        if !self.timers.contains_key(&session) {
            self.start(now, session, ttl);
            if let Some(timer) = self.timers.get_mut(&session) {
                timer.heard = true;
            }
        }
    }

    /// What earlier leaderships noted, once all of their entries are known here: whoever was not
    /// heard since this one began has been silent for so much longer.
    pub(super) fn silent_before(&mut self, silent: impl Iterator<Item = (SessionId, Millis)>) {
        let mut any = false;
        for (session, spent) in silent {
            if let Some(timer) = self.timers.get_mut(&session) {
                let spent = Duration::from(spent).min(timer.ttl);
                if !timer.heard {
                    timer.ends = before(timer.ends, spent);
                }
                timer.noted = Some(spent);
                any = true;
            }
        }
        if any {
            let timers = || self.timers.iter();
            let ends = timers().map(|(session, timer)| Reverse((timer.ends, *session)));
            self.queue = ends.collect();
            let notes = timers().map(|(session, timer)| Reverse((timer.note_due(), *session)));
            self.notes = notes.collect();
        }
    }

    /// The session has ended.
    pub(super) fn forget(&mut self, session: SessionId) {
        self.timers.remove(&session);
        self.unheard.remove(&session);
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
            timer.heard = true;
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

    /// What is to become of a confirmed renewal, which is kept if it cannot be answered yet.
    pub(super) fn admit(&mut self, renewal: Renewal) -> Confirmed {
        let Some(timer) = self.timers.get_mut(&renewal.session) else {
            return Confirmed::Answer;
        };
        if timer.noted.is_none() || planted::has(Planted::SilentRenewed) {
            return Confirmed::Answer;
        }
        self.unheard.insert(renewal.session, renewal);
        match std::mem::replace(&mut timer.hearing, true) {
            true => Confirmed::Wait,
            false => Confirmed::Hear,
        }
    }

    /// The log says that the session was heard. Its renewal can be answered.
    pub(super) fn heard(&mut self, session: SessionId) -> Option<Renewal> {
        let timer = self.timers.get_mut(&session)?;
        (timer.noted, timer.hearing) = (None, false);
        self.unheard.remove(&session)
    }

    /// What the clock says by now: a bounded number of judgements. Whoever expired is marked as
    /// ending.
    pub(super) fn judge(&mut self, now: Time) -> Vec<Judgement> {
        let mut judged = Vec::new();
        self.expire(now, &mut judged);
        if !planted::has(Planted::SilenceNotNoted) {
            self.note_silent(now, &mut judged);
        }
        judged
    }

    fn expire(&mut self, now: Time, judged: &mut Vec<Judgement>) {
        while judged.len() < EXPIRIES_PER_TURN_MAX {
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
                judged.push(Judgement::Expired(session));
            }
        }
    }

    /// Nobody has to be woken for this: a leader takes a turn with each of its heartbeats.
    fn note_silent(&mut self, now: Time, judged: &mut Vec<Judgement>) {
        while judged.len() < EXPIRIES_PER_TURN_MAX {
            let Some(Reverse((at, session))) = self.notes.peek().copied() else {
                break;
            };
            if at > now {
                break;
            }
            self.notes.pop();
            let Some(timer) = self.timers.get_mut(&session).filter(|timer| !timer.ending) else {
                continue;
            };
            let silence = timer.silence(now);
            if timer.next_note().is_some_and(|next| silence >= next) {
                timer.noted = Some(silence);
                let millis = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
                judged.push(Judgement::Silent(session, Millis(millis)));
            }
            // Of one that is about to end, or be heard, there is nothing to note for a while.
            let part = timer.ttl / SILENCE_PART;
            let next = timer.note_due().max(after(now, part / 4));
            self.notes.push(Reverse((next, session)));
        }
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
            if !planted::has(Planted::SilenceNotNoted) {
                (timer.heard, timer.noted, timer.hearing).hash(hasher);
            }
        }
        let mut queue = self.queue.clone().into_sorted_vec();
        queue.retain(|Reverse((_, session))| self.timers.contains_key(session));
        for Reverse((at, session)) in queue {
            (relative(at), session).hash(hasher);
        }
        (&self.renewals, &self.unheard).hash(hasher);
    }

    /// When to look for expired sessions next.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        let first = self.queue.peek();
        first.map(|Reverse((at, _))| after(*at, EXPIRY_GRACE))
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

fn before(time: Time, span: Duration) -> Time {
    Time(
        time.0
            .saturating_sub(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)),
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

    fn expired(leases: &mut Leases, now: Time) -> Vec<SessionId> {
        let judged = leases.judge(now).into_iter();
        let expired = judged.filter_map(|judged| match judged {
            Judgement::Expired(session) => Some(session),
            Judgement::Silent(..) => None,
        });
        expired.collect()
    }

    fn leases() -> Leases {
        let mut leases = Leases::default();
        leases.start(ms(0), SessionId(1), TTL);
        leases
    }

    #[test]
    fn a_silent_session_expires_after_its_ttl_and_the_grace_and_only_once() {
        let mut leases = leases();
        assert_eq!(expired(&mut leases, ms(1049)), []);
        assert_eq!(leases.next_deadline(), Some(ms(1050)));
        assert_eq!(expired(&mut leases, ms(1050)), [SessionId(1)]);
        assert_eq!(expired(&mut leases, ms(9999)), []);
    }

    #[test]
    fn a_renewal_restarts_the_timer_when_it_is_received() {
        let mut leases = leases();
        assert!(leases.renew(ms(900), CONNECTION, SessionId(1), 7, ConfirmNumber(3)));
        assert_eq!(expired(&mut leases, ms(1900)), []);
        assert_eq!(expired(&mut leases, ms(1951)), [SessionId(1)]);
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
        expired(&mut leases, ms(1050));
        assert!(!leases.renew(ms(1051), CONNECTION, SessionId(1), 8, ConfirmNumber(4)));
        let mut leases = super::tests::leases();
        leases.mark_ending(SessionId(1));
        assert!(!leases.renew(ms(1), CONNECTION, SessionId(1), 8, ConfirmNumber(4)));
    }

    #[test]
    fn a_retry_of_the_opening_saves_no_session_whose_end_is_on_its_way_into_the_log() {
        let mut leases = leases();
        expired(&mut leases, ms(1050));
        leases.start(ms(1060), SessionId(1), TTL);
        assert!(!leases.renew(ms(1061), CONNECTION, SessionId(1), 8, ConfirmNumber(4)));
    }

    #[test]
    fn after_a_stall_every_session_has_its_full_ttl_again() {
        let mut leases = leases();
        leases.restart_all(ms(5000));
        assert_eq!(expired(&mut leases, ms(6000)), []);
        assert_eq!(expired(&mut leases, ms(6050)), [SessionId(1)]);
    }

    #[test]
    fn a_mass_expiry_comes_in_bounded_portions() {
        let mut leases = Leases::default();
        for n in 0..EXPIRIES_PER_TURN_MAX as u64 + 5 {
            leases.start(ms(0), SessionId(n), TTL);
        }
        assert_eq!(leases.judge(ms(2000)).len(), EXPIRIES_PER_TURN_MAX);
        assert_eq!(leases.judge(ms(2000)).len(), 5);
    }

    #[test]
    fn whoever_is_not_heard_is_noted_at_each_eighth_of_its_ttl_until_it_expires() {
        let mut leases = leases();
        let mut notes = Vec::new();
        for now in 0..2000 {
            notes.extend(
                leases
                    .judge(ms(now))
                    .into_iter()
                    .map(|judged| (now, judged)),
            );
        }
        let silent = |after| Judgement::Silent(SessionId(1), Millis(after));
        let mut expected: Vec<_> = (1..8)
            .map(|part| (125 * part, silent(125 * part)))
            .collect();
        let end = 1000 + EXPIRY_GRACE.as_millis() as u64;
        expected.push((end, Judgement::Expired(SessionId(1))));
        assert_eq!(notes, expected);
    }

    #[test]
    fn whoever_renews_twice_in_its_ttl_is_never_noted() {
        let mut leases = leases();
        for now in 0..10_000 {
            if now % 500 == 0 {
                leases.renew(ms(now), CONNECTION, SessionId(1), now, ConfirmNumber(now));
                let renewal = leases
                    .confirmed(ConfirmNumber(now))
                    .expect("it was taken in");
                assert_eq!(leases.admit(renewal), Confirmed::Answer);
            }
            assert_eq!(leases.judge(ms(now)), []);
        }
    }

    #[test]
    fn a_leadership_goes_on_with_the_silence_that_the_ones_before_have_noted() {
        let mut leases = leases();
        leases.silent_before([(SessionId(1), Millis(600))].into_iter());
        assert_eq!(expired(&mut leases, ms(449)), []);
        assert_eq!(expired(&mut leases, ms(450)), [SessionId(1)]);
        // Whoever was heard since this one began has its whole TTL.
        let mut leases = super::tests::leases();
        leases.renew(ms(100), CONNECTION, SessionId(1), 1, ConfirmNumber(1));
        leases.silent_before([(SessionId(1), Millis(600))].into_iter());
        assert_eq!(expired(&mut leases, ms(1149)), []);
        assert_eq!(expired(&mut leases, ms(1150)), [SessionId(1)]);
    }

    #[test]
    fn a_session_that_is_called_silent_is_answered_when_the_log_says_that_it_was_heard() {
        let mut leases = leases();
        assert_eq!(leases.judge(ms(300)).len(), 1);
        for number in [7, 8] {
            leases.renew(
                ms(301),
                CONNECTION,
                SessionId(1),
                number,
                ConfirmNumber(number),
            );
        }
        let first = leases.confirmed(ConfirmNumber(8)).expect("taken in");
        let second = leases.confirmed(ConfirmNumber(8)).expect("taken in");
        assert_eq!(leases.admit(first), Confirmed::Hear);
        assert_eq!(leases.admit(second), Confirmed::Wait);
        assert_eq!(leases.judge(ms(1300)), [], "one entry after the other");
        assert_eq!(leases.heard(SessionId(1)), Some(second));
        assert_eq!(leases.heard(SessionId(1)), None);
        leases.renew(ms(1301), CONNECTION, SessionId(1), 9, ConfirmNumber(9));
        let third = leases.confirmed(ConfirmNumber(9)).expect("taken in");
        assert_eq!(leases.admit(third), Confirmed::Answer);
    }
}
