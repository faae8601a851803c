//! How a node introduces itself to another one: the first frame of each of its streams
//! (ALPN `lockd-peer/1`). What follows are the messages of `paxos`.

use serde::{Deserialize, Serialize};

use crate::types::{CellId, NodeId};

/// The first frame. What it says is compared with what the cell knows of the node: a node whose
/// disk was copied, emptied or set back must not vote, because it does not remember what the one
/// that the others know has promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerHello {
    /// [`crate::limits::PEER_PROTOCOL_VERSION`] of the node.
    pub version: u16,
    /// Its cell.
    pub cell: CellId,
    /// Its number, which its certificate says too.
    pub node: NodeId,
    /// Its disk, by a random number drawn when that was set up.
    pub incarnation: u64,
    /// How often it was started with that disk, durably counted.
    pub starts: u64,
    /// This start of it, by a random number.
    pub boot: u64,
}
