//! Every planted bug is caught within a number of seeds, whichever seeds those are.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use paxos::Planted;
use paxos::sim::{Options, run_quietly};

/// How many seeds a bug may take here. `cargo xtask seeds --plants` tries more.
const SEEDS: u64 = 250;

/// Bugs that may need more seeds, because two rare faults must come together. They are for
/// `cargo xtask seeds --plants --count 2000`.
const RARE: [Planted; 11] = [
    Planted::DamageHidden,
    Planted::DamagedPromises,
    Planted::LongestLog,
    Planted::MessagesCounted,
    Planted::AckOfOlderBallot,
    Planted::ConfirmAfterStop,
    Planted::StopTwice,
    Planted::DeposedGoesOn,
    Planted::LearnerUnheard,
    Planted::SnapshotKeepsTail,
    Planted::RepairCuts,
];

/// The first seed that fails with the bug, and what it broke.
fn caught(planted: Planted) -> Option<(u64, &'static str)> {
    (0..SEEDS).find_map(|seed| {
        let options = Options {
            planted: Some(planted),
            ..Options::seed(seed)
        };
        let violation = run_quietly(options).err()?;
        Some((seed, violation.invariant))
    })
}

#[test]
fn every_planted_bug_is_caught() {
    let mut bugs = Planted::ALL.to_vec();
    bugs.retain(|bug| !RARE.contains(bug) && !Planted::SECOND_LINES.contains(bug));
    let (next, missed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let found = caught(*bug);
            println!("{bug:?}: {found:?}");
            if found.is_none() {
                missed.lock().unwrap().push(*bug);
            }
        }
    };
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..jobs).for_each(|_| drop(scope.spawn(work))));
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not caught in {SEEDS} seeds: {missed:?}");
}
