//! The words of the protocol as types: numbers that must not be mixed up, and log entries.
//!
//! Nothing here decides anything; it only gives names, orders and checksums.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::membership::Membership;

/// A member of the cell, by its number.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct NodeId(pub u64);

/// A place in the log. The first is 1; 0 means "none" or "before the first".
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Slot(pub u64);

impl Slot {
    /// Before the first slot.
    pub const NONE: Slot = Slot(0);

    /// The slot after this one.
    #[must_use]
    pub fn next(self) -> Slot {
        Slot(self.0.saturating_add(1))
    }

    /// The slot before this one; [`Slot::NONE`] has none and stays.
    #[must_use]
    pub fn previous(self) -> Slot {
        Slot(self.0.saturating_sub(1))
    }
}

/// A numbered attempt to lead, totally ordered: first by epoch, then by round, then by node.
///
/// Each is used by one leadership only, so it is also a leadership's name. Rounds begin again in
/// each [`Epoch`]; because the epoch comes first, a ballot of a later membership is above every
/// ballot of an earlier one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Ballot {
    /// The membership it is for.
    pub epoch: Epoch,
    /// Rises with every attempt.
    pub round: u64,
    /// Who attempts.
    pub node: NodeId,
}

impl Ballot {
    /// Below every ballot that anyone campaigns with.
    pub const NONE: Ballot = Ballot::floor(Epoch(0));

    /// Below every ballot of `epoch` and above every ballot of the epochs before it. Who enters an
    /// epoch promises this.
    #[must_use]
    pub const fn floor(epoch: Epoch) -> Ballot {
        Ballot {
            epoch,
            round: 0,
            node: NodeId(0),
        }
    }
}

/// One membership of the cell.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The membership that a cell is created with.
    pub const FIRST: Epoch = Epoch(1);

    /// The membership after this one.
    #[must_use]
    pub fn next(self) -> Epoch {
        Epoch(self.0.saturating_add(1))
    }
}

/// Microseconds since an arbitrary origin, on a monotonic clock that goes on during suspend.
///
/// The driver reads the clock; this crate never does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// This time, `micros` microseconds later.
    #[must_use]
    pub fn plus_micros(self, micros: u64) -> Time {
        Time(self.0.saturating_add(micros))
    }

    /// Microseconds from `earlier` to this time; 0 if it is not earlier.
    #[must_use]
    pub fn micros_since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The name of a cell, random, made once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CellId(pub [u8; 16]);

impl fmt::Display for CellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CellId({self})")
    }
}

/// Tells one disk of a node from the next: random, made when its store is created.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Incarnation(pub u64);

/// Whom a store belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cell.
    pub cell: CellId,
    /// The member of the cell.
    pub node: NodeId,
    /// This disk of that member.
    pub incarnation: Incarnation,
}

/// What an entry of the log is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EntryKind {
    /// The first entry of a leadership: everything after it, up to the next one, is its leader's.
    NewLeader,
    /// A payload that the driver proposed.
    Command,
    /// The last entry of its epoch. Its payload is the encoded [`Membership`] of the next one.
    Stop,
}

impl EntryKind {
    /// The tag that stands for this kind on disk and in checksums.
    #[must_use]
    pub fn tag(self) -> u8 {
        match self {
            EntryKind::NewLeader => 1,
            EntryKind::Command => 2,
            EntryKind::Stop => 3,
        }
    }

    /// The kind that a tag stands for, if any.
    #[must_use]
    pub fn from_tag(tag: u8) -> Option<EntryKind> {
        match tag {
            1 => Some(EntryKind::NewLeader),
            2 => Some(EntryKind::Command),
            3 => Some(EntryKind::Stop),
            _ => None,
        }
    }
}

/// One entry of the log.
///
/// (slot, origin) is its identity: a ballot belongs to one leadership, which puts one value into a
/// slot, and an entry that a later leader adopts keeps its origin.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// Its place.
    pub slot: Slot,
    /// The ballot under which it was first proposed.
    pub origin: Ballot,
    /// What it is for.
    pub kind: EntryKind,
    /// The driver's bytes; empty for [`EntryKind::NewLeader`].
    pub payload: Bytes,
    /// CRC-32C over all other fields.
    pub crc: u32,
}

impl Entry {
    /// An entry with its checksum.
    #[must_use]
    pub fn new(slot: Slot, origin: Ballot, kind: EntryKind, payload: Bytes) -> Entry {
        let crc = checksum(slot, origin, kind, &payload);
        Entry {
            slot,
            origin,
            kind,
            payload,
            crc,
        }
    }

    /// Whether the checksum fits the rest.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.crc == checksum(self.slot, self.origin, self.kind, &self.payload)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}@{:?} from {} ({} bytes)",
            self.slot,
            self.kind,
            self.origin,
            self.payload.len()
        )
    }
}

fn checksum(slot: Slot, origin: Ballot, kind: EntryKind, payload: &[u8]) -> u32 {
    let mut head = [0u8; 29];
    head[0..8].copy_from_slice(&slot.0.to_le_bytes());
    head[8..16].copy_from_slice(&origin.round.to_le_bytes());
    head[16..24].copy_from_slice(&origin.node.0.to_le_bytes());
    head[24..28].copy_from_slice(&origin.epoch.0.to_le_bytes());
    head[28] = kind.tag();
    crc32c::crc32c_append(crc32c::crc32c(&head), payload)
}

/// Numbers the confirm rounds of one leadership, from 1.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ConfirmNumber(pub u64);

/// Names a [`WriteBatch`] in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(not(feature = "model"), derive(Hash))]
pub struct PersistId(pub u64);

/// Names a request to load entries from the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(not(feature = "model"), derive(Hash))]
pub struct LoadId(pub u64);

// To a model checker the names of requests say nothing: states that differ only in them are one.
#[cfg(feature = "model")]
impl std::hash::Hash for PersistId {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

#[cfg(feature = "model")]
impl std::hash::Hash for LoadId {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

/// What one write makes durable, all or nothing, with one sync.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WriteBatch {
    /// Given back in `Input::Persisted`.
    pub id: PersistId,
    /// The highest ballot promised, if it rose.
    pub promised: Option<Ballot>,
    /// The ballot of the whole log as it is after this batch, if it changed.
    pub accepted: Option<Ballot>,
    /// The membership, if the node entered another epoch.
    pub membership: Option<Membership>,
    /// A snapshot, already durable and checked, that the log may be cut behind. If it lies beyond
    /// the end of the log, or `restart` is set, the log restarts empty at the slot after it.
    pub snapshot: Option<SnapshotMeta>,
    /// Remove the whole log first: it begins again after `snapshot`.
    pub restart: bool,
    /// Entries before this slot are not needed any more. A store may keep some of them.
    pub keep_from: Slot,
    /// Remove this slot and all after it before the entries are written.
    pub truncate_from: Option<Slot>,
    /// Contiguous. The first follows what is left of the log, or, to repair damaged entries, lies
    /// within it: those after the last one then stay.
    pub entries: Vec<Entry>,
    /// Everything up to here is known to be decided. A hint: it may lag, but never lead.
    pub decided: Slot,
}

/// A state of the cell, written to a file of its own: what all decided entries up to `slot` made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SnapshotMeta {
    /// The last slot whose entry is in it.
    pub slot: Slot,
    /// The ballot under which that entry was first proposed; with the slot, its identity.
    pub origin: Ballot,
    /// The membership after that entry.
    pub membership: Membership,
    /// Length of the state, bytes.
    pub bytes: u64,
    /// CRC-32C of the state.
    pub crc: u32,
}

/// What a store remembers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recovered {
    /// Who votes, as far as this node knows.
    pub membership: Membership,
    /// Nothing below this ballot may be accepted.
    pub promised: Ballot,
    /// The ballot under which the log as a whole was last accepted.
    pub accepted: Ballot,
    /// The newest snapshot; the driver loads its file.
    pub snapshot: Option<SnapshotMeta>,
    /// The first slot of the log; entries before it are only in the snapshot.
    pub first: Slot,
    /// Everything up to here is decided and readable. The driver makes its state of the snapshot
    /// and the entries after it up to this one, which it reads from the store itself.
    pub decided: Slot,
    /// The entries after `decided`, to the end of the log or to the first that is damaged.
    pub entries: Vec<Entry>,
    /// The last slot that was ever accepted under `accepted`. Beyond the last of `entries` if the
    /// disk damaged some: this node must not speak as if it had never accepted them.
    pub claimed: Slot,
}

impl Recovered {
    /// What a store that nothing was ever written to remembers.
    #[must_use]
    pub fn fresh(membership: Membership) -> Recovered {
        let floor = Ballot::floor(membership.epoch);
        Recovered {
            membership,
            promised: floor,
            accepted: floor,
            snapshot: None,
            first: Slot(1),
            decided: Slot::NONE,
            entries: Vec::new(),
            claimed: Slot::NONE,
        }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}", self.epoch, self.round, self.node)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let origin = Ballot {
            epoch: Epoch(1),
            round: 3,
            node: NodeId(2),
        };
        Entry::new(
            Slot(7),
            origin,
            EntryKind::Command,
            Bytes::from_static(b"x"),
        )
    }

    #[test]
    fn ballots_are_ordered_by_epoch_and_then_by_round_and_then_by_node() {
        let ballot = |epoch, round, node| Ballot {
            epoch: Epoch(epoch),
            round,
            node: NodeId(node),
        };
        assert!(ballot(1, 9, 9) < Ballot::floor(Epoch(2)));
        assert!(Ballot::floor(Epoch(2)) < ballot(2, 1, 1));
        assert!(ballot(1, 1, 9) < ballot(1, 2, 1));
        assert!(ballot(1, 2, 1) < ballot(1, 2, 2));
        assert!(Ballot::NONE < Ballot::floor(Epoch::FIRST));
    }

    #[test]
    fn a_change_of_any_field_breaks_the_checksum() {
        assert!(entry().is_intact());
        let changes: [fn(&mut Entry); 6] = [
            |e| e.slot = Slot(8),
            |e| e.origin.epoch = Epoch(2),
            |e| e.origin.round = 4,
            |e| e.origin.node = NodeId(3),
            |e| e.kind = EntryKind::NewLeader,
            |e| e.payload = Bytes::from_static(b"y"),
        ];
        for change in changes {
            let mut changed = entry();
            change(&mut changed);
            assert!(!changed.is_intact(), "{changed:?}");
        }
    }
}
