//! A seeded, single-threaded simulation of a whole cell: replicas, network, disks, clocks, faults.
//!
//! One seed is one run, always the same. First faults of many kinds, as frequent as the seed says,
//! while clients propose and ask for confirms; then everything is healed, and the cell must elect,
//! decide and bring everyone up to date within a bound. The [`invariants`] are checked with every
//! step. [`run`] replays a failing seed to tell its story.
//!
//! What any simulation needs is public, and another one uses it: [`Dice`], [`Queue`], [`Story`],
//! [`TraceHash`], [`Simulation`].

mod cluster;
mod content;
mod coverage;
mod dice;
mod disk;
mod disk_driver;
mod disk_faults;
mod driver;
mod fault;
mod faults;
mod files;
pub mod invariants;
mod load;
mod machine;
mod network;
mod node;
mod observe;
mod operator;
mod plan;
mod queue;
pub mod scenario;
mod seeded;
mod shadow;
mod starting;
mod storage;
mod story;
mod violation;

use std::fmt;

pub use coverage::{Branch, Check, Coverage};
pub use dice::Dice;
pub use disk::DiskFault;
pub use fault::Fault;
pub use files::{SimFile, SimFiles, SimLock};
pub use queue::Queue;
pub use seeded::{Failure, Simulation, run, run_quietly, tell};
pub use story::{Story, TraceHash};
pub use violation::Violation;

use crate::planted::Planted;
use crate::sim::cluster::Cluster;

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Everything else follows from it.
    pub seed: u64,
    /// How many nodes; the seed chooses between 3 and 5 if this is `None`.
    pub nodes: Option<usize>,
    /// A bug to plant in every node.
    pub planted: Option<Planted>,
    /// Check only what users would notice (two values for a slot, different states, stale
    /// confirms, no progress), not what each node says about its own disk. To see what a bug that
    /// would be caught early leads to.
    pub outcomes_only: bool,
}

impl Options {
    /// Only the seed is given.
    #[must_use]
    pub fn seed(seed: u64) -> Options {
        Options {
            seed,
            nodes: None,
            planted: None,
            outcomes_only: false,
        }
    }
}

/// What happened in a run, or in several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Differs if anything was different.
    pub trace_hash: u64,
    /// Messages sent.
    pub messages: u64,
    /// Messages lost or cut off.
    pub lost: u64,
    /// Phase 1s that were completed.
    pub elections: u64,
    /// Slots that were decided.
    pub decided: u64,
    /// Confirms that were given.
    pub confirms: u64,
    /// Nodes that crashed and came back.
    pub crashes: u64,
    /// Faults of other kinds: pauses, cuts, partitions, slow and stuck disks.
    pub faults: u64,
    /// Writes to disks that were completed.
    pub writes: u64,
    /// Reads of old entries from disks, for those that were behind.
    pub loads: u64,
    /// Simulated time, microseconds.
    pub simulated_micros: u64,
    /// From the end of the faults to the first leader that could serve, microseconds. Of several
    /// runs, the longest.
    pub recovery_micros: u64,
    /// Which faults fired, invariants were checked, and branches of the protocol were taken.
    pub coverage: Coverage,
}

impl Report {
    /// Adds another run.
    pub fn add(&mut self, other: &Report) {
        self.trace_hash = self.trace_hash.wrapping_add(other.trace_hash);
        self.messages += other.messages;
        self.lost += other.lost;
        self.elections += other.elections;
        self.decided += other.decided;
        self.confirms += other.confirms;
        self.crashes += other.crashes;
        self.faults += other.faults;
        self.writes += other.writes;
        self.loads += other.loads;
        self.simulated_micros += other.simulated_micros;
        self.recovery_micros = self.recovery_micros.max(other.recovery_micros);
        self.coverage.add(&other.coverage);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = [
            ("messages", self.messages),
            ("lost", self.lost),
            ("elections", self.elections),
            ("slots decided", self.decided),
            ("confirms", self.confirms),
            ("crashes", self.crashes),
            ("faults", self.faults),
            ("writes", self.writes),
            ("loads", self.loads),
            ("recovery, us", self.recovery_micros),
        ];
        write!(f, "{}", self.coverage)?;
        for (what, number) in numbers {
            writeln!(f, "{:<10} {number:>14}  {what}", "total")?;
        }
        write!(f, "{:<10} {:>14x}  of the trace", "hash", self.trace_hash)
    }
}

impl Simulation for Options {
    type Report = Report;

    fn seed(&self) -> u64 {
        self.seed
    }

    fn command(&self) -> String {
        let mut command = format!("cargo xtask seeds --seed {}", self.seed);
        if let Some(nodes) = self.nodes {
            command += &format!(" --nodes {nodes}");
        }
        if let Some(bug) = self.planted {
            command += &format!(" --planted {bug:?}");
        }
        if self.outcomes_only {
            command += " --outcomes-only";
        }
        command
    }

    fn simulate(self, story: &Story) -> Result<Report, Violation> {
        Cluster::new(self, story.clone()).run()
    }
}
