//! How a session comes to be, and whose it is.
//!
//! A session belongs to the identity that opened it, which is replicated with it and never changes.
//! So whoever leads can tell who may speak for it.

use std::sync::Arc;

use lockd_protocol::client::{About, Refusal};
use lockd_protocol::limits::{TTL_MAX_MS, TTL_MIN_MS};
use lockd_protocol::{LockName, Millis, Nonce, Sequence, SessionId};

use super::session::{Replay, Session};
use super::{State, check_text};
use crate::limits::SESSIONS_MAX;

impl State {
    pub(super) fn open(
        &mut self,
        nonce: Nonce,
        ttl: Millis,
        identity: &str,
        about: About,
    ) -> Result<SessionId, Refusal> {
        if let Some(session) = self.nonces.get(&nonce) {
            return match self.identity_of(*session) == Some(identity) {
                true => Ok(*session),
                false => Err(Refusal::OtherIdentity {
                    session: *session,
                    asks: identity.to_owned(),
                }),
            };
        }
        if !(TTL_MIN_MS..=TTL_MAX_MS).contains(&ttl.0) {
            return Err(Refusal::BadTtl {
                min_ms: TTL_MIN_MS,
                max_ms: TTL_MAX_MS,
            });
        }
        check_text("the identity", identity)?;
        about.check().map_err(Refusal::BadAbout)?;
        if self.sessions.len() >= SESSIONS_MAX {
            return Err(Refusal::Busy);
        }
        self.last_session = SessionId(self.last_session.0 + 1);
        let identity = self.count_identity(identity);
        self.nonces.insert(nonce, self.last_session);
        self.sessions
            .insert(self.last_session, Session::new(nonce, ttl, identity, about));
        Ok(self.last_session)
    }

    /// Counts one more session of an identity, whose name all of them share.
    pub(super) fn count_identity(&mut self, identity: &str) -> Arc<str> {
        let known = self.identities.get_key_value(identity);
        let name = known.map_or_else(|| Arc::from(identity), |(name, _)| Arc::clone(name));
        *self.identities.entry(Arc::clone(&name)).or_default() += 1;
        name
    }

    /// A session is gone.
    pub(super) fn discount_identity(&mut self, identity: &str) {
        if let Some(sessions) = self.identities.get_mut(identity) {
            *sessions -= 1;
            if *sessions == 0 {
                self.identities.remove(identity);
            }
        }
    }

    /// Whom a session belongs to; `None` if there is no such session.
    #[must_use]
    pub fn identity_of(&self, session: SessionId) -> Option<&str> {
        self.sessions.get(&session).map(|s| &**s.identity())
    }

    /// How many sessions an identity has.
    #[must_use]
    pub fn sessions_of(&self, identity: &str) -> usize {
        self.identities.get(identity).copied().unwrap_or(0)
    }

    /// Whether a session was opened under this nonce, and is still there.
    #[must_use]
    pub fn is_opened(&self, nonce: Nonce) -> bool {
        self.nonces.contains_key(&nonce)
    }

    /// Whether nothing is known of a request yet.
    #[must_use]
    pub fn is_new(&self, session: SessionId, sequence: Sequence) -> bool {
        let session = self.sessions.get(&session);
        session.is_some_and(|session| matches!(session.replay(sequence), Replay::New))
    }

    /// How many acquisitions a session has, held or waited for.
    #[must_use]
    pub fn acquisitions_of(&self, session: SessionId) -> usize {
        let session = self.sessions.get(&session);
        session.map_or(0, |session| session.acquisitions().len())
    }

    /// How many acquisitions wait, for whatever lock.
    #[must_use]
    pub fn waiter_count(&self) -> usize {
        self.waiters.len()
    }

    /// How many wait for a lock.
    #[must_use]
    pub fn waiters_of(&self, lock: &LockName) -> usize {
        self.locks.get(lock).map_or(0, |lock| lock.queue.len())
    }
}
