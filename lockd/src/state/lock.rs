//! A lock: who holds it, who waits for it, and when there is room for one more.
//!
//! All holds of a lock have the same mode: one exclusive, or any number of shared ones, or as many
//! permits as the semaphore has. A lock that nobody holds or waits for does not exist, unless it is
//! closed for a while after its holder's session expired.

use std::collections::BTreeMap;

use lockd_protocol::client::{Acquire, Grant, Metadata, Wait};
use lockd_protocol::{Millis, Mode, Sequence, SessionId, Token};
use serde::{Deserialize, Serialize};

use super::Effect;

/// A lock that somebody holds or waits for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Lock {
    /// In order of tokens.
    pub(super) holds: Vec<Hold>,
    /// What the waiters want, by place. Places rise in log order, over all locks.
    pub(super) queue: BTreeMap<u64, Mode>,
}

/// A lock that stays closed for a while.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Closed {
    /// Token of the grant whose end closed it.
    pub(super) token: Token,
    /// For how long.
    pub(super) span: Millis,
}

/// A grant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Hold {
    pub(super) session: SessionId,
    /// Number of the acquisition.
    pub(super) acquire: Sequence,
    pub(super) token: Token,
    pub(super) mode: Mode,
    /// Which permit of a semaphore; 0 in other modes.
    pub(super) slot: u32,
    /// Which of its acquisition's wants this is.
    pub(super) want: u32,
    /// Whether the ticket was asked for.
    pub(super) ticket: bool,
    /// What most grants do not have.
    pub(super) more: Option<Box<More>>,
}

/// What few grants have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct More {
    /// On whose behalf within the session it is held.
    pub(super) owner: Option<String>,
    /// Further acquisitions of the same owner under the same token.
    pub(super) reentries: Vec<Sequence>,
    /// Why it is being taken away, if it is.
    pub(super) breaking: Option<String>,
    /// How long the lock stays closed if the session expires.
    pub(super) delay: Millis,
    /// What its holder has put on it.
    pub(super) metadata: Option<Metadata>,
}

impl Hold {
    pub(super) fn grant(&self) -> Grant {
        Grant {
            want: self.want,
            token: self.token,
            slot: self.slot,
        }
    }

    /// Every acquisition that this grant belongs to, the first one first.
    pub(super) fn acquisitions(&self) -> impl Iterator<Item = Sequence> {
        let reentries = self.more.iter().flat_map(|more| &more.reentries);
        std::iter::once(self.acquire).chain(reentries.copied())
    }

    pub(super) fn owner(&self) -> Option<&str> {
        self.more.as_ref()?.owner.as_deref()
    }

    pub(super) fn breaking(&self) -> Option<&str> {
        self.more.as_ref()?.breaking.as_deref()
    }

    pub(super) fn delay(&self) -> Millis {
        self.more.as_ref().map_or(Millis(0), |more| more.delay)
    }

    pub(super) fn metadata(&self) -> Option<&Metadata> {
        self.more.as_ref()?.metadata.as_ref()
    }

    pub(super) fn more_mut(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    /// How often its owner holds the lock.
    pub(super) fn times(&self) -> usize {
        1 + self.more.as_ref().map_or(0, |more| more.reentries.len())
    }

    /// Takes one acquisition off this grant. `false`: it was the last one.
    pub(super) fn leave(&mut self, acquire: Sequence) -> bool {
        let Some(more) = self.more.as_mut().filter(|more| !more.reentries.is_empty()) else {
            return false;
        };
        if self.acquire == acquire {
            self.acquire = more.reentries.remove(0);
        } else {
            more.reentries.retain(|reentry| *reentry != acquire);
        }
        true
    }
}

/// An acquisition that is not granted yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Waiter {
    pub(super) session: SessionId,
    pub(super) sequence: Sequence,
    pub(super) acquire: Acquire,
}

impl Waiter {
    /// What tells a leader to limit this wait.
    pub(super) fn wait_began(&self) -> Option<Effect> {
        let Wait::For(limit) = self.acquire.wait else {
            return None;
        };
        Some(Effect::WaitBegan {
            session: self.session,
            acquire: self.sequence,
            limit,
        })
    }

    pub(super) fn owner(&self) -> Option<&str> {
        self.acquire.owner.as_ref().map(|owner| owner.name.as_str())
    }
}

/// What stands before a place in a queue.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ahead {
    shared: bool,
    /// Somebody whom nobody may overtake.
    other: bool,
}

impl Ahead {
    pub(super) fn add(&mut self, mode: Mode) {
        match mode {
            Mode::Shared => self.shared = true,
            _ => self.other = true,
        }
    }

    /// Whether somebody who wants `mode` has to wait for those ahead, should there be room.
    pub(super) fn blocks(self, mode: Mode) -> bool {
        self.other || (self.shared && mode != Mode::Shared)
    }

    /// Whether they block everybody.
    pub(super) fn blocks_all(self) -> bool {
        self.other
    }
}

impl Lock {
    /// Adds a grant, whose token is the newest.
    pub(super) fn add(&mut self, hold: Hold) {
        if self.holds.is_empty() {
            // Most locks have one holder, and are many.
            self.holds.reserve_exact(1);
        }
        self.holds.push(hold);
    }

    /// Whether those who hold the lock leave room for one more.
    pub(super) fn has_room(&self, mode: Mode) -> bool {
        let Some(first) = self.holds.first() else {
            return true;
        };
        match mode {
            Mode::Shared => first.mode == Mode::Shared,
            Mode::Permit { of } => first.mode == mode && self.holds.len() < of as usize,
            _ => false,
        }
    }

    /// What stands before `place`.
    pub(super) fn ahead_of(&self, place: u64) -> Ahead {
        let mut ahead = Ahead::default();
        for mode in self.queue.range(..place).map(|(_, mode)| *mode) {
            ahead.add(mode);
            if ahead.blocks_all() {
                break;
            }
        }
        ahead
    }

    /// Whether somebody at `place` may be granted `mode` now.
    pub(super) fn is_open_to(&self, mode: Mode, place: u64) -> bool {
        self.has_room(mode) && !self.ahead_of(place).blocks(mode)
    }

    /// The lowest permit that nobody has.
    pub(super) fn free_slot(&self) -> u32 {
        let mut taken = vec![false; self.holds.len()];
        for hold in &self.holds {
            if let Some(slot) = taken.get_mut(hold.slot as usize) {
                *slot = true;
            }
        }
        let free = taken.iter().position(|taken| !taken);
        free.unwrap_or(self.holds.len()) as u32
    }

    /// How many permits the semaphore has at present, if it is one.
    pub(super) fn permits(&self) -> Option<u32> {
        let held = self.holds.first().map(|hold| hold.mode);
        held.into_iter()
            .chain(self.queue.values().copied())
            .find_map(|mode| match mode {
                Mode::Permit { of } => Some(of),
                _ => None,
            })
    }

    /// Where the grant with this token is among the holds.
    pub(super) fn find(&self, token: Token) -> Option<usize> {
        self.holds
            .binary_search_by_key(&token, |hold| hold.token)
            .ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.holds.is_empty() && self.queue.is_empty()
    }
}
