//! Reading a snapshot, which may come from a damaged disk or from anyone.

use lockd_protocol::client::{About, Outcome};
use lockd_protocol::limits::{
    ACQUISITIONS_PER_SESSION_MAX, LOCK_DELAY_MAX_MS, REENTRIES_MAX, SESSION_WINDOW, TTL_MAX_MS,
    TTL_MIN_MS,
};
use lockd_protocol::{LockName, Millis, Mode, Nonce, Sequence, SessionId};
use thiserror::Error;

use super::{ITEM_BYTES_MAX, Item, MAGIC, VERSION};
use crate::limits::SESSIONS_MAX;
use crate::state::acquire::{acquisition, check};
use crate::state::lock::{Closed, Hold, Waiter};
use crate::state::session::{Acquisition, Session};
use crate::state::{State, check_text};

/// Why bytes are not the state of any cell.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// They do not begin as a snapshot does.
    #[error("this is not a snapshot of lockd's state")]
    Foreign,
    /// They were written by another version of lockd.
    #[error(
        "the snapshot has version {found}; this program reads version {VERSION} only: start the \
         version of lockd that wrote it"
    )]
    Version {
        /// The version met.
        found: u8,
    },
    /// An item does not follow the encoding.
    #[error("item {item} of the snapshot is malformed: {reason}")]
    Malformed {
        /// Which, counted from 0.
        item: u64,
        /// What the decoder says.
        reason: postcard::Error,
    },
    /// An item contradicts a limit or the items before it.
    #[error("item {item} of the snapshot is impossible: {what}")]
    Impossible {
        /// Which, counted from 0.
        item: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// They end too early.
    #[error("the snapshot ends after {items} items, before its end")]
    Truncated {
        /// How many items there were.
        items: u64,
    },
    /// There is something after the end.
    #[error("the snapshot goes on after its end")]
    Trailing,
}

/// What a session was opened with.
struct Opened<'a> {
    nonce: Nonce,
    ttl: Millis,
    identity: &'a str,
    about: About,
}

type Checked = Result<(), &'static str>;

/// Takes a snapshot in as it comes.
#[derive(Debug, Default)]
pub struct Decoder {
    /// What is not a whole item yet.
    rest: Vec<u8>,
    state: State,
    items: u64,
    stage: Stage,
}

/// What came last; nothing of an earlier stage may follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Nothing,
    Head,
    Counters,
    /// Sessions, each with its answers behind it.
    Sessions,
    Holds,
    Waiters,
    Closed,
    Silent,
    End,
}

impl Decoder {
    /// Takes the next bytes, cut anywhere.
    ///
    /// # Errors
    /// [`SnapshotError`]; the decoder is of no use then.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let mut held = std::mem::take(&mut self.rest);
        held.extend_from_slice(bytes);
        let mut left = held.as_slice();
        if self.stage == Stage::Nothing {
            let Some(after) = check_head(left)? else {
                self.rest = held;
                return Ok(());
            };
            left = after;
            self.stage = Stage::Head;
        }
        while !left.is_empty() {
            if self.stage == Stage::End {
                return Err(SnapshotError::Trailing);
            }
            match postcard::take_from_bytes::<Item<'_>>(left) {
                Ok((item, after)) => {
                    let number = self.items;
                    self.take(item)
                        .map_err(|what| SnapshotError::Impossible { item: number, what })?;
                    left = after;
                }
                Err(postcard::Error::DeserializeUnexpectedEnd) if left.len() < ITEM_BYTES_MAX => {
                    break;
                }
                Err(reason) => {
                    let item = self.items;
                    return Err(SnapshotError::Malformed { item, reason });
                }
            }
        }
        let used = held.len() - left.len();
        held.drain(..used);
        self.rest = held;
        Ok(())
    }

    /// The state, once all of it has come.
    ///
    /// # Errors
    /// If the end is missing.
    pub fn finish(self) -> Result<State, SnapshotError> {
        match self.stage {
            Stage::End => Ok(self.state),
            _ => Err(SnapshotError::Truncated { items: self.items }),
        }
    }

    fn take(&mut self, item: Item<'_>) -> Checked {
        let stage = match item {
            Item::Counters { .. } => Stage::Counters,
            Item::Session { .. } | Item::Answer { .. } => Stage::Sessions,
            Item::Hold { .. } => Stage::Holds,
            Item::Waiter { .. } => Stage::Waiters,
            Item::Closed { .. } => Stage::Closed,
            Item::Silent { .. } => Stage::Silent,
            Item::End { .. } => Stage::End,
        };
        if stage < self.stage || (self.stage == Stage::Head) != (stage == Stage::Counters) {
            return Err(
                "counters, sessions, holds, waiters, closed locks, silences: in this order",
            );
        }
        self.stage = stage;
        match item {
            Item::Counters {
                last_session,
                last_token,
                last_place,
                last_event,
                leadership,
            } => {
                self.state.last_session = last_session;
                self.state.last_token = last_token;
                self.state.last_place = last_place;
                self.state.last_event = last_event;
                self.state.leadership = leadership;
            }
            Item::Session {
                id,
                nonce,
                ttl,
                identity,
                about,
                floor,
            } => {
                let opened = Opened {
                    nonce,
                    ttl,
                    identity,
                    about: about.into_owned(),
                };
                self.session(id, opened, floor)?;
            }
            Item::Answer { sequence, outcome } => self.answer(sequence, outcome.into_owned())?,
            Item::Hold { lock, hold } => self.hold(lock, hold.into_owned())?,
            Item::Waiter { place, waiter } => self.waiter(place, waiter.into_owned())?,
            Item::Closed { lock, closed } => self.closed(lock, closed)?,
            Item::Silent { session, spent } => self.silent(session, spent)?,
            Item::End { items } => {
                if items != self.items {
                    return Err("it counts another number of items than there were");
                }
                let free = |(place, waiter): (&u64, &Waiter)| {
                    let wants = &waiter.acquire.wants;
                    self.state.choose(wants, *place, false).is_ok()
                };
                if self.state.waiters.iter().any(free) {
                    return Err("somebody waits for what is free");
                }
            }
        }
        self.items += 1;
        Ok(())
    }

    fn session(&mut self, id: SessionId, opened: Opened<'_>, floor: Sequence) -> Checked {
        let last = self.state.sessions.last_key_value();
        if last.is_some_and(|(last, _)| *last >= id) || id.0 == 0 {
            return Err("the sessions are not in order");
        }
        if id > self.state.last_session {
            return Err("a session is newer than the last one");
        }
        if self.state.sessions.len() >= SESSIONS_MAX {
            return Err("there are more sessions than a cell may have");
        }
        let Opened {
            nonce,
            ttl,
            identity,
            about,
        } = opened;
        if !(TTL_MIN_MS..=TTL_MAX_MS).contains(&ttl.0) {
            return Err("a session's TTL is not allowed");
        }
        check_text("", identity).map_err(|_| "a session's identity is not allowed")?;
        let checked = about.check();
        checked.map_err(|_| "what a session says of itself is not allowed")?;
        let identity = self.state.count_identity(identity);
        let mut session = Session::new(nonce, ttl, identity, about);
        session.acknowledge(floor);
        if self.state.nonces.insert(nonce, id).is_some() {
            return Err("two sessions have the same nonce");
        }
        self.state.sessions.insert(id, session);
        Ok(())
    }

    fn answer(&mut self, sequence: Sequence, outcome: Outcome) -> Checked {
        let Some(mut session) = self.state.sessions.last_entry() else {
            return Err("an answer belongs to no session");
        };
        let session = session.get_mut();
        let last = session.answers().last_key_value();
        let last = last.map_or(session.floor(), |(last, _)| *last);
        if sequence <= last || sequence > session.window_end() {
            return Err("an answer is out of order, or out of its session's window");
        }
        session.answer(sequence, outcome);
        Ok(())
    }

    fn hold(&mut self, name: LockName, hold: Hold) -> Checked {
        if !hold.token.is_valid() || hold.token > self.state.last_token {
            return Err("a lock's token was never given out");
        }
        check_hold(&hold)?;
        let version = hold.metadata().map(|metadata| metadata.version.0);
        if version.is_some_and(|version| version == 0 || version > self.state.last_event.0) {
            return Err("a hold has metadata of a version that was never given out");
        }
        let last = self.state.locks.last_key_value();
        if last.is_some_and(|(last, _)| *last > name) {
            return Err("the holds are not in order");
        }
        let new = last.is_none_or(|(last, _)| *last < name);
        let lock = self.state.locks.entry(name.clone()).or_default();
        if !new
            && lock
                .holds
                .last()
                .is_some_and(|last| last.token >= hold.token)
        {
            return Err("the holds are not in order");
        }
        if !lock.has_room(hold.mode) || lock.holds.iter().any(|other| same_permit(other, &hold)) {
            return Err("a lock has holders that exclude each other");
        }
        for (n, acquire) in hold.acquisitions().enumerate() {
            let session = self.session_of(hold.session)?;
            if n > 0 && session.acquisitions().contains_key(&acquire) {
                return Err("an acquisition's number is taken");
            }
            let known = session.acquisitions().get(&acquire);
            let mut held: Vec<_> = known
                .into_iter()
                .flat_map(Acquisition::held)
                .map(|(lock, token)| (lock.clone(), token))
                .collect();
            let at = held.partition_point(|(_, token)| *token < hold.token);
            if held.get(at).is_some_and(|(_, token)| *token == hold.token) {
                return Err("a token was given out twice");
            }
            held.insert(at, (name.clone(), hold.token));
            let new = held.len() == 1;
            self.note(hold.session, acquire, acquisition(held), new)?;
            self.session_of(hold.session)?
                .note_owner(hold.owner(), |owned| {
                    owned.held.insert(acquire);
                });
        }
        let breaking = u32::from(hold.breaking().is_some());
        self.session_of(hold.session)?.breaking += breaking;
        if let Some(lock) = self.state.locks.get_mut(&name) {
            lock.add(hold);
        }
        Ok(())
    }

    fn waiter(&mut self, place: u64, waiter: Waiter) -> Checked {
        let last = self.state.waiters.last_key_value();
        let last = last.map_or(0, |(last, _)| *last);
        if place <= last || place > self.state.last_place {
            return Err("a waiter's place is out of order, or was never given out");
        }
        check(&waiter.acquire).map_err(|_| "what a waiter wants is not allowed")?;
        let (id, sequence) = (waiter.session, waiter.sequence);
        self.note(id, sequence, Acquisition::Queued(place), true)?;
        self.session_of(id)?.note_owner(waiter.owner(), |owned| {
            owned.places.insert(place);
        });
        for want in waiter.acquire.wants.each() {
            let lock = self.state.locks.entry(want.lock.clone()).or_default();
            lock.queue.insert(place, want.mode);
        }
        self.state.waiters.insert(place, waiter);
        Ok(())
    }

    fn closed(&mut self, lock: LockName, closed: Closed) -> Checked {
        let last = self.state.closed.last_key_value();
        if last.is_some_and(|(last, _)| *last >= lock) {
            return Err("the closed locks are not in order");
        }
        let span = (1..=LOCK_DELAY_MAX_MS).contains(&closed.span.0);
        if !span || !closed.token.is_valid() || closed.token > self.state.last_token {
            return Err("a lock is closed for longer than it can be, or by no grant");
        }
        self.state.closed.insert(lock, closed);
        Ok(())
    }

    fn silent(&mut self, session: SessionId, spent: Millis) -> Checked {
        let last = self.state.silent.last_key_value();
        if last.is_some_and(|(last, _)| *last >= session) {
            return Err("the silent sessions are not in order");
        }
        let ttl = self.state.session_ttl(session);
        if ttl.is_none_or(|ttl| spent > ttl) {
            return Err("a session that does not exist is silent, or one for longer than its TTL");
        }
        self.state.silent.insert(session, spent);
        Ok(())
    }

    fn session_of(&mut self, id: SessionId) -> Result<&mut Session, &'static str> {
        let session = self.state.sessions.get_mut(&id);
        session.ok_or("a holder or waiter has no session")
    }

    /// Notes with a session what it acquired.
    fn note(
        &mut self,
        session: SessionId,
        acquire: Sequence,
        acquisition: Acquisition,
        new: bool,
    ) -> Checked {
        let session = self.session_of(session)?;
        if session.acquisitions().len() >= ACQUISITIONS_PER_SESSION_MAX {
            return Err("a session has more acquisitions than it may have");
        }
        let known = new && session.acquisitions().contains_key(&acquire);
        if known || session.answers().contains_key(&acquire) || acquire > session.window_end() {
            return Err("an acquisition's number is taken, or out of its session's window");
        }
        session.add(acquire, acquisition);
        Ok(())
    }
}

fn check_hold(hold: &Hold) -> Checked {
    if matches!(hold.mode, Mode::Permit { of } if hold.slot >= of) {
        return Err("a hold has a permit that does not exist");
    }
    let Some(more) = &hold.more else {
        return Ok(());
    };
    for text in [&more.owner, &more.breaking].into_iter().flatten() {
        check_text("", text).map_err(|_| "an owner or the reason of a break is not allowed")?;
    }
    if more.reentries.len() > REENTRIES_MAX as usize || more.delay.0 > LOCK_DELAY_MAX_MS {
        return Err("a hold has more re-entries or a longer delay than it may have");
    }
    if more.owner.is_none() && !more.reentries.is_empty() {
        return Err("a hold without owner was entered again");
    }
    Ok(())
}

/// Whether two holds of one lock have the same permit.
fn same_permit(one: &Hold, other: &Hold) -> bool {
    matches!(other.mode, Mode::Permit { .. }) && one.slot == other.slot
}

/// The bytes after the head, or none if it is not all there.
fn check_head(bytes: &[u8]) -> Result<Option<&[u8]>, SnapshotError> {
    let there = bytes.len().min(MAGIC.len());
    if bytes[..there] != MAGIC[..there] {
        return Err(SnapshotError::Foreign);
    }
    match bytes.get(MAGIC.len()) {
        None => Ok(None),
        Some(&VERSION) => Ok(Some(&bytes[MAGIC.len() + 1..])),
        Some(&found) => Err(SnapshotError::Version { found }),
    }
}

const _: () = assert!(SESSION_WINDOW > 0 && ITEM_BYTES_MAX > MAGIC.len() + 1);
