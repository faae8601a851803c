//! What an acceptor's log is put right with: snapshots, and copies of what a disk has damaged.

use crate::acceptor::Acceptor;
use crate::planted::Planted;
use crate::types::{Ballot, Entry, Slot, SnapshotMeta};
use crate::validate::is_whole;

impl Acceptor {
    /// The last slot that the disk damaged and that was not replaced yet. Until then this acceptor
    /// must not promise: it would describe a log without entries that it has acknowledged.
    pub(crate) fn damaged(&self) -> Option<Slot> {
        (self.claimed > self.log.end()).then_some(self.claimed)
    }

    /// A snapshot of the own state is durable and checked: the log may be cut before `keep_from`.
    pub(crate) fn snapshot_taken(&mut self, meta: SnapshotMeta, keep_from: Slot) {
        self.keep_from = keep_from.max(self.keep_from);
        self.news.snapshot = Some(meta.clone());
        self.snapshot = Some(meta);
        self.durable.numbers_changed();
    }

    /// Puts a newer snapshot in the place of the log. Entries that follow it stay if the log has
    /// the snapshot's last entry: else they followed another one, and lost.
    pub(crate) fn install_snapshot(&mut self, meta: SnapshotMeta) {
        let slot = meta.slot;
        assert!(
            slot > self.log.decided(),
            "only a newer snapshot is installed"
        );
        self.stage.clear();
        self.decided.clear();
        if self.log.origin(slot) == Some(meta.origin) || self.install_planted(slot) {
            let _ = self.log.decide(slot);
            if self.durable.is_unwritten(slot) && self.damaged().is_none() {
                // What the store has ends before the snapshot.
                self.durable.restarted_before(slot.next(), self.log.end());
            }
        } else if self.damaged().is_some_and(|damaged| damaged > slot) {
            // The store keeps what cannot be read, because it was acknowledged.
            self.log.restart(slot);
            self.durable.covered(slot);
        } else {
            self.claimed = slot;
            self.log.restart(slot);
            self.durable.restarted();
        }
        self.snapshot_taken(meta, slot.next());
    }

    /// The planted mistake: any log that is long enough is taken for one that a snapshot is of.
    fn install_planted(&self, slot: Slot) -> bool {
        self.plant.has(Planted::SnapshotKeepsTail) && self.log.end() >= slot
    }

    /// Puts the right copy of a damaged entry back. What is in memory is never damaged.
    pub(crate) fn repair(&mut self, entry: Entry) {
        if entry.slot >= self.keep_from && entry.slot <= self.log.decided() {
            self.durable.repair(entry);
        }
    }

    /// Takes back into memory what the store holds behind an entry that was damaged: this acceptor
    /// accepted it under this ballot.
    pub(crate) fn reread(&mut self, accepted: Ballot, entries: &[Entry]) {
        for entry in entries {
            let next = entry.slot == self.log.end().next() && entry.slot <= self.claimed;
            let clean = self.durable.is_clean() && self.accepted == accepted;
            if next && clean && is_whole(entry) {
                self.log.append(entry.clone());
                self.forget_old_stop();
                self.durable.reread(entry.slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::Membership;
    use crate::types::{EntryKind, Epoch, NodeId, Recovered, Time};
    use bytes::Bytes;

    #[test]
    fn a_snapshot_of_entries_that_are_yet_to_be_written_takes_their_place_in_the_next_write() {
        let membership = Membership::first((1..=3).map(NodeId)).unwrap();
        let ballot = Ballot {
            epoch: Epoch(1),
            round: 1,
            node: NodeId(1),
        };
        for last in [3, 6] {
            let mut acceptor = Acceptor::new(Recovered::fresh(membership.clone()));
            acceptor.promise(ballot);
            acceptor.adopt_own(ballot);
            for slot in 1..=last {
                let entry = Entry::new(Slot(slot), ballot, EntryKind::Command, Bytes::new());
                acceptor.append_own(entry);
            }
            acceptor.install_snapshot(SnapshotMeta {
                slot: Slot(3),
                origin: ballot,
                membership: membership.clone(),
                bytes: 8,
                crc: 0,
            });
            let batch = acceptor.begin_write(Time(0)).expect("all of it is news");
            assert!(batch.restart, "the store has nothing yet");
            let slots: Vec<u64> = batch.entries.iter().map(|entry| entry.slot.0).collect();
            assert_eq!(slots, (4..=last).collect::<Vec<_>>());
        }
    }
}
