//! The books: which sessions live, who holds what, who waits in which order. Kept from what the
//! log says and what came of it, apart from the state that it is compared with.

use std::collections::{BTreeMap, VecDeque};

use lockd::state::Effect;
use lockd::state::command::Command;
use lockd_protocol::client::{EndReason, Operation, Outcome};
use lockd_protocol::{LockName, Nonce, Sequence, SessionId, Token};

/// A grant that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) lock: LockName,
    pub(super) session: SessionId,
    pub(super) acquire: Sequence,
}

/// A session that has not ended.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) ttl_ms: u64,
}

/// What happened, in the words of the books.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    Opened {
        session: SessionId,
        nonce: Nonce,
    },
    /// For the first time under this token.
    Granted {
        token: Token,
        grant: Grant,
    },
    Replied {
        session: SessionId,
        sequence: Sequence,
        outcome: Outcome,
    },
    SessionEnded {
        session: SessionId,
        reason: EndReason,
        ttl_ms: u64,
    },
    /// An operator took the lock at once: its holder may believe in it still.
    Forfeited {
        token: Token,
    },
}

/// The books.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) sessions: BTreeMap<SessionId, Open>,
    pub(super) grants: BTreeMap<Token, Grant>,
    pub(super) queues: BTreeMap<LockName, VecDeque<(SessionId, Sequence)>>,
    /// Which lock an acquisition is about.
    acquisitions: BTreeMap<(SessionId, Sequence), LockName>,
    asked: BTreeMap<Nonce, u64>,
}

impl Ledger {
    /// Which token holds a lock.
    pub(super) fn holder(&self, lock: &LockName) -> Option<Token> {
        let mut grants = self.grants.iter();
        grants
            .find(|(_, grant)| grant.lock == *lock)
            .map(|(token, _)| *token)
    }

    /// Which lock a grant to this acquisition would be about.
    pub(super) fn lock_of(&self, session: SessionId, acquire: Sequence) -> Option<&LockName> {
        self.acquisitions.get(&(session, acquire))
    }

    /// Notes what a command asks, before anything comes of it.
    pub(super) fn ask(&mut self, command: &Command) {
        match command {
            Command::Open { nonce, ttl, .. } => {
                self.asked.insert(*nonce, ttl.0);
            }
            Command::Request {
                session,
                sequence,
                operation: Operation::Acquire { lock, .. },
                ..
            } if self.sessions.contains_key(session) => {
                let about = self.acquisitions.entry((*session, *sequence));
                about.or_insert_with(|| lock.clone());
            }
            _ => {}
        }
    }

    /// Ends what the command ends by itself: this comes before what follows from it.
    pub(super) fn end(
        &mut self,
        command: &Command,
        effects: &[Effect],
        moved: bool,
    ) -> Vec<Happening> {
        let mut happened = Vec::new();
        for effect in effects {
            if let Effect::Ended { session, reason } = effect
                && *reason != EndReason::Unknown
            {
                let (session, reason) = (*session, *reason);
                let ttl_ms = self.end_session(session);
                happened.push(Happening::SessionEnded {
                    session,
                    reason,
                    ttl_ms,
                });
            }
        }
        match command {
            Command::Request {
                session,
                operation: Operation::Cancel { acquire },
                ..
            } if moved => {
                let (session, acquire) = (*session, *acquire);
                self.grants
                    .retain(|_, grant| (grant.session, grant.acquire) != (session, acquire));
            }
            Command::Request {
                operation: Operation::Release { token, .. },
                ..
            } if moved => {
                self.grants.remove(token);
            }
            Command::FinishBreak { token, .. } if moved => {
                self.grants.remove(token);
            }
            Command::Request {
                operation:
                    Operation::Break {
                        lock,
                        at_once: true,
                        ..
                    },
                ..
            } if moved => {
                if let Some(token) = self.holder(lock) {
                    self.grants.remove(&token);
                    happened.push(Happening::Forfeited { token });
                }
            }
            _ => {}
        }
        happened
    }

    /// Returns its TTL.
    fn end_session(&mut self, id: SessionId) -> u64 {
        let ended = self.sessions.remove(&id);
        self.grants.retain(|_, grant| grant.session != id);
        for queue in self.queues.values_mut() {
            queue.retain(|(session, _)| *session != id);
        }
        ended.map_or(0, |session| session.ttl_ms)
    }

    /// Turns effects into happenings. Those that end something have been dealt with.
    pub(super) fn happenings(
        &self,
        effects: &[Effect],
        seen: impl Fn(Token, (SessionId, Sequence)) -> bool,
    ) -> Vec<Happening> {
        let mut happened = Vec::new();
        for effect in effects {
            match effect {
                Effect::Opened {
                    nonce,
                    result: Ok(session),
                } => {
                    let (session, nonce) = (*session, *nonce);
                    happened.push(Happening::Opened { session, nonce });
                }
                Effect::Reply {
                    session,
                    sequence,
                    outcome,
                    ..
                } => {
                    let (session, sequence) = (*session, *sequence);
                    if let Outcome::Granted { token } = outcome
                        && !seen(*token, (session, sequence))
                        && let Some(lock) = self.lock_of(session, sequence)
                    {
                        let grant = Grant {
                            lock: lock.clone(),
                            session,
                            acquire: sequence,
                        };
                        let token = *token;
                        happened.push(Happening::Granted { token, grant });
                    }
                    let outcome = outcome.clone();
                    happened.push(Happening::Replied {
                        session,
                        sequence,
                        outcome,
                    });
                }
                _ => {}
            }
        }
        happened
    }

    /// Writes a happening down.
    pub(super) fn note(&mut self, happening: &Happening) {
        match happening {
            Happening::Opened { session, nonce } => {
                let ttl_ms = self.asked.get(nonce).copied().unwrap_or_default();
                self.sessions.insert(*session, Open { ttl_ms });
            }
            Happening::Granted { token, grant } => {
                self.leave_queue(grant.session, grant.acquire);
                self.grants.insert(*token, grant.clone());
            }
            Happening::Replied {
                session,
                sequence,
                outcome,
            } => self.replied_with(*session, *sequence, outcome),
            Happening::SessionEnded { .. } | Happening::Forfeited { .. } => {}
        }
    }

    fn replied_with(&mut self, session: SessionId, sequence: Sequence, outcome: &Outcome) {
        match outcome {
            Outcome::Queued { .. } => {
                let Some(lock) = self.acquisitions.get(&(session, sequence)) else {
                    return;
                };
                let queue = self.queues.entry(lock.clone()).or_default();
                if !queue.contains(&(session, sequence)) {
                    queue.push_back((session, sequence));
                }
            }
            Outcome::TimedOut | Outcome::Cancelled | Outcome::Refused(_) => {
                self.leave_queue(session, sequence);
            }
            _ => {}
        }
    }

    fn leave_queue(&mut self, session: SessionId, acquire: Sequence) {
        for queue in self.queues.values_mut() {
            queue.retain(|waiter| *waiter != (session, acquire));
        }
    }
}
