//! What a replica sends, writes and keeps undecided is bounded, whatever its peers and disks do.
//!
//! (The limits are the crate's own; that there must be some, and that each is checked where it
//! could be exceeded, is the rule "put a limit on everything": Holzmann, *The Power of Ten*, 2006.)

use crate::limits::{MESSAGE_ENTRIES_BYTES_MAX, MESSAGE_ENTRIES_MAX, OPEN_SLOTS_MAX};
use crate::log::size;
use crate::message::Body;
use crate::sim::coverage::Check;
use crate::sim::invariants::{Violation, one_value::OneValue};
use crate::sim::shadow::Shadow;
use crate::types::{Entry, NodeId, WriteBatch};

/// A node sends a message.
pub(crate) fn on_send(node: NodeId, body: &Body) -> Result<(), Violation> {
    let entries: &[Entry] = match body {
        Body::Entries(body) => &body.entries,
        Body::Sync(body) => &body.entries,
        Body::Accept(body) => &body.entries,
        Body::Learned(body) => &body.entries,
        _ => return Ok(()),
    };
    let bytes: usize = entries.iter().map(size).sum();
    if entries.len() > MESSAGE_ENTRIES_MAX || bytes > MESSAGE_ENTRIES_BYTES_MAX {
        let count = entries.len();
        let detail = format!("node {node} sends {count} entries of {bytes} bytes at once");
        return Err(Violation::of(Check::Bounds, detail));
    }
    Ok(())
}

/// A node writes.
pub(crate) fn on_batch(
    node: NodeId,
    batch: &WriteBatch,
    disk: &Shadow,
    decided: &OneValue,
) -> Result<(), Violation> {
    let end = batch.entries.last().map_or(disk.end(), |entry| entry.slot);
    let open = end.0.saturating_sub(decided.count());
    if open > OPEN_SLOTS_MAX {
        let detail = format!("node {node} has {open} undecided slots");
        return Err(Violation::of(Check::Bounds, detail));
    }
    Ok(())
}
