//! The seeded simulation in the ordinary test run: many seeds, planted bugs, repeatability.

use std::collections::BTreeSet;

use paxos::Planted;
use paxos::sim::{Options, Report, run, run_quietly};

/// Seeds of the ordinary run. The long run is `cargo xtask seeds --count N`.
const SEEDS: u64 = 600;

#[test]
fn no_seed_breaks_an_invariant() {
    let mut total = Report::default();
    for seed in 0..SEEDS {
        match run(Options::seed(seed)) {
            Ok(report) => total.add(&report),
            Err(failure) => panic!("\n{failure}"),
        }
    }
    println!("{total:#?}");
    assert!(total.crashes > SEEDS && total.loads > SEEDS && total.elections > SEEDS);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let hashes = |seed| run_quietly(Options::seed(seed)).unwrap().trace_hash;
    let first: Vec<u64> = (0..20).map(hashes).collect();
    let second: Vec<u64> = (0..20).map(hashes).collect();
    assert_eq!(first, second);
    assert_eq!(
        first.iter().collect::<BTreeSet<_>>().len(),
        20,
        "seeds differ from each other"
    );
}

/// Each bug and a seed that catches it; `cargo xtask seeds --planted NAME` finds others.
const CAUGHT: [(Planted, u64); 0] = [];

#[test]
fn every_planted_bug_is_caught() {
    for (planted, seed) in CAUGHT {
        let options = Options {
            planted: Some(planted),
            ..Options::seed(seed)
        };
        let violation = run_quietly(options).expect_err(&format!("{planted:?} passed seed {seed}"));
        println!("{planted:?}: seed {seed}: {violation}");
    }
}
