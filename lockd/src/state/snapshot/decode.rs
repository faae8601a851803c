//! Reading a snapshot, which may come from a damaged disk or from anyone.

use lockd_protocol::client::Outcome;
use lockd_protocol::limits::{
    ACQUISITIONS_PER_SESSION_MAX, SESSION_WINDOW, TTL_MAX_MS, TTL_MIN_MS,
};
use lockd_protocol::{LockName, Millis, Nonce, Sequence, SessionId};
use thiserror::Error;

use super::{ITEM_BYTES_MAX, Item, MAGIC, VERSION};
use crate::limits::SESSIONS_MAX;
use crate::state::lock::{Hold, Lock, Waiter};
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

/// What may come next.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    Head,
    Counters,
    /// Sessions and locks; an answer belongs to the session, a waiter to the lock.
    Sessions(Option<(SessionId, Session)>),
    Locks(LockName, Lock),
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
        if matches!(self.stage, Stage::Head) {
            let Some(after) = check_head(left)? else {
                self.rest = held;
                return Ok(());
            };
            left = after;
            self.stage = Stage::Counters;
        }
        while !left.is_empty() {
            if matches!(self.stage, Stage::End) {
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
        match item {
            Item::Counters {
                last_session,
                last_token,
                last_place,
                leadership,
            } => {
                if !matches!(self.stage, Stage::Counters) {
                    return Err("the counters come first, and once");
                }
                self.state.last_session = last_session;
                self.state.last_token = last_token;
                self.state.last_place = last_place;
                self.state.leadership = leadership;
                self.stage = Stage::Sessions(None);
            }
            Item::Session {
                id,
                nonce,
                ttl,
                label,
                floor,
            } => self.session(id, nonce, ttl, label, floor)?,
            Item::Answer { sequence, outcome } => self.answer(sequence, outcome.into_owned())?,
            Item::Lock { name, hold } => self.lock(name, hold.into_owned())?,
            Item::Waiter { place, waiter } => self.waiter(place, waiter)?,
            Item::End { items } => {
                if items != self.items {
                    return Err("it counts another number of items than there were");
                }
                self.end_of_group()?;
                self.stage = Stage::End;
            }
        }
        self.items += 1;
        Ok(())
    }

    /// Puts the session or lock that was being built in its place.
    fn end_of_group(&mut self) -> Checked {
        match std::mem::replace(&mut self.stage, Stage::Sessions(None)) {
            Stage::Head | Stage::Counters | Stage::End => Err("the counters come first"),
            Stage::Sessions(None) => Ok(()),
            Stage::Sessions(Some((id, session))) => {
                if self.state.nonces.insert(session.nonce(), id).is_some() {
                    return Err("two sessions have the same nonce");
                }
                self.state.sessions.insert(id, session);
                Ok(())
            }
            Stage::Locks(name, lock) => {
                self.state.locks.insert(name, lock);
                Ok(())
            }
        }
    }

    fn session(
        &mut self,
        id: SessionId,
        nonce: Nonce,
        ttl: Millis,
        label: &str,
        floor: Sequence,
    ) -> Checked {
        if !matches!(self.stage, Stage::Sessions(_)) {
            return Err("sessions follow the counters");
        }
        self.end_of_group()?;
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
        if !(TTL_MIN_MS..=TTL_MAX_MS).contains(&ttl.0) {
            return Err("a session's TTL is not allowed");
        }
        check_text("", label).map_err(|_| "a session's label is not allowed")?;
        let mut session = Session::new(nonce, ttl, label.to_owned());
        session.acknowledge(floor);
        self.stage = Stage::Sessions(Some((id, session)));
        Ok(())
    }

    fn answer(&mut self, sequence: Sequence, outcome: Outcome) -> Checked {
        let Stage::Sessions(Some((_, session))) = &mut self.stage else {
            return Err("an answer belongs to no session");
        };
        let last = session.answers().last_key_value();
        let last = last.map_or(session.floor(), |(last, _)| *last);
        if sequence <= last || sequence > session.window_end() {
            return Err("an answer is out of order, or out of its session's window");
        }
        session.answer(sequence, outcome);
        Ok(())
    }

    fn lock(&mut self, name: LockName, hold: Hold) -> Checked {
        if !matches!(self.stage, Stage::Sessions(_) | Stage::Locks(..)) {
            return Err("locks follow the sessions");
        }
        self.end_of_group()?;
        let last = self.state.locks.last_key_value();
        if last.is_some_and(|(last, _)| *last >= name) {
            return Err("the locks are not in order");
        }
        if !hold.token.is_valid() || hold.token > self.state.last_token {
            return Err("a lock's token was never given out");
        }
        if let Some(reason) = &hold.breaking {
            check_text("", reason).map_err(|_| "the reason of a break is not allowed")?;
        }
        let acquisition = Acquisition::held(name.clone());
        let holder = self.acquisition(hold.session, hold.acquire, acquisition)?;
        holder.breaking += u32::from(hold.breaking.is_some());
        let queue = std::collections::BTreeMap::new();
        self.stage = Stage::Locks(name, Lock { hold, queue });
        Ok(())
    }

    fn waiter(&mut self, place: u64, waiter: Waiter) -> Checked {
        let Stage::Locks(name, lock) = &mut self.stage else {
            return Err("a waiter belongs to no lock");
        };
        let last = lock.queue.last_key_value().map_or(0, |(last, _)| *last);
        if place <= last || place > self.state.last_place {
            return Err("a waiter's place is out of order, or was never given out");
        }
        let acquisition = Acquisition::queued(name.clone(), place);
        let (session, acquire) = (waiter.session, waiter.acquire);
        lock.queue.insert(place, waiter);
        self.acquisition(session, acquire, acquisition).map(drop)
    }

    /// Notes with a session what it acquired.
    fn acquisition(
        &mut self,
        session: SessionId,
        acquire: Sequence,
        acquisition: Acquisition,
    ) -> Result<&mut Session, &'static str> {
        let Some(session) = self.state.sessions.get_mut(&session) else {
            return Err("a holder or waiter has no session");
        };
        if session.acquisitions().len() >= ACQUISITIONS_PER_SESSION_MAX {
            return Err("a session has more acquisitions than it may have");
        }
        let known = session.acquisitions().contains_key(&acquire);
        if known || session.answers().contains_key(&acquire) || acquire > session.window_end() {
            return Err("an acquisition's number is taken, or out of its session's window");
        }
        session.add(acquire, acquisition);
        Ok(session)
    }
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
