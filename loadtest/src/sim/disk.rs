//! A node's disk: what is on it survives the node. A write that was not reported done may be lost
//! by a crash, or be there all the same, never a part of it. Entries on it can rot.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use paxos::{Ballot, Entry, Membership, Recovered, Slot, SnapshotMeta, WriteBatch};

/// Snapshots kept before the one that the log goes on from: parts of it may still be on their way
/// to a peer. Those after it may be what a write in flight goes on from.
const OLD_SNAPSHOTS_KEPT: usize = 1;

#[derive(Debug)]
pub(super) struct Disk {
    membership: Membership,
    promised: Ballot,
    accepted: Ballot,
    decided: Slot,
    log: BTreeMap<Slot, Entry>,
    /// Slots whose entries cannot be read.
    damaged: BTreeSet<Slot>,
    /// The snapshot that the log goes on from.
    base: Option<SnapshotMeta>,
    /// Snapshots, whole, durable and checked.
    snapshots: BTreeMap<Slot, (SnapshotMeta, Bytes)>,
    /// A peer's snapshot, as far as it has come.
    incoming: Option<(SnapshotMeta, Vec<u8>)>,
}

impl Disk {
    pub(super) fn new(membership: Membership) -> Disk {
        let fresh = Recovered::fresh(membership);
        Disk {
            membership: fresh.membership,
            promised: fresh.promised,
            accepted: fresh.accepted,
            decided: Slot::NONE,
            log: BTreeMap::new(),
            damaged: BTreeSet::new(),
            base: None,
            snapshots: BTreeMap::new(),
            incoming: None,
        }
    }

    /// Makes a batch durable. Says how many damaged entries it has put right.
    pub(super) fn write(&mut self, batch: WriteBatch) -> u64 {
        self.promised = batch.promised.unwrap_or(self.promised);
        self.accepted = batch.accepted.unwrap_or(self.accepted);
        if let Some(membership) = batch.membership {
            self.membership = membership;
        }
        if batch.restart {
            self.log.clear();
            self.damaged.clear();
        }
        if let Some(meta) = batch.snapshot {
            if self
                .log
                .keys()
                .next_back()
                .is_none_or(|end| *end < meta.slot)
            {
                self.log.clear();
                self.damaged.clear();
            }
            self.base = Some(meta);
        }
        if let Some(from) = batch.truncate_from {
            self.log.retain(|slot, _| *slot < from);
        }
        let mut repaired = 0;
        for entry in batch.entries {
            repaired += u64::from(self.damaged.remove(&entry.slot));
            self.log.insert(entry.slot, entry);
        }
        self.log.retain(|slot, _| *slot >= batch.keep_from);
        let log = &self.log;
        self.damaged.retain(|slot| log.contains_key(slot));
        self.decided = self.decided.max(batch.decided);
        repaired
    }

    /// Entries from `first` to `last`, as far as they can be read and fit, but one at least; and
    /// the one that cannot be read, if that was the reason to stop.
    pub(super) fn read(&self, first: Slot, last: Slot, most: usize) -> (Vec<Entry>, Option<Slot>) {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for slot in (first.0..=last.0).map(Slot) {
            let Some(entry) = self.log.get(&slot) else {
                break;
            };
            if self.damaged.contains(&slot) {
                return (entries, Some(slot));
            }
            bytes += entry.payload.len() + 64;
            if bytes > most && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        (entries, None)
    }

    /// What there is, in words.
    pub(super) fn outline(&self) -> String {
        let slots = self.log.keys().map(|slot| slot.0);
        let log: Vec<u64> = slots.collect();
        let (base, damaged, decided) = (self.base_slot(), &self.damaged, self.decided);
        format!("base {base}, log {log:?}, damaged {damaged:?}, decided {decided}")
    }

    /// Everything up to here is known to be decided, as far as the disk knows.
    pub(super) fn decided(&self) -> Slot {
        self.decided
    }

    fn base_slot(&self) -> Slot {
        self.base.as_ref().map_or(Slot::NONE, |meta| meta.slot)
    }

    /// What a node finds when it starts.
    pub(super) fn recovered(&self) -> Recovered {
        let base = self.base_slot();
        let after = self.log.range(base.next()..).map(|(_, entry)| entry);
        let claimed = self
            .log
            .keys()
            .next_back()
            .copied()
            .unwrap_or(base)
            .max(base);
        let readable: Vec<Entry> = after
            .take_while(|entry| !self.damaged.contains(&entry.slot))
            .cloned()
            .collect();
        let end = readable.last().map_or(base, |entry| entry.slot);
        let decided = self.decided.min(end);
        let first = self.log.keys().next().copied().unwrap_or(base.next());
        Recovered {
            membership: self.membership.clone(),
            promised: self.promised,
            accepted: self.accepted,
            snapshot: self.base.clone(),
            first: first.min(base.next()),
            decided,
            entries: readable
                .into_iter()
                .filter(|entry| entry.slot > decided)
                .collect(),
            claimed,
        }
    }

    /// Keeps a snapshot that was made here.
    pub(super) fn keep(&mut self, meta: SnapshotMeta, body: Bytes) {
        self.snapshots.insert(meta.slot, (meta, body));
        let base = self.base_slot();
        while self.snapshots.range(..base).count() > OLD_SNAPSHOTS_KEPT {
            self.snapshots.pop_first();
        }
    }

    pub(super) fn snapshot(&self, slot: Slot) -> Option<&(SnapshotMeta, Bytes)> {
        self.snapshots.get(&slot)
    }

    /// A part of a snapshot; nothing if that is gone.
    pub(super) fn chunk(&self, slot: Slot, offset: u64, bytes: usize) -> Bytes {
        let Some((_, body)) = self.snapshots.get(&slot) else {
            return Bytes::new();
        };
        let from = (offset as usize).min(body.len());
        body.slice(from..(from + bytes).min(body.len()))
    }

    /// Keeps a part of a peer's snapshot. How much of it is there now, and all of it if that is
    /// all.
    pub(super) fn store_chunk(
        &mut self,
        meta: &SnapshotMeta,
        offset: u64,
        bytes: &[u8],
    ) -> (u64, Option<Bytes>) {
        let other = self.incoming.as_ref().is_none_or(|(kept, _)| kept != meta);
        if other {
            self.incoming = Some((meta.clone(), Vec::new()));
        }
        let Some((_, body)) = &mut self.incoming else {
            return (0, None);
        };
        if offset == body.len() as u64 {
            body.extend_from_slice(bytes);
        }
        let stored = body.len() as u64;
        if stored < meta.bytes {
            return (stored, None);
        }
        let body = Bytes::from(std::mem::take(body));
        self.incoming = None;
        (stored, Some(body))
    }

    /// Decided entries that can be read, from the first to the last.
    pub(super) fn readable(&self) -> Vec<Slot> {
        let slots = self.log.range(..=self.decided).map(|(slot, _)| *slot);
        slots.filter(|slot| !self.damaged.contains(slot)).collect()
    }

    pub(super) fn is_damaged(&self) -> bool {
        !self.damaged.is_empty()
    }

    pub(super) fn damage(&mut self, slot: Slot) {
        self.damaged.insert(slot);
    }
}
