//! What became of a request, and why something was not done.

use serde::{Deserialize, Serialize};

use super::about::InvalidAbout;
use crate::types::{EventNumber, LockName, SessionId, Token};

/// A lock that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Which of the acquisition's wants this is, counted from 0.
    pub want: u32,
    /// The fencing token.
    pub token: Token,
    /// Which permit of a semaphore this is, counted from 0; 0 in other modes.
    pub slot: u32,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Outcome {
    /// What was wanted is held: one grant, or those of [`super::Wants::All`] in order of tokens.
    Granted(Vec<Grant>),
    /// The acquisition waits; another reply follows.
    Queued {
        /// How many waiters are ahead of it, at the lock where they are most.
        ahead: u32,
    },
    /// [`super::Wait::Try`] found a lock taken.
    NotAvailable {
        /// Which of the acquisition's wants is in the way, counted from 0.
        want: u32,
        /// Who holds it. Nobody may: it can be promised to whoever waits for it and for
        /// another one, or be closed for a while after its holder's session expired.
        holder: Option<SessionId>,
    },
    /// The wait was over before the lock was free.
    TimedOut,
    /// The acquisition was taken back (answer to the acquisition).
    Cancelled,
    /// Answer to [`super::Operation::Cancel`].
    CancelDone,
    /// Answer to [`super::Operation::Release`]: the grants were held, and are not any more.
    Released,
    /// Answer to [`super::Operation::Release`], [`super::Operation::Downgrade`] or
    /// [`super::Operation::SetMetadata`]: the grants were not held (any more).
    NotHeld,
    /// Answer to [`super::Operation::Downgrade`]: held as shared from here on.
    Downgraded,
    /// Answer to [`super::Operation::Close`].
    Closed,
    /// Answer to [`super::Operation::Break`]: who loses the lock, and a token above every grant so
    /// far, for fencing the holders off at the storage.
    Broken {
        /// The sessions that lose the lock with their tokens, the oldest grants first; at most
        /// [`crate::limits::BROKEN_HOLDERS_TOLD_MAX`] of them.
        holders: Vec<(SessionId, Token)>,
        /// No grant so far has a token this high.
        fence: Token,
    },
    /// Answer to [`super::Operation::Break`]: nobody holds the lock.
    NothingToBreak,
    /// A retry of an acquisition that is neither held nor waited for any more.
    Over,
    /// Answer to [`super::Operation::SetMetadata`]: it is there, under this version.
    MetadataSet {
        /// The new version.
        version: EventNumber,
    },
    /// Answer to [`super::Operation::SetMetadata`]: another version was there, and still is.
    OtherMetadata {
        /// Its version; 0 if none was ever put there.
        version: EventNumber,
    },
    /// Definitely not done, and why.
    Refused(Refusal),
}

impl Outcome {
    /// The lowest token of a grant.
    #[must_use]
    pub fn granted_token(&self) -> Option<Token> {
        match self {
            Outcome::Granted(grants) => grants.first().map(|grant| grant.token),
            _ => None,
        }
    }
}

/// Someone on a circle of waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InCircle {
    /// The session.
    pub session: SessionId,
    /// Its owner, if it said one.
    pub owner: Option<String>,
    /// The lock that it waits for, and that the next one on the circle holds or is to get first.
    pub waits_for: LockName,
}

impl std::fmt::Display for InCircle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let InCircle {
            session,
            owner,
            waits_for,
        } = self;
        write!(f, "session {session}")?;
        if let Some(owner) = owner {
            write!(f, " ({owner:?})")?;
        }
        write!(f, " waits for {waits_for:?}")
    }
}

/// Why something was definitely not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The session does not exist: it expired, was closed, or never was.
    #[error("the session has ended")]
    NoSession,
    /// A session TTL outside the allowed range.
    #[error("a session's TTL must lie between {min_ms} and {max_ms} ms")]
    BadTtl {
        /// Shortest allowed.
        min_ms: u64,
        /// Longest allowed.
        max_ms: u64,
    },
    /// What the session says of itself is not allowed.
    #[error(transparent)]
    BadAbout(InvalidAbout),
    /// The session belongs to another identity than the one that asks.
    #[error(
        "session {session} was opened by another identity than {asks:?}: use the certificate that \
         opened it, or a session of your own"
    )]
    OtherIdentity {
        /// The session.
        session: SessionId,
        /// Who asks.
        asks: String,
    },
    /// Only operators may do this.
    #[error("only an operator may {what}: use the `operator` identity")]
    NotOperator {
        /// What.
        what: String,
    },
    /// A quota of the node's configuration is used up.
    #[error("{quota}")]
    Quota {
        /// Which, and how to go on.
        quota: Quota,
    },
    /// An owner or reason that is too long or has control characters.
    #[error("{field} must be at most {max} bytes of UTF-8 without control characters")]
    BadText {
        /// Which field.
        field: String,
        /// Longest allowed, bytes.
        max: u32,
    },
    /// A number outside its range.
    #[error("{field} must lie between {min} and {max}")]
    OutOfRange {
        /// Which field.
        field: String,
        /// Smallest allowed.
        min: u64,
        /// Largest allowed.
        max: u64,
    },
    /// One lock is named twice in one acquisition.
    #[error("lock {0:?} is named twice in one acquisition: name each lock once")]
    NamedTwice(LockName),
    /// The name leaves no room for a permit's number.
    #[error("the name of semaphore {lock:?} must be at most {max} bytes long")]
    SemaphoreName {
        /// The name.
        lock: LockName,
        /// Longest allowed, bytes.
        max: u32,
    },
    /// The semaphore has another number of permits as long as anybody holds or wants one.
    #[error(
        "semaphore {lock:?} has {permits} permits at present: ask with that number, or wait until \
         nobody uses it"
    )]
    OtherSemaphore {
        /// The semaphore.
        lock: LockName,
        /// How many permits it has.
        permits: u32,
    },
    /// The owner holds the lock as often as it may.
    #[error(
        "lock {lock:?} is held {limit} times by this owner, as often as it may: release it, or \
         raise the owner's limit"
    )]
    HeldAlready {
        /// The lock.
        lock: LockName,
        /// How often it may be held.
        limit: u32,
    },
    /// The owner holds the lock as shared. Of two that wait for each other to let go before they
    /// become exclusive, neither ever would.
    #[error(
        "lock {lock:?} is held as shared by this owner, and cannot be upgraded (two that upgrade \
         wait for each other): release it and acquire it as exclusive"
    )]
    Upgrade {
        /// The lock.
        lock: LockName,
    },
    /// Only what is held as exclusive, once, can be downgraded.
    #[error("only a lock that is held as exclusive, and once, can be downgraded")]
    NotDowngradable,
    /// The wait would never end: everybody on the circle waits for the next one.
    #[error("the wait would be a deadlock: {}", circle_text(.0))]
    Deadlock(Vec<InCircle>),
    /// The client is more than a window ahead of its lowest unanswered request.
    #[error("request {sequence} is more than {window} ahead of the oldest unanswered one")]
    WindowExceeded {
        /// Number of the request.
        sequence: u64,
        /// How far ahead is allowed.
        window: u64,
    },
    /// Too many acquisitions in one session.
    #[error("the session has {0} acquisitions, the most it may have")]
    TooManyAcquisitions(u64),
    /// The cell has granted 2^48 locks since it was made or restored.
    #[error("the cell has used up its tokens: restore it from a backup to start a new epoch")]
    TokensUsedUp,
    /// Too many watches on one connection.
    #[error(
        "the connection has {0} watches, the most it may have: drop some, watch a prefix, or use \
         another client"
    )]
    TooManyWatches(u64),
    /// Too much is under way; nothing was done, and the same request may be sent again.
    #[error("the cell is busy: send the request again in a moment")]
    Busy,
}

impl Refusal {
    /// Whether the same may be asked again in a moment, without any other change.
    #[must_use]
    pub fn is_momentary(&self) -> bool {
        let quota = match self {
            Refusal::Quota { quota } => quota,
            refusal => return *refusal == Refusal::Busy,
        };
        matches!(quota, Quota::RequestsPerSecond { .. })
    }
}

/// A quota that is used up; `[quota]` in the node's configuration sets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Quota {
    /// Sessions of one identity.
    #[error(
        "identity {identity:?} has {limit} sessions, the most it may have: close sessions, or \
         raise `sessions_per_identity` in [quota] of the nodes"
    )]
    SessionsPerIdentity {
        /// Whose.
        identity: String,
        /// How many there may be.
        limit: u64,
    },
    /// Requests of one identity in a second. May be tried again in a moment.
    #[error(
        "identity {identity:?} sends more than {limit} requests in a second: send fewer, or raise \
         `requests_per_second` in [quota] of the nodes"
    )]
    RequestsPerSecond {
        /// Whose.
        identity: String,
        /// How many there may be.
        limit: u64,
    },
    /// Acquisitions of one session.
    #[error(
        "the session has {limit} acquisitions, the most it may have: release some, open another \
         session, or raise `acquisitions_per_session` in [quota] of the nodes"
    )]
    AcquisitionsPerSession {
        /// How many there may be.
        limit: u64,
    },
    /// Waiters of one lock.
    #[error(
        "lock {lock:?} has {limit} waiters, the most it may have: try again later, or raise \
         `waiters_per_lock` in [quota] of the nodes"
    )]
    WaitersPerLock {
        /// Which lock.
        lock: LockName,
        /// How many there may be.
        limit: u64,
    },
}

fn circle_text(circle: &[InCircle]) -> String {
    let steps: Vec<String> = circle.iter().map(ToString::to_string).collect();
    steps.join(", ")
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum EndReason {
    /// It was not renewed for its TTL.
    Expired,
    /// Its client closed it.
    Closed,
    /// The cell does not know it (any more).
    Unknown,
    /// It belongs to another identity than the one that asks; for its owner nothing has ended.
    OtherIdentity,
}
