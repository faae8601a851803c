//! What passes between a replica and the driver around it: configuration, inputs, outputs, views.
//!
//! The driver owns everything that this crate may not touch: the clock, the network, the disk.

use thiserror::Error;

use crate::limits::{MEMBERS_MAX, PAYLOAD_BYTES_MAX};
use crate::message::Message;
use crate::types::{
    Ballot, ConfirmNumber, Entry, Leadership, LoadId, NodeId, PersistId, Recovered, Slot,
    WriteBatch,
};

/// How a replica is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// All nodes of the cell, this one included.
    pub members: Vec<NodeId>,
    /// How long it waits for what.
    pub timing: Timing,
    /// Seeds the jitter of elections. Give every node and every start another one.
    pub seed: u64,
}

/// How long a replica waits for what. All in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A leader sends to every peer at least this often.
    pub heartbeat_micros: u64,
    /// A follower that has not heard its leader for this long is unhappy; a leader that has not
    /// heard a quorum for this long steps down.
    pub leader_timeout_micros: u64,
    /// How long a replica without a leader waits for the answers to its pings.
    pub round_micros: u64,
    /// A campaign begins up to this much later than it could, at random.
    pub jitter_micros: u64,
    /// A write that takes longer than this makes a leader step down.
    pub disk_timeout_micros: u64,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            heartbeat_micros: 50_000,
            leader_timeout_micros: 500_000,
            round_micros: 100_000,
            jitter_micros: 100_000,
            disk_timeout_micros: 3_000_000,
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// `members` is empty or too long.
    #[error("members: {count} nodes; a cell has 1 to {MEMBERS_MAX}")]
    MemberCount {
        /// How many were given.
        count: usize,
    },
    /// A member is named twice.
    #[error("members: node {node} is named twice")]
    MemberTwice {
        /// Which.
        node: NodeId,
    },
    /// Node 0 stands for "none" in ballots.
    #[error("members: nodes are numbered from 1")]
    MemberZero,
    /// `node` is not in `members`.
    #[error("node: {node} is not among the members")]
    NotAMember {
        /// The node.
        node: NodeId,
    },
    /// The store was created for other members.
    #[error("members: the store was created for {stored:?}; give the same nodes")]
    OtherMembers {
        /// What the store says.
        stored: Vec<NodeId>,
    },
    /// A duration does not fit the others.
    #[error(
        "timing: heartbeat, round and disk timeout must be above 0, and the leader timeout at \
         least three heartbeats"
    )]
    Timing,
    /// What the store remembers contradicts itself.
    #[error("the store is inconsistent: {what}; replace this node")]
    Inconsistent {
        /// The contradiction.
        what: &'static str,
    },
}

/// What the driver tells a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The time that `Replica::next_timer` named has come (harmless at any other time).
    Tick,
    /// A message came. It may be late, repeated or out of order, and from anyone.
    Message {
        /// The peer, as the transport authenticated it.
        from: NodeId,
        /// What it sent.
        message: Message,
    },
    /// The batch is durable. If it never will be, do not tell: end the process.
    Persisted(PersistId),
    /// The entries asked for by [`Output::Load`].
    Loaded {
        /// The request.
        id: LoadId,
        /// Contiguous from the first one asked for; at least one, but maybe not all.
        entries: Vec<Entry>,
    },
}

/// What a replica tells the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send it; losing it is allowed.
    Send {
        /// The peer.
        to: NodeId,
        /// What to send.
        message: Message,
    },
    /// Make it durable in one transaction, then say [`Input::Persisted`]. Never two at once.
    Persist(WriteBatch),
    /// These entries are decided: apply them. Each is given once, in order of slots.
    Apply(Vec<Entry>),
    /// Everything that was told a number up to this one by `Replica::confirm` may be answered:
    /// this was the leadership at some time after the number was given out, and all that was
    /// decided before has been handed out by [`Output::Apply`].
    Confirmed {
        /// The leadership that it is about.
        leadership: Leadership,
        /// The highest number confirmed.
        number: ConfirmNumber,
    },
    /// Read entries of the decided log from the store, then say [`Input::Loaded`].
    Load {
        /// Given back in the answer.
        id: LoadId,
        /// The first slot.
        first: Slot,
        /// The last slot; fewer entries may be given.
        last: Slot,
        /// Bytes of entries at most, as `LogStore::read` counts them, but one entry in any case.
        bytes_max: usize,
    },
    /// The role is another now.
    RoleChanged(Role),
}

/// What a replica is in the cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It votes and follows.
    Follower {
        /// The leader, if it has been heard lately.
        leader: Option<NodeId>,
    },
    /// It asks for promises.
    Candidate,
    /// It leads: it takes proposals.
    Leader {
        /// Its leadership.
        leadership: Leadership,
        /// Its `NewLeader` entry is decided, so confirms can be given.
        established: bool,
    },
}

/// A view of a replica for people and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its role.
    pub role: Role,
    /// The highest ballot promised.
    pub promised: Ballot,
    /// The ballot of its log.
    pub ballot: Ballot,
    /// The first slot that is held in memory; older ones are in the store.
    pub first: Slot,
    /// The last slot of its log.
    pub end: Slot,
    /// Everything up to here is known to be decided.
    pub decided: Slot,
    /// On a leader, how its followers stand, by node.
    pub peers: Vec<PeerStatus>,
    /// A write has been given out and is not durable yet.
    pub write_in_flight: bool,
}

/// How a follower stands, as its leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The follower.
    pub node: NodeId,
    /// Its log has come under the leader's ballot.
    pub synced: bool,
    /// Its last slot known to be durable under the leader's ballot.
    pub persisted: Slot,
    /// The next slot to be sent to it.
    pub next: Slot,
    /// Microseconds since it was last heard.
    pub silent_micros: u64,
}

/// Why a proposal was not taken. It has no effect then, now or later.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ProposeError {
    /// Another node leads, or none does.
    #[error("not the leader (which is {leader:?})")]
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// Too much is proposed and not decided. Retry when entries have been applied.
    #[error("too many undecided proposals; retry when some have been decided")]
    Busy,
    /// The payload is larger than [`PAYLOAD_BYTES_MAX`].
    #[error("payload of {bytes} bytes; at most {PAYLOAD_BYTES_MAX} are allowed")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
}

/// This replica does not lead.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not the leader (which is {leader:?})")]
pub struct NotLeader {
    /// The leader, if known.
    pub leader: Option<NodeId>,
}

impl Config {
    /// Checks the configuration by itself and against what the store remembers.
    pub(crate) fn validate(&self, recovered: &Recovered) -> Result<(), ConfigError> {
        let count = self.members.len();
        if !(1..=MEMBERS_MAX).contains(&count) {
            return Err(ConfigError::MemberCount { count });
        }
        let mut members = self.members.clone();
        members.sort_unstable();
        if let Some(pair) = members.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ConfigError::MemberTwice { node: pair[0] });
        }
        if members.contains(&NodeId(0)) {
            return Err(ConfigError::MemberZero);
        }
        if !members.contains(&self.node) {
            return Err(ConfigError::NotAMember { node: self.node });
        }
        let mut stored = recovered.members.clone();
        stored.sort_unstable();
        if stored != members {
            return Err(ConfigError::OtherMembers { stored });
        }
        self.timing.validate()?;
        recovered.validate()
    }
}

impl Timing {
    fn validate(&self) -> Result<(), ConfigError> {
        let positive =
            self.heartbeat_micros > 0 && self.round_micros > 0 && self.disk_timeout_micros > 0;
        let patient = self.leader_timeout_micros / 3 >= self.heartbeat_micros;
        if positive && patient {
            Ok(())
        } else {
            Err(ConfigError::Timing)
        }
    }
}

impl Recovered {
    fn validate(&self) -> Result<(), ConfigError> {
        let inconsistent = |what| Err(ConfigError::Inconsistent { what });
        if self.accepted > self.promised {
            return inconsistent("its log is of a higher ballot than it promised");
        }
        let mut slot = self.decided;
        for entry in &self.entries {
            slot = slot.next();
            if entry.slot != slot {
                return inconsistent("its log has a gap");
            }
            if !entry.is_intact() {
                return inconsistent("an entry's checksum does not fit");
            }
        }
        Ok(())
    }
}
