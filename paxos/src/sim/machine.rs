//! The state machine of a simulated node: it remembers everything that it was given, as a hash.

use bytes::Bytes;

use crate::membership::Membership;
use crate::sim::invariants::same_state::StateHash;
use crate::types::{Ballot, Entry, EntryKind, Slot};

/// What makes the state of a snapshot longer.
static PADDING: [u8; 50_000] = [0x5a; 50_000];

/// A state, and what it is the state of.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    /// The last slot applied.
    pub(super) applied: Slot,
    /// The ballot under which that entry was proposed.
    pub(super) origin: Ballot,
    /// Who votes after it; [`Membership::none`] if that is not known.
    pub(super) membership: Membership,
    pub(super) hash: StateHash,
}

impl Machine {
    pub(super) fn new(membership: Membership) -> Machine {
        Machine {
            applied: Slot::NONE,
            origin: Ballot::NONE,
            membership,
            hash: StateHash::default(),
        }
    }

    pub(super) fn apply(&mut self, entry: &Entry) {
        self.applied = entry.slot;
        self.origin = entry.origin;
        self.hash.apply(entry);
        if entry.kind == EntryKind::Stop
            && let Some(next) = Membership::decode(&entry.payload)
        {
            self.membership = next;
        }
    }

    /// Gives the state as a snapshot holds it, of this many bytes at least, in parts.
    pub(super) fn encode<E>(
        &self,
        bytes: usize,
        mut part: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        part(&self.hash.value().to_le_bytes())?;
        let mut left = bytes.saturating_sub(8);
        while left > 0 {
            let now = left.min(PADDING.len());
            part(&PADDING[..now])?;
            left -= now;
        }
        Ok(())
    }

    /// The state that a snapshot holds.
    pub(super) fn decode(bytes: &Bytes) -> Option<StateHash> {
        let value = bytes.first_chunk::<8>()?;
        Some(StateHash::of_value(u64::from_le_bytes(*value)))
    }
}
