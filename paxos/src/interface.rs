//! What passes between a replica and the driver around it: configuration, inputs, outputs, views.
//!
//! The driver owns everything that this crate may not touch: the clock, the network, the disk.

use thiserror::Error;

use bytes::Bytes;

use crate::limits::{LEARNER_LAG_MAX, PAYLOAD_BYTES_MAX};
use crate::membership::{Membership, MembershipError};
use crate::message::Message;
use crate::types::{
    Ballot, ConfirmNumber, Entry, Epoch, LoadId, NodeId, PersistId, Recovered, Slot, SnapshotMeta,
    WriteBatch,
};
use crate::validate::is_whole;

/// How a replica is set up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// Whom to ask for the log while this node is not a member of the cell, beside the members
    /// that it knows of.
    pub seeds: Vec<NodeId>,
    /// How long it waits for what.
    pub timing: Timing,
    /// Seeds the jitter of elections. Give every node and every start another one.
    pub seed: u64,
}

/// How long a replica waits for what. All in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// The membership that the store remembers is none.
    #[error("the store's membership: {0}")]
    Membership(#[from] MembershipError),
    /// Node 0 stands for "none" in ballots.
    #[error("node: nodes are numbered from 1")]
    NodeZero,
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
        /// Contiguous from the first one asked for, but maybe not all. None if the store has none
        /// of them: the first is damaged (tell that by [`Input::Damaged`] too), or cut off.
        entries: Vec<Entry>,
    },
    /// The decided entry of this slot cannot be read from the store. Another node is asked for it;
    /// a [`WriteBatch`] puts it back.
    Damaged(Slot),
    /// The driver has a snapshot: written, synced, read again and found right. The log may be cut.
    SnapshotTaken(SnapshotMeta),
    /// The bytes asked for by [`Output::LoadChunk`].
    ChunkLoaded {
        /// The request.
        id: LoadId,
        /// As many as were asked for; empty if that snapshot is gone or cannot be read.
        bytes: Bytes,
    },
    /// Of the snapshot that [`Output::StoreChunk`] is about, this many bytes are kept now, counted
    /// from its beginning. May be less than was stored before; then it is sent again from there.
    ChunkStored {
        /// Which snapshot.
        meta: SnapshotMeta,
        /// Length of what is kept.
        stored: u64,
    },
    /// The snapshot that came from a peer is complete, durable, has the right checksum, and the
    /// driver can put the state that it holds in the place of its own.
    SnapshotReady(SnapshotMeta),
}

/// What a replica tells the driver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
        leadership: Ballot,
        /// The highest number confirmed.
        number: ConfirmNumber,
    },
    /// A snapshot of a peer is to be installed: the driver's state is to be what the snapshot
    /// holds, which [`Input::SnapshotReady`] said is at hand. What is applied next follows it.
    Install(SnapshotMeta),
    /// Put these bytes of a peer's snapshot into a file, and say [`Input::ChunkStored`]; after the
    /// last ones say [`Input::SnapshotReady`] too, once all of it is durable and checked, or
    /// [`Input::ChunkStored`] with 0 if it is not right. A driver that still has a part of this
    /// very snapshot may say so at once, whatever the offset. No bytes at offset 0 ask just that.
    StoreChunk {
        /// Which snapshot. Another one than before: what there is of that is not needed any more.
        meta: SnapshotMeta,
        /// Where the bytes begin.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// Read bytes of an own snapshot for a peer, then say [`Input::ChunkLoaded`].
    LoadChunk {
        /// Given back in the answer.
        id: LoadId,
        /// The snapshot's slot.
        slot: Slot,
        /// Where the bytes begin.
        offset: u64,
        /// How many.
        bytes: usize,
    },
    /// The membership is another now.
    Membership(Membership),
    /// This node has been removed from the cell, which is in this epoch now. It helps others to
    /// learn of that until [`Output::Retired`], also when it is started again: it may be the only
    /// one that knows.
    Removed(Epoch),
    /// Nobody needs this removed node any more: end the process.
    Retired,
    /// What was damaged in this node's store has been put right from the copies of others.
    Repaired(Slot),
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It has no vote: it learns what is decided, before it becomes a member or after.
    Learner,
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
        leadership: Ballot,
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
    /// Who votes.
    pub membership: Membership,
    /// The newest snapshot, if there is one.
    pub snapshot: Option<SnapshotMeta>,
    /// The last slot that the disk damaged and that is not repaired yet.
    pub damaged: Option<Slot>,
    /// On a leader, nodes without a vote that ask for the log, by node: the last slot that each
    /// has durably.
    pub learners: Vec<(NodeId, Slot)>,
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
    /// The membership is being changed. Retry with the leader of the next one.
    #[error("the membership is being changed; retry in a moment")]
    Stopping,
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

/// Why a change of the membership was not begun. It has no effect then, now or later.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReconfigureError {
    /// Another node leads, or none does, or this one does not yet for sure.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// Another change has begun.
    #[error("the membership is being changed already; retry when that is done")]
    Stopping,
    /// The membership would be none.
    #[error(transparent)]
    Invalid(#[from] MembershipError),
    /// It is the present membership.
    #[error("nothing would change")]
    Unchanged,
    /// A node that is to join has a number that was given before.
    #[error(
        "node {node}: numbers up to {newest} have been given, each for good; prepare the node \
         with a higher one"
    )]
    NumberUsed {
        /// The node.
        node: NodeId,
        /// The highest number given.
        newest: NodeId,
    },
    /// A node that is to join has not shown up, or is still learning.
    #[error(
        "node {node} has {durable} of {decided} entries; it may join when it is at most \
         {LEARNER_LAG_MAX} behind: start it and wait"
    )]
    NotCaughtUp {
        /// The node.
        node: NodeId,
        /// The last slot it is known to have.
        durable: Slot,
        /// The last slot decided.
        decided: Slot,
    },
}

impl Config {
    /// Checks the configuration by itself and against what the store remembers.
    pub(crate) fn validate(&self, recovered: &Recovered) -> Result<(), ConfigError> {
        if self.node == NodeId(0) {
            return Err(ConfigError::NodeZero);
        }
        if recovered.membership != Membership::none() {
            recovered.membership.validate()?;
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
        if self.promised.epoch > self.membership.epoch {
            return inconsistent("it promised a ballot of a membership that it does not know");
        }
        let base = self.snapshot.as_ref().map_or(Slot::NONE, |meta| meta.slot);
        if base > self.decided || self.first > base.next() {
            return inconsistent("its log does not follow its snapshot");
        }
        let mut slot = self.decided;
        for entry in &self.entries {
            slot = slot.next();
            if entry.slot != slot {
                return inconsistent("its log has a gap");
            }
            if !is_whole(entry) {
                return inconsistent("an entry's checksum does not fit");
            }
        }
        if self.claimed < slot {
            return inconsistent("it accepted less than it holds");
        }
        Ok(())
    }
}
