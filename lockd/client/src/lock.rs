//! Acquiring a lock.

use std::sync::Arc;
use std::time::Duration;

use lockd_protocol::client::{self as protocol, Operation};
use lockd_protocol::{InvalidName, LockName, Millis, Mode};
use tokio::sync::oneshot;

use crate::core::RequestId;
use crate::error::AcquireError;
use crate::guard::LockGuard;
use crate::handle::Session;
use crate::slot::Waiter;
use crate::task::Command;

/// How long to wait for a lock that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Wait {
    /// Not at all.
    Try,
    /// At most this long, counted by the cell.
    For(Duration),
    /// Until it is free.
    #[default]
    Forever,
}

impl From<Wait> for protocol::Wait {
    fn from(wait: Wait) -> protocol::Wait {
        match wait {
            Wait::Try => protocol::Wait::Try,
            Wait::For(span) => {
                let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
                protocol::Wait::For(Millis(millis))
            }
            Wait::Forever => protocol::Wait::Forever,
        }
    }
}

/// A lock's name, given as text or as a [`LockName`] that was checked before.
#[derive(Clone, Debug)]
pub struct NameArg(pub(crate) Result<LockName, InvalidName>);

impl From<&str> for NameArg {
    fn from(name: &str) -> NameArg {
        NameArg(LockName::new(name))
    }
}

impl From<&String> for NameArg {
    fn from(name: &String) -> NameArg {
        NameArg(LockName::new(name))
    }
}

impl From<String> for NameArg {
    fn from(name: String) -> NameArg {
        NameArg(LockName::new(&name))
    }
}

impl From<LockName> for NameArg {
    fn from(name: LockName) -> NameArg {
        NameArg(Ok(name))
    }
}

impl From<&LockName> for NameArg {
    fn from(name: &LockName) -> NameArg {
        NameArg(Ok(name.clone()))
    }
}

/// How a lock is to be acquired.
#[derive(Clone, Debug)]
#[must_use = "nothing happens until `acquire`"]
pub struct LockBuilder {
    session: Arc<Session>,
    name: NameArg,
    wait: Wait,
    ticket: bool,
}

impl LockBuilder {
    pub(crate) fn new(session: Arc<Session>, name: NameArg) -> LockBuilder {
        LockBuilder {
            session,
            name,
            wait: Wait::default(),
            ticket: true,
        }
    }

    /// How long to wait if the lock is taken: for ever unless set.
    pub fn wait(mut self, wait: Wait) -> LockBuilder {
        self.wait = wait;
        self
    }

    /// Does without the signed ticket, which saves the cell a signature. The gateway admits
    /// writes with a ticket only.
    pub fn without_ticket(mut self) -> LockBuilder {
        self.ticket = false;
        self
    }

    /// Acquires the lock. Waiters are served in the order in which the cell got to know them.
    ///
    /// Dropping the future at any moment leaves the queue; if the lock had just been granted, it
    /// is given back.
    ///
    /// # Errors
    /// [`AcquireError`]. Whatever it says, the lock is not held.
    pub async fn acquire(self) -> Result<LockGuard, AcquireError> {
        let name = self.name.0?;
        let session = self.session;
        let (reply, mut answer) = oneshot::channel();
        let request = session.shared.next_request();
        let command = Command::Submit {
            slot: session.slot(),
            request,
            operation: Operation::Acquire {
                lock: name.clone(),
                mode: Mode::Exclusive,
                wait: self.wait.into(),
                ticket: self.ticket,
            },
            waiter: Waiter::Acquire {
                name,
                session: Arc::clone(&session),
                reply,
            },
        };
        session.send(command).map_err(|_| AcquireError::Closed)?;
        let pending = Pending { session, request };
        let patience = pending.session.shared.request_timeout;
        let limit = match self.wait {
            Wait::Try => Some(patience),
            Wait::For(span) => Some(span.saturating_add(patience)),
            Wait::Forever => None,
        };
        let answered = match limit {
            None => (&mut answer).await,
            Some(within) => match tokio::time::timeout(within, &mut answer).await {
                Ok(answered) => answered,
                Err(_) => return Err(AcquireError::Unavailable { within }),
            },
        };
        pending.answered();
        answered.unwrap_or(Err(AcquireError::Closed))
    }
}

/// An acquisition on its way. Dropped before its answer, it is taken back.
struct Pending {
    session: Arc<Session>,
    request: RequestId,
}

impl Pending {
    fn answered(mut self) {
        self.request = ANSWERED;
    }
}

/// No request has this number.
const ANSWERED: RequestId = RequestId(0);

impl Drop for Pending {
    fn drop(&mut self) {
        if self.request != ANSWERED {
            let take_back = Command::TakeBack {
                slot: self.session.slot(),
                request: self.request,
            };
            // Without a background task the acquisition ends with its session.
            let _ = self.session.send(take_back);
        }
    }
}
