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

use serde::{Deserialize, Serialize};

use crate::ticket::TicketText;
use crate::types::{CellId, LockName, Millis, Mode, NodeId, Nonce, Sequence, SessionId, Token};

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
        /// Who this is, for operators: free text, at most
        /// [`crate::limits::TEXT_BYTES_MAX`] bytes.
        label: String,
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
    },
}

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

/// A change of the replicated state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Operation {
    /// Takes a lock, or queues for it.
    Acquire {
        /// Which lock.
        lock: LockName,
        /// How it is to be held.
        mode: Mode,
        /// How long to queue.
        wait: Wait,
        /// Whether the grant is to come with its signed ticket.
        ticket: bool,
    },
    /// Takes back an acquisition: it leaves the queue, or gives up the grant it just got.
    Cancel {
        /// Number of the acquisition's request.
        acquire: Sequence,
    },
    /// Gives a lock back.
    Release {
        /// Which lock.
        lock: LockName,
        /// Token of the grant. Only that grant is released.
        token: Token,
    },
    /// Ends the session and all that it holds or waits for.
    Close,
    /// Takes a lock from its holder.
    Break {
        /// Which lock.
        lock: LockName,
        /// Why, for the holder and for the log: at most [`crate::limits::TEXT_BYTES_MAX`] bytes.
        reason: String,
        /// `false`: the holder is told, and the lock moves when it has let go or its lease must
        /// have ended. `true`: the lock moves at once, and for the rest of its lease the old
        /// holder may believe that it still holds it (only the fence protects).
        at_once: bool,
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
        /// With [`Outcome::Granted`], if it was asked for.
        ticket: Option<TicketText>,
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
    /// Who the members of the cell are, with their addresses for clients: after
    /// [`NodeFrame::Welcome`], and whenever that changes.
    Members(Vec<(NodeId, String)>),
    /// Answer to [`ClientFrame::Query`].
    Answer {
        /// Id of the query.
        id: u64,
        /// The answer.
        answer: Answer,
    },
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Outcome {
    /// The lock is held, under this token.
    Granted {
        /// The fencing token.
        token: Token,
    },
    /// The acquisition waits; another reply follows.
    Queued {
        /// How many waiters are ahead of it.
        ahead: u32,
    },
    /// [`Wait::Try`] found the lock taken.
    NotAvailable {
        /// Who has it.
        holder: SessionId,
    },
    /// The wait was over before the lock was free.
    TimedOut,
    /// The acquisition was taken back (answer to the acquisition).
    Cancelled,
    /// Answer to [`Operation::Cancel`].
    CancelDone,
    /// Answer to [`Operation::Release`]: that grant was held, and is not any more.
    Released,
    /// Answer to [`Operation::Release`]: that grant was not held (any more).
    NotHeld,
    /// Answer to [`Operation::Close`].
    Closed,
    /// Answer to [`Operation::Break`]: who loses the lock, and a token above every grant so far,
    /// for fencing the holder off at the storage.
    Broken {
        /// The session that loses the lock.
        holder: SessionId,
        /// Token of the grant that ends.
        token: Token,
        /// No grant so far has a token this high.
        fence: Token,
    },
    /// Answer to [`Operation::Break`]: nobody holds the lock.
    NothingToBreak,
    /// A retry of an acquisition that is neither held nor waited for any more.
    Over,
    /// Definitely not done, and why.
    Refused(Refusal),
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
    /// A label or reason that is too long or has control characters.
    #[error("{field} must be at most {max} bytes of UTF-8 without control characters")]
    BadText {
        /// Which field.
        field: String,
        /// Longest allowed, bytes.
        max: u32,
    },
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
    /// Too much is under way; nothing was done, and the same request may be sent again.
    #[error("the cell is busy: send the request again in a moment")]
    Busy,
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
}

/// A question about the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Query {
    /// How the node and its cell are. Answered by any node from what it knows.
    Status,
    /// Locks whose names begin with `prefix`, in order of name, after `after`.
    Locks {
        /// Beginning of the names.
        prefix: String,
        /// Last name of the page before.
        after: Option<LockName>,
        /// Most items wanted.
        limit: u32,
    },
    /// Holder and waiters of one lock; waiters after the first `skip`.
    Lock {
        /// Which lock.
        lock: LockName,
        /// How many waiters to leave out.
        skip: u32,
        /// Most waiters wanted.
        limit: u32,
    },
    /// Sessions in order of id, after `after`.
    Sessions {
        /// Last id of the page before.
        after: Option<SessionId>,
        /// Most items wanted.
        limit: u32,
    },
    /// An operator wants another membership. Repeating it does no harm: it names the epoch that it
    /// is meant for.
    Reconfigure {
        /// The membership that is to be changed, by its number.
        epoch: u32,
        /// What is to be different.
        change: MemberChange,
        /// Sizes of the next quorums, to prepare and to accept; majorities if not given.
        quorums: Option<(u8, u8)>,
        /// Also if fewer of the next members can be reached than a quorum takes.
        force: bool,
    },
}

/// How the members of a cell are to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum MemberChange {
    /// A node joins.
    Add {
        /// Its number, never used before.
        node: NodeId,
        /// Where it is, `host:port`.
        address: String,
    },
    /// A node leaves for good.
    Remove {
        /// Its number.
        node: NodeId,
    },
    /// A node takes the place of another one.
    Replace {
        /// Who leaves.
        old: NodeId,
        /// Who joins.
        new: NodeId,
        /// Where it is, `host:port`.
        address: String,
    },
}

/// Why the members of a cell are not being changed. Nothing has happened then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum ReconfigureRefusal {
    /// The certificate is not an operator's.
    #[error("only an operator may change the members: use the `operator` identity")]
    NotOperator,
    /// The membership is another one already.
    #[error("the cell is in epoch {epoch} by now: look at `lockd member ls` and ask again")]
    OtherEpoch {
        /// The present one.
        epoch: u32,
    },
    /// Another change is on its way, or the leader is new.
    #[error("the membership is being changed, or the leader is new: ask again in a moment")]
    InProgress,
    /// The node that is to join has not been heard of.
    #[error("node {node} has not reached the leader: start it, and see what it says")]
    NotSeen {
        /// Which.
        node: NodeId,
    },
    /// The node that is to join lacks too much.
    #[error("node {node} has {durable} of {decided} log entries: wait until it has caught up")]
    NotCaughtUp {
        /// Which.
        node: NodeId,
        /// Its last durable slot.
        durable: u64,
        /// The cell's last decided slot.
        decided: u64,
    },
    /// The node that is to leave is no member.
    #[error("node {node} is no member of the cell")]
    Unknown {
        /// Which.
        node: NodeId,
    },
    /// The node that is to join has a number that was given before.
    #[error(
        "node {node}: numbers up to {newest} have been given, each for good; prepare a new node \
         with `lockd member prepare`"
    )]
    NumberUsed {
        /// Its number.
        node: NodeId,
        /// The highest one given.
        newest: NodeId,
    },
    /// Too few of the next members can be reached for the cell to go on.
    #[error(
        "only {reachable} of the next members can be reached, and {needed} are needed: the cell \
         would stand still; bring nodes back first, or insist with --force"
    )]
    WouldStandStill {
        /// How many the leader hears, itself included.
        reachable: u32,
        /// How many a quorum takes.
        needed: u32,
    },
    /// The next membership would be none.
    #[error("{0}")]
    Invalid(String),
}

/// Answer to a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Answer {
    /// To [`Query::Status`].
    Status(Status),
    /// To [`Query::Locks`].
    Locks {
        /// The page.
        locks: Vec<LockSummary>,
        /// Whether there are more.
        more: bool,
    },
    /// To [`Query::Lock`]: `None` if nobody holds or waits for it.
    Lock(Option<LockDetail>),
    /// To [`Query::Sessions`].
    Sessions {
        /// The page.
        sessions: Vec<SessionSummary>,
        /// Whether there are more.
        more: bool,
    },
    /// Not answered, and why.
    Refused(Refusal),
    /// To [`Query::Reconfigure`]: it has begun, and is done when the cell is in the next epoch.
    Reconfiguring,
    /// To [`Query::Reconfigure`]: it has not begun, and why.
    NotReconfigured(ReconfigureRefusal),
}

/// How a node and its cell are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node that answers.
    pub node: NodeId,
    /// Its cell.
    pub cell: CellId,
    /// Whether it leads.
    pub leading: bool,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// The ballot's round it follows or leads.
    pub round: u64,
    /// Highest decided slot it knows.
    pub decided: u64,
    /// Highest slot applied to its state.
    pub applied: u64,
    /// Members of the cell with their addresses for clients.
    pub members: Vec<(NodeId, String)>,
    /// Sessions in its state.
    pub sessions: u64,
    /// Locks in its state.
    pub locks: u64,
    /// Highest token granted, in its state.
    pub last_token: Token,
    /// Whether it votes.
    pub votes: bool,
    /// Number of the membership it knows.
    pub epoch: u32,
    /// How many members it takes to prepare, and to accept.
    pub quorums: (u8, u8),
    /// The highest node number ever given to a member.
    pub newest: NodeId,
    /// Last slot of its newest snapshot; 0 if it has none.
    pub snapshot: u64,
    /// First slot of its log.
    pub log_first: u64,
    /// Last slot of its log.
    pub log_end: u64,
    /// Damaged places found on its disk since it started.
    pub damaged: u64,
    /// Damaged entries put right from the copies of others since it started.
    pub repaired: u64,
    /// On a leader: how the other nodes stand, voters and learners.
    pub others: Vec<NodeStanding>,
    /// Time since the node started.
    pub uptime: Millis,
    /// Version of the program.
    pub program: String,
}

/// How another node stands, as the leader knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStanding {
    /// Which node.
    pub node: NodeId,
    /// Whether it votes.
    pub votes: bool,
    /// Its last slot known to be durable.
    pub durable: u64,
    /// Time since it was last heard; `None` for a learner.
    pub silent: Option<Millis>,
}

/// A lock in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockSummary {
    /// Its name.
    pub lock: LockName,
    /// The session that holds it.
    pub holder: SessionId,
    /// Token of the grant.
    pub token: Token,
    /// How it is held.
    pub mode: Mode,
    /// How many wait for it.
    pub waiters: u32,
}

/// A lock, its holder and its queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockDetail {
    /// The lock.
    pub summary: LockSummary,
    /// Label of the holder's session.
    pub holder_label: String,
    /// Why it is being taken from the holder, if it is.
    pub breaking: Option<String>,
    /// The queue, in order, after those left out.
    pub waiters: Vec<WaiterSummary>,
}

/// One in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaiterSummary {
    /// The session that waits.
    pub session: SessionId,
    /// Its label.
    pub label: String,
    /// How it wants to hold the lock.
    pub mode: Mode,
}

/// A session in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSummary {
    /// Its id.
    pub session: SessionId,
    /// Who it is, in its own words.
    pub label: String,
    /// Its TTL.
    pub ttl: Millis,
    /// What is left of it by the leader's clock.
    pub ttl_left: Millis,
    /// Locks held.
    pub holds: u32,
    /// Locks waited for.
    pub waits: u32,
}
