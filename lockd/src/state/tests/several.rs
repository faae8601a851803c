//! Several locks in one step, and one of several.

use super::*;

#[test]
fn all_of_several_locks_are_granted_in_one_step_or_none() {
    let mut bench = Bench::new(2);
    let held = bench.hold(1, "b");
    let (_, effects) = bench.request(2, Operation::Acquire(all_of(&["a", "b"], Wait::Try)));
    let taken = Outcome::NotAvailable {
        want: 1,
        holder: Some(SessionId(1)),
    };
    assert_eq!(outcomes(&effects)[0].2, taken);
    assert_eq!(bench.state.lock_count(), 1);
    bench.release(1, held);
    let (_, effects) = bench.request(2, Operation::Acquire(all_of(&["b", "a"], Wait::Try)));
    let grant = |want, token| Grant {
        want,
        token: Token(token),
        slot: 0,
    };
    let both = Outcome::Granted(vec![grant(0, 2), grant(1, 3)]);
    assert_eq!(outcomes(&effects)[0].2, both);
}

#[test]
fn whoever_waits_for_all_of_several_is_not_overtaken_at_any_of_them() {
    let mut bench = Bench::new(4);
    let held = bench.hold(1, "b");
    let both = bench.wait_as(2, all_of(&["a", "b"], Wait::Forever));
    // Nobody holds a, but it is promised.
    let (_, effects) = bench.request(3, Operation::Acquire(exclusive("a", Wait::Try)));
    let promised = Outcome::NotAvailable {
        want: 0,
        holder: None,
    };
    assert_eq!(outcomes(&effects)[0].2, promised);
    bench.wait_as(4, exclusive("a", Wait::Forever));
    let (_, effects) = bench.release(1, held);
    assert_eq!(granted_to(&effects), [2]);
    let token = granted_token(&effects, 2, both).expect("granted");
    let held = Held {
        acquire: both,
        token,
    };
    assert_eq!(granted_to(&bench.release(2, held).1), [4]);
    assert_eq!(bench.state.lock_count(), 1);
}

#[test]
fn several_locks_are_given_back_and_lost_together() {
    let mut bench = Bench::new(4);
    let held = bench.hold_as(1, all_of(&["a", "b", "c"], Wait::Try));
    bench.wait_as(2, exclusive("a", Wait::Forever));
    bench.wait_as(3, exclusive("c", Wait::Forever));
    let take = Operation::Break {
        lock: name("b"),
        reason: "test".into(),
        at_once: true,
    };
    let (_, effects) = bench.request(4, take);
    assert_eq!(granted_to(&effects), [2, 3]);
    let (_, effects) = bench.release(1, held);
    assert_eq!(outcomes(&effects)[0].2, Outcome::NotHeld);
}

#[test]
fn a_wait_for_all_that_is_cancelled_lets_everybody_behind_it_in() {
    let mut bench = Bench::new(4);
    bench.hold(1, "c");
    let all = bench.wait_as(2, all_of(&["a", "b", "c"], Wait::Forever));
    bench.wait_as(3, exclusive("a", Wait::Forever));
    bench.wait_as(4, exclusive("b", Wait::Forever));
    let (_, effects) = bench.request(2, Operation::Cancel { acquire: all });
    assert_eq!(granted_to(&effects), [3, 4]);
}

#[test]
fn two_who_want_all_of_the_same_in_another_order_come_one_after_the_other() {
    let mut bench = Bench::new(3);
    let held = bench.hold_as(1, all_of(&["a", "b"], Wait::Try));
    bench.wait_as(2, all_of(&["b", "a"], Wait::Forever));
    bench.wait_as(3, all_of(&["a", "b"], Wait::Forever));
    assert_eq!(granted_to(&bench.release(1, held).1), [2]);
}

#[test]
fn any_of_several_takes_the_first_that_is_free() {
    let mut bench = Bench::new(3);
    bench.hold(1, "a");
    let (_, effects) = bench.request(2, Operation::Acquire(any_of(&["a", "b"], Wait::Try)));
    let got = Outcome::Granted(vec![Grant {
        want: 1,
        token: Token(2),
        slot: 0,
    }]);
    assert_eq!(outcomes(&effects)[0].2, got);
    let (_, effects) = bench.request(3, Operation::Acquire(any_of(&["a", "b"], Wait::Try)));
    assert!(matches!(
        outcomes(&effects)[0].2,
        Outcome::NotAvailable { want: 0, .. }
    ));
}

#[test]
fn whoever_waits_for_any_gets_the_first_that_becomes_free_and_leaves_the_other_queues() {
    let mut bench = Bench::new(4);
    let a = bench.hold(1, "a");
    let b = bench.hold(2, "b");
    bench.wait_as(3, any_of(&["a", "b"], Wait::Forever));
    bench.wait_as(4, exclusive("a", Wait::Forever));
    assert_eq!(granted_to(&bench.release(2, b).1), [3]);
    assert_eq!(granted_to(&bench.release(1, a).1), [4]);
}

#[test]
fn whoever_leaves_a_queue_because_it_got_another_lock_lets_the_next_in() {
    let mut bench = Bench::new(4);
    let reader = bench.hold_as(1, shared("a", Wait::Try));
    let b = bench.hold(2, "b");
    bench.wait_as(3, any_of(&["a", "b"], Wait::Forever));
    bench.wait_as(4, shared("a", Wait::Forever));
    // The writer-to-be gets b instead; nothing keeps the reader out of a any more.
    assert_eq!(granted_to(&bench.release(2, b).1), [3, 4]);
    bench.release(1, reader);
}

#[test]
fn a_lock_is_named_once_and_not_too_many_are() {
    let mut bench = Bench::new(1);
    let (_, effects) = bench.request(1, Operation::Acquire(all_of(&["a", "a"], Wait::Try)));
    assert_eq!(refusal(&effects), Some(Refusal::NamedTwice(name("a"))));
    let names: Vec<String> = (0..65).map(|n| n.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for names in [&names[..], &[]] {
        let (_, effects) = bench.request(1, Operation::Acquire(any_of(names, Wait::Try)));
        assert!(matches!(
            refusal(&effects),
            Some(Refusal::OutOfRange { .. })
        ));
    }
    assert_eq!(bench.state.lock_count(), 0);
}

#[test]
fn an_expired_session_leaves_all_its_queues_before_anybody_is_granted() {
    let mut bench = Bench::new(3);
    bench.hold(1, "a");
    bench.hold(2, "b");
    bench.wait_as(1, any_of(&["a", "b"], Wait::Forever));
    bench.wait_as(3, all_of(&["a", "c"], Wait::Forever));
    assert_eq!(granted_to(&bench.expire(1)), [3]);
}
