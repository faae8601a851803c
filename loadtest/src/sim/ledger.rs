//! The books: which sessions live, who holds what, who waits in which order. Kept from what the
//! log says and what came of it, apart from the state that it is compared with.

use std::collections::{BTreeMap, VecDeque};

use lockd::state::Effect;
use lockd::state::command::Command;
use lockd_protocol::client::{Acquire, EndReason, Operation, Outcome};
use lockd_protocol::{LockName, Mode, Nonce, Sequence, SessionId, Token};

/// A grant that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) lock: LockName,
    pub(super) mode: Mode,
    /// Which permit of a semaphore.
    pub(super) slot: u32,
    pub(super) session: SessionId,
    /// The acquisitions that share it: more than one if its owner entered again.
    pub(super) acquires: Vec<Sequence>,
}

impl Grant {
    /// Whether the two may be held at the same time.
    pub(super) fn goes_with(&self, other: &Grant) -> bool {
        match (self.mode, other.mode) {
            (Mode::Shared, Mode::Shared) => true,
            (Mode::Permit { of }, Mode::Permit { of: others }) => {
                of == others && self.slot != other.slot
            }
            _ => false,
        }
    }
}

/// Somebody in the queue of a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) session: SessionId,
    pub(super) acquire: Sequence,
    pub(super) mode: Mode,
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
    /// For the first time: what one acquisition got.
    Granted {
        session: SessionId,
        acquire: Sequence,
        grants: Vec<(Token, Grant)>,
    },
    /// An owner has entered once more what it held.
    EnteredAgain {
        token: Token,
        acquire: Sequence,
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
    pub(super) queues: BTreeMap<LockName, VecDeque<Waiting>>,
    /// What an acquisition is about.
    acquisitions: BTreeMap<(SessionId, Sequence), Acquire>,
    asked: BTreeMap<Nonce, u64>,
}

impl Ledger {
    /// Who holds a lock, in order of tokens.
    pub(super) fn holders(&self, lock: &LockName) -> impl Iterator<Item = (Token, &Grant)> {
        let grants = self.grants.iter();
        grants
            .filter(move |(_, grant)| grant.lock == *lock)
            .map(|(token, grant)| (*token, grant))
    }

    /// Whether this is a grant of the lock that has not ended.
    pub(super) fn holds(&self, lock: &LockName, token: Token) -> bool {
        self.grants
            .get(&token)
            .is_some_and(|grant| grant.lock == *lock)
    }

    /// What an acquisition is about.
    pub(super) fn acquisition(&self, session: SessionId, acquire: Sequence) -> Option<&Acquire> {
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
                operation: Operation::Acquire(acquire),
                ..
            } if self.sessions.contains_key(session) => {
                let about = self.acquisitions.entry((*session, *sequence));
                about.or_insert_with(|| acquire.clone());
            }
            _ => {}
        }
    }

    /// Ends what the command ends by itself: this comes before what follows from it. `held` says
    /// what is held afterwards.
    pub(super) fn end(
        &mut self,
        command: &Command,
        effects: &[Effect],
        held: impl Fn(&LockName, Token) -> bool,
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
            Command::FinishBreak { lock, token, .. } if !held(lock, *token) => {
                self.end_grant(*token);
            }
            Command::Request {
                session,
                sequence,
                operation,
                ..
            } => {
                let outcome = effects.iter().find_map(|effect| match effect {
                    Effect::Reply {
                        session: of,
                        sequence: to,
                        outcome,
                        ..
                    } if (of, to) == (session, sequence) => Some(outcome),
                    _ => None,
                });
                if let Some(outcome) = outcome {
                    self.end_by_request(*session, operation, outcome, &mut happened);
                }
            }
            _ => {}
        }
        happened
    }

    fn end_by_request(
        &mut self,
        session: SessionId,
        operation: &Operation,
        outcome: &Outcome,
        happened: &mut Vec<Happening>,
    ) {
        match (operation, outcome) {
            (Operation::Cancel { acquire }, Outcome::CancelDone)
            | (Operation::Release { acquire, .. }, Outcome::Released) => {
                self.end_acquisition(session, *acquire);
            }
            (Operation::Downgrade { acquire, .. }, Outcome::Downgraded) => {
                let of = |grant: &&mut Grant| {
                    grant.session == session && grant.acquires.contains(acquire)
                };
                for grant in self.grants.values_mut().filter(of) {
                    grant.mode = Mode::Shared;
                }
            }
            (Operation::Break { at_once: true, .. }, Outcome::Broken { holders, .. }) => {
                for (_, token) in holders {
                    for token in self.end_grant(*token) {
                        happened.push(Happening::Forfeited { token });
                    }
                }
            }
            _ => {}
        }
    }

    /// A grant ends with all that its acquisitions got. Says which grants ended.
    fn end_grant(&mut self, token: Token) -> Vec<Token> {
        let Some(grant) = self.grants.get(&token).cloned() else {
            return Vec::new();
        };
        let acquires = grant.acquires.iter();
        acquires
            .flat_map(|acquire| self.end_acquisition(grant.session, *acquire))
            .collect()
    }

    fn end_acquisition(&mut self, session: SessionId, acquire: Sequence) -> Vec<Token> {
        let mut ended = Vec::new();
        self.grants.retain(|token, grant| {
            if grant.session == session {
                grant.acquires.retain(|of| *of != acquire);
            }
            if grant.acquires.is_empty() {
                ended.push(*token);
            }
            !grant.acquires.is_empty()
        });
        ended
    }

    /// Returns its TTL.
    fn end_session(&mut self, id: SessionId) -> u64 {
        let ended = self.sessions.remove(&id);
        self.grants.retain(|_, grant| grant.session != id);
        for queue in self.queues.values_mut() {
            queue.retain(|waiting| waiting.session != id);
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
                    if let Some(token) = outcome.granted_token()
                        && !seen(token, (session, sequence))
                    {
                        happened.extend(self.granted(session, sequence, outcome));
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

    fn granted(
        &self,
        session: SessionId,
        acquire: Sequence,
        outcome: &Outcome,
    ) -> Option<Happening> {
        let Outcome::Granted(got) = outcome else {
            return None;
        };
        let about = self.acquisition(session, acquire)?;
        if let Some(token) = outcome.granted_token()
            && let Some(grant) = self.grants.get(&token)
            && grant.session == session
            && about.owner.is_some()
        {
            let again = !grant.acquires.contains(&acquire);
            return again.then_some(Happening::EnteredAgain { token, acquire });
        }
        let grants = got.iter().filter_map(|got| {
            let want = about.wants.each().get(got.want as usize)?;
            let grant = Grant {
                lock: want.lock.clone(),
                mode: want.mode,
                slot: got.slot,
                session,
                acquires: vec![acquire],
            };
            Some((got.token, grant))
        });
        Some(Happening::Granted {
            session,
            acquire,
            grants: grants.collect(),
        })
    }

    /// Writes a happening down.
    pub(super) fn note(&mut self, happening: &Happening) {
        match happening {
            Happening::Opened { session, nonce } => {
                let ttl_ms = self.asked.get(nonce).copied().unwrap_or_default();
                self.sessions.insert(*session, Open { ttl_ms });
            }
            Happening::Granted {
                session,
                acquire,
                grants,
            } => {
                self.leave_queues(*session, *acquire);
                self.grants.extend(grants.iter().cloned());
            }
            Happening::EnteredAgain { token, acquire } => {
                if let Some(grant) = self.grants.get_mut(token)
                    && !grant.acquires.contains(acquire)
                {
                    grant.acquires.push(*acquire);
                }
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
                let Some(about) = self.acquisitions.get(&(session, sequence)) else {
                    return;
                };
                for want in about.wants.each() {
                    let queue = self.queues.entry(want.lock.clone()).or_default();
                    let waiting = Waiting {
                        session,
                        acquire: sequence,
                        mode: want.mode,
                    };
                    if !queue.contains(&waiting) {
                        queue.push_back(waiting);
                    }
                }
            }
            Outcome::TimedOut | Outcome::Cancelled | Outcome::Refused(_) => {
                self.leave_queues(session, sequence);
            }
            _ => {}
        }
    }

    fn leave_queues(&mut self, session: SessionId, acquire: Sequence) {
        for queue in self.queues.values_mut() {
            queue.retain(|waiting| (waiting.session, waiting.acquire) != (session, acquire));
        }
    }
}
