//! Leader-based Multi-Paxos without I/O, its log store and its simulator.

mod interface;
pub mod limits;
pub mod message;
mod replica;
pub mod store;
mod types;

pub use interface::{
    Config, ConfigError, Input, NotLeader, Output, PeerStatus, ProposeError, Role, Status, Timing,
};
pub use message::Message;
pub use replica::Replica;
pub use types::{
    Ballot, CellId, ConfirmNumber, Entry, EntryKind, Epoch, Identity, Incarnation, Leadership,
    LoadId, NodeId, PersistId, Recovered, Slot, Time, WriteBatch,
};
