//! Replicas that have applied the same slot are in the same state.
//!
//! (Schneider, *Implementing Fault-Tolerant Services Using the State Machine Approach*, 1990.)

use crate::sim::coverage::Check;
use crate::sim::invariants::Violation;
use crate::types::{Entry, NodeId, Slot};

/// The state of a machine that remembers everything it was given, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateHash(u64);

impl StateHash {
    /// As a number.
    pub(crate) fn value(self) -> u64 {
        self.0
    }

    /// The state that a number stands for.
    pub(crate) fn of_value(value: u64) -> StateHash {
        StateHash(value)
    }

    /// Applies an entry.
    pub(crate) fn apply(&mut self, entry: &Entry) {
        for number in [entry.slot.0, u64::from(entry.crc)] {
            self.0 = (self.0.rotate_left(7) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }
}

/// The state after each slot, as the first replica to reach it had it.
#[derive(Debug, Default)]
pub struct SameState {
    after: Vec<StateHash>,
}

impl SameState {
    /// Whether some replica has come as far.
    pub(crate) fn knows(&self, slot: Slot) -> bool {
        slot.0 <= self.after.len() as u64
    }

    /// A replica has applied everything up to `slot`.
    pub(crate) fn on_applied(
        &mut self,
        node: NodeId,
        slot: Slot,
        state: StateHash,
    ) -> Result<(), Violation> {
        let index = slot.0 as usize - 1;
        match self.after.get(index) {
            Some(known) if *known == state => Ok(()),
            None if index == self.after.len() => {
                self.after.push(state);
                Ok(())
            }
            _ => {
                let detail = format!("node {node} differs after slot {slot}");
                Err(Violation::of(Check::SameState, detail))
            }
        }
    }
}
