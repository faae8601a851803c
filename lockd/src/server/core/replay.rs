//! A state that follows the log entry by entry: how a node makes its state when it starts, and how
//! the next snapshot is made of the one before.

use paxos::limits::ENTRY_OVERHEAD_BYTES;
use paxos::{Ballot, Entry, EntryKind, Membership, Slot, SnapshotMeta};

use super::Fatal;
use crate::state::command;
use crate::state::{Effect, State};

/// A state, and which entries made it.
#[derive(Debug, Default)]
pub struct Replay {
    /// What the entries up to `slot` made.
    pub state: State,
    /// The last entry applied.
    pub slot: Slot,
    /// Its origin.
    pub origin: Ballot,
    /// The membership after it, if a snapshot or an entry has told.
    pub membership: Option<Membership>,
    /// Entries applied since the snapshot.
    pub entries: u64,
    /// Their size, bytes.
    pub bytes: u64,
    effects: Vec<Effect>,
}

impl Replay {
    /// Goes on from a snapshot.
    #[must_use]
    pub fn from_snapshot(meta: &SnapshotMeta, state: State) -> Replay {
        let membership = Some(meta.membership.clone());
        Replay::at(meta.slot, meta.origin, membership, state)
    }

    /// A state that entries up to `slot` made, of whatever it was read.
    #[must_use]
    pub fn at(slot: Slot, origin: Ballot, membership: Option<Membership>, state: State) -> Replay {
        Replay {
            state,
            slot,
            origin,
            membership,
            ..Replay::default()
        }
    }

    /// Applies the next entry.
    ///
    /// # Errors
    /// [`Fatal::UnreadableEntry`]: the entry was written by another version.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), Fatal> {
        apply_entry(&mut self.state, entry, &mut self.effects)?;
        self.effects.clear();
        if entry.kind == EntryKind::Stop {
            self.membership = Membership::decode(&entry.payload);
        }
        self.slot = entry.slot;
        self.origin = entry.origin;
        self.entries += 1;
        self.bytes += entry_bytes(entry);
        Ok(())
    }
}

/// What an entry takes in the log, bytes, roughly.
pub(super) fn entry_bytes(entry: &Entry) -> u64 {
    (entry.payload.len() + ENTRY_OVERHEAD_BYTES) as u64
}

/// Applies a decided entry to the state.
///
/// # Errors
/// [`Fatal::UnreadableEntry`]: the entry was written by another version.
pub fn apply_entry(
    state: &mut State,
    entry: &Entry,
    effects: &mut Vec<Effect>,
) -> Result<(), Fatal> {
    match entry.kind {
        EntryKind::NewLeader => state.begin_leadership(entry.origin),
        EntryKind::Command => {
            let commands =
                command::decode(&entry.payload).map_err(|error| Fatal::UnreadableEntry {
                    slot: entry.slot.0,
                    reason: error.to_string(),
                })?;
            for command in commands {
                state.apply(command, effects);
            }
        }
        // Who votes is no business of the locks.
        EntryKind::Stop => {}
    }
    Ok(())
}
