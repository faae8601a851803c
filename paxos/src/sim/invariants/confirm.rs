//! A confirm is current: when a question is answered, the leader that answers has applied all that
//! anybody had applied when it was asked, and nobody had led under a higher ballot by then.
//!
//! The first is what makes reads linearizable (Ongaro, *Consensus: Bridging Theory and Practice*,
//! 2014, section 6.4, has the same for Raft's read index); the second is what leases rest on.

use crate::sim::coverage::Check;
use crate::sim::invariants::Violation;
use crate::types::{Ballot, ConfirmNumber, NodeId, Slot};

/// What was true when a leader was asked to confirm itself.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    pub(crate) leadership: Ballot,
    pub(crate) number: ConfirmNumber,
    applied: Slot,
    highest_leader: Ballot,
}

/// What anybody has done so far.
#[derive(Debug, Default)]
pub struct ConfirmsAreCurrent {
    applied: Slot,
    highest_leader: Ballot,
}

impl ConfirmsAreCurrent {
    /// Somebody has applied this slot.
    pub(crate) fn on_applied(&mut self, slot: Slot) {
        self.applied = self.applied.max(slot);
    }

    /// Somebody has completed phase 1.
    pub(crate) fn on_leading(&mut self, ballot: Ballot) {
        self.highest_leader = self.highest_leader.max(ballot);
    }

    /// A leader is asked, after something was decided under the ballot `highest_decided`.
    pub(crate) fn ask(
        &self,
        leadership: Ballot,
        number: ConfirmNumber,
        highest_decided: Ballot,
    ) -> Question {
        Question {
            leadership,
            number,
            applied: self.applied,
            highest_leader: self.highest_leader.max(highest_decided),
        }
    }

    /// A leader answers.
    pub(crate) fn on_confirmed(
        &self,
        node: NodeId,
        question: &Question,
        applied: Slot,
    ) -> Result<(), Violation> {
        let ballot = question.leadership;
        if applied < question.applied {
            let known = question.applied;
            let detail = format!(
                "node {node} confirms {ballot} at slot {applied}, but {known} was applied before \
                 it was asked"
            );
            return Err(Violation::of(Check::Confirm, detail));
        }
        if ballot < question.highest_leader {
            let higher = question.highest_leader;
            let detail =
                format!("node {node} confirms {ballot}, but {higher} led before it was asked");
            return Err(Violation::of(Check::Confirm, detail));
        }
        Ok(())
    }
}
