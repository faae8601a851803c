//! What the holder of a lock has in hand.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lockd_protocol::client::{Metadata, Value};
use lockd_protocol::ticket::TicketText;
use lockd_protocol::{EventNumber, LockName, SessionId, Token};
use tokio::sync::oneshot;
use tracing::{Instrument as _, field};

use crate::client::Client;
use crate::core::Time;
use crate::error::{
    DowngradeError, DowngradeProblem, LostReason, MetadataError, QueryError, ReleaseError,
    ReleaseOutcome,
};
use crate::handle::{Session, Shared};
use crate::lease::{Grant, HeldLock};
use crate::slot::ReleaseReply;
use crate::task::Command;
use crate::trace::{self, Names};

/// Whether a lock is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardState {
    /// It is, and its lease is being renewed.
    Held,
    /// It is, but renewals are late or the cell is out of reach: without a renewal it is lost at
    /// `until`. A renewal brings it back to `Held`.
    Jeopardy {
        /// When it will be lost, on the boot-time clock.
        until: Time,
    },
    /// It is not, or must not be relied on any more. Final for this guard.
    Lost {
        /// Why.
        reason: LostReason,
    },
}

/// A held lock.
///
/// Not tied to a thread or a task. Dropping it hands the release to the client's background
/// task, without waiting; [`LockGuard::release`] waits for the cell to confirm.
///
/// A guard alone protects nothing: its holder can be paused past its deadline between looking
/// and writing. Show the [ticket](LockGuard::ticket) to the gateway in front of the data, or
/// compare the [token](LockGuard::token) where the data is.
#[must_use = "a guard that is dropped gives its locks back"]
pub struct LockGuard {
    grant: Arc<Grant>,
    session: Arc<Session>,
    released: bool,
}

impl LockGuard {
    pub(crate) fn new(grant: Arc<Grant>, session: Arc<Session>) -> LockGuard {
        LockGuard {
            grant,
            session,
            released: false,
        }
    }

    /// The lock's name; of several locks, the first one's.
    #[must_use]
    pub fn name(&self) -> &LockName {
        &self.first().name
    }

    /// The fencing token: higher than that of every grant before, over all locks of the cell. Of
    /// several locks, the first one's.
    #[must_use]
    pub fn token(&self) -> Token {
        self.first().token
    }

    /// Which permit of a semaphore this is, counted from 0; 0 for other locks.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.first().slot
    }

    /// The signed form of the grant, for gateways; `None` after
    /// [`without_ticket`](crate::LockBuilder::without_ticket). Of several locks, the first one's.
    #[must_use]
    pub fn ticket(&self) -> Option<&TicketText> {
        self.first().ticket.as_ref()
    }

    /// All tickets, with a space between them: what to show to a gateway.
    #[must_use]
    pub fn tickets(&self) -> String {
        let tickets = self.locks().iter().filter_map(|lock| lock.ticket.as_ref());
        let texts: Vec<&str> = tickets.map(TicketText::as_str).collect();
        texts.join(" ")
    }

    /// Every lock that is held, in the order in which they were named.
    #[must_use]
    pub fn locks(&self) -> &[HeldLock] {
        &self.grant.locks
    }

    pub(crate) fn handle(&self) -> Arc<Session> {
        Arc::clone(&self.session)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.session.shared
    }

    fn first(&self) -> &HeldLock {
        // A guard is made of a grant of at least one lock: see `Slot::done`.
        &self.grant.locks[0]
    }

    /// The session that holds the lock.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.grant.lease.session
    }

    /// Until when nobody else is granted the lock, on the boot-time clock, short of a break "at
    /// once" or the guard's own release. Every renewal moves it while the lock is not lost.
    ///
    /// After a loss it stays where it was: the holder of a lock that an operator breaks has until
    /// then to stop.
    #[must_use]
    pub fn deadline(&self) -> Time {
        self.grant.deadline()
    }

    /// How long it is to the deadline; zero once the lock is lost.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        match self.state() {
            GuardState::Lost { .. } => Duration::ZERO,
            _ => self.deadline().since(self.grant.lease.clock.now()),
        }
    }

    /// Whether the lock is held. Looks at the clock, so that it never says `Held` past the
    /// deadline, however busy or paused this process was.
    #[must_use]
    pub fn state(&self) -> GuardState {
        self.grant.state()
    }

    /// An error once the lock must not be relied on any more: for work in steps.
    ///
    /// # Errors
    /// Why it was lost.
    pub fn check(&self) -> Result<(), LostReason> {
        match self.state() {
            GuardState::Lost { reason } => Err(reason),
            _ => Ok(()),
        }
    }

    /// Resolves when the lock must not be relied on any more. Cancel-safe.
    ///
    /// A lock that an operator breaks moves on when this guard is dropped or released, or at the
    /// [deadline](LockGuard::deadline): so stop first, then let go.
    pub async fn lost(&self) -> LostReason {
        self.grant.lost().await
    }

    /// Runs `work` as long as the lock is held: drops it at the moment at which the lock must not
    /// be relied on any more.
    ///
    /// # Errors
    /// Why the lock was lost. What `work` had begun is not undone.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output, LostReason> {
        let span = trace::span!(
            "run",
            locks = %Names(&self.grant.locks),
            outcome = field::Empty,
        );
        let run = async {
            tokio::select! {
                biased;
                reason = self.lost() => Err(reason),
                output = work => Ok(output),
            }
        };
        let result = run.instrument(span.clone()).await;
        trace::outcome(&span, &result, "done");
        result
    }

    /// Holds as shared what is held as exclusive, under the same token, in one step: nobody gets
    /// in between who would not get in beside a shared holder.
    ///
    /// # Errors
    /// [`DowngradeError`], which has the guard as it was.
    pub async fn downgrade(self) -> Result<LockGuard, DowngradeError> {
        let (reply, outcome) = oneshot::channel();
        let downgrade = Command::Downgrade {
            slot: self.session.slot(),
            grant: Arc::clone(&self.grant),
            reply,
        };
        // Without a background task there is no outcome either.
        let _ = self.session.send(downgrade);
        match outcome.await.unwrap_or(Err(DowngradeProblem::Closed)) {
            Ok(grant) => {
                let mut guard = self;
                guard.grant = grant;
                Ok(guard)
            }
            Err(problem) => Err(DowngradeError {
                guard: Box::new(self),
                problem,
            }),
        }
    }

    /// Puts other bytes, at most 4 KiB, on the lock (of several locks, on the first one), whatever
    /// is there. Returns their version.
    ///
    /// If this future is dropped, the change goes on.
    ///
    /// # Errors
    /// [`MetadataError`].
    pub async fn set_metadata(
        &self,
        bytes: impl AsRef<[u8]>,
    ) -> Result<EventNumber, MetadataError> {
        self.put_metadata(None, bytes.as_ref()).await
    }

    /// Puts other bytes on the lock, if what is there has this version; 0: if nothing was ever put
    /// there. For several tasks, or several entries of one owner, that share a hold.
    ///
    /// # Errors
    /// [`MetadataError::OtherVersion`] if something else is there; other [`MetadataError`]s.
    pub async fn set_metadata_if(
        &self,
        version: EventNumber,
        bytes: impl AsRef<[u8]>,
    ) -> Result<EventNumber, MetadataError> {
        self.put_metadata(Some(version), bytes.as_ref()).await
    }

    async fn put_metadata(
        &self,
        expect: Option<EventNumber>,
        bytes: &[u8],
    ) -> Result<EventNumber, MetadataError> {
        let (reply, outcome) = oneshot::channel();
        let command = Command::SetMetadata {
            slot: self.session.slot(),
            grant: Arc::clone(&self.grant),
            expect,
            value: Value::new(bytes)?,
            reply,
        };
        // Without a background task there is no outcome either.
        let _ = self.session.send(command);
        outcome.await.unwrap_or(Err(MetadataError::Closed))
    }

    /// What is on the lock (of several locks, on the first one), as the cell has it: `None` if
    /// nothing was ever put there, or if the lock is not held any more.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn metadata(&self) -> Result<Option<Metadata>, QueryError> {
        let client = Client {
            session: Arc::clone(&self.session),
        };
        let detail = client.who(self.name()).await?;
        let mut holders = detail.into_iter().flat_map(|detail| detail.holders);
        let own = holders.find(|holder| holder.token == self.token());
        Ok(own.and_then(|holder| holder.metadata))
    }

    /// Gives the lock back, and waits for the cell to confirm. If this future is dropped, the
    /// release goes on.
    ///
    /// # Errors
    /// [`ReleaseError`] if the session was lost before, or the client is closed.
    pub async fn release(mut self) -> Result<ReleaseOutcome, ReleaseError> {
        let (reply, outcome) = oneshot::channel();
        let span = trace::span!(
            "release",
            locks = %Names(&self.grant.locks),
            outcome = field::Empty,
        );
        self.hand_back(Some(reply));
        let outcome = outcome.instrument(span.clone()).await;
        let result = outcome.unwrap_or(Err(ReleaseError::Closed));
        let well = match result {
            Ok(ReleaseOutcome::NotHeld) => "not held",
            _ => "released",
        };
        trace::outcome(&span, &result, well);
        result
    }

    fn hand_back(&mut self, reply: Option<ReleaseReply>) {
        if !std::mem::replace(&mut self.released, true) {
            let release = Command::Release {
                slot: self.session.slot(),
                grant: Arc::clone(&self.grant),
                reply,
            };
            // Without a background task the lock becomes free when its lease ends.
            let _ = self.session.send(release);
        }
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        self.hand_back(None);
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard")
            .field("locks", &self.locks())
            .field("session", &self.session())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
