//! Changes of who holds what: each is told once, in order, under the next number.

use super::*;
use crate::state::holders::Place;

#[test]
fn a_grant_its_end_and_the_next_grant_are_told_in_this_order() {
    let mut bench = Bench::new(2);
    let first = bench.hold(1, "a");
    bench.acquire(2, "a", Wait::Forever);
    let (_, effects) = bench.release(1, first);
    let expected = [(2, Change::Released, "a", 1), (3, Change::Granted, "a", 2)];
    assert_eq!(changes(&effects), expected);
    assert_eq!(bench.state.last_event(), EventNumber(3));
}

#[test]
fn what_ends_with_a_session_has_expired_unless_the_session_was_closed() {
    let mut bench = Bench::new(2);
    bench.hold(1, "a");
    bench.hold_as(1, all_of(&["b", "c"], Wait::Try));
    let expected = [
        (4, Change::Expired, "a", 1),
        (5, Change::Expired, "b", 2),
        (6, Change::Expired, "c", 3),
    ];
    assert_eq!(changes(&bench.expire(1)), expected);
    bench.hold(2, "a");
    let (_, effects) = bench.request(2, Operation::Close);
    assert_eq!(changes(&effects), [(8, Change::Released, "a", 4)]);
}

#[test]
fn a_wait_that_ends_changes_nothing_and_a_cancelled_grant_is_released() {
    let mut bench = Bench::new(2);
    bench.hold(1, "a");
    let (waiting, effects) = bench.acquire(2, "a", Wait::Forever);
    assert_eq!(changes(&effects), []);
    let (_, effects) = bench.request(2, Operation::Cancel { acquire: waiting });
    assert_eq!(changes(&effects), []);
    let held = bench.hold(2, "b");
    let acquire = held.acquire;
    let (_, effects) = bench.request(2, Operation::Cancel { acquire });
    assert_eq!(changes(&effects), [(3, Change::Released, "b", 2)]);
}

#[test]
fn a_broken_lock_is_told_when_it_moves_and_not_when_its_holder_is_told() {
    let mut bench = Bench::new(2);
    bench.hold(1, "a");
    let order = |at_once| Operation::Break {
        lock: name("a"),
        reason: "why".to_owned(),
        at_once,
    };
    let (_, effects) = bench.request(2, order(false));
    assert_eq!(changes(&effects), []);
    let (_, effects) = bench.request(2, order(true));
    assert_eq!(changes(&effects), [(2, Change::Broken, "a", 1)]);
}

#[test]
fn a_downgrade_is_told_before_those_that_it_lets_in() {
    let mut bench = Bench::new(2);
    let Held { acquire, token } = bench.hold(1, "a");
    bench.wait_as(2, shared("a", Wait::Forever));
    let ticket = false;
    let downgrade = Operation::Downgrade {
        acquire,
        token,
        ticket,
    };
    let (_, effects) = bench.request(1, downgrade);
    let expected = [
        (2, Change::Downgraded, "a", 1),
        (3, Change::Granted, "a", 2),
    ];
    assert_eq!(changes(&effects), expected);
}

#[test]
fn an_owner_that_enters_again_and_leaves_again_changes_nothing() {
    let mut bench = Bench::new(1);
    let mine = || owned("me", 2, exclusive("a", Wait::Try));
    let first = bench.hold_as(1, mine());
    let second = bench.hold_as(1, mine());
    assert_eq!(bench.state.last_event(), EventNumber(1));
    bench.release(1, first);
    assert_eq!(bench.state.last_event(), EventNumber(1));
    let (_, effects) = bench.release(1, second);
    assert_eq!(changes(&effects), [(2, Change::Released, "a", 1)]);
}

#[test]
fn a_retry_changes_nothing() {
    let mut bench = Bench::new(1);
    let operation = || acquire("a", Wait::Try);
    bench.request(1, operation());
    let again = bench.apply(request(1, 1, 0, operation()));
    assert_eq!((outcomes(&again).len(), changes(&again)), (1, vec![]));
}

/// Every grant in a scope, page by page.
fn all(state: &State, scope: &Scope) -> (Vec<(String, u64)>, usize) {
    let (mut holders, mut pages) = (Vec::new(), 0);
    let mut after: Option<Place> = None;
    loop {
        let page = state.holders_page(scope, after.as_ref());
        pages += 1;
        holders.extend(
            page.holders
                .iter()
                .map(|it| (it.lock.to_string(), it.token.0)),
        );
        match page.next {
            next @ Some(_) => after = next,
            None => return (holders, pages),
        }
    }
}

#[test]
fn holders_come_in_order_of_lock_and_token_and_in_pages_that_fit_a_frame() {
    let mut bench = Bench::new(1);
    let metadata = Value::new(&[7; 4000]).expect("short");
    let mut expected = Vec::new();
    for n in 0..40 {
        let lock = format!("s/{}", n % 2);
        let acquire = Acquire {
            metadata: metadata.clone(),
            ..shared(&lock, Wait::Try)
        };
        let held = bench.hold_as(1, acquire);
        expected.push((lock, held.token.0));
    }
    bench.hold(1, "r");
    bench.hold(1, "t");
    expected.sort();
    let (holders, pages) = all(&bench.state, &Scope::Prefix("s/".to_owned()));
    assert_eq!((holders, pages > 4), (expected.clone(), true));
    let (holders, _) = all(&bench.state, &Scope::Lock(name("s/1")));
    assert_eq!(holders, expected[20..]);
    let (everything, _) = all(&bench.state, &Scope::Prefix(String::new()));
    assert_eq!(everything.len(), 42);
    assert_eq!(all(&bench.state, &Scope::Lock(name("x"))), (vec![], 1));
}

#[test]
fn a_page_looks_at_a_bounded_number_of_locks() {
    let mut bench = Bench::new(3);
    for n in 0..3000 {
        bench.hold(1 + n / 1000, &format!("{n:04}"));
    }
    let scope = Scope::Prefix(String::new());
    let page = bench.state.holders_page(&scope, None);
    assert!(page.holders.len() < 1100 && page.next.is_some());
    let (holders, pages) = all(&bench.state, &scope);
    assert_eq!(holders.len(), 3000);
    assert!(pages >= 3, "{pages}");
}
