//! The whole system in one seeded, single-threaded simulation: real node cores, real session
//! cores, the real fence core, with simulated networks, disks, clocks and a simulated database.
//!
//! One seed is one run, always the same. First faults of many kinds, as frequent as the seed says,
//! while users acquire, hold, write and release; then everything is healed, and everybody has to
//! be served within a bound. The `invariants` are checked with every step. [`run`] replays a
//! failing seed to tell its story.
//!
//! * `plan`: what a seed draws once; `faults`, what goes wrong when.
//! * `world`: true time and the queue of events.
//! * `node`, `snapshots`, `disk`, `network`, `stream`, `clock`: a cell and what it runs on.
//! * `client`, `session`, `task`: a client's process, its session and its users.
//! * `gateway`, `admin_link`, `storage`, `database`: the fence.
//! * `judge`, `ledger`, `history`, `invariants`: what must hold.
//! * `coverage`: what was reached.
//! * [`paxos::sim`]: dice, queue, story and runs, as the simulator of replicas alone has them.
//! * [`command`]: the command line.

mod admin_link;
mod client;
mod clock;
pub mod command;
mod coverage;
mod database;
mod disk;
mod faults;
mod gateway;
mod history;
mod invariants;
mod judge;
mod ledger;
mod network;
mod node;
mod plan;
mod session;
mod snapshots;
mod storage;
mod stream;
mod task;
mod watch;
mod world;

pub use coverage::Coverage;
use lockd_protocol::planted::{self, Planted};
use paxos::sim::{Dice, Story};
pub use paxos::sim::{Failure, Simulation, Violation, run, run_quietly, tell};

use clock::Clock;
use plan::Plan;
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

impl Simulation for Options {
    type Report = Report;

    fn seed(&self) -> u64 {
        self.seed
    }

    fn command(&self) -> String {
        let mut command = "cargo run --release -p loadtest --features sim -- sim".to_owned();
        command += &format!(" --seed {}", self.seed);
        if let Some(bug) = self.planted {
            command += &format!(" --planted {bug:?}");
        }
        command
    }

    fn simulate(self, story: &Story) -> Result<Report, Violation> {
        let _plant = PlantedBug::plant(self.planted);
        World::new(self, story.clone()).run()
    }
}

/// A bug in what this thread runs, until this is dropped.
struct PlantedBug;

impl PlantedBug {
    fn plant(bug: Option<Planted>) -> PlantedBug {
        planted::plant(bug);
        PlantedBug
    }
}

impl Drop for PlantedBug {
    fn drop(&mut self) {
        planted::plant(None);
    }
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
