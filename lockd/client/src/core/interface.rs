//! What goes into a session's core and what comes out of it.

use std::time::Duration;

use lockd_protocol::client::{About, ClientFrame, EndReason, Operation, Outcome, Refusal};
use lockd_protocol::ticket::TicketText;
use lockd_protocol::{Millis, Nonce, Sequence, SessionId};

use super::requests::RequestId;
use super::time::Time;

/// What a session is opened with.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Drawn at random, once per session.
    pub nonce: Nonce,
    /// The session's TTL.
    pub ttl: Millis,
    /// Time between two renewals while all is well. Must be shorter than the lease.
    pub keepalive: Duration,
    /// What it says of itself, for operators.
    pub about: About,
    /// Spreads the retries of clients that were refused together.
    pub seed: u64,
}

/// What a session is told.
#[derive(Debug)]
pub enum Input<W> {
    /// There is a connection to a node that may be the leader: send what is unanswered.
    Connected,
    /// The connection is gone, or its node does not lead.
    Disconnected,
    /// Time has passed.
    Tick,
    /// Do this. An acquisition may be taken back under the name `request`.
    Submit {
        /// Name of the request.
        request: RequestId,
        /// What to do.
        operation: Operation,
        /// Handed back with the outcome.
        waiter: W,
    },
    /// Take back an acquisition: nobody waits for it any more.
    TakeBack {
        /// Its name.
        request: RequestId,
    },
    /// Give back what acquisition `acquire` got.
    Release {
        /// Number of the acquisition.
        acquire: Sequence,
        /// Handed back with the outcome.
        waiter: W,
    },
    /// Hold as shared what acquisition `acquire` got as exclusive.
    Downgrade {
        /// Number of the acquisition.
        acquire: Sequence,
        /// Whether the answer is to come with tickets that say so.
        ticket: bool,
        /// Handed back with the outcome.
        waiter: W,
    },
    /// The cell's answer to Open.
    Opened {
        /// The session, or why there is none.
        result: Result<SessionId, Refusal>,
    },
    /// The cell's answer to a KeepAlive.
    KeptAlive {
        /// Number of the KeepAlive.
        number: u64,
    },
    /// The cell says that the session is no more.
    SessionEnded {
        /// Why.
        reason: EndReason,
    },
    /// The cell's answer to a request.
    Reply {
        /// Number of the request.
        sequence: Sequence,
        /// What came of it.
        outcome: Outcome,
        /// With grants, if asked for: one for each, in their order.
        tickets: Vec<TicketText>,
    },
    /// The user does not believe in the session any more: end it for this reason.
    Abandon(Ended),
    /// A lock is being taken from this session.
    Lost {
        /// Number of the acquisition.
        acquire: Sequence,
        /// The operator's reason.
        reason: String,
    },
}

/// What a session wants done.
#[derive(Debug, PartialEq)]
#[cfg_attr(feature = "model", derive(Clone))]
pub enum Output<W> {
    /// Send this.
    Send(ClientFrame),
    /// The session is open, and believed in up to the deadline.
    Opened {
        /// Its id.
        session: SessionId,
        /// When it has to be renewed.
        deadline: Time,
    },
    /// A renewal has moved the deadline to this time.
    Deadline(Time),
    /// An acquisition waits. Told again by every leader to which it had to be sent again.
    Queued {
        /// Its number.
        sequence: Sequence,
        /// How many wait before it.
        ahead: u32,
    },
    /// A request is over.
    Done {
        /// Whoever made it.
        waiter: W,
        /// Its number.
        sequence: Sequence,
        /// What came of it.
        outcome: Outcome,
        /// With grants, if asked for: one for each, in their order.
        tickets: Vec<TicketText>,
    },
    /// A request will not be answered, because its session is over.
    Failed {
        /// Whoever made it.
        waiter: W,
        /// Why the session is over.
        ended: Ended,
    },
    /// This grant must not be believed in any more. It is released when its holder lets go;
    /// otherwise the cell takes it when the lease that was known here must have ended.
    GrantLost {
        /// Number of the acquisition.
        acquire: Sequence,
        /// The operator's reason.
        reason: String,
    },
    /// The node does not answer, although it is connected: try another.
    Suspect,
    /// The session is over, and all its grants with it. The last output but for failures.
    Ended(Ended),
}

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It could not be renewed in time.
    LeaseRanOut,
    /// The cell ended it, or does not know it.
    ByCell(EndReason),
    /// It was closed by this client.
    Closed,
    /// The cell refused to open it.
    NotOpened(Refusal),
    /// Its user gave up on it, because it could not be opened in time.
    GivenUp,
}
