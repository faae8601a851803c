//! Acquiring locks.

use std::sync::Arc;
use std::time::Duration;

use lockd_protocol::client::{
    self as protocol, Acquire, MetadataTooLong, Operation, Owner, Value, Want, Wants,
};
use lockd_protocol::{InvalidName, LockName, Millis, Mode};
use tokio::sync::oneshot;
use tracing::{Instrument as _, field};

use crate::check::{self, check};
use crate::core::RequestId;
use crate::error::AcquireError;
use crate::guard::LockGuard;
use crate::handle::Session;
use crate::slot::{Queued, Waiter};
use crate::task::Command;
use crate::trace::{self, Names};

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
            Wait::For(span) => protocol::Wait::For(millis(span)),
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

/// A lock and how it is to be held, given as a name (exclusively) or as a name and a [`Mode`].
#[derive(Clone, Debug)]
pub struct WantArg(pub(crate) Result<Want, InvalidName>);

impl<N: Into<NameArg>> From<N> for WantArg {
    fn from(name: N) -> WantArg {
        WantArg::new(name.into(), Mode::Exclusive)
    }
}

impl<N: Into<NameArg>> From<(N, Mode)> for WantArg {
    fn from((name, mode): (N, Mode)) -> WantArg {
        WantArg::new(name.into(), mode)
    }
}

impl WantArg {
    pub(crate) fn new(name: NameArg, mode: Mode) -> WantArg {
        WantArg(name.0.map(|lock| Want { lock, mode }))
    }
}

/// How locks are to be acquired.
#[derive(Clone, Debug)]
#[must_use = "nothing happens until `acquire`"]
pub struct LockBuilder {
    session: Arc<Session>,
    wants: Result<Wants, InvalidName>,
    wait: Wait,
    ticket: bool,
    owner: Option<Owner>,
    barge: bool,
    delay: Duration,
    metadata: Result<Value, MetadataTooLong>,
    queued: Option<Queued>,
    /// Two settings that do not go together.
    invalid: Option<AcquireError>,
}

impl LockBuilder {
    pub(crate) fn new(session: Arc<Session>, wants: Result<Wants, InvalidName>) -> LockBuilder {
        LockBuilder {
            session,
            wants,
            wait: Wait::default(),
            ticket: true,
            owner: None,
            barge: false,
            delay: Duration::ZERO,
            metadata: Ok(Value::default()),
            queued: None,
            invalid: None,
        }
    }

    pub(crate) fn session(&self) -> Arc<Session> {
        Arc::clone(&self.session)
    }

    /// An acquisition that fails with this error.
    pub(crate) fn invalid(mut self, error: AcquireError) -> LockBuilder {
        self.invalid.get_or_insert(error);
        self
    }

    /// How long to wait if a lock is taken: for ever unless set.
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

    /// Beside others who hold the lock as shared, and beside nobody else. Readers do not overtake
    /// a writer that waits.
    pub fn shared(mut self) -> LockBuilder {
        let mut permit = None;
        let mut shared = |want: &mut Want| match want.mode {
            Mode::Permit { of } => permit = Some(of),
            _ => want.mode = Mode::Shared,
        };
        match &mut self.wants {
            Ok(Wants::One(want)) => shared(want),
            Ok(Wants::All(wants) | Wants::Any(wants)) => wants.iter_mut().for_each(shared),
            Err(_) => {}
        }
        match permit {
            Some(of) => {
                let problem = format!(
                    "do not go together: one of {of} permits is held beside others as it is"
                );
                self.invalid(check::invalid("shared and permits", problem))
            }
            None => self,
        }
    }

    /// On whose behalf within the session: somebody who does one thing after the other, such as a
    /// thread. A wait that would close a circle of owners who wait for each other is then refused
    /// at once, with [`AcquireError::Deadlock`]; and the owner of a lock does not get it twice.
    ///
    /// Without an owner nothing is known of who would wait for whom: of two tasks that share a
    /// session, one may well wait for what the other will give back.
    pub fn owner(mut self, name: impl Into<String>) -> LockBuilder {
        self.owner = Some(Owner {
            name: name.into(),
            reentries: 1,
        });
        self
    }

    /// Like [`LockBuilder::owner`], but the owner of a lock may acquire it again, up to `limit`
    /// times at the same time, and gets the same token each time. The lock is free when the last
    /// of its guards is.
    pub fn reentrant(mut self, name: impl Into<String>, limit: u32) -> LockBuilder {
        self.owner = Some(Owner {
            name: name.into(),
            reentries: limit,
        });
        self
    }

    /// Takes what is free although others wait for it. What is not free is waited for in turn.
    pub fn barging(mut self) -> LockBuilder {
        self.barge = true;
        self
    }

    /// Keeps the lock closed to everybody for a while should this session expire with it: time for
    /// what this holder has sent to arrive where nobody looks at tokens. At most a minute.
    pub fn delay_after_expiry(mut self, delay: Duration) -> LockBuilder {
        self.delay = delay;
        self
    }

    /// Puts these bytes, at most 4 KiB, on what is acquired, in the same step as the grant: for
    /// whoever [watches](crate::Client::watch) or asks [who](crate::Client::who) holds it. They are
    /// gone with the hold. [`LockGuard::set_metadata`] puts others there.
    pub fn metadata(mut self, bytes: impl AsRef<[u8]>) -> LockBuilder {
        self.metadata = Value::new(bytes.as_ref());
        self
    }

    /// Has `tell` called when the acquisition has to wait, with the number of those who wait before
    /// it at the lock where they are most; again after a change of leader. It is called on the
    /// client's background task, which it must not block.
    pub fn on_queued(mut self, tell: impl Fn(u32) + Send + Sync + 'static) -> LockBuilder {
        self.queued = Some(Queued(Arc::new(tell)));
        self
    }

    /// Acquires. Waiters are served in the order in which the cell got to know them.
    ///
    /// Dropping the future at any moment leaves the queue; if the lock had just been granted, it
    /// is given back.
    ///
    /// # Errors
    /// [`AcquireError`]. Whatever it says, nothing is held.
    pub async fn acquire(self) -> Result<LockGuard, AcquireError> {
        let wants = self.wants?;
        let metadata = self.metadata?;
        if let Some(invalid) = self.invalid {
            return Err(invalid);
        }
        let span = trace::span!(
            "acquire",
            locks = %Names(&wants),
            wait = ?self.wait,
            token = field::Empty,
            outcome = field::Empty,
        );
        let acquire = Acquire {
            wants,
            wait: self.wait.into(),
            ticket: self.ticket,
            owner: self.owner,
            barge: self.barge,
            delay: millis(self.delay),
            metadata,
        };
        let result = submit(self.session, acquire, self.wait, self.queued);
        let result = result.instrument(span.clone());
        let result = result.await;
        if let Ok(guard) = &result {
            span.record("token", guard.token().0);
        }
        trace::outcome(&span, &result, "granted");
        result
    }
}

async fn submit(
    session: Arc<Session>,
    acquire: Acquire,
    wait: Wait,
    queued: Option<Queued>,
) -> Result<LockGuard, AcquireError> {
    check(&acquire)?;
    let (reply, mut answer) = oneshot::channel();
    let request = session.shared.next_request();
    let command = Command::Submit {
        slot: session.slot(),
        request,
        waiter: Waiter::Acquire {
            wants: acquire.wants.clone(),
            session: Arc::clone(&session),
            queued,
            reply,
        },
        operation: Operation::Acquire(acquire),
    };
    session.send(command).map_err(|_| AcquireError::Closed)?;
    let pending = Pending { session, request };
    let shared = &pending.session.shared;
    let patience = shared.request_timeout;
    let limit = match wait {
        Wait::Try => Some(patience),
        Wait::For(span) => Some(span.saturating_add(patience)),
        Wait::Forever => None,
    };
    let answered = match limit {
        None => (&mut answer).await,
        Some(within) => match shared.clock.timeout(within, &mut answer).await {
            Some(answered) => answered,
            None => return Err(AcquireError::Unavailable { within }),
        },
    };
    pending.answered();
    answered.unwrap_or(Err(AcquireError::Closed))
}

fn millis(span: Duration) -> Millis {
    Millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
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
            tracing::Span::current().record("outcome", "given up");
            // Without a background task the acquisition ends with its session.
            let _ = self.session.send(take_back);
        }
    }
}
