//! What the simulator knows to be durable on a node: every write that was completed, applied to
//! plain memory. The invariants look here, and what the real store recovers is compared with it.

use std::collections::VecDeque;

use crate::membership::Membership;
use crate::types::{Ballot, Entry, Recovered, Slot, SnapshotMeta, WriteBatch};

/// What is durable.
#[derive(Clone, Debug)]
pub(crate) struct Shadow {
    membership: Membership,
    promised: Ballot,
    accepted: Ballot,
    snapshot: Option<SnapshotMeta>,
    decided: Slot,
    /// The slot of the first entry, or the one after the snapshot if there is none.
    first: Slot,
    /// None for what was accepted and the disk has lost.
    log: VecDeque<Option<Entry>>,
    /// The disk was damaged once: its node may not know all that is here.
    damaged: bool,
}

impl Shadow {
    pub(crate) fn new(membership: Membership) -> Shadow {
        let fresh = Recovered::fresh(membership);
        Shadow {
            membership: fresh.membership,
            promised: fresh.promised,
            accepted: fresh.accepted,
            snapshot: None,
            decided: Slot::NONE,
            first: Slot(1),
            log: VecDeque::new(),
            damaged: false,
        }
    }

    /// Whether the node may not know all that it once wrote.
    pub(crate) fn was_damaged(&self) -> bool {
        self.damaged
    }

    pub(crate) fn membership(&self) -> &Membership {
        &self.membership
    }

    pub(crate) fn promised(&self) -> Ballot {
        self.promised
    }

    pub(crate) fn accepted(&self) -> Ballot {
        self.accepted
    }

    pub(crate) fn first(&self) -> Slot {
        self.first
    }

    /// Up to here the disk knows what is decided.
    pub(crate) fn decided(&self) -> Slot {
        self.decided
    }

    /// The last slot that is in the snapshot.
    pub(crate) fn covered(&self) -> Slot {
        self.snapshot.as_ref().map_or(Slot::NONE, |meta| meta.slot)
    }

    pub(crate) fn end(&self) -> Slot {
        Slot(self.first.0 + self.log.len() as u64 - 1)
    }

    pub(crate) fn entry(&self, slot: Slot) -> Option<&Entry> {
        let index = slot.0.checked_sub(self.first.0)?;
        self.log.get(usize::try_from(index).ok()?)?.as_ref()
    }

    /// The origin of a slot, if it is known.
    pub(crate) fn origin(&self, slot: Slot) -> Option<Ballot> {
        let of_snapshot = self.snapshot.as_ref().filter(|meta| meta.slot == slot);
        let entry = self.entry(slot).map(|entry| entry.origin);
        entry.or(of_snapshot.map(|meta| meta.origin))
    }

    pub(crate) fn write(&mut self, batch: &WriteBatch) {
        self.promised = batch.promised.unwrap_or(self.promised);
        self.accepted = batch.accepted.unwrap_or(self.accepted);
        if let Some(membership) = &batch.membership {
            self.membership = membership.clone();
        }
        if let Some(meta) = &batch.snapshot {
            self.snapshot = Some(meta.clone());
        }
        let covered = self.covered();
        if batch.restart || (batch.snapshot.is_some() && covered > self.end()) {
            self.log.clear();
            self.first = covered.next();
        }
        if let Some(from) = batch.truncate_from {
            let kept = from.0.saturating_sub(self.first.0);
            self.log.truncate(kept as usize);
        }
        for entry in &batch.entries {
            self.put(entry);
        }
        while self.first < batch.keep_from.min(covered.next()) && self.log.pop_front().is_some() {
            self.first = self.first.next();
        }
        self.decided = batch.decided;
    }

    fn put(&mut self, entry: &Entry) {
        let index = entry.slot.0.wrapping_sub(self.first.0) as usize;
        assert!(index <= self.log.len(), "a write continues the log");
        if index < self.log.len() {
            self.log[index] = Some(entry.clone());
        } else {
            self.log.push_back(Some(entry.clone()));
        }
    }

    /// The disk was damaged: the node goes on from what its store recovered. Its promises stand.
    pub(crate) fn lose_to(&mut self, recovered: &Recovered) {
        self.damaged = true;
        self.snapshot = recovered.snapshot.clone();
        self.decided = recovered.decided;
        let end = self.end();
        let kept = recovered.first.0..=end.0;
        let log = kept.map(|slot| self.entry(Slot(slot)).cloned());
        self.log = log.collect();
        self.first = recovered.first;
    }

    /// How what a store recovered differs from what was written; of an intact disk only.
    pub(crate) fn differs_from(&self, recovered: &Recovered) -> Option<String> {
        let ours = (
            self.promised,
            self.accepted,
            self.end(),
            self.decided.max(self.covered()),
        );
        let claimed = recovered.claimed;
        let found = (
            recovered.promised,
            recovered.accepted,
            claimed,
            recovered.decided,
        );
        if ours != found {
            return Some(format!("{ours:?} was written, {found:?} is there"));
        }
        if self.membership != recovered.membership || self.snapshot != recovered.snapshot {
            let (membership, snapshot) = (&self.membership, &self.snapshot);
            return Some(format!("{membership:?}, {snapshot:?} was written"));
        }
        let mut slot = recovered.decided;
        for entry in &recovered.entries {
            slot = slot.next();
            if self.entry(slot) != Some(entry) {
                return Some(format!(
                    "{entry:?} is there instead of {:?}",
                    self.entry(slot)
                ));
            }
        }
        (slot != claimed).then(|| format!("the log ends with {slot} instead of {claimed}"))
    }
}
