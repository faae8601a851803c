//! Questions about the state, their answers, and the one thing that an operator asks of a leader.

use serde::{Deserialize, Serialize};

use super::about::{About, Labels};
use super::outcome::Refusal;
use super::watch::Metadata;
use crate::types::{CellId, LockName, Millis, Mode, NodeId, SessionId, Token};

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
    /// Holders and waiters of one lock, after the first ones.
    Lock {
        /// Which lock.
        lock: LockName,
        /// How many holders to leave out.
        skip_holders: u32,
        /// How many waiters to leave out.
        skip_waiters: u32,
        /// Most wanted of each.
        limit: u32,
    },
    /// Sessions in order of id, after `after`.
    Sessions {
        /// Where the page before ended.
        after: Option<SessionId>,
        /// Only sessions that have all of these labels.
        labels: Labels,
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
        /// If there may be more: where to go on, which can be behind the last one here.
        next: Option<SessionId>,
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

/// A node's answer of its own, which may be behind the cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stale {
    /// The node.
    pub node: NodeId,
    /// The last slot applied to its state.
    pub applied: u64,
}

/// For how long something has been, by the leader's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Age {
    /// For this long.
    pub span: Millis,
    /// Or for longer: the leader found it when it began to lead.
    pub at_least: bool,
}

/// A lock in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockSummary {
    /// Its name.
    pub lock: LockName,
    /// How it is held; `None` if it is only waited for.
    pub mode: Option<Mode>,
    /// How many hold it.
    pub holders: u32,
    /// The session that has held it for longest.
    pub holder: Option<SessionId>,
    /// That session's identity.
    pub identity: Option<String>,
    /// For how long that session has held it, if a leader tells.
    pub held: Option<Age>,
    /// Token of the newest grant.
    pub token: Option<Token>,
    /// How many wait for it.
    pub waiters: u32,
}

/// A lock, its holders and its queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockDetail {
    /// The lock.
    pub summary: LockSummary,
    /// For how long it is closed after a holder's session expired, if it is.
    pub closed: Option<Millis>,
    /// Who holds it, in order of tokens, after those left out.
    pub holders: Vec<HolderSummary>,
    /// Whether there are more holders.
    pub more_holders: bool,
    /// The queue, in order, after those left out.
    pub waiters: Vec<WaiterSummary>,
    /// Whether there are more waiters.
    pub more_waiters: bool,
}

/// One who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderSummary {
    /// The session.
    pub session: SessionId,
    /// The identity that opened it.
    pub identity: String,
    /// What it says of itself.
    pub about: About,
    /// On whose behalf within the session, if it said so.
    pub owner: Option<String>,
    /// For how long it has held, if a leader tells.
    pub age: Option<Age>,
    /// Token of the grant.
    pub token: Token,
    /// Which permit of a semaphore, counted from 0; 0 in other modes.
    pub slot: u32,
    /// How often it is held under this token.
    pub times: u32,
    /// Why it is being taken from the holder, if it is.
    pub breaking: Option<String>,
    /// What the holder has put on it.
    pub metadata: Option<Metadata>,
}

/// One in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaiterSummary {
    /// The session that waits.
    pub session: SessionId,
    /// The identity that opened it.
    pub identity: String,
    /// What it says of itself.
    pub about: About,
    /// On whose behalf within the session, if it said so.
    pub owner: Option<String>,
    /// For how long it has waited, if a leader tells.
    pub age: Option<Age>,
    /// How it wants to hold the lock.
    pub mode: Mode,
    /// How many locks it waits for together with this one, this one counted.
    pub locks: u32,
}

/// A session in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSummary {
    /// Its id.
    pub session: SessionId,
    /// The identity that opened it: the name in its certificate.
    pub identity: String,
    /// What it says of itself.
    pub about: About,
    /// Where its client is at present, if a leader tells and the client is connected to it.
    pub address: Option<String>,
    /// Its TTL.
    pub ttl: Millis,
    /// What is left of it by the leader's clock, if a leader tells.
    pub ttl_left: Option<Millis>,
    /// Locks held.
    pub holds: u32,
    /// Locks waited for.
    pub waits: u32,
}
