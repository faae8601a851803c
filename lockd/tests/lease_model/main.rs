//! Model checking of session leases with `stateright`, on the production code of nodes and clients:
//! every order in which messages, clocks, elections and a change of the membership can act, within
//! the bounds of each instance.

#[path = "../../../paxos/tests/model/arena.rs"]
mod arena;
mod catalog;
mod cell;
mod client;
mod clock;
#[path = "../../../paxos/tests/model/disk.rs"]
mod disk;
mod instance;
mod instances;
mod marks;
#[path = "../../../paxos/tests/model/network.rs"]
mod network;
mod node;
mod past;

use std::sync::Mutex;

use lockd_protocol::planted::Planted;

use instance::{Instance, Outcome, TABLE_HEAD};
use marks::Mark;
use past::Fault;

/// Checks use much memory, so there is one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Distinct states that the ordinary run looks at, at least.
const STATES_MIN: usize = 1_000_000;

#[test]
fn no_order_of_events_breaks_a_lease_or_a_read() {
    let states = check_all(instances::ordinary(), |mark| *mark != Mark::StaleExpiry);
    assert!(states >= STATES_MIN, "only {states} states");
}

#[test]
#[ignore = "takes long: cargo test -p lockd --test lease_model -- --ignored large --nocapture"]
fn no_order_of_events_breaks_a_lease_in_large_instances() {
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
    let name = instance.name.clone();
    let outcome = instance.check(2);
    if let Some((fault, path)) = &outcome.fault {
        let told = path.join("\n  ");
        panic!("{name}: broken: {}:\n  {told}", fault.property());
    }
    outcome
}

#[test]
fn each_rule_switched_off_breaks_a_lease_or_a_read() {
    break_all(instances::broken());
}

#[test]
#[ignore = "takes long: cargo test -p lockd --test lease_model -- --ignored large --nocapture"]
fn a_rule_switched_off_breaks_a_large_instance() {
    break_all(instances::broken_late());
}

fn break_all(instances: Vec<(Instance, Fault)>) {
    let _alone = ONE_AT_A_TIME.lock();
    println!("{TABLE_HEAD}");
    for (instance, expected) in instances {
        let bugs = format!("{:?} {:?}", instance.bugs, instance.replica_bug);
        // One thread searches breadth first, so what it finds is shortest.
        let outcome = instance.check(1);
        let (fault, path) = outcome
            .fault
            .unwrap_or_else(|| panic!("{bugs}: nothing breaks"));
        println!("{bugs}: {}, in {} steps:", fault.property(), path.len());
        println!("  {}", path.join("\n  "));
        assert_eq!(fault, expected, "{bugs}");
    }
}

/// What these rules prevent, another rule prevents as well.
#[test]
fn without_a_second_line_of_defence_the_first_one_holds() {
    let _alone = ONE_AT_A_TIME.lock();
    println!("{TABLE_HEAD}");
    let mut stale = false;
    for instance in instances::second_lines() {
        println!("{:?} {:?} off:", instance.bugs, instance.replica_bug);
        stale |= !holds(instance).unreached.contains(&Mark::StaleExpiry);
    }
    assert!(stale, "no expiry of an older leadership was ignored");
}

/// One instance from the environment, to try out what is within reach.
#[test]
#[ignore = "a tool: PROBE='ballots/renewals/ticks/letters/removed' PLANTED=.. REPLICA=.."]
fn probe() {
    let _alone = ONE_AT_A_TIME.lock();
    let specs = std::env::var("PROBE").unwrap_or_default();
    let planted = std::env::var("PLANTED").unwrap_or_default();
    let all = Planted::ALL.iter().chain(&Planted::MODELLED);
    let named = |bug: &&Planted| planted.split(',').any(|name| format!("{bug:?}") == name);
    let bugs: Vec<Planted> = all.filter(named).copied().collect();
    let replica = std::env::var("REPLICA").unwrap_or_default();
    println!("{TABLE_HEAD}");
    for spec in specs.split_whitespace() {
        let mut instance = instances::parse(spec).expect("see instances::parse");
        instance.bugs = bugs.clone().leak();
        instance.replica_bug = paxos::Planted::from_name(&replica);
        let outcome = instance.check(2);
        println!("not reached: {:?}", outcome.unreached);
        if let Some((fault, path)) = outcome.fault {
            println!(
                "{}, in {}:\n{}",
                fault.property(),
                path.len(),
                path.join("\n")
            );
        }
    }
}
