//! Every planted bug is caught, as `docs/planted.md` says: by the seed that it names, which breaks
//! the invariant that it names, or by the model checker, or by a test that plants it.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use paxos::Planted;
use paxos::sim::{Options, run_quietly};

const PAGE: &str = include_str!("../../docs/planted.md");

/// More seeds than these no bug may take.
const SEEDS_MAX: u64 = 2_000;

/// How to bring the page up to date, which is due when the simulator has changed.
const REMEDY: &str = "run: cargo run --release -p xtask -- seeds --plants --count 2000 --write";

/// A row of the page's table.
struct Row {
    seed: Option<u64>,
    breaks: &'static str,
    model: &'static str,
}

fn row(bug: Planted) -> Row {
    let begin = format!("| `{bug:?}` |");
    let mut rows = PAGE.lines().filter(|line| line.starts_with(&begin));
    let row = rows.next();
    let row = row.unwrap_or_else(|| panic!("docs/planted.md has no {bug:?}; {REMEDY}"));
    let cells: Vec<&str> = row.split('|').map(str::trim).collect();
    let [_, _, words, record, _, seed, breaks, model, _] = cells[..] else {
        panic!("docs/planted.md: {row}");
    };
    assert_eq!((words, record), (bug.words(), bug.record()), "{REMEDY}");
    Row {
        seed: seed.parse().ok(),
        breaks,
        model,
    }
}

/// What is wrong with the row.
fn contradiction(bug: Planted) -> Option<String> {
    let Row { seed, breaks, .. } = row(bug);
    let seed = seed?;
    let options = Options {
        planted: Some(bug),
        ..Options::seed(seed)
    };
    match run_quietly(options) {
        Err(violation) if violation.invariant == breaks => None,
        Err(violation) => Some(format!("{bug:?}: seed {seed} breaks {violation}")),
        Ok(_) => Some(format!("{bug:?}: seed {seed} does not catch it")),
    }
}

#[test]
fn the_seeds_that_are_said_to_catch_the_bugs_do() {
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(bug) = Planted::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            wrong.lock().unwrap().extend(contradiction(*bug));
        }
    };
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..jobs).for_each(|_| drop(scope.spawn(work))));
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{wrong:#?}\n{REMEDY}");
}

#[test]
fn every_bug_is_caught_by_something() {
    for bug in Planted::ALL {
        let Row { seed, model, .. } = row(*bug);
        let mut by_tests = Planted::SHOWN_BY_TESTS.iter();
        let shown = by_tests.any(|(shown, ..)| shown == bug);
        let second = Planted::SECOND_LINES.contains(bug) || Planted::MODELLED.contains(bug);
        let soon = seed.is_some_and(|seed| seed < SEEDS_MAX);
        assert!(soon || !model.is_empty() || shown || second, "{bug:?}");
    }
}

#[test]
fn the_tests_that_are_said_to_show_what_a_bug_costs_plant_it() {
    for (bug, file, test) in Planted::SHOWN_BY_TESTS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let tests = std::fs::read_to_string(path).unwrap();
        assert!(tests.contains(&format!("fn {test}()")), "{bug:?}");
        assert!(tests.contains(&format!("Planted::{bug:?}")), "{bug:?}");
    }
}
