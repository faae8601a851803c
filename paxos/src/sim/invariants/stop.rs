//! Nothing follows a stop entry in its epoch.
//!
//! (Lamport, Malkhi, Zhou, *Stoppable Paxos*, 2008, section 3: no command is chosen after a
//! stopping command.)

use crate::sim::coverage::Check;
use crate::sim::invariants::Violation;
use crate::sim::shadow::Shadow;
use crate::types::{Entry, EntryKind, NodeId, WriteBatch};

/// A node writes; whether there was a stop entry to look behind.
pub(crate) fn on_batch(node: NodeId, batch: &WriteBatch, disk: &Shadow) -> Result<bool, Violation> {
    let Some(first) = batch.entries.first() else {
        return Ok(false);
    };
    let mut seen = false;
    let mut before = disk.entry(first.slot.previous());
    for entry in &batch.entries {
        if let Some(stop) = before.filter(|entry| entry.kind == EntryKind::Stop) {
            seen = true;
            check(node, stop, entry)?;
        }
        before = Some(entry);
    }
    Ok(seen)
}

fn check(node: NodeId, stop: &Entry, entry: &Entry) -> Result<(), Violation> {
    let next = stop.origin.epoch.next();
    if entry.origin.epoch != next || entry.kind != EntryKind::NewLeader {
        let detail = format!("node {node} writes {entry:?} behind {stop:?}");
        return Err(Violation::of(Check::Stop, detail));
    }
    Ok(())
}
