//! What must hold in every run, one file each. They watch what replicas say and what is on disks,
//! and know nothing of how replicas work.
//!
//! All of them are incremental: a step costs the same however long the run is.

pub mod acknowledged;
pub mod ballots;
pub mod bounds;
pub mod confirm;
pub mod decided;
pub mod epochs;
pub mod ghost;
pub mod in_order;
pub mod one_value;
pub mod promise;
pub mod recovery;
pub mod same_state;
pub mod snapshots;
pub mod stop;

pub use crate::sim::violation::Violation;

use crate::message::Body;
use crate::sim::coverage::{Check, Coverage};
use crate::sim::invariants::confirm::Question;
use crate::sim::invariants::same_state::StateHash;
use crate::sim::shadow::Shadow;
use crate::types::{Ballot, Entry, NodeId, Recovered, Slot, SnapshotMeta, WriteBatch};

impl Violation {
    pub(super) fn of(check: Check, detail: String) -> Violation {
        Violation::new(check.words(), detail)
    }
}

/// One value for each node.
#[derive(Debug, Default)]
pub(super) struct PerNode<T>(Vec<T>);

impl<T: Default> PerNode<T> {
    pub(super) fn of(&mut self, node: NodeId) -> &mut T {
        let index = node.0 as usize;
        while self.0.len() <= index {
            self.0.push(T::default());
        }
        &mut self.0[index]
    }
}

/// All invariants that are checked along the way.
#[derive(Debug, Default)]
pub(super) struct Invariants {
    outcomes_only: bool,
    pub(super) coverage: Coverage,
    pub(super) one_value: one_value::OneValue,
    pub(super) confirm: confirm::ConfirmsAreCurrent,
    pub(super) epochs: epochs::Epochs,
    same_state: same_state::SameState,
    promise: promise::PromiseKept,
    acknowledged: acknowledged::AcknowledgedSurvives,
    ballots: ballots::BallotsAreUsedOnce,
    ghost: ghost::NoGhost,
}

impl Invariants {
    pub(super) fn new(outcomes_only: bool) -> Invariants {
        Invariants {
            outcomes_only,
            ..Invariants::default()
        }
    }

    /// A node sends a message.
    pub(super) fn on_send(
        &mut self,
        node: NodeId,
        body: &Body,
        disk: &Shadow,
    ) -> Result<(), Violation> {
        if self.outcomes_only {
            return Ok(());
        }
        bounds::on_send(node, body)?;
        self.coverage.check(Check::Bounds);
        if let Some(claim) = decided::claim(body) {
            decided::check(node, claim, &self.one_value)?;
            self.coverage.check(Check::DecidedIsDurable);
        }
        if self.promise.on_send(node, body, disk)? {
            self.coverage.check(Check::DurableBeforeSpoken);
        }
        self.epochs.on_send(node, body, disk, &mut self.coverage)?;
        if self
            .acknowledged
            .on_send(node, body, disk, &self.one_value)?
        {
            self.coverage.check(Check::Acknowledged);
        }
        Ok(())
    }

    /// A replica gives out a write.
    pub(super) fn on_batch(
        &mut self,
        node: NodeId,
        disk: &Shadow,
        batch: &WriteBatch,
    ) -> Result<(), Violation> {
        if self.outcomes_only {
            return Ok(());
        }
        bounds::on_batch(node, batch, disk, &self.one_value)?;
        decided::check(node, batch.decided, &self.one_value)?;
        self.ghost.on_batch(node, batch, disk)?;
        self.coverage.check(Check::NoGhost);
        snapshots::on_batch(node, batch, disk, &self.one_value)?;
        self.coverage.check(Check::Snapshots);
        if stop::on_batch(node, batch, disk)? {
            self.coverage.check(Check::Stop);
        }
        if self.promise.on_batch(node, batch)? {
            self.coverage.check(Check::PromiseKept);
        }
        Ok(())
    }

    /// A write is about to reach a disk.
    pub(super) fn on_write(
        &mut self,
        node: NodeId,
        disk: &Shadow,
        batch: &WriteBatch,
    ) -> Result<(), Violation> {
        if self.outcomes_only {
            return Ok(());
        }
        self.acknowledged
            .on_write(node, disk, batch, &self.one_value)
    }

    /// A write has reached a disk.
    pub(super) fn on_written(&mut self, node: NodeId, disk: &Shadow) -> Result<(), Violation> {
        let coverage = &mut self.coverage;
        self.one_value
            .on_disk(node, disk, &mut self.epochs, coverage)
    }

    /// A node puts the state of a snapshot in the place of its own.
    pub(super) fn on_install(
        &mut self,
        node: NodeId,
        applied: Slot,
        meta: &SnapshotMeta,
        state: StateHash,
    ) -> Result<(), Violation> {
        self.coverage.check(Check::Snapshots);
        snapshots::on_install(node, applied, meta, &self.one_value)?;
        self.on_replayed(node, meta.slot, state)
    }

    /// A node applies an entry after those up to `applied`, and is in this state then.
    pub(super) fn on_apply(
        &mut self,
        node: NodeId,
        applied: Slot,
        entry: Entry,
        state: StateHash,
    ) -> Result<(), Violation> {
        let slot = entry.slot;
        in_order::check(node, applied, &entry)?;
        self.coverage.check(Check::AppliedInOrder);
        let coverage = &mut self.coverage;
        self.one_value
            .on_apply(node, entry, self.outcomes_only, &mut self.epochs, coverage)?;
        self.same_state.on_applied(node, slot, state)?;
        self.coverage.check(Check::SameState);
        self.confirm.on_applied(slot);
        Ok(())
    }

    /// A node has replayed what its disk knows to be decided.
    pub(super) fn on_replayed(
        &mut self,
        node: NodeId,
        slot: Slot,
        state: StateHash,
    ) -> Result<(), Violation> {
        if slot > Slot::NONE && self.same_state.knows(slot) {
            self.same_state.on_applied(node, slot, state)?;
        }
        Ok(())
    }

    /// A node has completed phase 1, or has established its leadership.
    pub(super) fn on_leading(&mut self, node: NodeId, ballot: Ballot) -> Result<(), Violation> {
        self.confirm.on_leading(ballot);
        self.coverage.check(Check::Ballots);
        self.coverage.check(Check::Members);
        self.epochs.check_member(node, ballot)?;
        self.ballots.on_leading(node, ballot)
    }

    /// A leader confirms itself.
    pub(super) fn on_confirmed(
        &mut self,
        node: NodeId,
        question: &Question,
        applied: Slot,
    ) -> Result<(), Violation> {
        self.coverage.check(Check::Confirm);
        self.confirm.on_confirmed(node, question, applied)
    }

    /// A node starts from what its store recovered.
    pub(super) fn on_start(&mut self, node: NodeId, disk: &Recovered) -> Result<(), Violation> {
        self.ballots.on_start(node);
        if self.outcomes_only {
            return Ok(());
        }
        self.coverage.check(Check::PromiseKept);
        self.promise.on_start(node, disk.promised)?;
        self.acknowledged.on_start(node, disk, &self.one_value)
    }
}
