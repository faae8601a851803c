//! What ends a hold or a wait, and who is next.
//!
//! Whatever ends gives its locks to [`State::settle`], which grants what is free to those who are
//! first: in order of place, and nobody overtakes anybody who wants something incompatible. An
//! acquisition of several locks stands in every one of their queues, under one place; it is granted
//! when it is in front of all of them (or of one of them, if one is enough).

use std::collections::BTreeSet;

use lockd_protocol::client::{Change, EndReason, Outcome, Refusal, Wants};
use lockd_protocol::planted::{self, Planted};
use lockd_protocol::{LockName, Mode, Sequence, SessionId, Token};

use super::lock::{Ahead, Closed};
use super::session::Acquisition;
use super::{Effect, State, reply};

impl State {
    pub(super) fn release(
        &mut self,
        id: SessionId,
        acquire: Sequence,
        token: Token,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let Some(session) = self.sessions.get(&id) else {
            return Outcome::NotHeld;
        };
        let acquisitions = session.acquisitions();
        let named = acquisitions.get(&acquire);
        let held = match named.filter(|named| named.token() == Some(token)) {
            Some(_) => Some(acquire),
            None if planted::has(Planted::ReleaseWithoutToken) => acquisitions
                .iter()
                .rfind(|(_, acquisition)| acquisition.place().is_none())
                .map(|(acquire, _)| *acquire),
            None => None,
        };
        let Some(acquire) = held else {
            return Outcome::NotHeld;
        };
        self.quit_and_settle(id, acquire, &Outcome::Over, Change::Released, effects);
        Outcome::Released
    }

    pub(super) fn cancel(&mut self, id: SessionId, acquire: Sequence, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        match session.acquisitions().get(&acquire).map(Acquisition::place) {
            None => session.forbid(acquire),
            Some(None) => {
                self.quit_and_settle(id, acquire, &Outcome::Over, Change::Released, effects);
            }
            Some(Some(_)) => self.end_wait(id, acquire, Outcome::Cancelled, effects),
        }
    }

    pub(super) fn time_out(&mut self, id: SessionId, acquire: Sequence, effects: &mut Vec<Effect>) {
        // Granted in the meantime: the wait was over before its limit.
        if self.is_waiting(id, acquire) {
            self.end_wait(id, acquire, Outcome::TimedOut, effects);
        }
    }

    fn end_wait(
        &mut self,
        id: SessionId,
        acquire: Sequence,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let mut freed = BTreeSet::new();
        self.quit(id, acquire, &outcome, Change::Released, &mut freed, effects);
        effects.push(reply(id, acquire, outcome));
        self.settle(freed, effects);
    }

    /// Exclusive becomes shared: the token stays, and others may come in.
    pub(super) fn downgrade(
        &mut self,
        id: SessionId,
        acquire: Sequence,
        token: Token,
        ticket: bool,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let session = self.sessions.get(&id);
        let acquisition = session.and_then(|session| session.acquisitions().get(&acquire));
        let Some(acquisition) = acquisition.filter(|held| held.token() == Some(token)) else {
            return Outcome::NotHeld;
        };
        let fit = |hold: &super::Hold| {
            hold.mode == Mode::Exclusive && hold.times() == 1 && hold.breaking().is_none()
        };
        if !self.holds(acquisition).all(|(_, hold)| fit(hold)) {
            return Outcome::Refused(Refusal::NotDowngradable);
        }
        let held: Vec<(LockName, Token)> = acquisition
            .held()
            .map(|(name, token)| (name.clone(), token))
            .collect();
        let mut freed = BTreeSet::new();
        for (name, token) in held {
            if let Some(hold) = self.hold_mut(&name, token) {
                hold.mode = Mode::Shared;
                hold.ticket = ticket;
                let told = hold.holder(&name);
                self.tell_change(Change::Downgraded, told, effects);
            }
            freed.insert(name);
        }
        self.settle(freed, effects);
        Outcome::Downgraded
    }

    /// The leader's clock says that a lock has been closed for long enough.
    pub(super) fn reopen(&mut self, name: LockName, token: Token, effects: &mut Vec<Effect>) {
        if self.closed.get(&name).map(|closed| closed.token) == Some(token) {
            self.closed.remove(&name);
            self.settle(BTreeSet::from([name]), effects);
        }
    }

    pub(super) fn end_session(
        &mut self,
        id: SessionId,
        reason: EndReason,
        effects: &mut Vec<Effect>,
    ) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let stays = planted::has(Planted::GrantToEndedSession);
        let change = match reason {
            EndReason::Expired => Change::Expired,
            _ => Change::Released,
        };
        let acquisitions: Vec<Sequence> = session
            .acquisitions()
            .iter()
            .filter(|(_, acquisition)| !stays || acquisition.place().is_none())
            .map(|(acquire, _)| *acquire)
            .collect();
        let mut freed = BTreeSet::new();
        for acquire in acquisitions {
            if reason == EndReason::Expired {
                self.close_for_a_while(id, acquire, effects);
            }
            self.quit(id, acquire, &Outcome::Over, change, &mut freed, effects);
        }
        if let Some(session) = self.sessions.remove(&id) {
            self.nonces.remove(&session.nonce());
            self.discount_identity(session.identity());
            self.silent.remove(&id);
        }
        // It is in no queue any more, so nothing is granted to it.
        self.settle(freed, effects);
        effects.push(Effect::Ended {
            session: id,
            reason,
        });
    }

    /// What a dead holder has sent may still be on its way: nobody is let in for a while.
    fn close_for_a_while(&mut self, id: SessionId, acquire: Sequence, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let Some(acquisition) = session.acquisitions().get(&acquire) else {
            return;
        };
        let closing: Vec<(LockName, Closed)> = self
            .holds(acquisition)
            .filter(|(_, hold)| hold.delay().0 > 0)
            .map(|(name, hold)| {
                let (token, span) = (hold.token, hold.delay());
                (name.clone(), Closed { token, span })
            })
            .collect();
        for (lock, closed) in closing {
            let Closed { token, span } = closed;
            effects.push(Effect::Closed {
                lock: lock.clone(),
                token,
                span,
            });
            self.closed.insert(lock, closed);
        }
    }

    /// An acquisition ends, and whoever is next gets what it leaves.
    pub(super) fn quit_and_settle(
        &mut self,
        id: SessionId,
        acquire: Sequence,
        outcome: &Outcome,
        change: Change,
        effects: &mut Vec<Effect>,
    ) {
        let mut freed = BTreeSet::new();
        self.quit(id, acquire, outcome, change, &mut freed, effects);
        self.settle(freed, effects);
    }

    /// An acquisition ends, held or not; `change` says how what was held did. The locks that it
    /// leaves are added to `freed`.
    pub(super) fn quit(
        &mut self,
        id: SessionId,
        acquire: Sequence,
        outcome: &Outcome,
        change: Change,
        freed: &mut BTreeSet<LockName>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let Some(acquisition) = session.conclude(acquire, outcome.clone()) else {
            return;
        };
        if let Some(place) = acquisition.place() {
            if let Some(waiter) = self.leave_queues(place, freed)
                && let Some(session) = self.sessions.get_mut(&id)
            {
                session.note_owner(waiter.owner(), |owned| {
                    owned.places.remove(&place);
                });
            }
            return;
        }
        for (name, token) in acquisition.held() {
            let Some(lock) = self.locks.get_mut(name) else {
                continue;
            };
            let Some(at) = lock.find(token) else {
                continue;
            };
            let Some(session) = self.sessions.get_mut(&id) else {
                return;
            };
            session.note_owner(lock.holds[at].owner(), |owned| {
                owned.held.remove(&acquire);
            });
            if !lock.holds[at].leave(acquire) {
                let hold = lock.holds.remove(at);
                session.breaking -= u32::from(hold.breaking().is_some());
                self.note_change(change, name, &hold, effects);
                freed.insert(name.clone());
            }
        }
    }

    /// A waiter leaves every queue that it stands in.
    fn leave_queues(
        &mut self,
        place: u64,
        freed: &mut BTreeSet<LockName>,
    ) -> Option<super::Waiter> {
        let waiter = self.waiters.remove(&place)?;
        for want in waiter.acquire.wants.each() {
            if let Some(lock) = self.locks.get_mut(&want.lock) {
                lock.queue.remove(&place);
                freed.insert(want.lock.clone());
            }
        }
        Some(waiter)
    }

    /// Grants what has become free to those who are first. Locks that nobody holds or waits for
    /// any more are forgotten.
    pub(super) fn settle(&mut self, mut freed: BTreeSet<LockName>, effects: &mut Vec<Effect>) {
        while let Some(name) = freed.pop_first() {
            self.settle_lock(&name, &mut freed, effects);
            if self.locks.get(&name).is_some_and(super::Lock::is_empty) {
                self.locks.remove(&name);
            }
        }
    }

    fn settle_lock(
        &mut self,
        name: &LockName,
        freed: &mut BTreeSet<LockName>,
        effects: &mut Vec<Effect>,
    ) {
        let mut ahead = Ahead::default();
        let mut from = 0;
        while !self.closed.contains_key(name) {
            let Some(lock) = self.locks.get(name) else {
                return;
            };
            let mut queue = lock.queue.range(from..);
            let next = match planted::has(Planted::UnfairQueue) {
                true => queue.next_back(),
                false => queue.next(),
            };
            let Some((&place, &mode)) = next else {
                return;
            };
            // Whoever is behind wants the same, or has to wait for this one.
            if !lock.has_room(mode) || ahead.blocks_all() {
                return;
            }
            from = place + 1;
            if ahead.blocks(mode) || !self.grant_waiter(place, freed, effects) {
                ahead.add(mode);
            }
        }
    }

    /// Grants what a waiter wants, if all of it is free.
    fn grant_waiter(
        &mut self,
        place: u64,
        freed: &mut BTreeSet<LockName>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(waiter) = self.waiters.get(&place) else {
            return false;
        };
        let unfair = planted::has(Planted::UnfairQueue);
        let Ok(chosen) = self.choose(&waiter.acquire.wants, place, unfair) else {
            return false;
        };
        let mut left = BTreeSet::new();
        let Some(waiter) = self.leave_queues(place, &mut left) else {
            return false;
        };
        // With several locks, others may have waited for this one elsewhere.
        if !matches!(waiter.acquire.wants, Wants::One(_)) {
            freed.append(&mut left);
        }
        if let Some(session) = self.sessions.get_mut(&waiter.session) {
            session.note_owner(waiter.owner(), |owned| {
                owned.places.remove(&place);
            });
        } else if !planted::has(Planted::GrantToEndedSession) {
            return true;
        }
        if let Err(refusal) = self.give(&waiter, chosen, effects) {
            let outcome = Outcome::Refused(refusal);
            if let Some(session) = self.sessions.get_mut(&waiter.session) {
                session.conclude(waiter.sequence, outcome.clone());
            }
            effects.push(reply(waiter.session, waiter.sequence, outcome));
            freed.extend(left);
        }
        true
    }
}
