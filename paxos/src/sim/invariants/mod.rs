//! What must hold in every run, one file each. They watch what replicas say and what is on disks,
//! and know nothing of how replicas work.

pub mod acknowledged;
pub mod confirm;
pub mod one_value;
pub mod promise;
pub mod recovery;
pub mod same_state;

use std::fmt;

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
    pub(super) one_value: one_value::OneValue,
    pub(super) promise: promise::PromiseKept,
    pub(super) acknowledged: acknowledged::AcknowledgedSurvives,
    pub(super) same_state: same_state::SameState,
    pub(super) confirm: confirm::ConfirmsAreCurrent,
}
