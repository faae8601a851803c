//! The conversation between a client and a node (ALPN `lockd/1`), on one bidirectional stream.
//!
//! The client speaks first, with [`ClientFrame::Hello`]; the node answers [`NodeFrame::Welcome`]
//! or [`NodeFrame::Bye`]. Afterwards both sides send frames as they like. Several sessions may
//! share one connection. Only the leader of the cell serves sessions; any other node answers
//! [`NodeFrame::Redirect`], upon which the client sends everything that is still unanswered,
//! under the same nonces and sequence numbers, to the leader.
//!
//! **Exactly once.** A session is opened under a nonce, and each of its requests carries a
//! sequence number. A retry repeats nonce or number and gets the first answer. `acknowledged`
//! tells the node below which number every request has been answered (a
//! [`Outcome::Queued`] counts), so that it can forget those answers.
//!
//! **Renewal.** Each [`ClientFrame::KeepAlive`] has a fresh number; its answer extends the lease
//! from the time at which that number was *sent*. A holder whose lock is being broken is told by
//! [`NodeFrame::Lost`] before any later renewal of its session is answered on that stream.
//!
//! **Identity.** A session belongs to the identity that the certificate of its `Open` named. On a
//! connection of another one, whatever names the session is refused.
//!
//! * [`about`]: what a session says of itself.
//! * [`operation`]: what a client asks to be done.
//! * [`outcome`]: what became of it.
//! * [`query`]: what it asks to be told.
//! * [`watch`]: who holds what, and each change of it.

pub mod about;
pub mod operation;
pub mod outcome;
pub mod query;
pub mod watch;

use serde::{Deserialize, Serialize};

use crate::ticket::TicketText;
use crate::types::{CellId, EventNumber, Millis, NodeId, Nonce, Sequence, SessionId};

pub use about::{About, InvalidAbout, Labels};
pub use operation::{Acquire, Operation, Owner, Wait, Want, Wants};
pub use outcome::{EndReason, Grant, InCircle, Outcome, Quota, Refusal};
pub use query::{
    Age, Answer, HolderSummary, LockDetail, LockSummary, MemberChange, NodeStanding, Query,
    ReconfigureRefusal, SessionSummary, Stale, Status, WaiterSummary,
};
pub use watch::{Change, Event, Holder, Metadata, MetadataTooLong, News, Scope, Value};

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ClientFrame {
    /// First frame of a connection.
    Hello {
        /// [`crate::limits::CLIENT_PROTOCOL_VERSION`] of the client.
        version: u16,
        /// The cell that the client means to talk to.
        cell: CellId,
    },
    /// Opens a session, once per nonce.
    Open {
        /// Drawn at random by the client; a retry repeats it.
        nonce: Nonce,
        /// The session's TTL.
        ttl: Millis,
        /// What it says of itself, for operators.
        about: About,
    },
    /// Renews a session.
    KeepAlive {
        /// The session to renew.
        session: SessionId,
        /// Fresh for every send that has a new send time.
        number: u64,
    },
    /// Asks for a change of the replicated state, exactly once.
    Request {
        /// On whose behalf.
        session: SessionId,
        /// Number of this request in its session.
        sequence: Sequence,
        /// Every request up to this number has been answered, and the client has the answer.
        acknowledged: Sequence,
        /// What to do.
        operation: Operation,
    },
    /// Asks about the state. Linearizable, except [`Query::Status`].
    Query {
        /// Chosen by the client, repeated in the answer.
        id: u64,
        /// What to tell.
        query: Query,
        /// Whether this node is to answer at once from what it has applied, whoever leads.
        stale: bool,
    },
    /// Starts a watch; see [`watch`].
    Watch {
        /// Chosen by the client, never used before on this connection.
        watch: u64,
        /// What is watched.
        scope: Scope,
        /// The last event that the client knows of, to go on behind it; `None`: from the
        /// present state on.
        after: Option<EventNumber>,
    },
    /// Ends a watch.
    Unwatch {
        /// Which.
        watch: u64,
    },
}

/// What a node sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum NodeFrame {
    /// Answer to [`ClientFrame::Hello`].
    Welcome {
        /// Version that the node speaks.
        version: u16,
        /// The node's cell.
        cell: CellId,
        /// The node itself.
        node: NodeId,
    },
    /// The node cannot go on with this connection, and closes it.
    Bye {
        /// What was wrong, for a person.
        reason: String,
    },
    /// This node does not lead, or not any more. Everything unanswered has to be sent again.
    Redirect {
        /// Who leads, as far as this node knows, with its address for clients (`host:port`).
        leader: Option<(NodeId, String)>,
    },
    /// Answer to [`ClientFrame::Open`].
    Opened {
        /// The nonce of the request.
        nonce: Nonce,
        /// The session, or why there is none.
        result: Result<SessionId, Refusal>,
    },
    /// Answer to [`ClientFrame::KeepAlive`]: the lease counts from the send time of `number`.
    KeptAlive {
        /// The session renewed.
        session: SessionId,
        /// Number of the renewal.
        number: u64,
    },
    /// The session is no more, with everything it held or waited for.
    SessionEnded {
        /// Which session.
        session: SessionId,
        /// Why.
        reason: EndReason,
    },
    /// Answer to [`ClientFrame::Request`]. An acquisition that was [`Outcome::Queued`] gets a
    /// second reply, pushed, when its wait ends.
    Reply {
        /// The session of the request.
        session: SessionId,
        /// Number of the request.
        sequence: Sequence,
        /// What came of it.
        outcome: Outcome,
        /// With [`Outcome::Granted`] and [`Outcome::Downgraded`], if they were asked for: one for
        /// each grant, in their order.
        tickets: Vec<TicketText>,
    },
    /// A lock is being taken from its holder, which must stop using it and release it.
    Lost {
        /// The holder's session.
        session: SessionId,
        /// Number of the acquisition.
        acquire: Sequence,
        /// The operator's reason.
        reason: String,
    },
    /// Who the members of the cell are: after [`NodeFrame::Welcome`], and whenever that changes.
    Members {
        /// Number of the membership. A node that was removed may not know of a newer one.
        epoch: u32,
        /// The members with their addresses for clients (`host:port`).
        members: Vec<(NodeId, String)>,
    },
    /// Answer to [`ClientFrame::Query`].
    Answer {
        /// Id of the query.
        id: u64,
        /// The answer.
        answer: Answer,
        /// If it is of this node alone, which may be behind the cell.
        stale: Option<Stale>,
    },
    /// What a watch is told.
    News {
        /// Which watch.
        watch: u64,
        /// What.
        news: News,
    },
}

#[cfg(test)]
mod tests;
