//! `cargo xtask seeds`: replays one seed of the consensus simulator, or runs many.
//!
//! What is simulated and checked is the business of `paxos::sim`; here it is started and shown.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use paxos::Planted;
use paxos::sim::{Options, Report, run_quietly, tell};

use crate::Failure;

/// Failing seeds that are listed at most.
const FAILURES_LISTED_MAX: usize = 10;

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
            println!("seed {}: all invariants held\n{report:#?}", options.seed);
            Ok(())
        }
        Err(violation) => Err(Failure(format!("seed {}: {violation}", options.seed))),
    }
}

fn run_many(arguments: &SeedsArgs) -> Result<(), Failure> {
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let total = Mutex::new((Report::default(), Vec::new()));
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= arguments.count {
                break;
            }
            let seed = arguments.first + index;
            let result = run_quietly(arguments.options(seed));
            let Ok(mut total) = total.lock() else { break };
            match result {
                Ok(report) => total.0.add(&report),
                Err(violation) => {
                    println!("seed {seed}: {violation}");
                    total.1.push(seed);
                }
            }
        }
    };
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = arguments.jobs.unwrap_or_else(processors).max(1);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(work);
        }
    });
    let Ok((report, mut failed)) = total.into_inner() else {
        return Err(Failure("a simulation thread panicked".to_owned()));
    };
    summarise(arguments.count, &report, started.elapsed());
    failed.sort_unstable();
    if failed.is_empty() {
        return Ok(());
    }
    let mut message = format!("{} of {} seeds failed:", failed.len(), arguments.count);
    for seed in failed.iter().take(FAILURES_LISTED_MAX) {
        message += &format!("\n  {}", arguments.options(*seed).command());
    }
    Err(Failure(message))
}

fn summarise(seeds: u64, report: &Report, elapsed: Duration) {
    let simulated = Duration::from_micros(report.simulated_micros).as_secs_f64();
    let real = elapsed.as_secs_f64();
    println!("{seeds} seeds: {report:#?}");
    println!(
        "{simulated:.0} s simulated in {real:.1} s, {:.0} times faster",
        simulated / real
    );
}

fn parse_nodes(text: &str) -> Result<usize, String> {
    match text {
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("a simulated cell has 3 or 5 nodes".to_owned()),
    }
}

fn parse_planted(text: &str) -> Result<Planted, String> {
    let names = || Planted::ALL.map(|bug| format!("{bug:?}")).join(", ");
    Planted::from_name(text).ok_or_else(|| format!("no such bug; there are {}", names()))
}
