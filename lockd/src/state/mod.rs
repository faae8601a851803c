//! The replicated lock state machine: sessions, locks, queues, tokens.
//!
//! [`State::apply`] takes decided commands in log order and says what follows from each as
//! [`Effect`]s. It is deterministic: nothing in this module knows what time it is, draws a random
//! number or depends on the order of a hash map. Whatever time decides (an expiry, the end of a
//! wait, the end of a break) is a command that names the leadership which decided it, and has no
//! effect under another one.
//!
//! * [`command`]: what the log holds.
//! * [`session`]: a session, its window of answers and its acquisitions.
//! * [`lock`]: a lock, its holder and its queue.
//! * [`listing`]: the read side.
//! * [`snapshot`]: the whole state as bytes, and back.

pub mod command;
pub mod listing;
pub mod lock;
pub mod session;
pub mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use lockd_protocol::client::{EndReason, Operation, Outcome, Refusal, Wait};
use lockd_protocol::limits::{
    ACQUISITIONS_PER_SESSION_MAX, SESSION_WINDOW, TEXT_BYTES_MAX, TTL_MAX_MS, TTL_MIN_MS,
};
use lockd_protocol::planted::{self, Planted};
use lockd_protocol::{LockName, Millis, Mode, Nonce, Sequence, SessionId, Token};
use paxos::Ballot;
use serde::{Deserialize, Serialize};

use crate::limits::SESSIONS_MAX;
use command::Command;
use lock::{Hold, Lock, Waiter};
use session::{Acquisition, Replay, Session};

/// What follows from an applied command. A leader acts on these; a follower ignores them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Answer to an attempt to open a session.
    Opened {
        /// Nonce of the attempt.
        nonce: Nonce,
        /// The session, or why there is none.
        result: Result<SessionId, Refusal>,
    },
    /// Answer to a request, or the end of a wait.
    Reply {
        /// Session of the request.
        session: SessionId,
        /// Its number.
        sequence: Sequence,
        /// What came of it.
        outcome: Outcome,
        /// For a grant whose ticket was asked for: what the ticket has to say.
        ticket: Option<(LockName, Mode)>,
    },
    /// An acquisition queued with a limit on its wait.
    WaitBegan {
        /// Session of the acquisition.
        session: SessionId,
        /// Number of the acquisition.
        acquire: Sequence,
        /// After this long it is to be timed out.
        limit: Millis,
    },
    /// A lock is being taken from its holder, who has to be told.
    BreakBegan {
        /// The lock.
        lock: LockName,
        /// The holder.
        session: SessionId,
        /// Number of the holder's acquisition.
        acquire: Sequence,
        /// Token of the grant that ends.
        token: Token,
        /// Why.
        reason: String,
        /// The holder's TTL, after which the lock may move whether the holder answered or not.
        ttl: Millis,
        /// The lock has moved already.
        at_once: bool,
    },
    /// A session ended, or was asked for and does not exist.
    Ended {
        /// Which session.
        session: SessionId,
        /// Why.
        reason: EndReason,
    },
}

/// Everything that the replicas of a cell agree on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    sessions: BTreeMap<SessionId, Session>,
    nonces: BTreeMap<Nonce, SessionId>,
    locks: BTreeMap<LockName, Lock>,
    last_session: SessionId,
    last_token: Token,
    last_place: u64,
    leadership: Option<Ballot>,
}

impl State {
    /// Notes that a new leadership begins: what an older one decided by its clock is void.
    pub fn begin_leadership(&mut self, leadership: Ballot) {
        self.leadership = Some(leadership);
    }

    /// Applies one decided command and appends what follows from it to `effects`.
    pub fn apply(&mut self, command: Command, effects: &mut Vec<Effect>) {
        match command {
            Command::Open { nonce, ttl, label } => {
                let result = self.open(nonce, ttl, label);
                effects.push(Effect::Opened { nonce, result });
            }
            Command::Request {
                session,
                sequence,
                acknowledged,
                operation,
            } => {
                self.request(session, sequence, acknowledged, operation, effects);
            }
            Command::Expire {
                session,
                leadership,
            } => {
                if self.leadership == Some(leadership) && self.sessions.contains_key(&session) {
                    self.end_session(session, EndReason::Expired, effects);
                }
            }
            Command::TimeOut {
                session,
                acquire,
                leadership,
            } => {
                if self.leadership == Some(leadership) {
                    self.time_out(session, acquire, effects);
                }
            }
            Command::FinishBreak {
                lock,
                token,
                leadership,
            } => {
                if self.leadership == Some(leadership) {
                    self.finish_break(&lock, token, effects);
                }
            }
        }
    }

    fn open(&mut self, nonce: Nonce, ttl: Millis, label: String) -> Result<SessionId, Refusal> {
        if let Some(session) = self.nonces.get(&nonce) {
            return Ok(*session);
        }
        if !(TTL_MIN_MS..=TTL_MAX_MS).contains(&ttl.0) {
            return Err(Refusal::BadTtl {
                min_ms: TTL_MIN_MS,
                max_ms: TTL_MAX_MS,
            });
        }
        check_text("the session's label", &label)?;
        if self.sessions.len() >= SESSIONS_MAX {
            return Err(Refusal::Busy);
        }
        self.last_session = SessionId(self.last_session.0 + 1);
        self.nonces.insert(nonce, self.last_session);
        self.sessions
            .insert(self.last_session, Session::new(nonce, ttl, label));
        Ok(self.last_session)
    }

    fn request(
        &mut self,
        id: SessionId,
        sequence: Sequence,
        acknowledged: Sequence,
        operation: Operation,
        effects: &mut Vec<Effect>,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else {
            effects.push(Effect::Ended {
                session: id,
                reason: EndReason::Unknown,
            });
            return;
        };
        // Nobody can have the answer to what is being asked just now.
        session.acknowledge(acknowledged.min(Sequence(sequence.0.saturating_sub(1))));
        match session.replay(sequence) {
            Replay::New => {}
            _ if planted::has(Planted::RetryExecutedTwice) => {}
            Replay::Acquisition(acquisition) => {
                let acquisition = acquisition.clone();
                effects.push(self.describe_acquisition(id, sequence, &acquisition));
                return;
            }
            Replay::Answered(outcome) => {
                effects.push(reply(id, sequence, outcome));
                return;
            }
        }
        if sequence > session.window_end() {
            let refusal = Refusal::WindowExceeded {
                sequence: sequence.0,
                window: SESSION_WINDOW,
            };
            effects.push(reply(id, sequence, Outcome::Refused(refusal)));
            return;
        }
        if let Some(outcome) = self.execute(id, sequence, operation, effects) {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.answer(sequence, outcome.clone());
            }
            effects.push(reply(id, sequence, outcome));
        }
    }

    /// Executes a request for the first time. `None`: it was replied to already, and the reply
    /// lives on as an acquisition (or the session has ended).
    fn execute(
        &mut self,
        id: SessionId,
        sequence: Sequence,
        operation: Operation,
        effects: &mut Vec<Effect>,
    ) -> Option<Outcome> {
        match operation {
            Operation::Acquire {
                lock,
                mode,
                wait,
                ticket,
            } => {
                let waiter = Waiter {
                    session: id,
                    acquire: sequence,
                    mode,
                    wait,
                    ticket,
                };
                self.acquire(lock, waiter, effects)
            }
            Operation::Cancel { acquire } => {
                self.cancel(id, acquire, effects);
                Some(Outcome::CancelDone)
            }
            Operation::Release { lock, token } => Some(self.release(id, &lock, token, effects)),
            Operation::Close => {
                effects.push(reply(id, sequence, Outcome::Closed));
                self.end_session(id, EndReason::Closed, effects);
                None
            }
            Operation::Break {
                lock,
                reason,
                at_once,
            } => Some(self.break_lock(&lock, reason, at_once, effects)),
            // The protocol's enum may grow: a node that does not know an operation must not
            // guess, and every node of one version decides alike.
            _ => Some(Outcome::Refused(Refusal::Busy)),
        }
    }

    fn acquire(
        &mut self,
        name: LockName,
        waiter: Waiter,
        effects: &mut Vec<Effect>,
    ) -> Option<Outcome> {
        let session = self.sessions.get_mut(&waiter.session)?;
        if session.acquisitions().len() >= ACQUISITIONS_PER_SESSION_MAX {
            let most = ACQUISITIONS_PER_SESSION_MAX as u64;
            return Some(Outcome::Refused(Refusal::TooManyAcquisitions(most)));
        }
        let Some(lock) = self.locks.get_mut(&name) else {
            return match self.take_token(Token(0)) {
                Ok(token) => {
                    self.grant(name, &waiter, token, BTreeMap::new(), effects);
                    None
                }
                Err(refusal) => Some(refusal),
            };
        };
        if waiter.wait == Wait::Try {
            return Some(Outcome::NotAvailable {
                holder: lock.hold.session,
            });
        }
        self.last_place += 1;
        session.add(waiter.acquire, Acquisition::queued(name, self.last_place));
        let outcome = Outcome::Queued {
            ahead: lock.queue.len() as u32,
        };
        effects.push(reply(waiter.session, waiter.acquire, outcome));
        effects.extend(waiter.wait_began());
        lock.queue.insert(self.last_place, waiter);
        None
    }

    fn take_token(&mut self, of_lock: Token) -> Result<Token, Outcome> {
        if planted::has(Planted::TokenPerLock) {
            return Ok(Token(of_lock.0 + 1));
        }
        let next = self
            .last_token
            .next()
            .ok_or(Outcome::Refused(Refusal::TokensUsedUp))?;
        self.last_token = next;
        if planted::has_at_odd_nodes(Planted::NonDeterministicApply) {
            self.last_place += 1;
        }
        Ok(next)
    }

    /// Gives a lock that nobody holds to `waiter`; `queue` stays behind it.
    fn grant(
        &mut self,
        name: LockName,
        waiter: &Waiter,
        token: Token,
        queue: BTreeMap<u64, Waiter>,
        effects: &mut Vec<Effect>,
    ) {
        // A session leaves every queue before it ends, so whoever is granted to is alive.
        match self.sessions.get_mut(&waiter.session) {
            Some(session) => session.add(waiter.acquire, Acquisition::held(name.clone())),
            None if planted::has(Planted::GrantToEndedSession) => {}
            None => return,
        }
        let hold = Hold::new(waiter, token);
        effects.push(granted(&name, &hold));
        self.locks.insert(name, Lock { hold, queue });
    }

    /// Takes the lock from its holder and grants it to the first waiter, if there is one.
    fn hand_over(&mut self, name: &LockName, effects: &mut Vec<Effect>) {
        let Some((name, lock)) = self.locks.remove_entry(name) else {
            return;
        };
        if let Some(session) = self.sessions.get_mut(&lock.hold.session) {
            session.conclude(lock.hold.acquire, Outcome::Over);
            session.breaking -= u32::from(lock.hold.breaking.is_some());
        }
        let mut queue = lock.queue;
        let next = match planted::has(Planted::UnfairQueue) {
            true => queue.pop_last(),
            false => queue.pop_first(),
        };
        let Some((_, next)) = next else {
            return;
        };
        match self.take_token(lock.hold.token) {
            Ok(token) => self.grant(name, &next, token, queue, effects),
            Err(refusal) => {
                for waiter in std::iter::once(next).chain(queue.into_values()) {
                    self.conclude(waiter.session, waiter.acquire, &refusal, effects);
                }
            }
        }
    }

    fn conclude(
        &mut self,
        id: SessionId,
        acquire: Sequence,
        outcome: &Outcome,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.conclude(acquire, outcome.clone());
        }
        effects.push(reply(id, acquire, outcome.clone()));
    }

    fn release(
        &mut self,
        id: SessionId,
        name: &LockName,
        token: Token,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        match self.locks.get(name) {
            Some(lock)
                if lock.hold.session == id
                    && (lock.hold.token == token || planted::has(Planted::ReleaseWithoutToken)) =>
            {
                self.hand_over(name, effects);
                Outcome::Released
            }
            _ => Outcome::NotHeld,
        }
    }

    fn cancel(&mut self, id: SessionId, acquire: Sequence, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let Some(acquisition) = session.acquisitions().get(&acquire).cloned() else {
            session.forbid(acquire);
            return;
        };
        match acquisition.place {
            None => self.hand_over(&acquisition.lock, effects),
            Some(place) => {
                self.leave_queue(&acquisition.lock, place);
                self.conclude(id, acquire, &Outcome::Cancelled, effects);
            }
        }
    }

    fn time_out(&mut self, id: SessionId, acquire: Sequence, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let Some(acquisition) = session.acquisitions().get(&acquire).cloned() else {
            return;
        };
        // Granted in the meantime: the wait was over before its limit.
        let Some(place) = acquisition.place else {
            return;
        };
        self.leave_queue(&acquisition.lock, place);
        self.conclude(id, acquire, &Outcome::TimedOut, effects);
    }

    fn leave_queue(&mut self, name: &LockName, place: u64) {
        if let Some(lock) = self.locks.get_mut(name) {
            lock.queue.remove(&place);
        }
    }

    fn break_lock(
        &mut self,
        name: &LockName,
        reason: String,
        at_once: bool,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        if let Err(refusal) = check_text("the reason", &reason) {
            return Outcome::Refused(refusal);
        }
        let Some(lock) = self.locks.get_mut(name) else {
            return Outcome::NothingToBreak;
        };
        let Some(fence) = self.last_token.next() else {
            return Outcome::Refused(Refusal::TokensUsedUp);
        };
        self.last_token = fence;
        let hold = &mut lock.hold;
        let (holder, token, acquire) = (hold.session, hold.token, hold.acquire);
        if let Some(session) = self.sessions.get_mut(&holder) {
            session.breaking += u32::from(hold.breaking.is_none());
            let reason = hold.breaking.get_or_insert(reason).clone();
            let ttl = session.ttl();
            let (lock, session) = (name.clone(), holder);
            effects.push(Effect::BreakBegan {
                lock,
                session,
                acquire,
                token,
                reason,
                ttl,
                at_once,
            });
        }
        if at_once {
            self.hand_over(name, effects);
        }
        Outcome::Broken {
            holder,
            token,
            fence,
        }
    }

    fn finish_break(&mut self, name: &LockName, token: Token, effects: &mut Vec<Effect>) {
        let still = |lock: &Lock| lock.hold.token == token && lock.hold.breaking.is_some();
        if self.locks.get(name).is_some_and(still) {
            self.hand_over(name, effects);
        }
    }

    fn end_session(&mut self, id: SessionId, reason: EndReason, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        self.nonces.remove(&session.nonce());
        // First out of every queue, then out of what it holds: nothing may be granted to it now.
        for acquisition in session.acquisitions().values() {
            if let Some(place) = acquisition.place
                && !planted::has(Planted::GrantToEndedSession)
            {
                self.leave_queue(&acquisition.lock, place);
            }
        }
        for acquisition in session.acquisitions().values() {
            if acquisition.place.is_none() {
                self.hand_over(&acquisition.lock, effects);
            }
        }
        effects.push(Effect::Ended {
            session: id,
            reason,
        });
    }

    /// The reply that an acquisition which is still held or waited for got, as of now.
    fn describe_acquisition(
        &self,
        id: SessionId,
        sequence: Sequence,
        acquisition: &Acquisition,
    ) -> Effect {
        match (self.locks.get(&acquisition.lock), acquisition.place) {
            (Some(lock), None) => granted(&acquisition.lock, &lock.hold),
            (Some(lock), Some(place)) => {
                let ahead = lock.queue.range(..place).count() as u32;
                reply(id, sequence, Outcome::Queued { ahead })
            }
            (None, _) => reply(id, sequence, Outcome::Over),
        }
    }
}

fn reply(session: SessionId, sequence: Sequence, outcome: Outcome) -> Effect {
    Effect::Reply {
        session,
        sequence,
        outcome,
        ticket: None,
    }
}

fn granted(name: &LockName, hold: &Hold) -> Effect {
    Effect::Reply {
        session: hold.session,
        sequence: hold.acquire,
        outcome: Outcome::Granted { token: hold.token },
        ticket: hold.ticket.then(|| (name.clone(), hold.mode)),
    }
}

fn check_text(field: &str, text: &str) -> Result<(), Refusal> {
    if text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Refusal::BadText {
        field: field.to_owned(),
        max: TEXT_BYTES_MAX as u32,
    })
}
