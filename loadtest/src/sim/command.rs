//! `loadtest sim`: repeats one seed of the simulator, or runs many.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use lockd_protocol::planted::Planted;

use super::{Coverage, Options, Simulation as _, run_quietly, tell};

/// From this many seeds on, whatever was never reached is a failure.
pub const SEEDS_THAT_COVER: u64 = 200;

/// One seed in so many is run twice.
const REPEAT_EVERY: u64 = 50;

/// Failing seeds that are listed at most.
const FAILURES_LISTED_MAX: usize = 10;

/// Which seeds to run.
#[derive(Args, Debug)]
pub struct SimArgs {
    /// Repeat this one seed and print its story; with --count, the first of so many.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// How many seeds to run.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Plant this bug, to see that it is found; `all` prints by which invariant, and how soon, each
    /// one is.
    #[arg(long, value_name = "NAME")]
    planted: Option<String>,
    /// How many seeds to run at the same time [default: one for each processor].
    #[arg(long, value_name = "J")]
    jobs: Option<usize>,
}

/// What many seeds came to.
#[derive(Debug, Default)]
pub struct Summary {
    /// What was reached.
    pub coverage: Coverage,
    /// Simulated time, microseconds.
    pub simulated_micros: u64,
    /// Events that were simulated.
    pub events: u64,
    /// Processor time, summed over threads.
    pub spent: Duration,
    /// Which seeds failed, and how.
    pub failures: Vec<(u64, String)>,
}

/// Runs what the arguments ask for. Whether all invariants held (or, with a planted bug, whether it
/// was found).
///
/// # Errors
/// If there is no such bug.
pub fn execute(arguments: &SimArgs) -> Result<bool, String> {
    let first = arguments.seed.unwrap_or(0);
    let planted = match arguments.planted.as_deref() {
        Some("all") => return Ok(table(arguments.count.unwrap_or(2000))),
        Some(name) => Some(parse_planted(name)?),
        None => None,
    };
    if let (Some(seed), None) = (arguments.seed, arguments.count) {
        return Ok(repeat(Options { seed, planted }));
    }
    let count = arguments.count.unwrap_or(1000);
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = arguments.jobs.unwrap_or_else(processors).max(1);
    let summary = run_many(first, count, planted, jobs);
    println!("{}", summary.coverage);
    let simulated = summary.simulated_micros as f64 / 1e6;
    let spent = summary.spent.as_secs_f64();
    println!(
        "{count} seeds, {} events: {simulated:.0} s simulated in {spent:.1} s of processor time, \
         {:.0} times faster",
        summary.events,
        simulated / spent
    );
    Ok(conclude(first, count, planted, &summary))
}

fn conclude(first: u64, count: u64, planted: Option<Planted>, summary: &Summary) -> bool {
    for (seed, violation) in summary.failures.iter().take(FAILURES_LISTED_MAX) {
        let options = Options {
            seed: *seed,
            planted,
        };
        println!(
            "seed {seed}: {violation}\n  repeat with: {}",
            options.command()
        );
    }
    let failed = summary.failures.len();
    println!("{failed} of {count} seeds from {first} on failed");
    let missing = summary.coverage.missing();
    let covered = count < SEEDS_THAT_COVER || planted.is_some() || missing.is_empty();
    if !covered {
        println!("never reached: {}", missing.join(", "));
    }
    failed == 0 && covered
}

/// Runs many seeds; one in fifty twice, which has to be the same.
#[must_use]
pub fn run_many(first: u64, count: u64, planted: Option<Planted>, jobs: usize) -> Summary {
    let next = AtomicU64::new(0);
    let total = Mutex::new(Summary::default());
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                break;
            }
            let seed = first + index;
            let options = Options { seed, planted };
            let began = processor_time();
            let mut result = run_quietly(options).map_err(|violation| violation.to_string());
            let spent = processor_time().saturating_sub(began);
            if let Ok(report) = &result
                && index.is_multiple_of(REPEAT_EVERY)
                && run_quietly(options).ok().as_ref() != Some(report)
            {
                result = Err("broken: the same seed gives the same run".to_owned());
            }
            let Ok(mut total) = total.lock() else { break };
            total.spent += spent;
            match result {
                Ok(report) => {
                    total.coverage.merge(&report.coverage);
                    total.simulated_micros += report.simulated_micros;
                    total.events += report.events;
                }
                Err(violation) => total.failures.push((seed, violation)),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(work);
        }
    });
    let mut total = total.into_inner().unwrap_or_default();
    total.failures.sort_unstable();
    total
}

/// The first seed from `from` on that finds a planted bug, and what it breaks.
#[must_use]
pub fn first_caught(planted: Planted, from: u64, seeds: u64) -> Option<(u64, super::Violation)> {
    (from..from + seeds).find_map(|seed| {
        let options = Options {
            seed,
            planted: Some(planted),
        };
        run_quietly(options)
            .err()
            .map(|violation| (seed, violation))
    })
}

/// Processor time of this thread.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let (seconds, nanos) = (time.tv_sec, time.tv_nsec);
    Duration::from_secs(seconds.unsigned_abs()) + Duration::from_nanos(nanos.unsigned_abs())
}

fn table(seeds: u64) -> bool {
    let mut all = true;
    println!(
        "{:<24} {:>6} {:>8}  broken invariant",
        "planted", "seeds", "seconds"
    );
    for planted in Planted::ALL {
        let began = Instant::now();
        let caught = first_caught(planted, 0, seeds);
        let seconds = began.elapsed().as_secs_f64();
        let name = format!("{planted:?}");
        match caught {
            Some((seed, violation)) => {
                let (tried, broken) = (seed + 1, violation.invariant);
                println!("{name:<24} {tried:>6} {seconds:>8.1}  {broken}");
            }
            None => {
                all = false;
                println!("{name:<24} {seeds:>6} {seconds:>8.1}  NOT FOUND");
            }
        }
    }
    all
}

fn repeat(options: Options) -> bool {
    let (result, story) = tell(options);
    for line in story {
        println!("{line}");
    }
    match result {
        Ok(report) => {
            println!(
                "seed {}: all invariants held\n{}",
                options.seed, report.coverage
            );
            true
        }
        Err(violation) => {
            println!("seed {}: {violation}", options.seed);
            false
        }
    }
}

fn parse_planted(text: &str) -> Result<Planted, String> {
    let named = |bug: &Planted| format!("{bug:?}").eq_ignore_ascii_case(text);
    let found = Planted::ALL.into_iter().find(named);
    found.ok_or_else(|| {
        let names = Planted::ALL.map(|bug| format!("{bug:?}")).join(", ");
        format!("--planted {text}: no such bug; there are {names}")
    })
}
