//! `cargo xtask seeds`: replays one seed of the consensus simulator, or runs many.
//!
//! What is simulated and checked is the business of `paxos::sim`; here it is started and shown.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use paxos::Planted;
use paxos::sim::{Options, Report, Simulation as _, run_quietly, tell};

use crate::{Failure, plants};

/// Failing seeds that are listed at most.
const FAILURES_LISTED_MAX: usize = 10;

/// Every so many seeds, one is run twice.
const TWICE_EVERY: u64 = 50;

/// So many seeds must reach every fault, invariant and branch.
const COVERING_SEEDS: u64 = 500;

/// Which seeds to run.
#[derive(Args, Debug)]
pub(crate) struct SeedsArgs {
    /// Replay this one seed and print its story.
    #[arg(long, value_name = "N", conflicts_with_all = ["first", "count"])]
    seed: Option<u64>,
    /// The first of many seeds.
    #[arg(long, value_name = "N", default_value_t = 0)]
    first: u64,
    /// How many seeds to run.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    count: u64,
    /// How many nodes the cell has; each seed chooses for itself if this is not given.
    #[arg(long, value_name = "3|5", value_parser = parse_nodes)]
    nodes: Option<usize>,
    /// Plant this bug, to see that it is found.
    #[arg(long, value_name = "NAME", value_parser = parse_planted)]
    planted: Option<Planted>,
    /// Plant every bug, one after the other, and tell in a table how soon each is caught.
    #[arg(long, conflicts_with_all = ["seed", "planted"])]
    plants: bool,
    /// Put that table into docs/planted.md.
    #[arg(long, requires = "plants")]
    write: bool,
    /// Check only what users would notice, not what each node says about its own disk.
    #[arg(long)]
    outcomes_only: bool,
    /// How many seeds to run at the same time [default: one for each processor].
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

/// Runs what the arguments ask for.
///
/// # Errors
///
/// If a seed broke an invariant; the message says which seed, and how to replay it.
pub(crate) fn run(arguments: &SeedsArgs) -> Result<(), Failure> {
    match arguments.seed {
        Some(seed) => replay(arguments.options(seed)),
        None if arguments.plants => {
            let options = arguments.options(arguments.first);
            plants::run(options, arguments.count, jobs(arguments), arguments.write)
        }
        None => run_many(arguments),
    }
}

impl SeedsArgs {
    fn options(&self, seed: u64) -> Options {
        Options {
            seed,
            nodes: self.nodes,
            planted: self.planted,
            outcomes_only: self.outcomes_only,
        }
    }
}

fn replay(options: Options) -> Result<(), Failure> {
    let (result, story) = tell(options);
    for line in story {
        println!("{line}");
    }
    match result {
        Ok(report) => {
            println!("{report}\nseed {}: all invariants held", options.seed);
            Ok(())
        }
        Err(violation) => Err(Failure(format!("seed {}: {violation}", options.seed))),
    }
}

fn jobs(arguments: &SeedsArgs) -> usize {
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    arguments.jobs.unwrap_or_else(processors).max(1)
}

fn run_many(arguments: &SeedsArgs) -> Result<(), Failure> {
    let started = processor_time();
    let next = AtomicU64::new(0);
    let total = Mutex::new((Report::default(), Vec::new()));
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= arguments.count {
                break;
            }
            let seed = arguments.first + index;
            let result = run_checked(arguments.options(seed));
            let Ok(mut total) = total.lock() else { break };
            match result {
                Ok(report) => total.0.add(&report),
                Err(broken) => {
                    println!("seed {seed}: {broken}");
                    total.1.push(seed);
                    if arguments.planted.is_some() {
                        // One is enough to see that the bug is caught.
                        next.store(arguments.count, Ordering::Relaxed);
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs(arguments) {
            scope.spawn(work);
        }
    });
    let Ok((report, mut failed)) = total.into_inner() else {
        return Err(Failure("a simulation thread panicked".to_owned()));
    };
    summarise(
        arguments.count,
        &report,
        processor_time().saturating_sub(started),
    );
    failed.sort_unstable();
    if failed.is_empty() {
        return check_coverage(arguments, &report);
    }
    let mut message = format!("{} of {} seeds failed:", failed.len(), arguments.count);
    for seed in failed.iter().take(FAILURES_LISTED_MAX) {
        message += &format!("\n  {}", arguments.options(*seed).command());
    }
    Err(Failure(message))
}

/// Runs a seed, and now and then once more, to see that it does the same again.
fn run_checked(options: Options) -> Result<Report, String> {
    let report = run_quietly(options).map_err(|violation| violation.to_string())?;
    if options.seed.is_multiple_of(TWICE_EVERY) {
        let again = run_quietly(options).map_err(|violation| violation.to_string())?;
        if again.trace_hash != report.trace_hash {
            return Err("the same seed gave another run the second time".to_owned());
        }
    }
    Ok(report)
}

/// Many seeds together reach everything that can be reached.
fn check_coverage(arguments: &SeedsArgs, report: &Report) -> Result<(), Failure> {
    let missing = report.coverage.missing();
    let special = arguments.nodes.is_some() || arguments.planted.is_some();
    if special || arguments.count < COVERING_SEEDS || missing.is_empty() {
        return Ok(());
    }
    let list = missing.join("\n  ");
    let count = arguments.count;
    Err(Failure(format!("never seen in {count} seeds:\n  {list}")))
}

fn summarise(seeds: u64, report: &Report, spent: Duration) {
    let simulated = Duration::from_micros(report.simulated_micros).as_secs_f64();
    let spent = spent.as_secs_f64();
    println!("{report}");
    println!(
        "{seeds} seeds: {simulated:.0} s simulated in {spent:.1} s of processor time, {:.0} times \
         faster, {:.0} messages/s",
        simulated / spent,
        report.messages as f64 / spent
    );
}

/// Processor time of this process, all threads together.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let (seconds, nanos) = (time.tv_sec, time.tv_nsec);
    Duration::from_secs(seconds.unsigned_abs()) + Duration::from_nanos(nanos.unsigned_abs())
}

fn parse_nodes(text: &str) -> Result<usize, String> {
    match text {
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("a simulated cell has 3 or 5 nodes".to_owned()),
    }
}

fn parse_planted(text: &str) -> Result<Planted, String> {
    let names = || {
        let names = Planted::ALL.iter().map(|bug| format!("{bug:?}"));
        names.collect::<Vec<_>>().join(", ")
    };
    Planted::from_name(text).ok_or_else(|| format!("no such bug; there are {}", names()))
}
