//! Model checking of the production replica with `stateright`: every order in which messages,
//! disks, crashes and timers can act, within the bounds of each instance.
//!
//! What is modelled, and what is not, is told in `docs/model-checking.md`.

mod arena;
mod catalog;
mod cell;
mod disk;
mod faults;
mod instance;
mod instances;
mod marks;
mod network;
mod node;
mod past;

use std::sync::Mutex;

use paxos::Planted;

use faults::Fault;
use instance::{Instance, Outcome, TABLE_HEAD};
use marks::Mark;

/// Checks use all processors and much memory, so there is one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Distinct states that the ordinary run looks at, at least.
const STATES_MIN: usize = 1_000_000;

#[test]
fn no_order_of_events_breaks_a_property() {
    let reach = |mark: &Mark| !mark.needs_two_memberships();
    let states = check_all(instances::one_membership(), reach);
    assert!(states >= STATES_MIN, "only {states} states");
}

#[test]
fn no_order_of_events_breaks_a_property_while_the_membership_changes() {
    check_all(instances::two_memberships(), Mark::needs_two_memberships);
}

/// Each has millions of states.
#[test]
#[ignore = "takes long: cargo test -p paxos --test model -- --ignored large --nocapture"]
fn no_order_of_events_breaks_a_property_in_large_instances() {
    check_all(instances::large(), |_| false);
}

/// Checks that the instances hold, and that together they reach what they are to reach.
fn check_all(instances: Vec<Instance>, reach: fn(&Mark) -> bool) -> usize {
    let _alone = ONE_AT_A_TIME.lock();
    println!("{TABLE_HEAD}");
    let mut unreached: Vec<Mark> = Mark::ALL.into_iter().filter(reach).collect();
    let mut states = 0;
    for instance in instances {
        let outcome = holds(instance);
        states += outcome.states;
        unreached.retain(|mark| outcome.unreached.contains(mark));
    }
    println!("{states} distinct states");
    assert!(unreached.is_empty(), "nothing reached {unreached:?}");
    states
}

fn holds(instance: Instance) -> Outcome {
    let name = instance.name;
    let outcome = instance.check(2);
    if let Some((fault, path)) = &outcome.fault {
        let told = path.join("\n  ");
        panic!("{name}: broken: {}:\n  {told}", fault.property());
    }
    outcome
}

#[test]
fn every_planted_bug_is_found() {
    find_all(instances::found());
}

#[test]
#[ignore = "takes long: cargo test -p paxos --test model -- --ignored large --nocapture"]
fn a_planted_bug_is_found_in_a_large_instance() {
    find_all(instances::found_late());
}

fn find_all(planted: Vec<(Instance, Fault)>) {
    let _alone = ONE_AT_A_TIME.lock();
    println!("{TABLE_HEAD}");
    for (instance, expected) in planted {
        let (bug, name) = (instance.planted, instance.name);
        // One thread searches breadth first, so what it finds is shortest.
        let outcome = instance.check(1);
        let (fault, path) = outcome
            .fault
            .unwrap_or_else(|| panic!("{bug:?} is not found"));
        println!("{bug:?}: {}, in {} steps:", fault.property(), path.len());
        println!("  {}", path.join("\n  "));
        assert_eq!(fault, expected, "{bug:?}");
        let bug = bug.map(|bug| format!("{bug:?}")).unwrap_or_default();
        assert_documented(&bug, name, fault, path.len());
    }
}

/// The table of what was found is what a reader is told.
fn assert_documented(bug: &str, instance: &str, fault: Fault, steps: usize) {
    let document = include_str!("../../../docs/model-checking.md");
    let begin = format!("| `{bug}`");
    let row = format!("| `{instance}` | {} | {steps} |", fault.property());
    let mut rows = document.lines().filter(|line| line.starts_with(&begin));
    assert!(
        rows.any(|line| line.contains(&row)),
        "docs/model-checking.md does not tell of `{bug}`: {row}"
    );
}

/// What these rules prevent, another rule prevents as well.
#[test]
fn without_a_second_line_of_defence_the_first_one_holds() {
    let _alone = ONE_AT_A_TIME.lock();
    println!("{TABLE_HEAD}");
    for instance in instances::second_lines() {
        holds(instance);
    }
}

/// One instance from the environment, to try out what is within reach.
#[test]
#[ignore = "a tool: PROBE='ballots/slots/crashes/confirms/heartbeats/flags'"]
fn probe() {
    let specs = std::env::var("PROBE").unwrap_or_default();
    for spec in specs.split_whitespace() {
        let mut instance = instances::parse(spec).expect("see instances::parse");
        let planted = std::env::var("PLANTED").ok();
        instance.planted = planted.and_then(|name| Planted::from_name(&name));
        let outcome = instance.check(2);
        println!("not reached: {:?}", outcome.unreached);
        if let Some((fault, path)) = outcome.fault {
            println!("{}:\n{}", Fault::property(fault), path.join("\n"));
        }
    }
}
