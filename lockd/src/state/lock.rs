//! A lock: its holder and its queue. A lock that nobody holds does not exist.

use std::collections::BTreeMap;

use lockd_protocol::client::Wait;
use lockd_protocol::{Mode, Sequence, SessionId, Token};
use serde::{Deserialize, Serialize};

use super::Effect;

/// A lock that is held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Lock {
    pub(super) hold: Hold,
    /// Waiters by place; places rise in log order, so the queue is first in, first out.
    pub(super) queue: BTreeMap<u64, Waiter>,
}

/// A grant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Hold {
    pub(super) session: SessionId,
    pub(super) acquire: Sequence,
    pub(super) token: Token,
    pub(super) mode: Mode,
    /// Whether the ticket was asked for.
    pub(super) ticket: bool,
    /// Why the lock is being taken away, if it is.
    pub(super) breaking: Option<String>,
}

impl Hold {
    pub(super) fn new(waiter: &Waiter, token: Token) -> Hold {
        Hold {
            session: waiter.session,
            acquire: waiter.acquire,
            token,
            mode: waiter.mode,
            ticket: waiter.ticket,
            breaking: None,
        }
    }
}

/// An acquisition that is not granted yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Waiter {
    pub(super) session: SessionId,
    pub(super) acquire: Sequence,
    pub(super) mode: Mode,
    pub(super) wait: Wait,
    pub(super) ticket: bool,
}

impl Waiter {
    /// What tells a leader to limit this wait.
    pub(super) fn wait_began(&self) -> Option<Effect> {
        let Wait::For(limit) = self.wait else {
            return None;
        };
        Some(Effect::WaitBegan {
            session: self.session,
            acquire: self.acquire,
            limit,
        })
    }
}
