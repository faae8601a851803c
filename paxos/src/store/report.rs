//! What was found wrong with a store, for people and metrics.

use std::path::PathBuf;

use crate::types::Slot;

/// A place that is not what was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where in it, bytes from its beginning.
    pub offset: u64,
    /// The entry that is lost by it.
    pub slot: Option<Slot>,
}

/// What was found when a store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What harms: these entries, and the snapshot if its file is named, must be had from peers.
    pub damaged: Vec<Damage>,
    /// The first slot behind the snapshot that is lost, for whatever reason: damaged, or in a frame
    /// that is not there.
    pub first_lost: Option<Slot>,
    /// Damaged places that do not matter: there is a second copy, or the entry was replaced.
    pub harmless: u64,
    /// Damaged places beyond those that are told one by one.
    pub untold: u64,
    /// Bytes of a last write that was not finished before a crash, and never acknowledged.
    pub torn_bytes: u64,
}
