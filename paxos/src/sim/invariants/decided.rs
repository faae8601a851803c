//! Nobody believes more to be decided than a quorum made durable under one ballot.
//!
//! (Lamport, *Paxos Made Simple*, 2001, section 2.2: a value is chosen when a majority has
//! accepted it. A commit index beyond that was tikv issue 994.)

use crate::message::Body;
use crate::sim::coverage::Check;
use crate::sim::invariants::{Violation, one_value::OneValue};
use crate::types::{NodeId, Slot};

/// How much a message says to be decided.
pub(crate) fn claim(body: &Body) -> Option<Slot> {
    match body {
        Body::Promise(promise) => Some(promise.decided),
        Body::Sync(sync) => Some(sync.decided),
        Body::Accept(accept) => Some(accept.decided),
        Body::Behind(behind) => Some(behind.decided),
        Body::Learned(learned) => Some(learned.decided),
        _ => None,
    }
}

/// A node says that everything up to `claimed` is decided.
pub(crate) fn check(node: NodeId, claimed: Slot, known: &OneValue) -> Result<(), Violation> {
    if claimed.0 > known.count() {
        let count = known.count();
        let detail = format!("node {node} says slot {claimed} is decided; disks say slot {count}");
        return Err(Violation::of(Check::DecidedIsDurable, detail));
    }
    Ok(())
}
