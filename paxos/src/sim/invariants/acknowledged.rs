//! What was acknowledged survives: acknowledgements speak of what is durable, and what is decided
//! never leaves a disk that held it.
//!
//! (Liskov, Cowling, *Viewstamped Replication Revisited*, 2012, section 4: what a quorum has is
//! in every later view.)

use std::collections::BTreeMap;

use crate::message::{Body, Standing};
use crate::sim::disk::Disk;
use crate::sim::invariants::{Violation, one_value::OneValue};
use crate::types::{Ballot, NodeId, Slot, WriteBatch};

const NAME: &str = "what was acknowledged survives";

/// What each node has acknowledged.
#[derive(Debug, Default)]
pub struct AcknowledgedSurvives {
    spoken: BTreeMap<NodeId, (Ballot, Slot)>,
}

impl AcknowledgedSurvives {
    /// A node sends a message: what it acknowledges must be on its disk.
    pub(crate) fn on_send(
        &mut self,
        node: NodeId,
        body: &Body,
        disk: &Disk,
    ) -> Result<(), Violation> {
        let spoken = match body {
            Body::Promise(promise) => (promise.accepted, promise.end),
            Body::Accepted(accepted) => match accepted.standing {
                Standing::Synced { persisted, .. } => (accepted.ballot, persisted),
                Standing::Unsynced { .. } => return Ok(()),
            },
            _ => return Ok(()),
        };
        let before = self.spoken.entry(node).or_default();
        *before = spoken.max(*before);
        self.check(node, spoken, disk)
    }

    /// A node starts from its disk.
    pub(crate) fn on_start(&mut self, node: NodeId, disk: &Disk) -> Result<(), Violation> {
        let spoken = self.spoken.get(&node).copied().unwrap_or_default();
        self.check(node, spoken, disk)
    }

    /// A write is about to reach a disk: it may not remove what is decided, unless it puts the
    /// same back.
    pub(crate) fn on_write(
        &self,
        node: NodeId,
        disk: &Disk,
        batch: &WriteBatch,
        decided: &OneValue,
    ) -> Result<(), Violation> {
        let Some(from) = batch.truncate_from else {
            return Ok(());
        };
        for slot in from.0..=disk.end().0.min(decided.count()) {
            let slot = Slot(slot);
            let held = disk.entry(slot);
            let put = batch.entries.iter().find(|entry| entry.slot == slot);
            if held.as_ref() == decided.get(slot) && put != held.as_ref() {
                let detail = format!("node {node} removes {held:?}, which is decided");
                return Err(Violation::new(NAME, detail));
            }
        }
        Ok(())
    }

    fn check(&self, node: NodeId, spoken: (Ballot, Slot), disk: &Disk) -> Result<(), Violation> {
        let (ballot, end) = spoken;
        let (durable, there) = (disk.accepted(), disk.end());
        // Under a higher promise, decided entries may replace the end of an older log.
        let replaced = disk.promised() > ballot;
        if durable < ballot || (durable == ballot && there < end && !replaced) {
            let detail = format!(
                "node {node} acknowledged {ballot} to slot {end}; its disk has {durable} to {there}"
            );
            return Err(Violation::new(NAME, detail));
        }
        Ok(())
    }
}
