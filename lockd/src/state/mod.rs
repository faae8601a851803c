//! The replicated lock state machine: sessions, locks, queues, tokens.
//!
//! [`State::apply`] takes decided commands in log order and says what follows from each as
//! [`Effect`]s. It is deterministic: nothing in this module knows what time it is, draws a random
//! number or depends on the order of a hash map. Whatever time decides (an expiry, the end of a
//! wait, the end of a break) is a command that names the leadership which decided it, and has no
//! effect under another one.
//!
//! * [`command`]: what the log holds.
//! * [`opening`]: how a session comes to be, and whose it is.
//! * [`session`]: a session, its window of answers and its acquisitions.
//! * [`lock`]: a lock, its holders and its queue.
//! * [`acquire`]: from a request to a grant, or to a place in the queues.
//! * [`settle`]: what ends a hold or a wait, and who is next.
//! * [`events`]: changes of who holds what, their numbers, and metadata.
//! * [`deadlock`]: waits that would never end.
//! * [`breaking`]: taking a lock from its holders.
//! * [`silence`]: who was not heard, for the next leadership.
//! * [`listing`]: the read side; [`holders`]: that of watches.
//! * [`snapshot`]: the whole state as bytes, and back.

mod acquire;
mod breaking;
pub mod command;
mod deadlock;
mod events;
pub mod holders;
pub mod listing;
mod lock;
mod opening;
mod session;
mod settle;
mod silence;
pub mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use lockd_protocol::client::{EndReason, Event, Grant, Operation, Outcome, Refusal};
use lockd_protocol::limits::{SESSION_WINDOW, TEXT_BYTES_MAX};
use lockd_protocol::planted::{self, Planted};
use lockd_protocol::{EventNumber, LockName, Millis, Mode, Nonce, Sequence, SessionId, Token};
use paxos::Ballot;

use command::Command;
use lock::{Closed, Hold, Lock, Waiter};
use session::{Acquisition, Replay, Session};

/// What follows from an applied command. A leader acts on these; a follower only remembers what
/// has [`Changed`](Effect::Changed).
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
        /// For grants whose tickets were asked for: what each ticket has to say.
        tickets: Vec<Claim>,
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
    /// A lock stays closed for a while, because the session of its holder expired.
    Closed {
        /// The lock.
        lock: LockName,
        /// Token of the grant that ended.
        token: Token,
        /// After this long it is to be reopened.
        span: Millis,
    },
    /// The log does not call this session silent (any more): its renewals can be answered.
    Heard {
        /// Which session.
        session: SessionId,
    },
    /// A session ended, or was asked for and does not exist.
    Ended {
        /// Which session.
        session: SessionId,
        /// Why.
        reason: EndReason,
    },
    /// Who holds what has changed.
    Changed(Event),
}

/// What a ticket says of a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The lock, or the fence of a permit.
    pub lock: LockName,
    /// The grant's token.
    pub token: Token,
    /// How the lock is held.
    pub mode: Mode,
}

/// Everything that the replicas of a cell agree on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    sessions: BTreeMap<SessionId, Session>,
    nonces: BTreeMap<Nonce, SessionId>,
    /// How many sessions each identity has.
    identities: BTreeMap<Arc<str>, usize>,
    locks: BTreeMap<LockName, Lock>,
    /// Every acquisition that waits, by place.
    waiters: BTreeMap<u64, Waiter>,
    closed: BTreeMap<LockName, Closed>,
    /// For how long at least they have been silent.
    silent: BTreeMap<SessionId, Millis>,
    last_session: SessionId,
    last_token: Token,
    last_place: u64,
    last_event: EventNumber,
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
            Command::Open {
                nonce,
                ttl,
                identity,
                about,
            } => {
                let result = self.open(nonce, ttl, &identity, about);
                effects.push(Effect::Opened { nonce, result });
            }
            Command::Request {
                session,
                sequence,
                acknowledged,
                operation,
            } => {
                self.request(session, sequence, acknowledged, Ok(operation), effects);
            }
            Command::Refuse {
                session,
                sequence,
                acknowledged,
                refusal,
            } => {
                self.request(session, sequence, acknowledged, Err(refusal), effects);
            }
            Command::Expire {
                session,
                leadership,
            } => {
                let decided_here = self.leadership == Some(leadership)
                    || planted::has(Planted::ExpiryOfAnyLeadership);
                if decided_here && self.sessions.contains_key(&session) {
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
            Command::Reopen {
                lock,
                token,
                leadership,
            } => {
                if self.leadership == Some(leadership) {
                    self.reopen(lock, token, effects);
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
            Command::Silent {
                session,
                spent,
                leadership,
            } => {
                if self.leadership == Some(leadership) {
                    self.note_silent(session, spent);
                }
            }
            Command::Heard {
                session,
                leadership,
            } => {
                if self.leadership == Some(leadership) {
                    self.note_heard(session, effects);
                }
            }
        }
    }

    /// A request to be executed, or refused for this reason unless it was executed before.
    fn request(
        &mut self,
        id: SessionId,
        sequence: Sequence,
        acknowledged: Sequence,
        operation: Result<Operation, Refusal>,
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
            Replay::Acquisition => {
                effects.push(self.describe_acquisition(id, sequence));
                return;
            }
            Replay::Answered(outcome) => {
                let tickets = match (&outcome, &operation) {
                    (Outcome::Downgraded, Ok(Operation::Downgrade { acquire, .. })) => {
                        self.claims(id, *acquire)
                    }
                    _ => Vec::new(),
                };
                effects.push(Effect::Reply {
                    session: id,
                    sequence,
                    outcome,
                    tickets,
                });
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
        let outcome = match operation {
            Ok(operation) => self.execute(id, sequence, operation, effects),
            Err(refusal) => Some(Outcome::Refused(refusal)),
        };
        if let Some(outcome) = outcome {
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
            Operation::Acquire(acquire) => {
                let waiter = Waiter {
                    session: id,
                    sequence,
                    acquire,
                };
                self.acquire(waiter, effects).err()
            }
            Operation::Cancel { acquire } => {
                self.cancel(id, acquire, effects);
                Some(Outcome::CancelDone)
            }
            Operation::Release { acquire, token } => {
                Some(self.release(id, acquire, token, effects))
            }
            Operation::Downgrade {
                acquire,
                token,
                ticket,
            } => {
                let outcome = self.downgrade(id, acquire, token, ticket, effects);
                if outcome != Outcome::Downgraded {
                    return Some(outcome);
                }
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.answer(sequence, outcome.clone());
                }
                effects.push(Effect::Reply {
                    session: id,
                    sequence,
                    outcome,
                    tickets: self.claims(id, acquire),
                });
                None
            }
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
            Operation::SetMetadata {
                acquire,
                token,
                expect,
                value,
            } => Some(self.set_metadata(id, acquire, token, expect, value, effects)),
            // The protocol's enum may grow: a node that does not know an operation must not
            // guess, and every node of one version decides alike.
            _ => Some(Outcome::Refused(Refusal::Busy)),
        }
    }

    /// The reply that an acquisition which is still held or waited for got, as of now.
    fn describe_acquisition(&self, id: SessionId, sequence: Sequence) -> Effect {
        let session = self.sessions.get(&id);
        let outcome = match session.and_then(|session| session.acquisitions().get(&sequence)) {
            None => Outcome::Over,
            Some(acquisition) => match acquisition.place() {
                Some(place) => self.queued(place),
                None => Outcome::Granted(self.grants(acquisition)),
            },
        };
        Effect::Reply {
            session: id,
            sequence,
            outcome,
            tickets: self.claims(id, sequence),
        }
    }

    fn grants(&self, acquisition: &Acquisition) -> Vec<Grant> {
        self.holds(acquisition)
            .map(|(_, hold)| hold.grant())
            .collect()
    }

    /// What the tickets of an acquisition have to say, if they were asked for.
    fn claims(&self, id: SessionId, acquire: Sequence) -> Vec<Claim> {
        let session = self.sessions.get(&id);
        let Some(acquisition) = session.and_then(|session| session.acquisitions().get(&acquire))
        else {
            return Vec::new();
        };
        self.holds(acquisition)
            .filter(|(_, hold)| hold.ticket)
            .map(|(name, hold)| claim(name, hold))
            .collect()
    }

    fn holds<'a>(
        &'a self,
        acquisition: &'a Acquisition,
    ) -> impl Iterator<Item = (&'a LockName, &'a Hold)> {
        acquisition.held().filter_map(|(name, token)| {
            let lock = self.locks.get(name)?;
            Some((name, lock.holds.get(lock.find(token)?)?))
        })
    }
}

fn claim(name: &LockName, hold: &Hold) -> Claim {
    let lock = match hold.mode {
        // The length was checked when the permit was asked for.
        Mode::Permit { .. } => name.of_permit(hold.slot).unwrap_or_else(|_| name.clone()),
        _ => name.clone(),
    };
    Claim {
        lock,
        token: hold.token,
        mode: hold.mode,
    }
}

fn reply(session: SessionId, sequence: Sequence, outcome: Outcome) -> Effect {
    Effect::Reply {
        session,
        sequence,
        outcome,
        tickets: Vec::new(),
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
