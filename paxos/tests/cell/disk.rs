//! A disk that keeps what a replica asks it to keep, and the driver's snapshots beside the log.

use std::collections::BTreeMap;

use bytes::Bytes;
use paxos::{Ballot, Entry, Membership, Recovered, Slot, SnapshotMeta, WriteBatch};

#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) membership: Membership,
    pub(crate) promised: Ballot,
    pub(crate) accepted: Ballot,
    pub(crate) decided: Slot,
    pub(crate) log: BTreeMap<Slot, Entry>,
    /// Slots whose entries cannot be read.
    pub(crate) damaged: Vec<Slot>,
    pub(crate) snapshot: Option<(SnapshotMeta, Bytes)>,
    /// A peer's snapshot, as far as it has come.
    pub(crate) incoming: Option<(SnapshotMeta, Vec<u8>)>,
}

impl Disk {
    pub(crate) fn new(membership: Membership) -> Disk {
        let fresh = Recovered::fresh(membership);
        Disk {
            membership: fresh.membership,
            promised: fresh.promised,
            accepted: fresh.accepted,
            decided: Slot::NONE,
            log: BTreeMap::new(),
            damaged: Vec::new(),
            snapshot: None,
            incoming: None,
        }
    }

    pub(crate) fn load(&self) -> Recovered {
        let base = self.base();
        let intact = |slot: &Slot| !self.damaged.contains(slot);
        let readable = |entry: &&Entry| intact(&entry.slot);
        let after: Vec<&Entry> = self
            .log
            .range(base.next()..)
            .map(|(_, entry)| entry)
            .collect();
        let claimed = after.last().map_or(base, |entry| entry.slot);
        let after: Vec<&Entry> = after.into_iter().take_while(readable).collect();
        let end = after.last().map_or(base, |entry| entry.slot);
        let decided = self.decided.min(end);
        let first = self.log.keys().next().copied();
        Recovered {
            membership: self.membership.clone(),
            promised: self.promised,
            accepted: self.accepted,
            snapshot: self.snapshot.as_ref().map(|(meta, _)| meta.clone()),
            first: first.unwrap_or(base.next()).min(base.next()),
            decided,
            entries: after
                .into_iter()
                .filter(|entry| entry.slot > decided)
                .cloned()
                .collect(),
            claimed,
        }
    }

    pub(crate) fn write(&mut self, batch: WriteBatch) {
        self.promised = batch.promised.unwrap_or(self.promised);
        self.accepted = batch.accepted.unwrap_or(self.accepted);
        self.membership = batch.membership.unwrap_or(self.membership.clone());
        if batch.restart {
            self.log.clear();
            self.damaged.clear();
        }
        if let Some(meta) = batch.snapshot {
            let kept = self.snapshot.as_ref().map(|(kept, _)| kept);
            assert_eq!(kept, Some(&meta), "the driver made it durable before");
        }
        if let Some(from) = batch.truncate_from {
            self.log.retain(|slot, _| *slot < from);
        }
        for entry in batch.entries {
            let end = self.log.keys().last().copied().unwrap_or(self.base());
            assert!(entry.slot <= end.next(), "{entry:?} does not follow {end}");
            self.damaged.retain(|slot| *slot != entry.slot);
            self.log.insert(entry.slot, entry);
        }
        self.log.retain(|slot, _| *slot >= batch.keep_from);
        self.decided = self.decided.max(batch.decided);
    }

    /// Contiguous entries from `first`, as far as they can be read.
    pub(crate) fn read(&self, first: Slot, last: Slot) -> Vec<Entry> {
        let slots = (first.0..=last.0).map(Slot);
        let read = slots.map_while(|slot| {
            let entry = self.log.get(&slot)?;
            (!self.damaged.contains(&slot)).then(|| entry.clone())
        });
        read.collect()
    }

    fn base(&self) -> Slot {
        let snapshot = self.snapshot.as_ref();
        snapshot.map_or(Slot::NONE, |(meta, _)| meta.slot)
    }
}
