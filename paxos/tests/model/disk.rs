//! What is durable on one node: whole batches, or nothing of them. No snapshots here, so the log
//! begins with its first entry for ever.

use paxos::{Ballot, Entry, Membership, Recovered, Slot, WriteBatch};

/// What a disk holds.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Disk {
    pub(crate) membership: Membership,
    pub(crate) promised: Ballot,
    pub(crate) accepted: Ballot,
    pub(crate) decided: Slot,
    pub(crate) log: Vec<Entry>,
}

impl Disk {
    pub(crate) fn fresh(membership: Membership) -> Disk {
        let floor = Ballot::floor(membership.epoch);
        Disk {
            membership,
            promised: floor,
            accepted: floor,
            decided: Slot::NONE,
            log: Vec::new(),
        }
    }

    pub(crate) fn end(&self) -> Slot {
        Slot(self.log.len() as u64)
    }

    /// The batch becomes durable.
    pub(crate) fn write(&mut self, batch: &WriteBatch) {
        assert!(batch.snapshot.is_none() && !batch.restart, "no snapshots");
        self.promised = batch.promised.unwrap_or(self.promised);
        self.accepted = batch.accepted.unwrap_or(self.accepted);
        if let Some(membership) = &batch.membership {
            self.membership = membership.clone();
        }
        self.decided = self.decided.max(batch.decided);
        if let Some(from) = batch.truncate_from {
            self.log.truncate(from.0 as usize - 1);
        }
        for entry in &batch.entries {
            assert_eq!(entry.slot, self.end().next(), "a write continues the log");
            self.log.push(entry.clone());
        }
        assert!(self.decided <= self.end(), "what is decided is in the log");
    }

    pub(crate) fn read(&self, first: Slot, last: Slot) -> Vec<Entry> {
        let last = (last.0 as usize).min(self.log.len());
        self.log[first.0 as usize - 1..last].to_vec()
    }

    /// What a restarted node finds.
    pub(crate) fn recovered(&self) -> Recovered {
        Recovered {
            promised: self.promised,
            accepted: self.accepted,
            decided: self.decided,
            entries: self.log[self.decided.0 as usize..].to_vec(),
            claimed: self.end(),
            ..Recovered::fresh(self.membership.clone())
        }
    }
}
