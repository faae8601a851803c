//! A snapshot is the state at its slot, is never older than what it replaces, nothing is cut off a
//! log that a durable snapshot does not hold, and what follows it in a log followed its last entry.
//!
//! (Chandra, Griesemer, Redstone, *Paxos Made Live*, 2007, section 5.5: the log is cut only once
//! the snapshot is known to be good. An older one was installed in etcd issue 18055.)

use crate::sim::coverage::Check;
use crate::sim::invariants::{Violation, one_value::OneValue};
use crate::sim::shadow::Shadow;
use crate::types::{NodeId, Slot, SnapshotMeta, WriteBatch};

/// A node that has applied everything up to `applied` installs a snapshot.
pub(crate) fn on_install(
    node: NodeId,
    applied: Slot,
    meta: &SnapshotMeta,
    decided: &OneValue,
) -> Result<(), Violation> {
    if meta.slot <= applied {
        let slot = meta.slot;
        let detail = format!("node {node} installs a snapshot of {slot} over {applied}");
        return Err(Violation::of(Check::Snapshots, detail));
    }
    check_meta(node, meta, decided)
}

/// A node writes: what it cuts off its log must be in a snapshot that is durable.
pub(crate) fn on_batch(
    node: NodeId,
    batch: &WriteBatch,
    disk: &Shadow,
    decided: &OneValue,
) -> Result<(), Violation> {
    if let Some(meta) = &batch.snapshot {
        check_meta(node, meta, decided)?;
        check_tail(node, meta, batch, disk)?;
    }
    let new = batch.snapshot.as_ref().map_or(Slot::NONE, |meta| meta.slot);
    let covered = disk.covered().max(new);
    if new > Slot::NONE && new < disk.covered() {
        let old = disk.covered();
        let detail = format!("node {node} replaces the snapshot of {old} by one of {new}");
        return Err(Violation::of(Check::Snapshots, detail));
    }
    if batch.keep_from > covered.next() {
        let from = batch.keep_from;
        let detail = format!("node {node} keeps from {from}; its snapshot holds up to {covered}");
        return Err(Violation::of(Check::Snapshots, detail));
    }
    Ok(())
}

/// What stays in a log behind a snapshot has followed the snapshot's last entry there. A node that
/// cannot read its own entry does not know, and keeps what it has acknowledged.
fn check_tail(
    node: NodeId,
    meta: &SnapshotMeta,
    batch: &WriteBatch,
    disk: &Shadow,
) -> Result<(), Violation> {
    let truncated = batch.truncate_from.is_some_and(|from| from <= meta.slot);
    let cut = batch.restart || truncated || disk.was_damaged();
    match disk.entry(meta.slot) {
        Some(entry) if !cut && entry.origin != meta.origin => {
            let detail = format!("node {node} keeps what followed {entry:?} behind {meta:?}");
            Err(Violation::of(Check::Snapshots, detail))
        }
        _ => Ok(()),
    }
}

fn check_meta(node: NodeId, meta: &SnapshotMeta, decided: &OneValue) -> Result<(), Violation> {
    let origin = decided.get(meta.slot).map(|entry| entry.origin);
    if origin != Some(meta.origin) {
        let detail = format!("node {node} has {meta:?}, but decided is an entry of {origin:?}");
        return Err(Violation::of(Check::Snapshots, detail));
    }
    Ok(())
}
