//! Owners within a session: what they hold, they can hold again.

use super::*;

fn mine(reentries: u32, acquire: Acquire) -> Acquire {
    owned("worker", reentries, acquire)
}

#[test]
fn an_owner_enters_its_lock_again_under_the_same_token() {
    let mut bench = Bench::new(2);
    let outer = bench.hold_as(1, mine(3, exclusive("a", Wait::Try)));
    let inner = bench.hold_as(1, mine(3, exclusive("a", Wait::Forever)));
    assert_eq!(outer.token, inner.token);
    bench.wait_as(2, exclusive("a", Wait::Forever));
    // In any order: the lock is free when the last of them is given back.
    assert!(granted_to(&bench.release(1, outer).1).is_empty());
    let (_, effects) = bench.release(1, outer);
    assert_eq!(outcomes(&effects)[0].2, Outcome::NotHeld);
    assert_eq!(granted_to(&bench.release(1, inner).1), [2]);
}

#[test]
fn an_owner_enters_its_lock_as_often_as_it_may() {
    let mut bench = Bench::new(1);
    bench.hold_as(1, mine(2, exclusive("a", Wait::Try)));
    bench.hold_as(1, mine(2, exclusive("a", Wait::Try)));
    for wait in [Wait::Try, Wait::Forever] {
        let (_, effects) = bench.request(1, Operation::Acquire(mine(2, exclusive("a", wait))));
        let held = Refusal::HeldAlready {
            lock: name("a"),
            limit: 2,
        };
        assert_eq!(refusal(&effects), Some(held));
    }
}

#[test]
fn another_owner_and_the_same_owner_of_another_session_have_to_wait() {
    let mut bench = Bench::new(2);
    let held = bench.hold_as(1, mine(9, exclusive("a", Wait::Try)));
    bench.wait_as(1, owned("other", 9, exclusive("a", Wait::Forever)));
    bench.wait_as(2, mine(9, exclusive("a", Wait::Forever)));
    bench.wait_as(1, exclusive("a", Wait::Forever));
    assert_eq!(granted_to(&bench.release(1, held).1), [1]);
}

#[test]
fn an_owner_that_reads_cannot_become_the_writer() {
    let mut bench = Bench::new(1);
    let held = bench.hold_as(1, mine(9, shared("a", Wait::Try)));
    let upgrade = Operation::Acquire(mine(9, exclusive("a", Wait::Forever)));
    let (_, effects) = bench.request(1, upgrade.clone());
    let refused = Refusal::Upgrade { lock: name("a") };
    assert_eq!(refusal(&effects), Some(refused));
    bench.release(1, held);
    bench.hold_as(1, mine(9, exclusive("a", Wait::Try)));
    // The other way round it reads what it writes.
    bench.hold_as(1, mine(9, shared("a", Wait::Try)));
}

#[test]
fn what_is_entered_twice_cannot_be_downgraded() {
    let mut bench = Bench::new(1);
    let held = bench.hold_as(1, mine(9, exclusive("a", Wait::Try)));
    bench.hold_as(1, mine(9, exclusive("a", Wait::Try)));
    let Held { acquire, token } = held;
    let ticket = false;
    let downgrade = Operation::Downgrade {
        acquire,
        token,
        ticket,
    };
    let (_, effects) = bench.request(1, downgrade);
    assert_eq!(refusal(&effects), Some(Refusal::NotDowngradable));
}

#[test]
fn each_permit_of_an_owner_is_one_of_its_own() {
    let mut bench = Bench::new(1);
    let one = bench.hold_as(1, mine(9, permit("s", 2, Wait::Try)));
    let two = bench.hold_as(1, mine(9, permit("s", 2, Wait::Try)));
    assert_ne!(one.token, two.token);
}

#[test]
fn a_break_ends_every_entry_of_the_owner() {
    let mut bench = Bench::new(3);
    let outer = bench.hold_as(1, mine(9, exclusive("a", Wait::Try)));
    let inner = bench.hold_as(1, mine(9, exclusive("a", Wait::Try)));
    bench.wait_as(2, exclusive("a", Wait::Forever));
    let take = |at_once| Operation::Break {
        lock: name("a"),
        reason: "test".into(),
        at_once,
    };
    let (_, effects) = bench.request(3, take(false));
    let told = |effect: &&Effect| matches!(effect, Effect::BreakBegan { .. });
    assert_eq!(effects.iter().filter(told).count(), 2, "each guard is told");
    assert_eq!(bench.state.breaks_of(SessionId(1)).len(), 2);
    let (_, effects) = bench.request(3, take(true));
    assert_eq!(granted_to(&effects), [2]);
    for held in [outer, inner] {
        let (_, effects) = bench.release(1, held);
        assert_eq!(outcomes(&effects)[0].2, Outcome::NotHeld);
    }
}
