//! Messages between replicas, and their encoding. Data only: the rules are in the crate docs.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::MESSAGE_BYTES_MAX;
use bytes::Bytes;

use crate::types::{Ballot, ConfirmNumber, Entry, Epoch, Slot, SnapshotMeta};

/// A message: the membership it was sent under, and what it says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// The newest membership that the sender knows. Who knows less asks it for the log.
    pub epoch: Epoch,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Body {
    /// A candidate asks for a promise.
    Prepare(Prepare),
    /// An acceptor promises, and says how its log stands.
    Promise(Promise),
    /// A candidate asks for entries of the log that it adopts.
    Fetch(Fetch),
    /// The entries asked for.
    Entries(Entries),
    /// A leader brings a follower's log under its ballot.
    Sync(Sync),
    /// A leader appends to a follower's log; empty, it is a heartbeat.
    Accept(Accept),
    /// How a follower's log stands under the leader's ballot.
    Accepted(Accepted),
    /// A higher ballot was promised.
    Reject(Reject),
    /// A replica without a leader asks its peers how they are.
    Ping(Ping),
    /// The answer to a [`Ping`].
    Pong(Pong),
    /// What the receiver lacks is not in the sender's memory: it may ask for it.
    Behind(Behind),
    /// A replica that is behind, or has no vote, or whose disk damaged something, asks for decided
    /// entries.
    Learn(Learn),
    /// Decided entries.
    Learned(Learned),
    /// What was asked for has been cut off the log: it is in this snapshot.
    Offer(Offer),
    /// Asks for a part of a snapshot.
    FetchChunk(FetchChunk),
    /// A part of a snapshot.
    Chunk(Chunk),
    /// The receiver is not a member any more.
    Removed,
}

/// See [`Body::Behind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Behind {
    /// What the sender knows to be decided.
    pub decided: Slot,
}

/// See [`Body::Learn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Learn {
    /// The first slot wanted.
    pub first: Slot,
    /// The last slot wanted. The answer may end before it.
    pub last: Slot,
    /// Up to here the asker has the decided log durably.
    pub durable: Slot,
}

/// See [`Body::Learned`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Learned {
    /// Contiguous from the first slot asked for, all decided. None if there are none yet.
    pub entries: Vec<Entry>,
    /// What the sender knows to be decided.
    pub decided: Slot,
}

/// See [`Body::Offer`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Offer {
    /// The sender's newest snapshot.
    pub meta: SnapshotMeta,
}

/// See [`Body::FetchChunk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FetchChunk {
    /// The snapshot's slot.
    pub slot: Slot,
    /// Its checksum: snapshots of the same slot need not be made of the same bytes.
    pub crc: u32,
    /// Where the part begins, bytes.
    pub offset: u64,
}

/// See [`Body::Chunk`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Chunk {
    /// The snapshot's slot.
    pub slot: Slot,
    /// Its checksum.
    pub crc: u32,
    /// Where the part begins, bytes.
    pub offset: u64,
    /// The part. None if the sender has another snapshot by now: ask again from the log.
    pub bytes: Bytes,
}

/// See [`Body::Prepare`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Prepare {
    /// The candidate's ballot, which it has itself durably promised.
    pub ballot: Ballot,
}

/// See [`Body::Promise`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Promise {
    /// What is promised: to accept nothing below this.
    pub ballot: Ballot,
    /// The ballot of the acceptor's log.
    pub accepted: Ballot,
    /// Its last slot, durable.
    pub end: Slot,
    /// How much of it is known to be decided.
    pub decided: Slot,
}

/// See [`Body::Fetch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fetch {
    /// The candidate's ballot.
    pub ballot: Ballot,
    /// The ballot of the log that the promise spoke of; another log is not sent.
    pub accepted: Ballot,
    /// The first slot wanted.
    pub first: Slot,
    /// The last slot wanted. The answer may end before it.
    pub last: Slot,
}

/// See [`Body::Entries`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entries {
    /// The candidate's ballot.
    pub ballot: Ballot,
    /// Contiguous, beginning with the first slot asked for.
    pub entries: Vec<Entry>,
}

/// See [`Body::Sync`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sync {
    /// The leader's ballot.
    pub ballot: Ballot,
    /// The slot of the first entry.
    pub first: Slot,
    /// A contiguous part of the leader's log.
    pub entries: Vec<Entry>,
    /// With everything up to here the follower's log comes under the ballot, at once.
    pub end: Slot,
    /// What the leader knows to be decided.
    pub decided: Slot,
    /// The newest confirm round of this leadership.
    pub confirm: ConfirmNumber,
}

/// See [`Body::Accept`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Accept {
    /// The leader's ballot.
    pub ballot: Ballot,
    /// The slot of the first entry; in a heartbeat, of the entry that would be sent next.
    pub first: Slot,
    /// A contiguous part of the leader's log.
    pub entries: Vec<Entry>,
    /// What the leader knows to be decided.
    pub decided: Slot,
    /// The newest confirm round of this leadership.
    pub confirm: ConfirmNumber,
}

/// See [`Body::Accepted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Accepted {
    /// The leader's ballot, promised.
    pub ballot: Ballot,
    /// How far the log has come under it.
    pub standing: Standing,
    /// Entries between what the follower has and what it was sent are missing.
    pub gap: bool,
    /// The newest confirm round seen of this leadership.
    pub confirm: ConfirmNumber,
}

/// How a follower's log stands under a leader's ballot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Standing {
    /// Still under an older ballot.
    Unsynced {
        /// Up to here the leader's entries are decided and known, or wait for the rest.
        received: Slot,
    },
    /// Under the leader's ballot, durably.
    Synced {
        /// The last durable slot.
        persisted: Slot,
        /// The last slot in memory.
        received: Slot,
    },
}

/// See [`Body::Reject`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reject {
    /// What was refused.
    pub ballot: Ballot,
    /// What was promised instead.
    pub promised: Ballot,
}

/// See [`Body::Ping`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ping {
    /// Given back in the answer, so that a late one is not taken for a new one.
    pub round: u64,
}

/// See [`Body::Pong`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pong {
    /// The round of the [`Ping`].
    pub round: u64,
    /// What the sender has promised, so that a candidate begins above it.
    pub promised: Ballot,
    /// The ballot of the sender's log.
    pub accepted: Ballot,
    /// The last slot of the sender's log. Who has a better log is given precedence.
    pub end: Slot,
    /// Whether the sender leads or hears a leader.
    pub happy: bool,
    /// Whether the sender's disk answers in time and has kept what was acknowledged, without which
    /// it could not promise.
    pub can_vote: bool,
}

/// Why bytes are no message.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// It was not even tried.
    #[error("message of {bytes} bytes; at most {MESSAGE_BYTES_MAX} are allowed")]
    TooLong {
        /// The length met.
        bytes: usize,
    },
    /// The bytes do not follow the encoding.
    #[error("malformed message: {0}")]
    Malformed(postcard::Error),
    /// The message ended before the bytes did.
    #[error("{bytes} bytes follow the end of the message")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

impl Message {
    /// Appends the encoded message. A message that a replica gave out is never longer than
    /// [`MESSAGE_BYTES_MAX`].
    pub fn encode(&self, into: &mut Vec<u8>) {
        let writer = std::mem::take(into);
        *into = postcard::to_extend(self, writer)
            .expect("data made of numbers, bytes and sequences has an encoding");
    }

    /// The message that `bytes` hold, all of them. Its entries are not yet checked.
    ///
    /// # Errors
    ///
    /// If the bytes are too many, malformed, or not used up.
    pub fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(DecodeError::TooLong { bytes: bytes.len() });
        }
        let (message, rest) = postcard::take_from_bytes(bytes).map_err(DecodeError::Malformed)?;
        if !rest.is_empty() {
            return Err(DecodeError::Trailing { bytes: rest.len() });
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests;
