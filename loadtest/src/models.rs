//! What locks are, as sequential objects; and whether a history of concurrent operations on one
//! could have been made by it, one operation after the other ("linearizable": Herlihy and Wing,
//! 1990).
//!
//! - [`lock`]: the five models of Hazelcast's lock tests for Jepsen, as one with three switches.
//! - [`check`]: the search for an order.
//!
//! Locks are independent of each other, so each has a history of its own. Linearizability is closed
//! under prefixes: of a long history, the beginning is checked.

pub mod check;
pub mod lock;
#[cfg(test)]
mod tests;

pub use check::{Refusal, Verdict, check, check_beginning};
pub use lock::{LockModel, Op, Owner, Ret};
