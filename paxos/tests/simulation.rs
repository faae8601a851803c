//! The seeded simulation in the ordinary test run: many seeds, what they reach, repeatability.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use paxos::Planted;
use paxos::sim::{Failure, Options, Report, run, run_quietly};

/// Seeds of the ordinary run. The long run is `cargo xtask seeds --count N`.
const SEEDS: u64 = 2_000;

/// Every so many seeds, one is run again.
const TWICE_EVERY: u64 = 50;

#[test]
fn no_seed_breaks_an_invariant_and_together_they_reach_everything() {
    let next = AtomicU64::new(0);
    let result: Mutex<(Report, Option<Box<Failure<Options>>>)> = Mutex::default();
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= SEEDS || result.lock().unwrap().1.is_some() {
                break;
            }
            match run(Options::seed(seed)) {
                Ok(report) => result.lock().unwrap().0.add(&report),
                Err(failure) => result.lock().unwrap().1 = Some(failure),
            }
        }
    };
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..jobs).for_each(|_| drop(scope.spawn(work))));
    let (total, failure) = result.into_inner().unwrap();
    if let Some(failure) = failure {
        panic!("\n{failure}");
    }
    println!("{total}");
    let missing = total.coverage.missing();
    assert!(missing.is_empty(), "never in {SEEDS} seeds: {missing:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let hash = |seed| run_quietly(Options::seed(seed)).unwrap().trace_hash;
    let mut hashes = BTreeSet::new();
    let seeds = (0..SEEDS).filter(|seed| seed % TWICE_EVERY == 0);
    for seed in seeds {
        let first = hash(seed);
        assert_eq!(first, hash(seed), "seed {seed} is not repeatable");
        assert!(hashes.insert(first), "seed {seed} repeats another one");
    }
}

#[test]
fn a_failure_tells_a_story_and_how_to_replay_it() {
    let planted = Some(Planted::AckNotSynced);
    let failure = (0..SEEDS)
        .find_map(|seed| {
            let options = Options::seed(seed);
            run(Options { planted, ..options }).err()
        })
        .expect("acknowledging early is seen at once");
    let told = failure.to_string();
    assert!(told.contains("node 1 starts"), "{told}");
    let seed = failure.options.seed;
    let replay = format!("cargo xtask seeds --seed {seed} --planted AckNotSynced");
    assert!(told.contains(&replay), "{told}");
}
