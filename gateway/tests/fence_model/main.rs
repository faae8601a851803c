//! Model checking of the fence with `stateright`: every order in which clients, gateways, the lock
//! service and a database can act, and all that can be lost or late between them, within the
//! bounds of each instance. What a gateway does next is decided by the production code; what the
//! database does is `fence.sql` in other words.

mod database;
mod instance;
mod instances;
mod rules;
mod session;
mod world;

use std::sync::Mutex;

use instance::{Instance, TABLE_HEAD};
use rules::Rule;

/// Checks use much memory, so there is one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Distinct states that the ordinary run looks at, at least.
const STATES_MIN: usize = 1_000_000;

#[test]
fn no_order_of_events_lets_a_stale_write_take_effect() {
    let states = check_all(instances::sound());
    assert!(states >= STATES_MIN, "only {states} states");
}

#[test]
#[ignore = "takes long: cargo test -p gateway --test fence_model -- --ignored --nocapture"]
fn no_order_of_events_breaks_a_promise_in_large_instances() {
    check_all(instances::large());
}

fn check_all(instances: Vec<Instance>) -> usize {
    let _alone = ONE_AT_A_TIME.lock();
    println!("{TABLE_HEAD}");
    let mut states = 0;
    for instance in instances {
        let name = instance.name;
        let outcome = instance.check(2);
        states += outcome.states;
        if let Some((property, path)) = outcome.broken {
            panic!("{name}: broken: {property}:\n  {}", path.join("\n  "));
        }
    }
    println!("{states} distinct states");
    states
}

#[test]
fn each_rule_switched_off_breaks_a_promise() {
    let _alone = ONE_AT_A_TIME.lock();
    println!("{TABLE_HEAD}");
    let mut missing: Vec<Rule> = Rule::ALL.to_vec();
    for (instance, expected) in instances::broken() {
        let rules = instance.rules.off;
        // One thread searches breadth first, so what it finds is shortest.
        let outcome = instance.check(1);
        let (property, path) = outcome
            .broken
            .unwrap_or_else(|| panic!("{rules:?}: nothing breaks"));
        println!("{rules:?} off: {property}: broken in {} steps:", path.len());
        println!("  {}", path.join("\n  "));
        assert_eq!(property, expected, "{rules:?}");
        missing.retain(|known| !rules.contains(known));
    }
    assert_eq!(missing, [Rule::OnlyTheClosedAreEvicted], "a second line");
}

/// What these rules prevent, another rule prevents as well.
#[test]
fn without_a_second_line_of_defence_the_first_one_holds() {
    let _alone = ONE_AT_A_TIME.lock();
    println!("{TABLE_HEAD}");
    for instance in instances::second_lines() {
        let rules = instance.rules.off;
        let outcome = instance.check(1);
        assert!(outcome.broken.is_none(), "{rules:?}: {:?}", outcome.broken);
    }
}
