//! What holders put on what they hold.

use super::*;
use lockd_protocol::client::Metadata;

fn value(text: &str) -> Value {
    Value::new(text.as_bytes()).expect("short")
}

fn with(text: &str, acquire: Acquire) -> Acquire {
    let metadata = value(text);
    Acquire {
        metadata,
        ..acquire
    }
}

/// What is on the grants of a lock, in order of tokens: version and text.
fn on(bench: &Bench, lock: &str) -> Vec<Option<(u64, String)>> {
    let detail = bench
        .state
        .describe_lock(&name(lock), (0, 0), 100, &Unobserved);
    let holders = detail.into_iter().flat_map(|detail| detail.holders);
    let plain = |Metadata { version, value }: Metadata| (version.0, value.to_text());
    holders.map(|holder| holder.metadata.map(plain)).collect()
}

fn there(version: u64, text: &str) -> Option<(u64, String)> {
    Some((version, text.to_owned()))
}

fn set(bench: &mut Bench, session: u64, held: Held, expect: Option<u64>, text: &str) -> Outcome {
    let Held { acquire, token } = held;
    let operation = Operation::SetMetadata {
        acquire,
        token,
        expect: expect.map(EventNumber),
        value: value(text),
    };
    let (_, effects) = bench.request(session, operation);
    outcomes(&effects).remove(0).2
}

fn version(version: u64) -> Outcome {
    let version = EventNumber(version);
    Outcome::MetadataSet { version }
}

#[test]
fn metadata_comes_with_the_grant_and_goes_with_the_hold() {
    let mut bench = Bench::new(2);
    let first = bench.hold_as(1, with("one", exclusive("a", Wait::Try)));
    assert_eq!(on(&bench, "a"), [there(1, "one")]);
    bench.wait_as(2, with("two", exclusive("a", Wait::Forever)));
    bench.release(1, first);
    assert_eq!(on(&bench, "a"), [there(3, "two")]);
    bench.expire(2);
    bench.hold(1, "a");
    assert_eq!(
        on(&bench, "a"),
        [None],
        "a successor reads no predecessor's claim"
    );
}

#[test]
fn each_holder_of_a_shared_lock_has_its_own() {
    let mut bench = Bench::new(3);
    bench.hold_as(1, with("10.0.0.1", shared("s", Wait::Try)));
    let second = bench.hold_as(2, shared("s", Wait::Try));
    bench.hold_as(3, with("10.0.0.3", shared("s", Wait::Try)));
    assert_eq!(set(&mut bench, 2, second, Some(0), "10.0.0.2"), version(4));
    let all = [
        there(1, "10.0.0.1"),
        there(4, "10.0.0.2"),
        there(3, "10.0.0.3"),
    ];
    assert_eq!(on(&bench, "s"), all);
    bench.expire(1);
    assert_eq!(on(&bench, "s"), all[1..]);
}

#[test]
fn it_changes_only_if_the_expected_version_is_there() {
    let mut bench = Bench::new(1);
    let held = bench.hold(1, "a");
    assert_eq!(set(&mut bench, 1, held, None, "x"), version(2));
    let other = Outcome::OtherMetadata {
        version: EventNumber(2),
    };
    assert_eq!(set(&mut bench, 1, held, Some(0), "y"), other);
    assert_eq!(set(&mut bench, 1, held, Some(1), "y"), other);
    assert_eq!(set(&mut bench, 1, held, Some(2), "z"), version(3));
    assert_eq!(set(&mut bench, 1, held, Some(3), ""), version(4));
    assert_eq!(on(&bench, "a"), [there(4, "")], "its version remains");
}

#[test]
fn whoever_does_not_hold_it_any_more_changes_nothing() {
    let mut bench = Bench::new(2);
    let held = bench.hold(1, "a");
    bench.release(1, held);
    let next = bench.hold_as(2, with("mine", exclusive("a", Wait::Try)));
    assert_eq!(set(&mut bench, 1, held, None, "x"), Outcome::NotHeld);
    assert_eq!(set(&mut bench, 1, next, None, "x"), Outcome::NotHeld);
    let wrong = Held {
        token: held.token,
        ..next
    };
    assert_eq!(set(&mut bench, 2, wrong, None, "x"), Outcome::NotHeld);
    assert_eq!(on(&bench, "a"), [there(3, "mine")]);
}

#[test]
fn a_change_happens_once_however_often_it_is_asked_for() {
    let mut bench = Bench::new(1);
    let Held { acquire, token } = bench.hold(1, "a");
    let operation = |text| Operation::SetMetadata {
        acquire,
        token,
        expect: None,
        value: value(text),
    };
    bench.apply(request(1, 2, 0, operation("x")));
    bench.apply(request(1, 3, 0, operation("y")));
    let again = bench.apply(request(1, 2, 0, operation("x")));
    assert_eq!(outcomes(&again), [(1, 2, version(2))], "the first answer");
    assert_eq!(on(&bench, "a"), [there(3, "y")]);
}

#[test]
fn of_several_locks_each_has_it_and_each_is_named_by_its_token() {
    let mut bench = Bench::new(1);
    let held = bench.hold_as(1, with("x", all_of(&["a", "b"], Wait::Try)));
    assert_eq!(
        (on(&bench, "a"), on(&bench, "b")),
        (vec![there(1, "x")], vec![there(2, "x")])
    );
    let second = Held {
        token: Token(2),
        ..held
    };
    assert_eq!(set(&mut bench, 1, second, Some(2), "y"), version(3));
    assert_eq!(
        (on(&bench, "a"), on(&bench, "b")),
        (vec![there(1, "x")], vec![there(3, "y")])
    );
}

#[test]
fn an_owner_that_enters_again_may_put_something_else_there() {
    let mut bench = Bench::new(1);
    let mine = || owned("me", 3, exclusive("a", Wait::Try));
    bench.hold_as(1, with("x", mine()));
    bench.hold_as(1, mine());
    assert_eq!(on(&bench, "a"), [there(1, "x")]);
    let again = Operation::Acquire(with("y", mine()));
    let (_, effects) = bench.request(1, again);
    assert_eq!(changes(&effects), [(2, Change::MetadataSet, "a", 1)]);
    assert_eq!(on(&bench, "a"), [there(2, "y")]);
}

#[test]
fn a_hold_without_metadata_carries_none_of_it() {
    assert_eq!(
        size_of::<Option<Box<crate::state::lock::More>>>(),
        size_of::<usize>()
    );
    let mut bench = Bench::new(1);
    bench.hold(1, "a");
    assert!(bench.state.locks[&name("a")].holds[0].more.is_none());
}
