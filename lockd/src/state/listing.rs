//! The read side of the state: what operators, clients and a new leader ask of it.

use std::ops::Bound;

use lockd_protocol::client::{Answer, LockDetail, LockSummary, SessionSummary, WaiterSummary};
use lockd_protocol::limits::{FRAME_BYTES_MAX, PAGE_ITEMS_MAX};
use lockd_protocol::{LockName, Millis, Sequence, SessionId, Token};

use super::lock::Lock;
use super::session::Session;
use super::{Effect, State};

/// Bytes of one page, with room left for the frame around it.
const PAGE_BYTES: usize = FRAME_BYTES_MAX - 4096;

/// Bytes of an item's numbers, roughly but never less.
const ITEM_BYTES: usize = 64;

impl State {
    /// How many sessions there are.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// How many locks are held.
    #[must_use]
    pub fn lock_count(&self) -> usize {
        self.locks.len()
    }

    /// The highest token given out.
    #[must_use]
    pub fn last_token(&self) -> Token {
        self.last_token
    }

    /// The TTL of a session, or `None` if there is no such session.
    #[must_use]
    pub fn session_ttl(&self, session: SessionId) -> Option<Millis> {
        self.sessions.get(&session).map(Session::ttl)
    }

    /// Every session with its TTL: a new leader starts their timers.
    pub fn session_ttls(&self) -> impl Iterator<Item = (SessionId, Millis)> {
        self.sessions
            .iter()
            .map(|(id, session)| (*id, session.ttl()))
    }

    /// Every limited wait and every break under way: a new leader starts their timers anew.
    #[must_use]
    pub fn pending_timers(&self) -> Vec<Effect> {
        let waits = self.locks.values().flat_map(|lock| lock.queue.values());
        let waits = waits.filter_map(super::lock::Waiter::wait_began);
        let breaks = self
            .sessions
            .iter()
            .filter(|(_, session)| session.breaking > 0);
        waits
            .chain(breaks.flat_map(|(id, _)| self.breaks_of(*id)))
            .collect()
    }

    /// The locks that are being taken from a session, which it has to be told.
    #[must_use]
    pub fn breaks_of(&self, id: SessionId) -> Vec<Effect> {
        let Some(session) = self.sessions.get(&id).filter(|s| s.breaking > 0) else {
            return Vec::new();
        };
        let held = session
            .acquisitions()
            .iter()
            .filter(|(_, acq)| acq.place.is_none());
        held.filter_map(|(acquire, acq)| {
            let hold = &self.locks.get(&acq.lock)?.hold;
            Some(Effect::BreakBegan {
                lock: acq.lock.clone(),
                session: id,
                acquire: *acquire,
                token: hold.token,
                reason: hold.breaking.clone()?,
                ttl: session.ttl(),
                at_once: false,
            })
        })
        .collect()
    }

    /// Whether the acquisition waits in a queue.
    #[must_use]
    pub fn is_waiting(&self, session: SessionId, acquire: Sequence) -> bool {
        let acquisition = self
            .sessions
            .get(&session)
            .and_then(|s| s.acquisitions().get(&acquire));
        acquisition.is_some_and(|acq| acq.place.is_some())
    }

    /// A page of the locks whose names begin with `prefix`.
    #[must_use]
    pub fn list_locks(&self, prefix: &str, after: Option<&LockName>, limit: u32) -> Answer {
        let from = match after {
            Some(name) if name.as_str() >= prefix => Bound::Excluded(name.as_str()),
            _ => Bound::Included(prefix),
        };
        let range = self.locks.range::<str, _>((from, Bound::Unbounded));
        let matching = range.take_while(|(name, _)| name.as_str().starts_with(prefix));
        let items = matching.map(|(name, lock)| (name.as_str().len(), summarise(name, lock)));
        let (locks, more) = page(items, limit);
        Answer::Locks { locks, more }
    }

    /// One lock, its holder and a page of its queue.
    #[must_use]
    pub fn describe_lock(&self, name: &LockName, skip: u32, limit: u32) -> Option<LockDetail> {
        let lock = self.locks.get(name)?;
        let label = |id| self.sessions.get(&id).map_or("", Session::label);
        let waiters = lock.queue.values().skip(skip as usize).map(|waiter| {
            let label = label(waiter.session).to_owned();
            let length = label.len();
            (
                length,
                WaiterSummary {
                    session: waiter.session,
                    label,
                    mode: waiter.mode,
                },
            )
        });
        let (waiters, _) = page(waiters, limit);
        Some(LockDetail {
            summary: summarise(name, lock),
            holder_label: label(lock.hold.session).to_owned(),
            breaking: lock.hold.breaking.clone(),
            waiters,
        })
    }

    /// A page of the sessions; `ttl_left` tells what is left of each by the leader's clock.
    pub fn list_sessions(
        &self,
        after: Option<SessionId>,
        limit: u32,
        ttl_left: impl Fn(SessionId) -> Millis,
    ) -> Answer {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let items = self
            .sessions
            .range((from, Bound::Unbounded))
            .map(|(id, session)| {
                let holds = session
                    .acquisitions()
                    .values()
                    .filter(|a| a.place.is_none())
                    .count();
                let summary = SessionSummary {
                    session: *id,
                    label: session.label().to_owned(),
                    ttl: session.ttl(),
                    ttl_left: ttl_left(*id),
                    holds: holds as u32,
                    waits: (session.acquisitions().len() - holds) as u32,
                };
                (session.label().len(), summary)
            });
        let (sessions, more) = page(items, limit);
        Answer::Sessions { sessions, more }
    }
}

/// The first items that fit a page, and whether there are more. Each comes with its text's size.
fn page<T>(items: impl Iterator<Item = (usize, T)>, limit: u32) -> (Vec<T>, bool) {
    let limit = limit.clamp(1, PAGE_ITEMS_MAX) as usize;
    let mut bytes = 0;
    let mut taken = Vec::new();
    for (text_bytes, item) in items {
        bytes += text_bytes + ITEM_BYTES;
        if taken.len() == limit || bytes > PAGE_BYTES {
            return (taken, true);
        }
        taken.push(item);
    }
    (taken, false)
}

fn summarise(name: &LockName, lock: &Lock) -> LockSummary {
    LockSummary {
        lock: name.clone(),
        holder: lock.hold.session,
        token: lock.hold.token,
        mode: lock.hold.mode,
        waiters: lock.queue.len() as u32,
    }
}
