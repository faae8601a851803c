//! The read side of the state: what operators, clients and a new leader ask of it.

use std::ops::Bound;

use lockd_protocol::client::{
    Answer, HolderSummary, LockDetail, LockSummary, SessionSummary, WaiterSummary,
};
use lockd_protocol::limits::{FRAME_BYTES_MAX, PAGE_ITEMS_MAX};
use lockd_protocol::{LockName, Millis, Mode, Sequence, SessionId, Token};

use super::lock::{Hold, Lock, Waiter};
use super::session::Session;
use super::{Effect, State};

/// Bytes of one page: two of them fit a frame, with room left for what is around them.
pub(super) const PAGE_BYTES: usize = FRAME_BYTES_MAX / 2 - 4096;

/// Bytes of an item's numbers, roughly but never less.
pub(super) const ITEM_BYTES: usize = 64;

impl State {
    /// How many sessions there are.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// How many locks are held or waited for.
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

    /// Every limited wait, every closed lock and every break under way: a new leader starts their
    /// timers anew.
    #[must_use]
    pub fn pending_timers(&self) -> Vec<Effect> {
        let waits = self.waiters.values().filter_map(Waiter::wait_began);
        let closed = self.closed.iter().map(|(lock, closed)| Effect::Closed {
            lock: lock.clone(),
            token: closed.token,
            span: closed.span,
        });
        let sessions = self.sessions.iter();
        let breaks = sessions.filter(|(_, session)| session.breaking > 0);
        waits
            .chain(closed)
            .chain(breaks.flat_map(|(id, _)| self.breaks_of(*id)))
            .collect()
    }

    /// Whether the acquisition waits in a queue.
    #[must_use]
    pub fn is_waiting(&self, session: SessionId, acquire: Sequence) -> bool {
        let acquisition = self
            .sessions
            .get(&session)
            .and_then(|s| s.acquisitions().get(&acquire));
        acquisition.is_some_and(|acquisition| acquisition.place().is_some())
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

    /// One lock, a page of its holders and a page of its queue.
    #[must_use]
    pub fn describe_lock(
        &self,
        name: &LockName,
        skip_holders: u32,
        skip_waiters: u32,
        limit: u32,
    ) -> Option<LockDetail> {
        let closed = self.closed.get(name).map(|closed| closed.span);
        let nobody = Lock::default();
        let lock = match self.locks.get(name) {
            Some(lock) => lock,
            None if closed.is_some() => &nobody,
            None => return None,
        };
        let holders = lock.holds.iter().skip(skip_holders as usize);
        let (holders, more_holders) = page(holders.map(|hold| self.describe_hold(hold)), limit);
        let waiters = lock.queue.iter().skip(skip_waiters as usize);
        let waiters = waiters.filter_map(|(place, mode)| self.describe_waiter(*place, *mode));
        let (waiters, more_waiters) = page(waiters, limit);
        Some(LockDetail {
            summary: summarise(name, lock),
            closed,
            holders,
            more_holders,
            waiters,
            more_waiters,
        })
    }

    fn label(&self, session: SessionId) -> String {
        let session = self.sessions.get(&session);
        session.map_or_else(String::new, |session| session.label().to_owned())
    }

    fn describe_hold(&self, hold: &Hold) -> (usize, HolderSummary) {
        let summary = HolderSummary {
            session: hold.session,
            label: self.label(hold.session),
            owner: hold.owner().map(str::to_owned),
            token: hold.token,
            slot: hold.slot,
            times: hold.times() as u32,
            breaking: hold.breaking().map(str::to_owned),
            metadata: hold.metadata().cloned(),
        };
        let texts = [&summary.owner, &summary.breaking].into_iter().flatten();
        let bytes = summary.label.len() + texts.map(String::len).sum::<usize>();
        (bytes + metadata_bytes(hold), summary)
    }

    fn describe_waiter(&self, place: u64, mode: Mode) -> Option<(usize, WaiterSummary)> {
        let waiter = self.waiters.get(&place)?;
        let summary = WaiterSummary {
            session: waiter.session,
            label: self.label(waiter.session),
            owner: waiter.owner().map(str::to_owned),
            mode,
            locks: waiter.acquire.wants.each().len() as u32,
        };
        let owner = summary.owner.as_ref().map_or(0, String::len);
        Some((summary.label.len() + owner, summary))
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
                    .filter(|acquisition| acquisition.place().is_none())
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

/// What the metadata of a grant takes, bytes.
pub(super) fn metadata_bytes(hold: &Hold) -> usize {
    hold.metadata()
        .map_or(0, |metadata| metadata.value.as_bytes().len())
}

fn summarise(name: &LockName, lock: &Lock) -> LockSummary {
    let (first, last) = (lock.holds.first(), lock.holds.last());
    LockSummary {
        lock: name.clone(),
        mode: first.map(|hold| hold.mode),
        holders: lock.holds.len() as u32,
        holder: first.map(|hold| hold.session),
        token: last.map(|hold| hold.token),
        waiters: lock.queue.len() as u32,
    }
}
