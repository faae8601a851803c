//! When a new snapshot is due, so that the log can be cut behind it.
//!
//! A snapshot is made in the background of the one before and of the log after it (see
//! `compactor`). It is due when the log has grown by as much as the last snapshot is long: the
//! work of making snapshots is then in proportion to the work of writing the log, and the disk
//! holds a small multiple of the state.

use paxos::{Ballot, Entry, Membership, Slot, SnapshotMeta, Time};

use super::replay::{Replay, entry_bytes};
use crate::limits::{COMPACT_BYTES_MIN, COMPACT_ENTRIES_MIN, COMPACT_RETRY, COMPARED_ITEMS_MAX};
use crate::state::State;

/// From when on a new snapshot is worth its making: after so much log, in entries or in bytes, if
/// it is also longer than the snapshot before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionBounds {
    /// Entries since the last snapshot.
    pub entries: u64,
    /// Bytes of entries since the last snapshot.
    pub bytes: u64,
}

impl Default for CompactionBounds {
    fn default() -> CompactionBounds {
        CompactionBounds {
            entries: COMPACT_ENTRIES_MIN,
            bytes: COMPACT_BYTES_MIN,
        }
    }
}

/// A snapshot to be made.
#[derive(Debug)]
pub struct Compact {
    /// What it is made of.
    pub base: Base,
    /// The last entry that is to be in it.
    pub to: Slot,
    /// The membership, unless the snapshot before or an entry after it names one.
    pub membership: Membership,
    /// [`State::digest`] of the node's own state at `to`, where it was cheap to find out.
    pub digest: Option<u128>,
}

/// What a snapshot is made of.
#[derive(Debug)]
pub enum Base {
    /// The log from its beginning.
    Nothing,
    /// The snapshot before, and the log after it.
    Snapshot(SnapshotMeta),
    /// A copy of the node's own state, because the snapshot before is damaged.
    State(Box<Replay>),
}

/// Why a snapshot was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompactFailure {
    /// The log has been cut or replaced meanwhile. Later again.
    Overtaken,
    /// There was no thread for it. Later again.
    NoThread,
    /// An entry of the log cannot be read, which is told apart from this. Later again.
    DamagedLog,
    /// The snapshot before cannot be read.
    DamagedSnapshot,
}

/// What the node keeps in mind about its snapshots.
#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone))]
pub(super) struct Compaction {
    bounds: CompactionBounds,
    newest: Option<SnapshotMeta>,
    entries: u64,
    bytes: u64,
    running: bool,
    /// The snapshot that the one being made is made of, if it is made of one.
    base: Option<Slot>,
    /// The last snapshot cannot be read, and nothing is being done about it yet.
    damaged: bool,
    /// One is being made in its place.
    mending: bool,
    not_before: Time,
}

impl Compaction {
    pub(super) fn new(
        bounds: CompactionBounds,
        newest: Option<SnapshotMeta>,
        replay: &Replay,
    ) -> Compaction {
        Compaction {
            bounds,
            newest,
            entries: replay.entries,
            bytes: replay.bytes,
            running: false,
            base: None,
            damaged: false,
            mending: false,
            not_before: Time(0),
        }
    }

    pub(super) fn applied(&mut self, entry: &Entry) {
        self.entries += 1;
        self.bytes += entry_bytes(entry);
    }

    fn is_due(&self, now: Time) -> bool {
        let last = self.newest.as_ref().map_or(0, |meta| meta.bytes);
        let much = self.entries >= self.bounds.entries || self.bytes >= self.bounds.bytes;
        let worth_it = much && self.bytes > last;
        !self.running && now >= self.not_before && (worth_it || self.damaged)
    }

    /// The snapshot to be made now, if one is.
    pub(super) fn order(
        &mut self,
        now: Time,
        state: &State,
        (slot, origin): (Slot, Ballot),
        membership: &Membership,
    ) -> Option<Compact> {
        if !self.is_due(now) || *membership == Membership::none() {
            return None;
        }
        self.running = true;
        (self.entries, self.bytes) = (0, 0);
        let base = match self.newest.clone() {
            // The pause for this copy is the price of going on without a restart.
            _ if std::mem::take(&mut self.damaged) => {
                self.mending = true;
                let (state, membership) = (state.clone(), Some(membership.clone()));
                Base::State(Box::new(Replay::at(slot, origin, membership, state)))
            }
            Some(meta) => {
                self.base = Some(meta.slot);
                Base::Snapshot(meta)
            }
            None => Base::Nothing,
        };
        let items = state.session_count() + state.lock_count() + state.waiter_count();
        Some(Compact {
            base,
            to: slot,
            membership: membership.clone(),
            digest: (items <= COMPARED_ITEMS_MAX).then(|| state.digest()),
        })
    }

    /// The last snapshot was found damaged.
    pub(super) fn snapshot_damaged(&mut self) {
        self.damaged = true;
    }

    /// A snapshot was made; what was applied since counts from it. Whether it takes the place of a
    /// damaged one.
    pub(super) fn made(&mut self, meta: SnapshotMeta) -> bool {
        self.running = false;
        if self.newest.as_ref().is_none_or(|old| old.slot < meta.slot) {
            self.newest = Some(meta);
        }
        self.mended()
    }

    /// The state is what a peer's snapshot holds now. Whether that takes the place of a damaged
    /// one.
    pub(super) fn installed(&mut self, meta: SnapshotMeta) -> bool {
        (self.entries, self.bytes) = (0, 0);
        self.newest = Some(meta);
        self.mended()
    }

    fn mended(&mut self) -> bool {
        let was_damaged = std::mem::take(&mut self.damaged);
        std::mem::take(&mut self.mending) || was_damaged
    }

    /// Whether the last snapshot is damaged. One that a peer's took the place of meanwhile is gone.
    pub(super) fn failed(&mut self, now: Time, failure: &CompactFailure) -> bool {
        self.running = false;
        let newest = self.newest.as_ref().map(|meta| meta.slot);
        let damaged = *failure == CompactFailure::DamagedSnapshot && self.base == newest;
        self.not_before = now.plus_micros(COMPACT_RETRY.as_micros() as u64);
        self.mending = false;
        self.damaged |= damaged;
        // What was counted before is still to be compacted.
        self.entries = self.entries.max(self.bounds.entries);
        self.bytes = self
            .bytes
            .max(self.newest.as_ref().map_or(0, |meta| meta.bytes) + 1);
        damaged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use paxos::{EntryKind, NodeId};

    fn meta(slot: u64, bytes: u64) -> SnapshotMeta {
        SnapshotMeta {
            slot: Slot(slot),
            origin: Ballot::NONE,
            membership: membership(),
            bytes,
            crc: 0,
        }
    }

    fn membership() -> Membership {
        Membership::first([NodeId(1)]).expect("a membership")
    }

    fn entry(bytes: usize) -> Entry {
        let payload = Bytes::from(vec![0; bytes]);
        Entry::new(Slot(1), Ballot::NONE, EntryKind::Command, payload)
    }

    fn compaction(newest: Option<SnapshotMeta>) -> Compaction {
        let bounds = CompactionBounds {
            entries: 3,
            bytes: 1000,
        };
        Compaction::new(bounds, newest, &Replay::default())
    }

    fn order(compaction: &mut Compaction, now: u64) -> Option<Compact> {
        let at = (Slot(9), Ballot::NONE);
        compaction.order(Time(now), &State::default(), at, &membership())
    }

    #[test]
    fn a_snapshot_is_due_after_enough_entries_or_enough_bytes() {
        let mut many = compaction(None);
        many.applied(&entry(0));
        many.applied(&entry(0));
        assert!(order(&mut many, 0).is_none());
        many.applied(&entry(0));
        let due = order(&mut many, 0).expect("due");
        assert!(matches!(due.base, Base::Nothing));
        assert_eq!(due.digest, Some(State::default().digest()));
        assert!(order(&mut many, 0).is_none(), "one at a time");
        let mut large = compaction(None);
        large.applied(&entry(1000));
        assert!(order(&mut large, 0).is_some());
    }

    #[test]
    fn a_snapshot_that_is_longer_than_the_log_after_it_is_left_alone() {
        let mut compaction = compaction(Some(meta(1, 10_000)));
        for _ in 0..9 {
            compaction.applied(&entry(1000));
            assert!(order(&mut compaction, 0).is_none());
        }
        compaction.applied(&entry(1000));
        let due = order(&mut compaction, 0).expect("due");
        assert!(matches!(due.base, Base::Snapshot(meta) if meta.slot == Slot(1)));
    }

    #[test]
    fn after_a_failure_it_is_tried_again_later_and_from_the_state_if_the_base_is_damaged() {
        let mut compaction = compaction(Some(meta(1, 100)));
        compaction.applied(&entry(2000));
        order(&mut compaction, 0).expect("due");
        compaction.failed(Time(5), &CompactFailure::DamagedLog);
        assert!(order(&mut compaction, 5).is_none());
        let later = 5 + COMPACT_RETRY.as_micros() as u64;
        let again = order(&mut compaction, later).expect("due again");
        assert!(matches!(again.base, Base::Snapshot(_)));
        compaction.failed(Time(later), &CompactFailure::DamagedSnapshot);
        let again = order(&mut compaction, 2 * later).expect("due again");
        assert!(matches!(again.base, Base::State(_)));
        assert!(compaction.made(meta(9, 50)), "it replaces the damaged one");
        assert!(order(&mut compaction, 3 * later).is_none());
    }

    #[test]
    fn a_snapshot_that_a_peers_took_the_place_of_while_it_was_read_is_not_taken_for_damaged() {
        let mut compaction = compaction(Some(meta(1, 100)));
        compaction.applied(&entry(2000));
        order(&mut compaction, 0).expect("due");
        compaction.installed(meta(8, 100));
        assert!(!compaction.failed(Time(0), &CompactFailure::DamagedSnapshot));
        let again = order(&mut compaction, COMPACT_RETRY.as_micros() as u64);
        let again = again.expect("due again");
        assert!(matches!(again.base, Base::Snapshot(meta) if meta.slot == Slot(8)));
    }

    #[test]
    fn a_snapshot_that_is_found_damaged_is_replaced_though_none_is_due() {
        let mut compaction = compaction(Some(meta(9, 100)));
        assert!(order(&mut compaction, 0).is_none());
        compaction.snapshot_damaged();
        let again = order(&mut compaction, 0).expect("due");
        assert!(matches!(again.base, Base::State(_)));
        assert!(compaction.made(meta(9, 100)));
        assert!(order(&mut compaction, 0).is_none());
        // One that was being made anyway does as well, and so does a peer's.
        compaction.applied(&entry(2000));
        order(&mut compaction, 0).expect("due");
        compaction.snapshot_damaged();
        assert!(compaction.made(meta(10, 100)));
        assert!(order(&mut compaction, 0).is_none());
        compaction.snapshot_damaged();
        assert!(compaction.installed(meta(11, 100)));
        assert!(!compaction.installed(meta(12, 100)));
    }

    #[test]
    fn a_node_that_knows_no_membership_makes_no_snapshot() {
        let mut compaction = compaction(None);
        compaction.applied(&entry(2000));
        let at = (Slot(9), Ballot::NONE);
        let none = compaction.order(Time(0), &State::default(), at, &Membership::none());
        assert!(none.is_none());
    }
}
