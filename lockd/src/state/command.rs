//! What the log holds: batches of commands, one batch per entry.

use lockd_protocol::client::{About, Operation, Refusal};
use lockd_protocol::{LockName, Millis, Nonce, Sequence, SessionId, Token};
use paxos::Ballot;
use serde::{Deserialize, Serialize};

/// One change of the replicated state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Opens a session, once per nonce.
    Open {
        /// The client's random number.
        nonce: Nonce,
        /// The session's TTL.
        ttl: Millis,
        /// Who opens it, as the certificate says: whom the session belongs to.
        identity: String,
        /// What it says of itself.
        about: About,
    },
    /// A client's request.
    Request {
        /// On whose behalf.
        session: SessionId,
        /// Its number in the session.
        sequence: Sequence,
        /// Answers up to this number may be forgotten.
        acknowledged: Sequence,
        /// What to do.
        operation: Operation,
    },
    /// A client's request that the leader refuses by its own configuration. It goes through the log
    /// because an earlier copy may be in it: then that one's answer is repeated.
    Refuse {
        /// On whose behalf.
        session: SessionId,
        /// Its number in the session.
        sequence: Sequence,
        /// Answers up to this number may be forgotten.
        acknowledged: Sequence,
        /// Why.
        refusal: Refusal,
    },
    /// The leader's clock says that the session was not renewed for its TTL.
    Expire {
        /// Which session.
        session: SessionId,
        /// Who decided so.
        leadership: Ballot,
    },
    /// The leader's clock says that an acquisition has waited as long as it wanted to.
    TimeOut {
        /// The waiter's session.
        session: SessionId,
        /// Number of its acquisition.
        acquire: Sequence,
        /// Who decided so.
        leadership: Ballot,
    },
    /// The leader's clock says that a lock has been closed for as long as it was to be.
    Reopen {
        /// Which lock.
        lock: LockName,
        /// Token of the grant whose end closed it.
        token: Token,
        /// Who decided so.
        leadership: Ballot,
    },
    /// The leader's clock says that the holder of a lock that is being broken knows of it, or
    /// has given up by itself.
    FinishBreak {
        /// Which lock.
        lock: LockName,
        /// Token of the grant that ends.
        token: Token,
        /// Who decided so.
        leadership: Ballot,
    },
    /// The leader's clock says that the session has been silent for so long: a later leadership
    /// counts from there.
    Silent {
        /// Which session.
        session: SessionId,
        /// For how long, over all leaderships since it was last heard.
        spent: Millis,
        /// Who decided so.
        leadership: Ballot,
    },
    /// A session that the log calls silent was heard again.
    Heard {
        /// Which session.
        session: SessionId,
        /// Who heard it.
        leadership: Ballot,
    },
}

/// Commands that go into the log as one entry.
#[derive(Debug, Default)]
#[cfg_attr(feature = "model", derive(Clone, Hash))]
pub struct Batch {
    bytes: Vec<u8>,
}

impl Batch {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Encoded size, bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a command.
    pub fn push(&mut self, command: &Command) {
        let start = self.bytes.len();
        if postcard::to_io(command, &mut self.bytes).is_err() {
            // Writing to memory fails only for a type that cannot be encoded, which no command is.
            self.bytes.truncate(start);
        }
    }

    /// Adds an encoded command.
    pub fn append(&mut self, encoded: &[u8]) {
        self.bytes.extend_from_slice(encoded);
    }

    /// The payload of a log entry; the batch is empty afterwards.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

/// The commands of a log entry's payload, in order.
///
/// # Errors
/// The payload is not what any node of this version would have written.
pub fn decode(mut payload: &[u8]) -> Result<Vec<Command>, postcard::Error> {
    let mut commands = Vec::new();
    while !payload.is_empty() {
        let (command, rest) = postcard::take_from_bytes(payload)?;
        commands.push(command);
        payload = rest;
    }
    Ok(commands)
}

impl From<Vec<u8>> for Batch {
    fn from(bytes: Vec<u8>) -> Batch {
        Batch { bytes }
    }
}
