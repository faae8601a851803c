//! Entries are applied in order, each once.
//!
//! (Schneider, *Implementing Fault-Tolerant Services Using the State Machine Approach*, 1990,
//! section 3.2: every replica processes the requests in the same relative order.)

use crate::sim::coverage::Check;
use crate::sim::invariants::Violation;
use crate::types::{Entry, NodeId, Slot};

/// A node that has applied everything up to `applied` is given an entry.
pub(crate) fn check(node: NodeId, applied: Slot, entry: &Entry) -> Result<(), Violation> {
    if entry.slot != applied.next() {
        let detail = format!("node {node} was given {entry:?} after slot {applied}");
        return Err(Violation::of(Check::AppliedInOrder, detail));
    }
    Ok(())
}
