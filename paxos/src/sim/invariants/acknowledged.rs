//! What was acknowledged survives: acknowledgements speak of what is durable, and what is decided
//! never leaves a disk that held it.
//!
//! (Liskov, Cowling, *Viewstamped Replication Revisited*, 2012, section 4: what a quorum has is
//! in every later view.)

use crate::message::{Body, Standing};
use crate::sim::coverage::Check;
use crate::sim::invariants::{PerNode, Violation, one_value::OneValue};
use crate::sim::shadow::Shadow;
use crate::types::{Ballot, NodeId, Recovered, Slot, WriteBatch};

/// What each node has acknowledged.
#[derive(Debug, Default)]
pub struct AcknowledgedSurvives {
    spoken: PerNode<(Ballot, Slot)>,
}

impl AcknowledgedSurvives {
    /// A node sends a message: what it acknowledges must be on its disk. Whether it does so at all.
    pub(crate) fn on_send(
        &mut self,
        node: NodeId,
        body: &Body,
        disk: &Shadow,
        decided: &OneValue,
    ) -> Result<bool, Violation> {
        let spoken = match body {
            Body::Promise(promise) => (promise.accepted, promise.end),
            Body::Accepted(accepted) => match accepted.standing {
                Standing::Synced { persisted, .. } => (accepted.ballot, persisted),
                Standing::Unsynced { .. } => return Ok(false),
            },
            _ => return Ok(false),
        };
        let before = self.spoken.of(node);
        *before = spoken.max(*before);
        let there = (disk.promised(), disk.accepted(), disk.end());
        check(node, spoken, there, decided)?;
        Ok(true)
    }

    /// A node starts from what its store recovered.
    pub(crate) fn on_start(
        &mut self,
        node: NodeId,
        disk: &Recovered,
        decided: &OneValue,
    ) -> Result<(), Violation> {
        let spoken = *self.spoken.of(node);
        let there = (disk.promised, disk.accepted, disk.claimed);
        check(node, spoken, there, decided)
    }

    /// A write is about to reach a disk: it may not remove what is decided, unless it puts the
    /// same back. What it has learnt and its disk then damaged it need not keep, as long as nobody
    /// counts on it: neither has it acknowledged that, nor does it lead.
    pub(crate) fn on_write(
        &mut self,
        node: NodeId,
        disk: &Shadow,
        batch: &WriteBatch,
        decided: &OneValue,
    ) -> Result<(), Violation> {
        let removed = match batch.truncate_from {
            _ if batch.restart => disk.first(),
            Some(from) => from,
            None => return Ok(()),
        };
        let ballot = disk.accepted();
        let spoken = *self.spoken.of(node);
        let counts = |slot| ballot.node == node || spoken.0 == ballot && slot <= spoken.1;
        let covered = batch.snapshot.as_ref().map_or(Slot::NONE, |meta| meta.slot);
        let from = removed.max(covered.next());
        for slot in from.0..=disk.end().0.min(decided.count()) {
            let slot = Slot(slot);
            let held = disk.entry(slot);
            let first = batch.entries.first().map_or(slot, |entry| entry.slot);
            let put = slot.0.checked_sub(first.0);
            let put = put.and_then(|index| batch.entries.get(index as usize));
            let kept = slot <= disk.decided() || counts(slot);
            if kept && held == decided.get(slot) && put != held {
                let detail = format!("node {node} removes {held:?}, which is decided");
                return Err(Violation::of(Check::Acknowledged, detail));
            }
        }
        Ok(())
    }
}

fn check(
    node: NodeId,
    (ballot, end): (Ballot, Slot),
    (promised, accepted, there): (Ballot, Ballot, Slot),
    decided: &OneValue,
) -> Result<(), Violation> {
    // Under a higher promise, or where another ballot's entry is known to be decided, that may
    // replace the end of an older log.
    let last = Slot(decided.count()).min(end);
    let lost = decided.get(last).is_some_and(|entry| entry.origin > ballot);
    let replaced = promised > ballot || lost;
    if accepted < ballot || (accepted == ballot && there < end && !replaced) {
        let detail = format!(
            "node {node} acknowledged {ballot} to slot {end}; its disk has {accepted} to {there}"
        );
        return Err(Violation::of(Check::Acknowledged, detail));
    }
    Ok(())
}
