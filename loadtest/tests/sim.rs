//! The simulator of the whole system in the ordinary tests: a few hundred seeds, and every planted
//! bug found. Long runs: `cargo run --release -p loadtest --features
//! sim -- sim --count N`.

use loadtest::sim::command::{SEEDS_THAT_COVER, first_caught, run_many};
use loadtest::sim::{Options, run, tell};
use lockd_protocol::planted::Planted;

/// Seeds of the ordinary run.
const SEEDS: u64 = 400;

/// Seeds within which a planted bug has to be found.
const SEEDS_THAT_FIND: u64 = 2000;

const JOBS: usize = 2;

#[test]
fn no_seed_breaks_a_promise_and_everything_that_can_happen_does() {
    const { assert!(SEEDS >= SEEDS_THAT_COVER) };
    let summary = run_many(0, SEEDS, None, JOBS);
    println!("{}", summary.coverage);
    assert!(summary.failures.is_empty(), "{:#?}", summary.failures);
    assert_eq!(summary.coverage.missing(), Vec::<&str>::new());
}

/// Each bug, a seed from which on it is soon found, and by what: the numbers of invariants. Each is
/// found within 2,000 seeds from 0 on, too, which takes longer: `loadtest sim --planted all`.
const FOUND_BY: [(Planted, u64, &[&str]); 21] = [
    (Planted::RetryExecutedTwice, 0, &["10 ", "12 "]),
    (Planted::DedupEvicted, 0, &["10 "]),
    (Planted::ReleaseWithoutToken, 0, &["11 ", "17 ", "19 "]),
    (Planted::GrantToEndedSession, 0, &["7 "]),
    (Planted::UnfairQueue, 0, &["12 "]),
    (Planted::NonDeterministicApply, 0, &["4 "]),
    (Planted::TokenPerSession, 0, &["5 "]),
    (Planted::RenewedAfterTheEnd, 0, &["9 "]),
    (Planted::NoConfirmRound, 0, &["8 ", "9 "]),
    (Planted::RenewedWhileExpiring, 700, &["8 ", "9 "]),
    (Planted::TimersNotRestarted, 0, &["8 ", "9 "]),
    (Planted::FollowerAnswers, 0, &["8 ", "9 ", "19 "]),
    (Planted::LeaseFromReceipt, 0, &["6 ", "8 ", "18 "]),
    (Planted::RenewalNumberReused, 300, &["6 ", "8 "]),
    (Planted::MarginOfOneClock, 0, &["6 ", "8 "]),
    (Planted::MemoryOnly, 0, &["15 "]),
    (Planted::AdmitBeforeDrained, 0, &["15 ", "16 "]),
    (Planted::NoReseed, 1000, &["15 "]),
    (Planted::MetadataOfAnyVersion, 0, &["21 "]),
    (Planted::WatchSkipsAfterReconnect, 0, &["20 "]),
    (Planted::GapUntold, 0, &["20 "]),
];

fn find(bugs: &[(Planted, u64, &[&str])]) {
    for (bug, from, invariants) in bugs {
        let Some((seed, violation)) = first_caught(*bug, *from, SEEDS_THAT_FIND) else {
            panic!("{bug:?} was not found within {SEEDS_THAT_FIND} seeds from {from} on");
        };
        println!("{bug:?}: seed {seed}, {}", violation.invariant);
        let expected = |number: &&str| violation.invariant.starts_with(*number);
        assert!(invariants.iter().any(expected), "{bug:?}: {violation}");
    }
}

#[test]
fn every_planted_bug_of_the_state_and_of_the_node_is_found() {
    find(&FOUND_BY[..12]);
}

#[test]
fn every_planted_bug_of_the_client_and_of_the_gateway_is_found() {
    find(&FOUND_BY[12..18]);
}

#[test]
fn every_planted_bug_of_metadata_and_of_watches_is_found() {
    find(&FOUND_BY[18..]);
}

#[test]
fn no_planted_bug_is_forgotten() {
    assert_eq!(FOUND_BY.map(|(bug, ..)| bug), Planted::ALL);
}

#[test]
fn a_failure_tells_a_story_and_how_to_repeat_it() {
    let bug = Planted::UnfairQueue;
    let (seed, _) = first_caught(bug, 0, SEEDS_THAT_FIND).expect("found");
    let options = Options {
        seed,
        planted: Some(bug),
    };
    let told = run(options).expect_err("a planted bug").to_string();
    assert!(told.contains("node 0 starts"), "{told}");
    assert!(told.contains(&format!("sim --seed {seed} --planted UnfairQueue")));
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let story = || tell(Options::seed(7)).1;
    assert_eq!(story(), story());
}
