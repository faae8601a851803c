//! Locks that are taken from their holders.

use super::*;

#[test]
fn a_break_tells_the_holder_and_moves_the_lock_when_it_lets_go() {
    let mut bench = Bench::new(3);
    let held = bench.hold(1, "a");
    let (waiter, _) = bench.acquire(2, "a", Wait::Forever);
    let operation = Operation::Break {
        lock: name("a"),
        reason: "stuck".into(),
        at_once: false,
    };
    let (sequence, effects) = bench.request(3, operation);
    let broken = Outcome::Broken {
        holders: vec![(SessionId(1), held.token)],
        fence: Token(2),
    };
    assert_eq!(outcomes(&effects), [(3, sequence.0, broken)]);
    assert_eq!(bench.state.breaks_of(SessionId(1)).len(), 1);
    assert!(
        granted_token(&effects, 2, waiter).is_none(),
        "the holder may still believe"
    );
    let (_, effects) = bench.release(1, held);
    assert_eq!(granted_token(&effects, 2, waiter), Some(Token(3)));
    assert_eq!(bench.state.breaks_of(SessionId(1)), []);
}

#[test]
fn a_break_moves_the_lock_of_a_silent_holder_after_its_lease() {
    let mut bench = Bench::new(3);
    let held = bench.hold(1, "a");
    let (waiter, _) = bench.acquire(2, "a", Wait::Forever);
    let operation = Operation::Break {
        lock: name("a"),
        reason: "stuck".into(),
        at_once: false,
    };
    bench.request(3, operation);
    let finish = Command::FinishBreak {
        lock: name("a"),
        token: held.token,
        leadership: leadership(1),
    };
    let effects = bench.apply(finish.clone());
    assert!(granted_token(&effects, 2, waiter).is_some());
    assert_eq!(
        bench.apply(finish),
        [],
        "the next holder is not broken by a repetition"
    );
}

#[test]
fn a_break_at_once_moves_the_lock_at_once_and_raises_the_token() {
    let mut bench = Bench::new(3);
    bench.hold(1, "a");
    let (waiter, _) = bench.acquire(2, "a", Wait::Forever);
    let operation = Operation::Break {
        lock: name("a"),
        reason: "now".into(),
        at_once: true,
    };
    let (_, effects) = bench.request(3, operation);
    assert_eq!(granted_token(&effects, 2, waiter), Some(Token(3)));
    let operation = Operation::Break {
        lock: name("b"),
        reason: "now".into(),
        at_once: true,
    };
    let (_, effects) = bench.request(3, operation);
    assert_eq!(outcomes(&effects)[0].2, Outcome::NothingToBreak);
}
