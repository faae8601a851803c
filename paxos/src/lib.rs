//! Leader-based Multi-Paxos without I/O, a log store, and a simulator.
//!
//! A [`Replica`] is a state machine: the driver hands it [`Input`]s together with the time, and
//! drains [`Output`]s. It reads no clock, opens no socket and no file; whatever must be durable
//! before it is spoken of is held back inside until the driver says [`Input::Persisted`].
//!
//! # Example
//!
//! Three replicas whose network and disks are a loop:
//!
//! ```
//! use bytes::Bytes;
//! use paxos::{
//!     Config, EntryKind, Input, Membership, NodeId, Output, Recovered, Replica, Role, Time,
//!     Timing,
//! };
//!
//! let membership = Membership::first((1..=3).map(NodeId)).unwrap();
//! let mut now = Time(0);
//! let start = |node: &NodeId| {
//!     let (node, seeds) = (*node, Vec::new());
//!     let config = Config { node, seeds, timing: Timing::default(), seed: node.0 };
//!     Replica::new(config, Recovered::fresh(membership.clone()), now).unwrap()
//! };
//! let mut replicas: Vec<Replica> = membership.members.iter().map(start).collect();
//! let mut applied: Vec<Vec<Bytes>> = vec![Vec::new(); 3];
//! let mut proposed = false;
//!
//! while applied.iter().any(Vec::is_empty) {
//!     // Time jumps to the next timer; then inputs and outputs go around until all is quiet.
//!     now = replicas.iter().map(Replica::next_timer).min().unwrap();
//!     let mut inputs: Vec<(usize, Input)> = (0..3).map(|index| (index, Input::Tick)).collect();
//!     while let Some((index, input)) = inputs.pop() {
//!         let replica = &mut replicas[index];
//!         replica.handle(now, input);
//!         if !proposed && matches!(replica.role(), Role::Leader { .. }) {
//!             replica.propose(now, Bytes::from_static(b"hello")).unwrap();
//!             proposed = true;
//!         }
//!         while let Some(output) = replica.poll_output() {
//!             match output {
//!                 Output::Send { to, message } => {
//!                     let from = NodeId(index as u64 + 1);
//!                     inputs.insert(0, (to.0 as usize - 1, Input::Message { from, message }));
//!                 }
//!                 Output::Persist(batch) => inputs.insert(0, (index, Input::Persisted(batch.id))),
//!                 Output::Apply(entries) => {
//!                     let commands = entries.into_iter().filter(|e| e.kind == EntryKind::Command);
//!                     applied[index].extend(commands.map(|entry| entry.payload));
//!                 }
//!                 _ => {} // Nobody asks for confirms, is far behind or changes the membership.
//!             }
//!         }
//!     }
//! }
//! assert_eq!(applied, vec![vec![Bytes::from_static(b"hello")]; 3]);
//! ```
#![doc = ""]
#![doc = include_str!("../../docs/paxos.md")]

mod acceptor;
mod candidate;
mod confirm;
mod core;
mod durable;
mod election;
mod epoch;
mod interface;
mod leader;
mod learn;
pub mod limits;
mod log;
mod membership;
pub mod message;
mod planted;
mod progress;
mod quorum;
mod replica;
mod serve;
#[cfg(feature = "sim")]
pub mod sim;
mod stage;
pub mod store;
#[cfg(test)]
mod testing;
mod transfer;
mod types;
mod validate;

pub use interface::{
    Config, ConfigError, Input, NotLeader, Output, PeerStatus, ProposeError, ReconfigureError,
    Role, Status, Timing,
};
pub use membership::{Membership, MembershipError, Quorums};
pub use message::Message;
#[cfg(feature = "sim")]
pub use planted::Planted;
pub use replica::Replica;
pub use types::{
    Ballot, CellId, ConfirmNumber, Entry, EntryKind, Epoch, Identity, Incarnation, LoadId, NodeId,
    PersistId, Recovered, Slot, SnapshotMeta, Time, WriteBatch,
};
