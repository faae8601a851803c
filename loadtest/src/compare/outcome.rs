//! What a comparison came to, whatever was compared.

use std::fmt;

use serde::Serialize;

use super::accident::report::Accidents;
use super::failover::report::Failovers;
use super::report::Comparison;

/// The result of a comparison.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// Of the same work.
    Cycles(Comparison),
    /// Of the same accidents.
    Accidents(Accidents),
    /// Of the loss of leaders.
    Failovers(Failovers),
}

impl Outcome {
    /// Whether every promise was kept.
    #[must_use]
    pub fn passed(&self) -> bool {
        match self {
            Outcome::Cycles(comparison) => comparison.passed(),
            Outcome::Accidents(accidents) => accidents.passed(),
            Outcome::Failovers(failovers) => failovers.passed(),
        }
    }

    /// Whether everything was tried that had to be, and nothing was left behind.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        match self {
            Outcome::Cycles(comparison) => comparison.is_complete(),
            Outcome::Accidents(accidents) => accidents.is_complete(),
            Outcome::Failovers(failovers) => failovers.is_complete(),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Cycles(comparison) => comparison.fmt(f),
            Outcome::Accidents(accidents) => accidents.fmt(f),
            Outcome::Failovers(failovers) => failovers.fmt(f),
        }
    }
}
