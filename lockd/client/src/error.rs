//! What can go wrong, and what the caller may conclude from it.

use std::time::Duration;

use lockd_protocol::client::{EndReason, InCircle, MetadataTooLong, ReconfigureRefusal, Refusal};
use lockd_protocol::{CellId, EventNumber, InvalidName, LockName, SessionId};

use crate::config::ConfigError;
use crate::guard::LockGuard;

/// What the caller may conclude from an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// It was not done, and doing the same again would fail the same way.
    Definite,
    /// It was not done, and may be tried again.
    Retry,
    /// It may have been done or not.
    Unknown,
}

/// Why a lock is not held any more. Final.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LostReason {
    /// The session was not renewed before its deadline.
    LeaseRanOut,
    /// The cell ended the session.
    SessionEnded(EndReason),
    /// An operator is taking the lock.
    Broken {
        /// The operator's reason.
        reason: String,
    },
    /// This client closed its session.
    Closed,
}

impl std::fmt::Display for LostReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LostReason::LeaseRanOut => f.write_str("the lease ran out before it was renewed"),
            LostReason::SessionEnded(EndReason::Expired) => f.write_str("the session expired"),
            LostReason::SessionEnded(EndReason::Closed) | LostReason::Closed => {
                f.write_str("the session was closed")
            }
            LostReason::SessionEnded(EndReason::OtherIdentity) => {
                f.write_str("the session belongs to another identity")
            }
            LostReason::SessionEnded(_) => f.write_str("the cell does not know the session"),
            LostReason::Broken { reason } => write!(f, "broken by an operator: {reason}"),
        }
    }
}

impl std::error::Error for LostReason {}

impl LostReason {
    /// What the caller may conclude: the guard is lost for good. The lock can be acquired again.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Definite
    }
}

/// Why a method of [`blocking`](crate::blocking) did not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CannotBlock {
    /// It was called inside an async runtime, which it would have stopped.
    #[error(
        "a blocking client cannot wait inside an async runtime: use the async client there \
         (`Client::client`), or a thread of your own"
    )]
    InsideRuntime,
    /// The client was not made by `connect_blocking`, and in no runtime.
    #[error("this client has no runtime to wait by: connect it with `connect_blocking`")]
    WithoutRuntime,
}

impl CannotBlock {
    /// What the caller may conclude.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Definite
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A setting of the builder that is not allowed.
    #[error("`{field}` {problem}")]
    Invalid {
        /// The setting, or the two that do not go together.
        field: &'static str,
        /// What is wrong, and what it should be.
        problem: String,
    },
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No UDP socket.
    #[error("cannot open a UDP socket: {0}")]
    Socket(std::io::Error),
    /// No thread for the background task.
    #[error("cannot start the client's thread: {0}")]
    Thread(std::io::Error),
    /// No node could be reached.
    #[error("no node of the cell could be reached within {within:?}: {tried}")]
    Unreachable {
        /// How long it was tried.
        within: Duration,
        /// Each address with what happened there.
        tried: String,
    },
    /// A node refused this client's certificate.
    #[error(
        "{address} refused this client's certificate ({detail}): use one that was made for \
         clients of this cell"
    )]
    CertificateRefused {
        /// The node.
        address: String,
        /// The TLS alert.
        detail: String,
    },
    /// A node's certificate was not made by the CA of this configuration.
    #[error(
        "the certificate of {address} is not trusted ({detail}): `ca` must be the CA of the cell"
    )]
    NodeNotTrusted {
        /// The node.
        address: String,
        /// What the verifier said.
        detail: String,
    },
    /// A node belongs to another cell.
    #[error("{address} belongs to cell {theirs}, not to {ours}: correct `cell` or `nodes`")]
    OtherCell {
        /// The node.
        address: String,
        /// The cell of this configuration.
        ours: CellId,
        /// The node's cell.
        theirs: CellId,
    },
    /// A node speaks another version of the protocol.
    #[error("{address} speaks another version of the client protocol ({detail})")]
    Version {
        /// The node.
        address: String,
        /// Which.
        detail: String,
    },
    /// A node turned the client away for a reason of its own.
    #[error("{address} turned this client away: {reason}")]
    Rejected {
        /// The node.
        address: String,
        /// The node's words.
        reason: String,
    },
    /// Nodes answer, but none of them leads.
    #[error("the cell had no leader within {within:?}: most of its nodes must be up and connected")]
    NoLeader {
        /// How long it was tried.
        within: Duration,
    },
    /// The cell refused to open the session.
    #[error("the cell refused to open a session: {0}")]
    Refused(Refusal),
    /// It was not waited for.
    #[error(transparent)]
    CannotBlock(#[from] CannotBlock),
}

impl ConnectError {
    /// What the caller may conclude.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            ConnectError::Unreachable { .. }
            | ConnectError::NoLeader { .. }
            | ConnectError::Socket(_)
            | ConnectError::Thread(_) => ErrorKind::Retry,
            ConnectError::Refused(refusal) if refusal.is_momentary() => ErrorKind::Retry,
            _ => ErrorKind::Definite,
        }
    }
}

/// Why a lock was not acquired. Whatever it says, no lock is held and no wait goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// The name is not allowed.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The metadata is not allowed.
    #[error(transparent)]
    Metadata(#[from] MetadataTooLong),
    /// A setting of the builder that is not allowed, or two that do not go together.
    #[error("`{field}` {problem}")]
    Invalid {
        /// The setting, or the two.
        field: &'static str,
        /// What is wrong, and what it should be.
        problem: String,
    },
    /// A lock is taken, and the wait was [`Wait::Try`](crate::Wait::Try).
    #[error("lock {lock:?} is {}", taken_text(*.holder))]
    NotAvailable {
        /// Which lock; of several of which one would do, the first.
        lock: LockName,
        /// Who has held it for longest. Nobody may: it can be promised to whoever waits for it
        /// and for another one, or be closed for a while after its holder's session expired.
        holder: Option<SessionId>,
    },
    /// The lock did not become free in time.
    #[error("the lock did not become free in time")]
    TimedOut,
    /// While the cell was out of reach the acquisition ended: its wait was over, or it was
    /// granted and broken.
    #[error("the acquisition was over before its outcome could be told")]
    Over,
    /// The session was lost before an answer came.
    #[error("the session was lost while waiting: {0}")]
    SessionLost(LostReason),
    /// The wait would never have ended: everybody on the circle waits for the next one.
    #[error("a deadlock: {}", circle_text(.0))]
    Deadlock(Vec<InCircle>),
    /// The cell refused.
    #[error("the cell refused: {0}")]
    Refused(Refusal),
    /// The cell gave no answer in time. The acquisition is taken back as soon as the cell can
    /// be reached, or ends with its session.
    #[error("the cell gave no answer within {within:?}")]
    Unavailable {
        /// How long it was tried.
        within: Duration,
    },
    /// The client was closed, or the runtime it ran on is gone.
    #[error("the client is closed")]
    Closed,
    /// It was not waited for.
    #[error(transparent)]
    CannotBlock(#[from] CannotBlock),
}

impl AcquireError {
    /// What the caller may conclude. Never [`ErrorKind::Unknown`]: an acquisition without its
    /// guard is given back.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            AcquireError::Over
            | AcquireError::SessionLost(_)
            | AcquireError::Unavailable { .. } => ErrorKind::Retry,
            AcquireError::Refused(refusal) if refusal.is_momentary() => ErrorKind::Retry,
            _ => ErrorKind::Definite,
        }
    }
}

fn taken_text(holder: Option<SessionId>) -> String {
    match holder {
        Some(holder) => format!("held by session {holder}"),
        None => "not free, although nobody holds it at the moment".to_owned(),
    }
}

fn circle_text(circle: &[InCircle]) -> String {
    let steps: Vec<String> = circle.iter().map(ToString::to_string).collect();
    steps.join(", ")
}

/// A guard that could not be downgraded, and why.
#[derive(Debug, thiserror::Error)]
#[error("the lock was not downgraded: {problem}")]
pub struct DowngradeError {
    /// The guard as it was: it still holds the lock, unless the problem says that it is lost.
    pub guard: Box<LockGuard>,
    /// What was wrong.
    pub problem: DowngradeProblem,
}

impl DowngradeError {
    /// What the caller may conclude.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.problem.kind()
    }
}

/// Why a lock was not downgraded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DowngradeProblem {
    /// It is not held any more.
    #[error("it had been lost: {0}")]
    Lost(LostReason),
    /// The cell refused.
    #[error("the cell refused: {0}")]
    Refused(Refusal),
    /// The client was closed, or the runtime it ran on is gone.
    #[error("the client is closed")]
    Closed,
    /// It was not waited for.
    #[error(transparent)]
    CannotBlock(#[from] CannotBlock),
}

impl DowngradeProblem {
    /// What the caller may conclude.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            DowngradeProblem::Closed => ErrorKind::Unknown,
            DowngradeProblem::Refused(refusal) if refusal.is_momentary() => ErrorKind::Retry,
            _ => ErrorKind::Definite,
        }
    }
}

/// Why other metadata was not put on a lock.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// It is too long.
    #[error(transparent)]
    TooLong(#[from] MetadataTooLong),
    /// Another version is there than the one that was expected.
    #[error("the lock has metadata of version {version}, which is not the one that was expected")]
    OtherVersion {
        /// The version that is there; 0 if none was ever put there.
        version: EventNumber,
    },
    /// The lock is not held any more: if the request was under way then, the metadata may have
    /// been there to the end.
    #[error("the lock had been lost: {0}")]
    Lost(LostReason),
    /// The cell refused.
    #[error("the cell refused: {0}")]
    Refused(Refusal),
    /// The client was closed, or the runtime it ran on is gone.
    #[error("the client is closed")]
    Closed,
}

impl MetadataError {
    /// What the caller may conclude.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            MetadataError::Refused(Refusal::Busy) => ErrorKind::Retry,
            MetadataError::Lost(_) | MetadataError::Closed => ErrorKind::Unknown,
            _ => ErrorKind::Definite,
        }
    }
}

/// Why a watch is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The name is not allowed.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The cell refused.
    #[error("the cell refused: {0}")]
    Refused(Refusal),
    /// The runtime that the client ran on is gone.
    #[error("the client is closed")]
    Closed,
}

impl WatchError {
    /// What the caller may conclude.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Definite
    }
}

/// What a release found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseOutcome {
    /// The lock was held to the end, and is free.
    Released,
    /// The lock was not held any more: it had been broken.
    NotHeld,
}

/// Why a release was not confirmed. The lock is free at the latest when the lease ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The session had been lost, so that the lock may have been with someone else.
    #[error("the lock had been lost: {0}")]
    SessionLost(LostReason),
    /// The client was closed, or the runtime it ran on is gone.
    #[error("the client is closed: the lock becomes free when its lease ends")]
    Closed,
    /// It was handed over, and not waited for.
    #[error("{0}; the lock is given back all the same")]
    CannotBlock(#[from] CannotBlock),
}

impl ReleaseError {
    /// What the caller may conclude.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            ReleaseError::SessionLost(_) => ErrorKind::Definite,
            ReleaseError::Closed | ReleaseError::CannotBlock(_) => ErrorKind::Unknown,
        }
    }
}

/// Why a question was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// The name is not allowed.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The cell refused.
    #[error("the cell refused: {0}")]
    Refused(Refusal),
    /// The cell gave no answer in time.
    #[error("the cell gave no answer within {within:?}")]
    Unavailable {
        /// How long it was tried.
        within: Duration,
    },
    /// The answer does not belong to the question.
    #[error("the node gave an answer that does not belong to the question")]
    Unexpected,
    /// The client was closed, or the runtime it ran on is gone.
    #[error("the client is closed")]
    Closed,
    /// It was not waited for.
    #[error(transparent)]
    CannotBlock(#[from] CannotBlock),
}

impl QueryError {
    /// What the caller may conclude.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            QueryError::Unavailable { .. } => ErrorKind::Retry,
            QueryError::Refused(refusal) if refusal.is_momentary() => ErrorKind::Retry,
            _ => ErrorKind::Definite,
        }
    }
}

/// Why the members of the cell are not being changed, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReconfigureError {
    /// The leader refused: nothing has changed.
    #[error(transparent)]
    Refused(ReconfigureRefusal),
    /// There was no answer, or none to this question: it may have begun.
    #[error(transparent)]
    Query(#[from] QueryError),
}

impl ReconfigureError {
    /// What the caller may conclude. Doing it again is safe in any case: a change names the epoch
    /// that it is for, and happens once.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            ReconfigureError::Refused(
                ReconfigureRefusal::InProgress
                | ReconfigureRefusal::NotSeen { .. }
                | ReconfigureRefusal::NotCaughtUp { .. },
            ) => ErrorKind::Retry,
            ReconfigureError::Refused(_) => ErrorKind::Definite,
            ReconfigureError::Query(QueryError::Refused(refusal)) if refusal.is_momentary() => {
                ErrorKind::Retry
            }
            ReconfigureError::Query(
                QueryError::Unavailable { .. } | QueryError::Unexpected | QueryError::Closed,
            ) => ErrorKind::Unknown,
            ReconfigureError::Query(_) => ErrorKind::Definite,
        }
    }
}

/// Why a lock was not broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BreakError {
    /// The name is not allowed.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// Nobody holds the lock.
    #[error("nobody holds the lock")]
    NothingToBreak,
    /// The cell refused.
    #[error("the cell refused: {0}")]
    Refused(Refusal),
    /// The cell gave no answer in time: the lock may have been broken.
    #[error("the cell gave no answer within {within:?}: the lock may have been broken or not")]
    Unavailable {
        /// How long it was tried.
        within: Duration,
    },
    /// The session that asked was lost before an answer came: the lock may have been broken.
    #[error("the session was lost ({0}): the lock may have been broken or not")]
    SessionLost(LostReason),
    /// The client was closed, or the runtime it ran on is gone.
    #[error("the client is closed: the lock may have been broken or not")]
    Closed,
    /// It was not waited for.
    #[error(transparent)]
    CannotBlock(#[from] CannotBlock),
}

impl BreakError {
    /// What the caller may conclude.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            BreakError::Name(_) | BreakError::NothingToBreak | BreakError::CannotBlock(_) => {
                ErrorKind::Definite
            }
            BreakError::Refused(refusal) if refusal.is_momentary() => ErrorKind::Retry,
            BreakError::Refused(_) => ErrorKind::Definite,
            _ => ErrorKind::Unknown,
        }
    }
}

#[cfg(test)]
mod tests;
