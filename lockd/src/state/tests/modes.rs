//! Shared locks, semaphores, downgrades, barging, and locks that stay closed for a while.

use super::*;

#[test]
fn readers_share_a_lock_and_a_writer_waits_for_all_of_them() {
    let mut bench = Bench::new(3);
    let one = bench.hold_as(1, shared("a", Wait::Try));
    let two = bench.hold_as(2, shared("a", Wait::Try));
    assert!(one.token < two.token, "each grant has a token of its own");
    bench.wait_as(3, exclusive("a", Wait::Forever));
    assert!(granted_to(&bench.release(1, one).1).is_empty());
    assert_eq!(granted_to(&bench.release(2, two).1), [3]);
}

#[test]
fn readers_do_not_overtake_a_writer_that_waits() {
    let mut bench = Bench::new(5);
    let first = bench.hold_as(1, shared("a", Wait::Try));
    let writer = bench.wait_as(2, exclusive("a", Wait::Forever));
    bench.wait_as(3, shared("a", Wait::Forever));
    bench.wait_as(4, shared("a", Wait::Forever));
    let (_, effects) = bench.request(5, Operation::Acquire(shared("a", Wait::Try)));
    assert!(matches!(
        outcomes(&effects)[0].2,
        Outcome::NotAvailable { want: 0, .. }
    ));
    let (_, effects) = bench.release(1, first);
    assert_eq!(granted_to(&effects), [2]);
    let token = granted_token(&effects, 2, writer).expect("granted");
    let held = Held {
        acquire: writer,
        token,
    };
    assert_eq!(
        granted_to(&bench.release(2, held).1),
        [3, 4],
        "all readers at once"
    );
}

#[test]
fn a_writer_that_gives_up_lets_the_readers_behind_it_in() {
    let mut bench = Bench::new(3);
    bench.hold_as(1, shared("a", Wait::Try));
    let writer = bench.wait_as(2, exclusive("a", Wait::Forever));
    bench.wait_as(3, shared("a", Wait::Forever));
    let (_, effects) = bench.request(2, Operation::Cancel { acquire: writer });
    assert_eq!(granted_to(&effects), [3]);
}

#[test]
fn a_semaphore_has_numbered_permits_and_reuses_the_lowest() {
    let mut bench = Bench::new(4);
    let slot = |bench: &Bench, held: Held| {
        let lock = &bench.state.locks[&name("s")];
        lock.holds[lock.find(held.token).expect("held")].slot
    };
    let held: Vec<Held> = (1..=3)
        .map(|session| bench.hold_as(session, permit("s", 3, Wait::Try)))
        .collect();
    let slots: Vec<u32> = held.iter().map(|held| slot(&bench, *held)).collect();
    assert_eq!(slots, [0, 1, 2]);
    let waiter = bench.wait_as(4, permit("s", 3, Wait::Forever));
    let (_, effects) = bench.release(2, held[1]);
    assert_eq!(granted_to(&effects), [4]);
    let token = granted_token(&effects, 4, waiter).expect("granted");
    let held = Held {
        acquire: waiter,
        token,
    };
    assert_eq!(slot(&bench, held), 1);
}

#[test]
fn the_ticket_of_a_permit_is_for_the_fence_of_its_slot() {
    let mut bench = Bench::new(2);
    bench.hold_as(1, permit("s", 2, Wait::Try));
    let acquire = Acquire {
        ticket: true,
        ..permit("s", 2, Wait::Try)
    };
    let (_, effects) = bench.request(2, Operation::Acquire(acquire));
    let Some(Effect::Reply { tickets, .. }) = effects.last() else {
        panic!("{effects:?}");
    };
    let claim = Claim {
        lock: name("s#1"),
        token: Token(2),
        mode: Mode::Permit { of: 2 },
    };
    assert_eq!(*tickets, [claim]);
}

#[test]
fn a_semaphore_keeps_its_size_as_long_as_somebody_uses_it() {
    let mut bench = Bench::new(2);
    let held = bench.hold_as(1, permit("s", 3, Wait::Try));
    let (_, effects) = bench.request(2, Operation::Acquire(permit("s", 4, Wait::Try)));
    let other = Refusal::OtherSemaphore {
        lock: name("s"),
        permits: 3,
    };
    assert_eq!(refusal(&effects), Some(other));
    bench.release(1, held);
    bench.hold_as(2, permit("s", 4, Wait::Try));
}

#[test]
fn permits_and_names_of_semaphores_have_limits_that_are_told() {
    let mut bench = Bench::new(1);
    for permits in [0, 10_001] {
        let (_, effects) = bench.request(1, Operation::Acquire(permit("s", permits, Wait::Try)));
        assert!(matches!(
            refusal(&effects),
            Some(Refusal::OutOfRange { .. })
        ));
    }
    let long = permit(&"x".repeat(249), 1, Wait::Try);
    let (_, effects) = bench.request(1, Operation::Acquire(long));
    assert!(matches!(
        refusal(&effects),
        Some(Refusal::SemaphoreName { .. })
    ));
    assert_eq!(bench.state.lock_count(), 0);
}

#[test]
fn a_writer_becomes_a_reader_under_its_token_and_lets_readers_in() {
    let mut bench = Bench::new(3);
    let held = bench.hold(1, "a");
    bench.wait_as(2, shared("a", Wait::Forever));
    bench.wait_as(3, exclusive("a", Wait::Forever));
    let downgrade = Operation::Downgrade {
        acquire: held.acquire,
        token: held.token,
        ticket: true,
    };
    let (sequence, effects) = bench.request(1, downgrade.clone());
    assert_eq!(granted_to(&effects), [2], "the writer still waits");
    let told = effects.iter().find_map(|effect| match effect {
        Effect::Reply {
            outcome: Outcome::Downgraded,
            tickets,
            ..
        } => Some(tickets.clone()),
        _ => None,
    });
    let claim = Claim {
        lock: name("a"),
        token: held.token,
        mode: Mode::Shared,
    };
    assert_eq!(told.as_deref(), Some(&[claim.clone()][..]));
    // A retry is told the same.
    let again = bench.apply(request(1, sequence.0, 0, downgrade.clone()));
    assert!(matches!(&again[..], [Effect::Reply { tickets, .. }] if *tickets == [claim]));
    let (_, effects) = bench.request(1, downgrade);
    assert_eq!(refusal(&effects), Some(Refusal::NotDowngradable));
    assert_eq!(outcomes(&bench.release(1, held).1)[0].2, Outcome::Released);
}

#[test]
fn what_is_not_held_cannot_be_downgraded() {
    let mut bench = Bench::new(2);
    let held = bench.hold(1, "a");
    bench.release(1, held);
    bench.hold(2, "a");
    let downgrade = Operation::Downgrade {
        acquire: held.acquire,
        token: held.token,
        ticket: false,
    };
    let (sequence, effects) = bench.request(1, downgrade);
    assert_eq!(outcomes(&effects), [(1, sequence.0, Outcome::NotHeld)]);
}

#[test]
fn barging_takes_what_is_free_and_waits_in_turn_for_what_is_not() {
    let mut bench = Bench::new(4);
    bench.hold_as(1, shared("a", Wait::Try));
    bench.wait_as(2, exclusive("a", Wait::Forever));
    let barge = |acquire| Acquire {
        barge: true,
        ..acquire
    };
    bench.hold_as(3, barge(shared("a", Wait::Try)));
    let (_, effects) = bench.request(4, Operation::Acquire(barge(exclusive("a", Wait::Forever))));
    assert_eq!(outcomes(&effects)[0].2, Outcome::Queued { ahead: 1 });
}

#[test]
fn a_lock_stays_closed_for_a_while_after_its_holder_expired() {
    let mut bench = Bench::new(3);
    let delay = Millis(5_000);
    let held = bench.hold_as(
        1,
        Acquire {
            delay,
            ..exclusive("a", Wait::Try)
        },
    );
    let waiter = bench.wait_as(2, exclusive("a", Wait::Forever));
    let closed = Effect::Closed {
        lock: name("a"),
        token: held.token,
        span: delay,
    };
    let effects = bench.expire(1);
    assert_eq!(effects[0], closed);
    assert!(granted_to(&effects).is_empty());
    assert_eq!(bench.state.pending_timers(), [closed]);
    let (_, effects) = bench.request(3, Operation::Acquire(exclusive("a", Wait::Try)));
    let nobody = Outcome::NotAvailable {
        want: 0,
        holder: None,
    };
    assert_eq!(outcomes(&effects)[0].2, nobody);
    let reopen = |leader| Command::Reopen {
        lock: name("a"),
        token: held.token,
        leadership: leadership(leader),
    };
    assert_eq!(bench.apply(reopen(0)), [], "an older leadership's clock");
    let effects = bench.apply(reopen(1));
    assert!(granted_token(&effects, 2, waiter).is_some());
    assert_eq!(bench.apply(reopen(1)), []);
}

#[test]
fn a_session_that_is_closed_in_order_leaves_its_locks_open() {
    let mut bench = Bench::new(2);
    let delay = Millis(5_000);
    let acquire = Acquire {
        delay,
        ..exclusive("a", Wait::Try)
    };
    bench.hold_as(1, acquire);
    bench.wait_as(2, exclusive("a", Wait::Forever));
    let (_, effects) = bench.request(1, Operation::Close);
    assert_eq!(granted_to(&effects), [2]);
}
