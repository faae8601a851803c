//! What must hold in every run, one file each. They watch what replicas say and what is on disks,
//! and know nothing of how replicas work.

pub mod acknowledged;
pub mod confirm;
pub mod one_value;
pub mod promise;
pub mod recovery;
pub mod same_state;

use std::fmt;

use crate::message::Body;
use crate::sim::disk::Disk;
use crate::types::{Ballot, Entry, NodeId, WriteBatch};

/// An invariant that was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The name of the invariant.
    pub invariant: &'static str,
    /// What contradicts it.
    pub detail: String,
}

impl Violation {
    pub(super) fn new(invariant: &'static str, detail: String) -> Violation {
        Violation { invariant, detail }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken: {}: {}", self.invariant, self.detail)
    }
}

/// All invariants that are checked along the way.
#[derive(Debug, Default)]
pub(super) struct Invariants {
    outcomes_only: bool,
    pub(super) one_value: one_value::OneValue,
    pub(super) same_state: same_state::SameState,
    pub(super) confirm: confirm::ConfirmsAreCurrent,
    promise: promise::PromiseKept,
    acknowledged: acknowledged::AcknowledgedSurvives,
}

impl Invariants {
    pub(super) fn new(outcomes_only: bool) -> Invariants {
        Invariants {
            outcomes_only,
            ..Invariants::default()
        }
    }

    /// After a step of a node.
    pub(super) fn on_step(&mut self, node: NodeId, promised: Ballot) -> Result<(), Violation> {
        if self.outcomes_only {
            return Ok(());
        }
        self.promise.on_step(node, promised)
    }

    /// A node sends a message.
    pub(super) fn on_send(
        &mut self,
        node: NodeId,
        body: &Body,
        disk: &Disk,
    ) -> Result<(), Violation> {
        if self.outcomes_only {
            return Ok(());
        }
        self.promise.on_send(node, body, disk)?;
        self.acknowledged.on_send(node, body, disk)
    }

    /// A node applies an entry.
    pub(super) fn on_apply(&mut self, node: NodeId, entry: &Entry) -> Result<(), Violation> {
        self.one_value.on_apply(node, entry, self.outcomes_only)
    }

    /// A node starts from its disk.
    pub(super) fn on_start(&mut self, node: NodeId, disk: &Disk) -> Result<(), Violation> {
        if self.outcomes_only {
            return Ok(());
        }
        self.promise.on_start(node, disk)?;
        self.acknowledged.on_start(node, disk)
    }

    /// A write is about to reach a disk.
    pub(super) fn on_write(
        &mut self,
        node: NodeId,
        disk: &Disk,
        batch: &WriteBatch,
    ) -> Result<(), Violation> {
        if self.outcomes_only {
            return Ok(());
        }
        self.acknowledged
            .on_write(node, disk, batch, &self.one_value)
    }
}
