//! The read side of the state: what operators, clients and a new leader ask of it.

use std::ops::Bound;

use lockd_protocol::client::about::has_labels;
use lockd_protocol::client::{
    About, Age, Answer, HolderSummary, Labels, LockDetail, LockSummary, SessionSummary,
    WaiterSummary,
};
use lockd_protocol::limits::{FRAME_BYTES_MAX, PAGE_ITEMS_MAX};
use lockd_protocol::{LockName, Millis, Mode, Sequence, SessionId, Token};

use super::lock::{Hold, Lock, Waiter};
use super::session::Session;
use super::{Effect, State};
use crate::limits::SESSIONS_SCANNED_MAX;

/// Bytes of one page: two of them fit a frame, with room left for what is around them.
pub(super) const PAGE_BYTES: usize = FRAME_BYTES_MAX / 2 - 4096;

/// Bytes of an item's numbers, roughly but never less.
pub(super) const ITEM_BYTES: usize = 64;

/// What a leader knows beside the state.
pub trait Observed {
    /// For how long the grant with this token has been held.
    fn held(&self, token: Token) -> Option<Age>;
    /// For how long whoever has this place has waited.
    fn waited(&self, place: u64) -> Option<Age>;
    /// Where the client of a session is.
    fn address(&self, session: SessionId) -> Option<String>;
    /// What is left of a session's TTL.
    fn ttl_left(&self, session: SessionId) -> Option<Millis>;
}

/// Nothing is known beside the state: what a node that does not lead can tell.
#[derive(Clone, Copy, Debug)]
pub struct Unobserved;

impl Observed for Unobserved {
    fn held(&self, _: Token) -> Option<Age> {
        None
    }

    fn waited(&self, _: u64) -> Option<Age> {
        None
    }

    fn address(&self, _: SessionId) -> Option<String> {
        None
    }

    fn ttl_left(&self, _: SessionId) -> Option<Millis> {
        None
    }
}

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

    /// The last place in queues given out.
    #[must_use]
    pub fn last_place(&self) -> u64 {
        self.last_place
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
    pub fn list_locks(
        &self,
        prefix: &str,
        after: Option<&LockName>,
        limit: u32,
        observed: &impl Observed,
    ) -> Answer {
        let from = match after {
            Some(name) if name.as_str() >= prefix => Bound::Excluded(name.as_str()),
            _ => Bound::Included(prefix),
        };
        let range = self.locks.range::<str, _>((from, Bound::Unbounded));
        let matching = range.take_while(|(name, _)| name.as_str().starts_with(prefix));
        let items = matching.map(|(name, lock)| {
            let summary = self.summarise(name, lock, observed);
            let identity = summary.identity.as_ref().map_or(0, String::len);
            (name.as_str().len() + identity, summary)
        });
        let (locks, more) = page(items, limit);
        Answer::Locks { locks, more }
    }

    /// One lock, a page of its holders and a page of its queue.
    #[must_use]
    pub fn describe_lock(
        &self,
        name: &LockName,
        (skip_holders, skip_waiters): (u32, u32),
        limit: u32,
        observed: &impl Observed,
    ) -> Option<LockDetail> {
        let closed = self.closed.get(name).map(|closed| closed.span);
        let nobody = Lock::default();
        let lock = match self.locks.get(name) {
            Some(lock) => lock,
            None if closed.is_some() => &nobody,
            None => return None,
        };
        let holders = lock.holds.iter().skip(skip_holders as usize);
        let holders = holders.map(|hold| self.describe_hold(hold, observed));
        let (holders, more_holders) = page(holders, limit);
        let waiters = lock.queue.iter().skip(skip_waiters as usize);
        let describe = |(place, mode): (&u64, &Mode)| {
            let age = observed.waited(*place);
            self.describe_waiter(*place, *mode, age)
        };
        let (waiters, more_waiters) = page(waiters.filter_map(describe), limit);
        Some(LockDetail {
            summary: self.summarise(name, lock, observed),
            closed,
            holders,
            more_holders,
            waiters,
            more_waiters,
        })
    }

    /// Whose a session is, and what it says of itself.
    fn who(&self, session: SessionId) -> (String, About) {
        let session = self.sessions.get(&session);
        session.map_or_else(Default::default, |session| {
            (session.identity().to_string(), session.about().clone())
        })
    }

    fn describe_hold(&self, hold: &Hold, observed: &impl Observed) -> (usize, HolderSummary) {
        let (identity, about) = self.who(hold.session);
        let summary = HolderSummary {
            session: hold.session,
            identity,
            about,
            owner: hold.owner().map(str::to_owned),
            age: observed.held(hold.token),
            token: hold.token,
            slot: hold.slot,
            times: hold.times() as u32,
            breaking: hold.breaking().map(str::to_owned),
            metadata: hold.metadata().cloned(),
        };
        let texts = [&summary.owner, &summary.breaking].into_iter().flatten();
        let texts = texts.map(String::len).sum::<usize>() + summary.identity.len();
        let bytes = summary.about.text_bytes() + texts;
        (bytes + metadata_bytes(hold), summary)
    }

    fn describe_waiter(
        &self,
        place: u64,
        mode: Mode,
        age: Option<Age>,
    ) -> Option<(usize, WaiterSummary)> {
        let waiter = self.waiters.get(&place)?;
        let (identity, about) = self.who(waiter.session);
        let summary = WaiterSummary {
            session: waiter.session,
            identity,
            about,
            owner: waiter.owner().map(str::to_owned),
            age,
            mode,
            locks: waiter.acquire.wants.each().len() as u32,
        };
        let owner = summary.owner.as_ref().map_or(0, String::len);
        let bytes = summary.about.text_bytes() + summary.identity.len() + owner;
        Some((bytes, summary))
    }

    /// A page of the sessions that have these labels. Of a great many that do not, only so many
    /// are looked at; the page may then be empty, and not the last one.
    pub fn list_sessions(
        &self,
        after: Option<SessionId>,
        labels: &Labels,
        limit: u32,
        observed: &impl Observed,
    ) -> Answer {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.sessions.range((from, Bound::Unbounded));
        let scanned = range.clone().take(SESSIONS_SCANNED_MAX);
        let matching = scanned
            .filter(|(_, session)| has_labels(&session.about().labels, labels))
            .map(|(id, session)| describe_session(*id, session, observed));
        let (sessions, more) = page(matching, limit);
        let next = match more {
            true => sessions.last().map(|last| last.session),
            false => {
                let mut rest = range.skip(SESSIONS_SCANNED_MAX - 1).map(|(id, _)| *id);
                let last = rest.next();
                rest.next().and(last)
            }
        };
        Answer::Sessions { sessions, next }
    }

    fn summarise(&self, name: &LockName, lock: &Lock, observed: &impl Observed) -> LockSummary {
        let (first, last) = (lock.holds.first(), lock.holds.last());
        let identity = first.and_then(|hold| self.identity_of(hold.session));
        LockSummary {
            lock: name.clone(),
            mode: first.map(|hold| hold.mode),
            holders: lock.holds.len() as u32,
            holder: first.map(|hold| hold.session),
            identity: identity.map(str::to_owned),
            held: first.and_then(|hold| observed.held(hold.token)),
            token: last.map(|hold| hold.token),
            waiters: lock.queue.len() as u32,
        }
    }
}

fn describe_session(
    id: SessionId,
    session: &Session,
    observed: &impl Observed,
) -> (usize, SessionSummary) {
    let summary = SessionSummary {
        session: id,
        identity: session.identity().to_string(),
        about: session.about().clone(),
        address: observed.address(id),
        ttl: session.ttl(),
        ttl_left: observed.ttl_left(id),
        holds: (session.acquisitions().len() - session.waits()) as u32,
        waits: session.waits() as u32,
    };
    let address = summary.address.as_ref().map_or(0, String::len);
    let bytes = summary.about.text_bytes() + summary.identity.len() + address;
    (bytes, summary)
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
