//! Waits that would never end are refused, and no other wait is.

use lockd_protocol::client::InCircle;

use super::*;

fn mine(acquire: Acquire) -> Acquire {
    owned("main", 1, acquire)
}

fn circle(effects: &[Effect]) -> Vec<(u64, String)> {
    match refusal(effects) {
        Some(Refusal::Deadlock(circle)) => circle
            .into_iter()
            .map(
                |InCircle {
                     session, waits_for, ..
                 }| (session.0, waits_for.to_string()),
            )
            .collect(),
        other => panic!("no deadlock: {other:?} {effects:?}"),
    }
}

fn told(steps: &[(u64, &str)]) -> Vec<(u64, String)> {
    let steps = steps.iter();
    steps
        .map(|(session, lock)| (*session, (*lock).to_owned()))
        .collect()
}

#[test]
fn the_wait_that_closes_a_circle_is_refused_and_told_the_circle() {
    let mut bench = Bench::new(3);
    bench.hold_as(1, mine(exclusive("a", Wait::Try)));
    bench.hold_as(2, mine(exclusive("b", Wait::Try)));
    let c = bench.hold_as(3, mine(exclusive("c", Wait::Try)));
    bench.wait_as(1, mine(exclusive("b", Wait::Forever)));
    bench.wait_as(2, mine(exclusive("c", Wait::Forever)));
    let (_, effects) = bench.request(3, Operation::Acquire(mine(exclusive("a", Wait::Forever))));
    assert_eq!(circle(&effects), told(&[(3, "a"), (1, "b"), (2, "c")]));
    assert_eq!(granted_to(&bench.release(3, c).1), [2], "the others go on");
}

#[test]
fn a_limited_wait_that_would_only_end_by_its_limit_is_refused_too() {
    let mut bench = Bench::new(2);
    bench.hold_as(1, mine(exclusive("a", Wait::Try)));
    bench.hold_as(2, mine(exclusive("b", Wait::Try)));
    bench.wait_as(1, mine(exclusive("b", Wait::Forever)));
    let limited = mine(exclusive("a", Wait::For(Millis(50))));
    let (_, effects) = bench.request(2, Operation::Acquire(limited));
    assert_eq!(circle(&effects), told(&[(2, "a"), (1, "b")]));
}

#[test]
fn waits_that_have_ended_close_no_circle() {
    let mut bench = Bench::new(2);
    bench.hold_as(1, mine(exclusive("a", Wait::Try)));
    bench.hold_as(2, mine(exclusive("b", Wait::Try)));
    let limited = bench.wait_as(1, mine(exclusive("b", Wait::For(Millis(50)))));
    bench.apply(Command::TimeOut {
        session: SessionId(1),
        acquire: limited,
        leadership: leadership(1),
    });
    let second = bench.wait_as(2, mine(exclusive("a", Wait::Forever)));
    bench.request(2, Operation::Cancel { acquire: second });
    bench.wait_as(1, mine(exclusive("b", Wait::Forever)));
}

#[test]
fn a_circle_can_go_through_those_who_stand_before_one_in_a_queue() {
    let mut bench = Bench::new(3);
    bench.hold_as(1, mine(shared("a", Wait::Try)));
    bench.hold_as(2, mine(exclusive("b", Wait::Try)));
    // 2 waits for 1 to stop reading; 1 would read behind it what it cannot get before.
    bench.wait_as(2, mine(exclusive("a", Wait::Forever)));
    let again = owned("main", 1, shared("b", Wait::Forever));
    let (_, effects) = bench.request(1, Operation::Acquire(again));
    assert_eq!(circle(&effects), told(&[(1, "b"), (2, "a")]));
}

#[test]
fn one_free_permit_or_one_free_lock_of_several_is_enough_to_go_on() {
    let mut bench = Bench::new(3);
    bench.hold_as(1, mine(permit("s", 2, Wait::Try)));
    let free = bench.hold_as(3, mine(permit("s", 2, Wait::Try)));
    bench.hold_as(2, mine(exclusive("b", Wait::Try)));
    bench.wait_as(1, mine(exclusive("b", Wait::Forever)));
    // 1 waits for 2, but 3 may give its permit back.
    let waits = bench.wait_as(2, mine(permit("s", 2, Wait::Forever)));
    // 3 must not wait for 2 now: both permits would be stuck.
    let (_, effects) = bench.request(3, Operation::Acquire(mine(exclusive("b", Wait::Forever))));
    assert_eq!(circle(&effects), told(&[(3, "b"), (2, "s")]));
    let (_, effects) = bench.release(3, free);
    assert!(granted_token(&effects, 2, waits).is_some());
}

#[test]
fn any_of_several_is_stuck_only_if_all_of_them_are() {
    let mut bench = Bench::new(3);
    bench.hold_as(1, mine(exclusive("a", Wait::Try)));
    bench.hold_as(2, mine(exclusive("b", Wait::Try)));
    bench.hold_as(3, mine(exclusive("c", Wait::Try)));
    bench.wait_as(1, mine(exclusive("c", Wait::Forever)));
    let any = bench.wait_as(3, mine(any_of(&["a", "b"], Wait::Forever)));
    let (_, effects) = bench.request(2, Operation::Acquire(mine(exclusive("c", Wait::Forever))));
    assert_eq!(circle(&effects).first(), Some(&(2, "c".to_owned())));
    bench.request(3, Operation::Cancel { acquire: any });
    bench.wait_as(2, mine(exclusive("c", Wait::Forever)));
}

#[test]
fn an_owner_that_waits_for_itself_is_told_so() {
    let mut bench = Bench::new(1);
    bench.hold_as(1, mine(exclusive("a", Wait::Try)));
    let both = mine(all_of(&["b", "a"], Wait::Forever));
    let (_, effects) = bench.request(1, Operation::Acquire(both));
    assert_eq!(circle(&effects), told(&[(1, "a")]));
    assert_eq!(bench.state.lock_count(), 1, "nothing is left of the wait");
}

#[test]
fn tasks_that_share_a_session_may_wait_for_each_other() {
    let mut bench = Bench::new(2);
    bench.hold(1, "a");
    bench.hold(2, "b");
    bench.wait_as(1, exclusive("b", Wait::Forever));
    bench.wait_as(2, exclusive("a", Wait::Forever));
    // Owners of one session are two, and neither knows of the other.
    bench.hold_as(1, owned("left", 1, exclusive("c", Wait::Try)));
    bench.wait_as(1, owned("right", 1, exclusive("c", Wait::Forever)));
}

#[test]
fn a_circle_can_go_through_somebody_who_waits_without_an_owner() {
    let mut bench = Bench::new(3);
    bench.hold_as(1, mine(exclusive("a", Wait::Try)));
    bench.hold(3, "b");
    // 2 holds nothing, but nobody is granted b before it, and it is not granted b without a.
    bench.wait_as(2, all_of(&["a", "b"], Wait::Forever));
    let (_, effects) = bench.request(1, Operation::Acquire(mine(exclusive("b", Wait::Forever))));
    assert_eq!(circle(&effects), told(&[(1, "b"), (2, "a")]));
    let Some(Refusal::Deadlock(circle)) = refusal(&effects) else {
        panic!("no deadlock: {effects:?}");
    };
    let told = circle.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        told,
        [
            "session 1 (\"main\") waits for \"b\"",
            "session 2 waits for \"a\""
        ]
    );
}

#[test]
fn in_random_schedules_exactly_the_waits_that_could_never_end_are_refused() {
    let schedules = std::env::var("LOCKD_SCHEDULES").ok();
    let schedules: u64 = schedules.map_or(20_000, |text| text.parse().expect("a number"));
    let mut refused = 0;
    let mut waited = 0;
    for seed in 0..schedules {
        let (more_refused, more_waited) = Schedule::new(seed).run();
        refused += more_refused;
        waited += more_waited;
    }
    println!("{schedules} schedules: {waited} waits, {refused} refused as deadlocks");
    assert!(
        refused > schedules / 100 && waited > schedules,
        "they hardly meet"
    );
}

/// A random program of four sessions and five locks, small enough to try out what can still
/// happen.
struct Schedule {
    seed: u64,
    dice: u64,
    bench: Bench,
}

const LOCKS: [&str; 5] = ["a", "b", "c", "d", "e"];

impl Schedule {
    fn new(seed: u64) -> Schedule {
        Schedule {
            seed,
            dice: seed,
            bench: Bench::new(4),
        }
    }

    /// SplitMix64.
    fn roll(&mut self, below: usize) -> usize {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.dice;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize % below
    }

    /// How many waits were refused, and how many began.
    fn run(mut self) -> (u64, u64) {
        let (mut refused, mut waited) = (0, 0);
        for _ in 0..24 {
            let session = 1 + self.roll(4) as u64;
            if self.roll(4) == 0 {
                self.end_something(session);
                continue;
            }
            let acquire = self.acquisition();
            let busy = acquire.owner.is_some() && self.waits(session);
            if busy {
                continue;
            }
            let expected = could_never_end(&self.bench, session, &acquire);
            let (_, effects) = self
                .bench
                .request(session, Operation::Acquire(acquire.clone()));
            let outcome = outcomes(&effects)[0].2.clone();
            let seed = self.seed;
            match (&outcome, expected) {
                (Outcome::Queued { .. }, expected) => {
                    assert_ne!(expected, Some(true), "seed {seed}: missed {acquire:?}");
                    waited += 1;
                }
                (Outcome::Refused(Refusal::Deadlock(circle)), expected) => {
                    assert_eq!(expected, Some(true), "seed {seed}: {acquire:?} {circle:?}");
                    assert_eq!(circle[0].session, SessionId(session));
                    refused += 1;
                }
                _ => {}
            }
        }
        (refused, waited)
    }

    fn acquisition(&mut self) -> Acquire {
        let mode = |schedule: &mut Schedule, lock: &str| match (lock, schedule.roll(2)) {
            ("e", _) => Mode::Permit { of: 2 },
            (_, 0) => Mode::Exclusive,
            _ => Mode::Shared,
        };
        let first = self.roll(5);
        let second = (first + 1 + self.roll(4)) % 5;
        let wants: Vec<Want> = [first, second]
            .map(|lock| Want {
                lock: name(LOCKS[lock]),
                mode: mode(self, LOCKS[lock]),
            })
            .into();
        let wants = match self.roll(6) {
            0 => Wants::All(wants),
            1 => Wants::Any(wants),
            _ => Wants::One(wants[0].clone()),
        };
        let acquire = Acquire {
            wants,
            barge: self.roll(8) == 0,
            ..exclusive("x", Wait::Forever)
        };
        match self.roll(6) {
            0 => acquire,
            _ => mine(acquire),
        }
    }

    fn waits(&self, session: u64) -> bool {
        let session = &self.bench.state.sessions[&SessionId(session)];
        session
            .owned("main")
            .is_some_and(|owned| !owned.places.is_empty())
    }

    /// An owner that waits does nothing else, but its wait may be cancelled.
    fn end_something(&mut self, session: u64) {
        let acquisitions = self.bench.state.sessions[&SessionId(session)].acquisitions();
        let waits = self.waits(session);
        let ends: Vec<Sequence> = acquisitions
            .iter()
            .filter(|(_, acquisition)| !waits || acquisition.place().is_some())
            .map(|(acquire, _)| *acquire)
            .collect();
        if !ends.is_empty() {
            let acquire = ends[self.roll(ends.len())];
            self.bench.request(session, Operation::Cancel { acquire });
        }
    }
}

/// Whether the wait of an owner would never end, found by trying: whatever is held is given back,
/// but for what owners hold who wait, as often as anything is. `None`: it would not wait, or it has
/// no owner.
fn could_never_end(bench: &Bench, session: u64, acquire: &Acquire) -> Option<bool> {
    acquire.owner.as_ref()?;
    let mut state = bench.state.clone();
    // Without its owner it is not looked at, and queues.
    let anonymous = Acquire {
        owner: None,
        ..acquire.clone()
    };
    let sequence = Sequence(bench.next.get(&SessionId(session)).copied().unwrap_or(0) + 1);
    let mut effects = Vec::new();
    let operation = Operation::Acquire(anonymous);
    state.apply(request(session, sequence.0, 0, operation), &mut effects);
    if !matches!(outcomes(&effects)[0].2, Outcome::Queued { .. }) {
        return None;
    }
    let looked_at = (SessionId(session), sequence);
    loop {
        let ended = state.sessions[&looked_at.0].acquisitions()[&looked_at.1]
            .place()
            .is_none();
        if ended {
            return Some(false);
        }
        let Some((session, acquire)) = something_that_can_end(&state, looked_at) else {
            return Some(true);
        };
        state.cancel(session, acquire, &mut effects);
    }
}

/// What is held by somebody who does not wait, or of whom nobody knows whether.
fn something_that_can_end(
    state: &State,
    looked_at: (SessionId, Sequence),
) -> Option<(SessionId, Sequence)> {
    for (id, session) in &state.sessions {
        let owned = session.owned("main");
        let waits = *id == looked_at.0 || owned.is_some_and(|owned| !owned.places.is_empty());
        for (acquire, acquisition) in session.acquisitions() {
            let of_owner = owned.is_some_and(|owned| owned.held.contains(acquire));
            if acquisition.place().is_none() && !(of_owner && waits) {
                return Some((*id, *acquire));
            }
        }
    }
    None
}
