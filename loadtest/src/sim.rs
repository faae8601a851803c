//! The whole system in one seeded, single-threaded simulation: real node cores, real session
//! cores, the real fence core, with simulated networks, disks, clocks and a simulated database.
//!
//! One seed is one run, always the same. First faults of many kinds, as frequent as the seed says,
//! while users acquire, hold, write and release; then everything is healed, and everybody has to
//! be served within a bound. The `invariants` are checked with every step. [`run`] replays a
//! failing seed to tell its story.
//!
//! * `plan`: what a seed draws once; `dice`, all its chance; `faults`, what goes wrong when.
//! * `world`: true time and the queue of events.
//! * `node`, `snapshots`, `disk`, `network`, `stream`, `clock`: a cell and what it runs on.
//! * `client`, `session`, `task`: a client's process, its session and its users.
//! * `gateway`, `admin_link`, `storage`, `database`: the fence.
//! * `judge`, `ledger`, `invariants`: what must hold.
//! * `coverage`, `story`: what was reached, and what led to a failure.
//! * [`command`]: the command line.

mod admin_link;
mod client;
mod clock;
pub mod command;
mod coverage;
mod database;
mod dice;
mod disk;
mod faults;
mod gateway;
mod invariants;
mod judge;
mod ledger;
mod network;
mod node;
mod plan;
mod session;
mod snapshots;
mod storage;
mod story;
mod stream;
mod task;
mod world;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use coverage::Coverage;
pub use invariants::Violation;
use lockd_protocol::planted::{self, Planted};

use clock::Clock;
use dice::Dice;
use plan::Plan;
use story::Story;
use world::World;

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Everything else follows from it.
    pub seed: u64,
    /// A bug to plant.
    pub planted: Option<Planted>,
}

impl Options {
    /// Only the seed is given.
    #[must_use]
    pub fn seed(seed: u64) -> Options {
        Options {
            seed,
            planted: None,
        }
    }

    /// The command that repeats this run.
    #[must_use]
    pub fn command(&self) -> String {
        let mut command = "cargo run --release -p loadtest --features sim -- sim".to_owned();
        command += &format!(" --seed {}", self.seed);
        if let Some(bug) = self.planted {
            command += &format!(" --planted {bug:?}");
        }
        command
    }
}

/// What happened in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Differs if anything was different.
    pub trace_hash: u64,
    /// Simulated time, microseconds.
    pub simulated_micros: u64,
    /// Events that were simulated.
    pub events: u64,
    /// What was reached.
    pub coverage: Coverage,
}

/// A run that broke an invariant.
#[derive(Debug)]
pub struct Failure {
    /// What was run.
    pub options: Options,
    /// What was broken.
    pub violation: Violation,
    /// What led to it, a line each.
    pub story: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.story {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "seed {}: {}", self.options.seed, self.violation)?;
        write!(f, "repeat with: {}", self.options.command())
    }
}

/// Runs one simulation.
///
/// # Errors
/// If an invariant was broken: which, and the story that led to it.
pub fn run(options: Options) -> Result<Report, Box<Failure>> {
    run_quietly(options).map_err(|violation| {
        // Telling costs time, and the same seed does the same again.
        let (again, story) = tell(options);
        let violation = again.err().unwrap_or(violation);
        Box::new(Failure {
            options,
            violation,
            story,
        })
    })
}

/// Runs one simulation and tells its story, whatever its end.
///
/// # Errors
/// The invariant that was broken.
pub fn tell(options: Options) -> (Result<Report, Violation>, Vec<String>) {
    let story = Story::told();
    let result = simulate(options, &story);
    (result, story.lines())
}

/// Runs one simulation without a story.
///
/// # Errors
/// The invariant that was broken.
pub fn run_quietly(options: Options) -> Result<Report, Violation> {
    simulate(options, &Story::silent())
}

fn simulate(options: Options, story: &Story) -> Result<Report, Violation> {
    planted::plant(options.planted);
    // The assertions of what runs in it are invariants too.
    let run = AssertUnwindSafe(|| World::new(options, story.clone()).run());
    let result = catch_unwind(run).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or(panic.downcast_ref::<&str>().copied());
        Err(Violation::new(
            "assertion",
            said.unwrap_or("panicked").to_owned(),
        ))
    });
    planted::plant(None);
    result
}

/// A clock of this run. `sign`: which way it is off where clocks are off as far as they may.
fn draw_clock(dice: &mut Dice, plan: &Plan, sign: i64) -> Clock {
    let most = plan.rate_ppm;
    let drawn = dice.below(2 * most as u64 + 1) as i64 - most;
    Clock {
        offset: 1_000_000 + dice.below(1 << 40),
        rate_ppm: if plan.rate_extreme {
            sign * most
        } else {
            drawn
        },
    }
}
