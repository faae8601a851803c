//! Leader-based Multi-Paxos without I/O, a log store, and a simulator.
//!
//! A [`Replica`] is a state machine: the driver hands it [`Input`]s together with the time, and
//! drains [`Output`]s. It reads no clock, opens no socket and no file; whatever must be durable
//! before it is spoken of is held back inside until the driver says [`Input::Persisted`].
//!
//! # The protocol
//!
//! Multi-Paxos with one restriction: an acceptor's log is a sequence with *one* accepted ballot.
//! A new leader adopts the log with the highest (accepted ballot, end) among those of a quorum,
//! and brings every follower's log under its own ballot as a whole, in one write. Acknowledgements
//! are therefore cumulative, and an entry that only a minority ever had cannot come back behind
//! the entries of a later leader (as in Sequence Paxos: Haridi, Kroll, Carbone, *Lecture Notes on
//! Leader-based Sequence Paxos*, 2020).
//!
//! | message | from, to | precondition at the receiver, beside a sound message | effect |
//! |---|---|---|---|
//! | `Prepare` | candidate, all | ballot not below the one promised; its own durable promise came first at the sender | promises it; answers `Promise` once that and the log are durable |
//! | `Promise` | acceptor, candidate | of the present campaign | with a quorum: the best log is chosen |
//! | `Fetch` | candidate, best acceptor | promised this ballot, and the log is still the one promised | answers `Entries` |
//! | `Entries` | best acceptor, candidate | of the present campaign, continuing what is staged | when complete: the log is adopted, `NewLeader` is appended, phase 2 begins |
//! | `Sync` | leader, follower | ballot not below the one promised; log not under it yet | promises it; decided entries are installed, others staged; when complete, they replace the open log in one write; answers `Accepted` |
//! | `Accept` | leader, follower | ballot not below the one promised | promises it; if the log is under it and there is no gap, appends and decides; answers `Accepted` once the entries are durable, but echoes a new confirm round at once |
//! | `Accepted` | follower, leader | exactly the leader's ballot | its durable end counts towards decisions, its echo towards confirms; a gap is sent again |
//! | `Reject` | acceptor, leader or candidate | of the present ballot | steps down; the next campaign begins above |
//! | `Ping` | replica without a leader, all | none | answers `Pong` |
//! | `Pong` | all | of the present round | a campaign is planned if a quorum answers and nobody is happy |
//!
//! Sound means: from another member, of the same epoch, contiguous, within the [`limits`], every
//! checksum right, and its ballot the sender's (or, in an answer, the receiver's own). Anything
//! else is dropped; nothing that a peer sends panics.
//!
//! A leader that does not hear a quorum, whose disk does not answer in time, or that is rejected,
//! steps down. Promises carry no entries: an acceptor that has promised keeps the log that it
//! described, so what a candidate lacks is fetched piece by piece, each in a small message.
//!
//! # Confirms
//!
//! There are no leader leases. [`Replica::confirm`] numbers a round that is *yet to be sent*; every
//! message of a leader carries the newest round, followers that have promised nothing higher echo
//! it, and [`Output::Confirmed`] says that a quorum did, after this leadership's `NewLeader` was
//! decided. So nothing that anybody had learnt to be decided when `confirm` was called can be
//! missing from what was handed out before `Confirmed`.
//!
//! # Example
//!
//! Three replicas whose network and disks are a loop:
//!
//! ```
//! use bytes::Bytes;
//! use paxos::{Config, EntryKind, Input, NodeId, Output, Recovered, Replica, Role, Time, Timing};
//!
//! let members: Vec<NodeId> = (1..=3).map(NodeId).collect();
//! let mut now = Time(0);
//! let start = |node: &NodeId| {
//!     let (node, members) = (*node, members.clone());
//!     let config = Config { node, members, timing: Timing::default(), seed: node.0 };
//!     Replica::new(config, Recovered::fresh((1..=3).map(NodeId).collect()), now).unwrap()
//! };
//! let mut replicas: Vec<Replica> = members.iter().map(start).collect();
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
//!                 Output::Confirmed { .. } | Output::Load { .. } | Output::RoleChanged(_) => {}
//!             }
//!         }
//!     }
//! }
//! assert_eq!(applied, vec![vec![Bytes::from_static(b"hello")]; 3]);
//! ```

mod acceptor;
mod candidate;
mod catchup;
mod confirm;
mod core;
mod durable;
mod election;
mod interface;
mod leader;
pub mod limits;
mod log;
pub mod message;
mod planted;
mod progress;
mod quorum;
mod replica;
#[cfg(feature = "sim")]
pub mod sim;
pub mod store;
mod types;
mod validate;

pub use interface::{
    Config, ConfigError, Input, NotLeader, Output, PeerStatus, ProposeError, Role, Status, Timing,
};
pub use message::Message;
#[cfg(feature = "sim")]
pub use planted::Planted;
pub use replica::Replica;
pub use types::{
    Ballot, CellId, ConfirmNumber, Entry, EntryKind, Epoch, Identity, Incarnation, Leadership,
    LoadId, NodeId, PersistId, Recovered, Slot, Time, WriteBatch,
};
