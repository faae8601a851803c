//! What lockd's clients, nodes and gateways say to each other: types, frames, tickets, limits.
//!
//! This crate performs no I/O and knows no clock, no randomness and no environment. Everything
//! in it that is read from a peer is checked before it is believed: a [`frame::Decoder`] bounds
//! what it buffers, a [`LockName`] cannot hold a name that is not allowed, and a
//! [`ticket::Verifier`] rejects every altered bit.
//!
//! * [`types`]: the newtypes of the vocabulary (session, sequence, token, lock name ...).
//! * [`frame`]: length-prefixed frames on a stream.
//! * [`client`]: the conversation between a client and a node (ALPN `lockd/1`).
//! * [`peer`]: how nodes introduce themselves to each other (ALPN `lockd-peer/1`).
//! * [`ticket`]: the signed, printable form of a grant.
//! * [`roles`]: how certificates name nodes and clients.
//! * [`limits`]: every bound, as a named constant with its unit.
//! * [`planted`]: bugs for the simulator to find; nothing in what is not built for simulation.

pub mod client;
pub mod frame;
pub mod limits;
pub mod peer;
pub mod planted;
pub mod roles;
pub mod ticket;
pub mod types;

pub use types::{
    CellId, EventNumber, InvalidName, LockName, Millis, Mode, NodeId, Nonce, Sequence, SessionId,
    Token,
};
