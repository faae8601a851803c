//! The seeded simulation in the ordinary test run: many seeds, planted bugs, repeatability.

use std::collections::BTreeSet;

use paxos::Planted;
use paxos::sim::{Options, Report, run, run_quietly};

/// Seeds of the ordinary run. The long run is `cargo xtask seeds --count N`.
const SEEDS: u64 = 500;

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

/// Each bug, a seed that catches it, and the invariant that it breaks there. When the simulator or
/// the protocol changes, `cargo xtask seeds --planted NAME` finds other seeds.
const CAUGHT: [(Planted, u64, &str); 9] = [
    (Planted::PromiseNotSynced, 0, "durable before spoken"),
    (
        Planted::AcceptWithoutPromise,
        27,
        "a promise is never lowered, nor forgotten over a restart",
    ),
    (Planted::AckOfOlderBallot, 838, "what is applied is decided"),
    (Planted::AckNotSynced, 0, "what was acknowledged survives"),
    (Planted::LongestLog, 35, "what was acknowledged survives"),
    (Planted::ConfirmBeforeNewLeader, 0, "a confirm is current"),
    (
        Planted::PartialFirstAccept,
        0,
        "what was acknowledged survives",
    ),
    (Planted::BallotReused, 0, "durable before spoken"),
    (Planted::OldEchoes, 20, "a confirm is current"),
];

/// The same where nobody looks at disks and messages: what users would see of it.
const SEEN: [(Planted, u64, &str); 8] = [
    (Planted::AcceptWithoutPromise, 2048, "a confirm is current"),
    (
        Planted::BallotReused,
        982,
        "one value is decided for each slot",
    ),
    (Planted::PromiseNotSynced, 242, "a confirm is current"),
    (
        Planted::AckNotSynced,
        0,
        "one value is decided for each slot",
    ),
    (
        Planted::LongestLog,
        35,
        "one value is decided for each slot",
    ),
    (Planted::ConfirmBeforeNewLeader, 0, "a confirm is current"),
    (
        Planted::PartialFirstAccept,
        32,
        "one value is decided for each slot",
    ),
    (Planted::OldEchoes, 20, "a confirm is current"),
];

#[test]
fn every_planted_bug_is_caught_where_it_is_made() {
    for (planted, seed, invariant) in CAUGHT {
        assert_caught(
            Options {
                planted: Some(planted),
                ..Options::seed(seed)
            },
            invariant,
        );
    }
}

#[test]
fn planted_bugs_are_caught_by_what_they_lead_to() {
    for (planted, seed, invariant) in SEEN {
        let options = Options {
            planted: Some(planted),
            ..Options::seed(seed)
        };
        assert_caught(
            Options {
                outcomes_only: true,
                ..options
            },
            invariant,
        );
    }
}

fn assert_caught(options: Options, invariant: &str) {
    let violation = run_quietly(options).expect_err(&options.command());
    assert_eq!(
        violation.invariant,
        invariant,
        "{}: {violation}",
        options.command()
    );
}

#[test]
fn a_failure_tells_a_story_and_how_to_replay_it() {
    let (planted, seed, _) = CAUGHT[3];
    let options = Options {
        planted: Some(planted),
        ..Options::seed(seed)
    };
    let told = run(options).unwrap_err().to_string();
    assert!(told.contains("node 1 starts"), "{told}");
    assert!(
        told.contains("cargo xtask seeds --seed 0 --planted AckNotSynced"),
        "{told}"
    );
}
