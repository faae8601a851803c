//! Every rule of the oracle fires on a history that breaks it, and on no lawful history.

use super::*;

const LOCK: LockIndex = LockIndex(0);
const OTHER_LOCK: LockIndex = LockIndex(1);
const A: ClientIndex = ClientIndex(0);
const B: ClientIndex = ClientIndex(1);

/// An oracle over two clients and two locks, and a clock in milliseconds.
struct Bench {
    oracle: Oracle,
    start: Instant,
}

impl Bench {
    fn new() -> Bench {
        let start = Instant::now();
        Bench {
            oracle: Oracle::new(start, 2, 2),
            start,
        }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    /// A grant with a lease of one second.
    fn granted(&mut self, client: ClientIndex, lock: LockIndex, token: u64, ms: u64) {
        let shared = false;
        self.holds(
            client,
            Hold {
                lock,
                token,
                shared,
            },
            ms,
        );
    }

    /// The same as shared.
    fn shared(&mut self, client: ClientIndex, lock: LockIndex, token: u64, ms: u64) {
        let shared = true;
        self.holds(
            client,
            Hold {
                lock,
                token,
                shared,
            },
            ms,
        );
    }

    fn holds(&mut self, client: ClientIndex, hold: Hold, ms: u64) {
        let (now, until) = (self.at(ms), self.at(ms + 1000));
        self.oracle.granted(client, hold, now, until);
    }

    fn lets_go(&mut self, client: ClientIndex, lock: LockIndex, token: u64, ms: u64) {
        self.oracle.lets_go(client, lock, token, self.at(ms));
    }

    fn violations(&self) -> Vec<&str> {
        let stories = self.oracle.stories().iter();
        stories.map(|violation| violation.what.as_str()).collect()
    }

    fn assert_one(&self, rule: &str) {
        let found = self.violations();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(rule), "{found:?}");
    }
}

#[test]
fn a_lawful_history_has_no_violations() {
    let mut bench = Bench::new();
    bench.oracle.asks(A);
    bench.oracle.asks(B);
    bench.granted(A, LOCK, 1, 1);
    bench.lets_go(A, LOCK, 1, 2);
    bench.granted(B, LOCK, 2, 3);
    bench.oracle.asks(A);
    bench.granted(A, OTHER_LOCK, 3, 4);
    assert_eq!(bench.violations(), Vec::<&str>::new());
}

#[test]
fn a_lower_token_for_what_was_asked_concurrently_is_lawful() {
    let mut bench = Bench::new();
    bench.oracle.asks(A);
    bench.oracle.asks(B);
    bench.granted(B, OTHER_LOCK, 2, 1);
    bench.granted(A, LOCK, 1, 2);
    assert_eq!(bench.violations(), Vec::<&str>::new());
}

#[test]
fn a_lower_token_for_what_was_asked_later_breaks_the_order() {
    let mut bench = Bench::new();
    bench.oracle.asks(B);
    bench.granted(B, OTHER_LOCK, 2, 1);
    bench.oracle.asks(A);
    bench.granted(A, LOCK, 1, 2);
    bench.assert_one("order: client 0 was granted token 1, yet token 2");
}

#[test]
fn a_lower_token_of_the_same_lock_breaks_its_order() {
    let mut bench = Bench::new();
    bench.oracle.asks(A);
    bench.oracle.asks(B);
    bench.granted(B, LOCK, 2, 1);
    bench.lets_go(B, LOCK, 2, 2);
    bench.granted(A, LOCK, 1, 3);
    bench.assert_one("order per lock: client 0 was granted token 1 after the lock's token 2");
}

#[test]
fn a_token_granted_twice_is_no_longer_unique() {
    let mut bench = Bench::new();
    bench.oracle.asks(A);
    bench.oracle.asks(B);
    bench.granted(A, LOCK, 5, 1);
    bench.granted(B, OTHER_LOCK, 5, 1);
    bench.assert_one("uniqueness: client 1 was granted token 5");
}

#[test]
fn a_grant_beside_a_holder_breaks_exclusion_and_tells_the_story() {
    let mut bench = Bench::new();
    bench.granted(A, LOCK, 1, 1);
    bench.granted(B, LOCK, 2, 400);
    bench.assert_one("exclusion: client 1 was granted token 2 while client 0 held the lock");
    let story = bench.oracle.stories()[0].to_string();
    assert!(story.contains("601 ms of its lease left"), "{story}");
    assert!(
        story.contains("lock 0 token 1: client 0 was granted it"),
        "{story}"
    );
}

#[test]
fn a_grant_after_the_holder_s_lease_has_ended_is_lawful() {
    let mut bench = Bench::new();
    bench.granted(A, LOCK, 1, 1);
    bench.granted(B, LOCK, 2, 1001);
    assert_eq!(bench.violations(), Vec::<&str>::new());
}

#[test]
fn letting_go_of_an_older_grant_does_not_hide_the_holder() {
    let mut bench = Bench::new();
    bench.granted(A, LOCK, 1, 1);
    bench.granted(B, LOCK, 2, 1001);
    bench.lets_go(A, LOCK, 1, 1002);
    bench.granted(A, LOCK, 3, 1003);
    bench.assert_one("exclusion: client 0 was granted token 3 while client 1 held the lock");
}

#[test]
fn a_release_refused_within_the_lease_is_a_violation_and_after_it_is_not() {
    let mut bench = Bench::new();
    let until = bench.at(1000);
    let mut not_held = |ms| {
        let now = bench.at(ms);
        let oracle = &mut bench.oracle;
        oracle.released(A, LOCK, 1, Released::NotHeld, now, until);
        oracle.violations()
    };
    assert_eq!(not_held(1000), 0);
    assert_eq!(not_held(999), 1);
    bench.assert_one("release: client 0 released token 1 with 1 ms of its lease left");
}

#[test]
fn zero_and_numbers_beyond_the_range_are_no_tokens() {
    for token in [0, 1 << 63, u64::MAX] {
        let mut bench = Bench::new();
        bench.granted(A, LOCK, token, 1);
        assert!(bench.violations()[0].starts_with("token: client 0"));
    }
}

#[test]
fn old_tokens_are_forgotten_and_still_caught_when_granted_again() {
    let mut bench = Bench::new();
    let rounds = TOKENS_MIN as u64 * 3;
    for token in 1..=rounds {
        bench.oracle.asks(A);
        bench.granted(A, LOCK, token, token);
        bench.lets_go(A, LOCK, token, token);
    }
    assert!(bench.oracle.tokens.len() <= TOKENS_MIN);
    assert_eq!(bench.oracle.violations(), 0);
    bench.oracle.asks(B);
    bench.granted(B, OTHER_LOCK, 1, rounds + 1);
    bench.assert_one("order: client 1 was granted token 1");
}

#[test]
fn stories_are_limited_and_violations_are_not() {
    let mut bench = Bench::new();
    for _ in 0..100 {
        bench.granted(A, LOCK, 0, 1);
        bench.lets_go(A, LOCK, 0, 1);
    }
    assert!(bench.oracle.violations() >= 100);
    assert_eq!(bench.oracle.stories().len(), STORIES_MAX);
}

#[test]
fn grants_without_tokens_are_numbered_and_judged_by_who_holds() {
    let mut bench = Bench::new();
    let mut granted = |client, ms| {
        bench.oracle.asks(client);
        let grant = bench.oracle.number(None);
        bench.granted(client, LOCK, grant, ms);
        bench.lets_go(client, LOCK, grant, ms + 1);
    };
    granted(A, 1);
    granted(B, 3);
    granted(A, 5);
    assert_eq!(bench.violations(), Vec::<&str>::new());
    let held = bench.oracle.number(None);
    bench.granted(A, LOCK, held, 10);
    let beside = bench.oracle.number(None);
    bench.granted(B, LOCK, beside, 11);
    bench.assert_one("exclusion: client 1 was granted hold 5 while client 0 held the lock under");
    let story = bench.oracle.stories()[0].to_string();
    assert!(
        story.contains("lock 0 hold 4: client 0 was granted it"),
        "{story}"
    );
}

#[test]
fn readers_hold_a_lock_together_and_may_learn_of_it_in_any_order() {
    let mut bench = Bench::new();
    bench.oracle.asks(A);
    bench.oracle.asks(B);
    bench.shared(A, LOCK, 2, 1);
    bench.shared(B, LOCK, 1, 2);
    bench.lets_go(A, LOCK, 2, 3);
    bench.lets_go(B, LOCK, 1, 3);
    bench.oracle.asks(A);
    bench.granted(A, LOCK, 3, 4);
    assert_eq!(bench.violations(), Vec::<&str>::new());
}

#[test]
fn a_writer_beside_a_reader_breaks_exclusion_whoever_came_first() {
    let mut bench = Bench::new();
    bench.shared(A, LOCK, 1, 1);
    bench.granted(B, LOCK, 2, 2);
    bench.assert_one("exclusion: client 1 was granted token 2 while client 0 held the lock");
    let mut bench = Bench::new();
    bench.granted(A, LOCK, 1, 1);
    bench.shared(B, LOCK, 2, 2);
    bench.assert_one("exclusion: client 1 was granted token 2 while client 0 held the lock");
}

#[test]
fn a_reader_s_token_below_that_of_a_writer_breaks_the_lock_s_order() {
    let mut bench = Bench::new();
    bench.granted(A, LOCK, 2, 1);
    bench.lets_go(A, LOCK, 2, 2);
    bench.shared(B, LOCK, 1, 3);
    bench.assert_one("order per lock: client 1 was granted token 1 after the lock's token 2");
}

#[test]
fn every_lock_of_an_acquisition_of_several_is_judged_by_when_it_was_asked_for() {
    let mut bench = Bench::new();
    bench.granted(B, LOCK, 5, 1);
    bench.lets_go(B, LOCK, 5, 2);
    bench.oracle.asks(A);
    bench.granted(A, LOCK, 6, 3);
    bench.granted(A, OTHER_LOCK, 4, 3);
    bench.assert_one("order: client 0 was granted token 4, yet token 5 had been received");
}

#[test]
fn a_permit_that_does_not_exist_is_a_violation() {
    let mut bench = Bench::new();
    bench.oracle.no_such_permit(A, 4, 4);
    bench.assert_one("exclusion: client 0 was granted permit 4 of 4");
}
