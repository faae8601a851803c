//! What a client asks to be done: changes of the replicated state.

use serde::{Deserialize, Serialize};

use super::watch::Value;
use crate::types::{EventNumber, LockName, Millis, Mode, Sequence, Token};

/// How long an acquisition may wait in the lock's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wait {
    /// Not at all: answer at once.
    Try,
    /// At most this long, counted by the leader from the moment the request was queued.
    For(Millis),
    /// Until granted, cancelled, or the session ends.
    Forever,
}

/// A lock, and how it is to be held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Which lock.
    pub lock: LockName,
    /// How.
    pub mode: Mode,
}

/// What an acquisition is to get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wants {
    /// One lock.
    One(Want),
    /// All of these, in one step: never some of them.
    All(Vec<Want>),
    /// One of these: the first in this order that is free, or else the first that becomes free.
    Any(Vec<Want>),
}

impl Wants {
    /// Every lock that is named.
    #[must_use]
    pub fn each(&self) -> &[Want] {
        match self {
            Wants::One(want) => std::slice::from_ref(want),
            Wants::All(wants) | Wants::Any(wants) => wants,
        }
    }
}

/// Who acquires within a session: somebody who does one thing after the other, such as a thread.
///
/// Only acquisitions with an owner can be re-entered, and only they are looked at for deadlocks:
/// of two tasks that share a session, one may well wait for what the other will give back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its name in the session: at most [`crate::limits::TEXT_BYTES_MAX`] bytes.
    pub name: String,
    /// How often it may hold one lock at the same time, all under the same token; 1: not
    /// reentrant. At most [`crate::limits::REENTRIES_MAX`].
    pub reentries: u32,
}

/// An acquisition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acquire {
    /// What is to be had.
    pub wants: Wants,
    /// How long to queue.
    pub wait: Wait,
    /// Whether the grant is to come with its signed tickets.
    pub ticket: bool,
    /// On whose behalf within the session, if that matters.
    pub owner: Option<Owner>,
    /// Whether what is free is taken although others wait for it. If it is not free, the
    /// acquisition queues behind them.
    pub barge: bool,
    /// How long the lock stays closed to everybody if its holder's session expires: time for
    /// what the holder has sent to arrive. At most [`crate::limits::LOCK_DELAY_MAX_MS`].
    pub delay: Millis,
    /// What is put on each of its grants from the start: nothing, if it is empty.
    pub metadata: Value,
}

impl Acquire {
    /// The plain acquisition of one lock: in its turn, without owner, ticket or delay.
    #[must_use]
    pub fn one(lock: LockName, mode: Mode, wait: Wait) -> Acquire {
        Acquire {
            wants: Wants::One(Want { lock, mode }),
            wait,
            ticket: false,
            owner: None,
            barge: false,
            delay: Millis(0),
            metadata: Value::default(),
        }
    }
}

/// A change of the replicated state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Operation {
    /// Takes locks, or queues for them.
    Acquire(Acquire),
    /// Takes back an acquisition: it leaves the queue, or gives up the grant it just got.
    Cancel {
        /// Number of the acquisition's request.
        acquire: Sequence,
    },
    /// Gives back what an acquisition got, all of it.
    Release {
        /// Number of the acquisition's request.
        acquire: Sequence,
        /// The lowest token of its grants. Only these grants are given back.
        token: Token,
    },
    /// Holds in [`Mode::Shared`] what an acquisition got in [`Mode::Exclusive`], under the tokens
    /// that it has.
    Downgrade {
        /// Number of the acquisition's request.
        acquire: Sequence,
        /// The lowest token of its grants.
        token: Token,
        /// Whether the answer is to come with tickets that say so.
        ticket: bool,
    },
    /// Ends the session and all that it holds or waits for.
    Close,
    /// Takes a lock from whoever holds it.
    Break {
        /// Which lock.
        lock: LockName,
        /// Why, for the holders and for the log: at most [`crate::limits::TEXT_BYTES_MAX`] bytes.
        reason: String,
        /// `false`: the holders are told, and the lock moves when they have let go or their leases
        /// must have ended. `true`: the lock moves at once, and for the rest of its lease an old
        /// holder may believe that it still holds it (only the fence protects).
        at_once: bool,
    },
    /// Puts other metadata on a grant.
    SetMetadata {
        /// Number of the acquisition's request.
        acquire: Sequence,
        /// Token of the grant. Another one's is left alone.
        token: Token,
        /// Only if this is the version that is there; 0: only if none was ever put there.
        expect: Option<EventNumber>,
        /// What is to be there.
        value: Value,
    },
}
