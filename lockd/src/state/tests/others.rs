//! What went wrong in other lock services, tried on the state machine: each test names the bug, and
//! the comment before it whose it was.

use super::*;
use crate::state::snapshot::Decoder;

fn dice(state: &mut u64, below: usize) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as usize % below
}

// etcd-io/etcd#11456, #19597 and #16221: a waiter got the lock although its lease was gone.
#[test]
fn a_waiter_whose_session_has_died_is_passed_over() {
    for dead in 0..1 << 5u32 {
        let mut bench = Bench::new(7);
        let held = bench.hold(1, "a");
        for waiter in 2..7 {
            bench.acquire(waiter, "a", Wait::Forever);
        }
        let dies = |waiter: u64| dead >> (waiter - 2) & 1 == 1;
        for waiter in (2..7).filter(|waiter| dies(*waiter)) {
            let effects = bench.expire(waiter);
            assert!(granted_to(&effects).is_empty());
        }
        let (_, effects) = bench.release(1, held);
        let next: Vec<u64> = (2..7).find(|waiter| !dies(*waiter)).into_iter().collect();
        assert_eq!(granted_to(&effects), next);
    }
}

// etcd-io/etcd#22082: an unlock that was sent again took the lock that had been acquired since.
#[test]
fn an_unlock_that_is_sent_again_leaves_a_later_acquisition_alone() {
    let mut bench = Bench::new(1);
    let first = bench.hold(1, "a");
    let (sent, _) = bench.release(1, first);
    let second = bench.hold(1, "a");
    let next = bench.next[&SessionId(1)] + 1;
    // Under its number, also when its answer was acknowledged; and by a client that lost count.
    for (sequence, acknowledged) in [(sent.0, 0), (next, next - 1), (sent.0, next - 1)] {
        let effects = bench.apply(request(1, sequence, acknowledged, first.release()));
        assert_eq!(outcomes(&effects).len(), 1);
        let (_, detail) = (
            effects,
            bench
                .state
                .describe_lock(&name("a"), (0, 0), 1, &Unobserved),
        );
        assert_eq!(detail.expect("held").summary.token, Some(second.token));
    }
}

// zk-ruby/zk#34, apache/curator#1121 and #727: after a reconnection a client took what its former
// session had for its own, and gave it back.
#[test]
fn a_client_that_came_back_cannot_release_what_its_former_session_held() {
    let mut bench = Bench::new(2);
    let former = bench.hold(1, "a");
    bench.acquire(2, "a", Wait::Forever);
    assert_eq!(granted_to(&bench.expire(1)), [2]);
    // The same client, with a session of its own again.
    bench.apply(open(1));
    let (sequence, effects) = bench.release(3, former);
    assert_eq!(outcomes(&effects), [(3, sequence.0, Outcome::NotHeld)]);
    // And what its former session still has on the way.
    let effects = bench.apply(request(1, 2, 1, former.release()));
    assert!(matches!(effects[..], [Effect::Ended { .. }]), "{effects:?}");
    let holder = bench
        .state
        .describe_lock(&name("a"), (0, 0), 1, &Unobserved);
    assert_eq!(holder.expect("held").summary.holder, Some(SessionId(2)));
}

/// What may happen around a wait that is given up, in any order but for the holder's.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Hold,
    Release,
    Acquire,
    Cancel,
    LateCopy,
    TimeOut,
    Rival,
}

const STEPS: [Step; 7] = [
    Step::Hold,
    Step::Release,
    Step::Acquire,
    Step::Cancel,
    Step::LateCopy,
    Step::TimeOut,
    Step::Rival,
];

/// Every order of `left` after `done` in which the holder acquires before it releases.
fn orders(done: &mut Vec<Step>, left: &[Step], found: &mut Vec<Vec<Step>>) {
    if left.is_empty() {
        return found.push(done.clone());
    }
    for (at, step) in left.iter().enumerate() {
        if *step == Step::Release && !done.contains(&Step::Hold) {
            continue;
        }
        done.push(*step);
        orders(done, &[&left[..at], &left[at + 1..]].concat(), found);
        done.pop();
    }
}

fn give_up(order: &[Step], wanted: &Acquire) {
    let mut bench = Bench::new(3);
    let mut held = None;
    let mut told = Vec::new();
    let acquire = Operation::Acquire(wanted.clone());
    for step in order {
        let effects = match step {
            Step::Hold => {
                bench
                    .request(1, Operation::Acquire(exclusive("a", Wait::Forever)))
                    .1
            }
            Step::Release => match held {
                Some(held) => bench.release(1, held).1,
                None => {
                    bench
                        .request(
                            1,
                            Operation::Cancel {
                                acquire: Sequence(1),
                            },
                        )
                        .1
                }
            },
            Step::Acquire | Step::LateCopy => bench.apply(request(2, 1, 0, acquire.clone())),
            Step::Cancel => {
                let acquire = Sequence(1);
                bench.apply(request(2, 2, 0, Operation::Cancel { acquire }))
            }
            Step::TimeOut => bench.apply(Command::TimeOut {
                session: SessionId(2),
                acquire: Sequence(1),
                leadership: leadership(1),
            }),
            Step::Rival => bench.acquire(3, "a", Wait::Forever).1,
        };
        told.extend(outcomes(&effects));
        let first = |(session, sequence, outcome): &(u64, u64, Outcome)| {
            let token = outcome.granted_token()?;
            let acquire = Sequence(*sequence);
            (*session == 1).then_some(Held { acquire, token })
        };
        held = held.or_else(|| told.iter().find_map(first));
    }
    let of_the_waiter = bench.state.sessions[&SessionId(2)].acquisitions();
    assert!(of_the_waiter.is_empty(), "an orphan: {order:?} {wanted:?}");
    let done = told
        .iter()
        .filter(|(s, q, o)| (*s, *q, o) == (2, 2, &Outcome::CancelDone));
    assert_eq!(done.count(), 1, "{order:?}");
    let rival = told
        .iter()
        .find_map(|(session, _, outcome)| outcome.granted_token().filter(|_| *session == 3));
    let token = rival.unwrap_or_else(|| panic!("a hole in the queue: {order:?} {wanted:?}"));
    let acquire = Sequence(1);
    bench.release(3, Held { acquire, token });
    if let Some(held) = held {
        bench.release(1, held);
    }
    assert_eq!(
        (bench.state.lock_count(), bench.state.waiters.len()),
        (0, 0)
    );
}

// etcd-io/etcd#10111 and vitessio/vitess#8309: an acquisition that was cancelled counted as a
// success, or left its key behind.
#[test]
fn a_wait_that_is_given_up_at_any_moment_leaves_neither_an_orphan_nor_a_hole() {
    let mut found = Vec::new();
    orders(&mut Vec::new(), &STEPS, &mut found);
    assert_eq!(found.len(), 5040 / 2);
    let limited = Wait::For(Millis(5));
    for wanted in [
        exclusive("a", Wait::Forever),
        exclusive("a", limited),
        exclusive("a", Wait::Try),
        shared("a", limited),
        all_of(&["a", "b"], limited),
        any_of(&["a", "b"], limited),
        owned("x", 2, exclusive("a", limited)),
        Acquire {
            barge: true,
            ..exclusive("a", limited)
        },
    ] {
        found.iter().for_each(|order| give_up(order, &wanted));
    }
}

// redisson/redisson#6510: a key for each lock that ever was. And spring-integration-extensions,
// pull request 236 (Hazelcast): what an owner had asked was kept for ever.
#[test]
fn a_million_locks_acquired_and_released_by_one_session_leave_nothing_behind() {
    let mut bench = Bench::new(1);
    let mut effects = Vec::new();
    for n in 0..1_000_000u64 {
        let sequence = 2 * n + 1;
        let lock = format!("lock/{n}");
        let ask = request(1, sequence, sequence - 1, acquire(&lock, Wait::Try));
        bench.state.apply(ask, &mut effects);
        let acquire = Sequence(sequence);
        let token = granted_token(&effects, 1, acquire).expect("it is free");
        let release = Held { acquire, token }.release();
        effects.clear();
        bench
            .state
            .apply(request(1, sequence + 1, sequence, release), &mut effects);
        effects.clear();
    }
    let state = &bench.state;
    let session = &state.sessions[&SessionId(1)];
    assert_eq!(
        (state.locks.len(), state.waiters.len(), state.closed.len()),
        (0, 0, 0)
    );
    assert_eq!(
        (session.acquisitions().len(), session.owners().len()),
        (0, 0)
    );
    assert_eq!(
        session.answers().len(),
        1,
        "the answer that is not acknowledged yet"
    );
    assert_eq!(state.last_token, Token(1_000_000));
    let bytes: usize = state.encode().map(|chunk| chunk.len()).sum();
    assert!(bytes < 100, "{bytes} bytes");
}

// ZOOKEEPER-4837, CURATOR-595: a server that was restored from a snapshot knew a session that had
// ended while it was, and the lock of that session stayed with it.
#[test]
fn a_session_that_ends_while_a_node_is_restored_is_over_there_too() {
    let leadership = leadership(1);
    let session = SessionId(1);
    let spent = Millis(5000);
    let commands = [
        open(1),
        open(2),
        request(1, 1, 0, acquire("a", Wait::Try)),
        request(1, 2, 1, acquire("b", Wait::Try)),
        request(2, 1, 0, acquire("a", Wait::Forever)),
        Command::Silent {
            session,
            spent,
            leadership,
        },
        Command::Expire {
            session,
            leadership,
        },
        request(2, 2, 1, acquire("b", Wait::Try)),
    ];
    let mut state = State::default();
    state.begin_leadership(leadership);
    let mut snapshots = vec![state.clone()];
    for command in &commands {
        state.apply(command.clone(), &mut Vec::new());
        snapshots.push(state.clone());
    }
    for (at, snapshot) in snapshots.iter().enumerate() {
        let mut decoder = Decoder::default();
        for chunk in snapshot.encode() {
            decoder.feed(&chunk).expect("a sound snapshot");
        }
        let mut restored = decoder.finish().expect("all of it");
        for command in &commands[at..] {
            restored.apply(command.clone(), &mut Vec::new());
        }
        assert_eq!(restored, state, "restored after {at} commands");
    }
    let holder = |lock| {
        state
            .describe_lock(&name(lock), (0, 0), 1, &Unobserved)?
            .summary
            .holder
    };
    assert_eq!(
        (holder("a"), holder("b")),
        (Some(SessionId(2)), Some(SessionId(2)))
    );
    assert_eq!(state.session_count(), 1);
}

/// A number that some client makes up.
fn any_number(seed: &mut u64) -> u64 {
    [
        0,
        1,
        2,
        3,
        4,
        1023,
        1024,
        1025,
        1 << 48,
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ][dice(seed, 12)]
}

fn any_acquire(seed: &mut u64) -> Acquire {
    let lock = |seed: &mut u64| name(["a", "b", "c"][dice(seed, 3)]);
    let mode = |seed: &mut u64| {
        let of = [0, 1, 2, 10_000, u32::MAX][dice(seed, 5)];
        [Mode::Exclusive, Mode::Shared, Mode::Permit { of }][dice(seed, 3)]
    };
    let wants = (0..dice(seed, 4)).map(|_| Want {
        lock: lock(seed),
        mode: mode(seed),
    });
    let wants: Vec<Want> = wants.collect();
    let wants = match dice(seed, 3) {
        0 => Wants::All(wants),
        1 => Wants::Any(wants),
        _ => Wants::One(Want {
            lock: lock(seed),
            mode: mode(seed),
        }),
    };
    let owner = (dice(seed, 2) == 0).then(|| Owner {
        name: ["", "x", "y", "\n"][dice(seed, 4)].to_owned(),
        reentries: [0, 1, 2, 10_000, u32::MAX][dice(seed, 5)],
    });
    Acquire {
        wants,
        wait: [
            Wait::Try,
            Wait::Forever,
            Wait::For(Millis(any_number(seed))),
        ][dice(seed, 3)],
        ticket: dice(seed, 2) == 0,
        owner,
        barge: dice(seed, 4) == 0,
        delay: Millis([0, 0, 1, 60_000, u64::MAX][dice(seed, 5)]),
        metadata: [Value::default(), Value::new(b"here").expect("short")][dice(seed, 2)].clone(),
    }
}

fn any_operation(seed: &mut u64) -> Operation {
    let (acquire, token) = (Sequence(any_number(seed)), Token(any_number(seed)));
    match dice(seed, 10) {
        0..=3 => Operation::Acquire(any_acquire(seed)),
        4 => Operation::Release { acquire, token },
        5 => Operation::Cancel { acquire },
        6 => Operation::Downgrade {
            acquire,
            token,
            ticket: true,
        },
        7 => Operation::Break {
            lock: name(["a", "b"][dice(seed, 2)]),
            reason: ["", "why", "\u{7f}"][dice(seed, 3)].to_owned(),
            at_once: dice(seed, 2) == 0,
        },
        8 => Operation::SetMetadata {
            acquire,
            token,
            expect: (dice(seed, 2) == 0).then(|| EventNumber(any_number(seed))),
            value: Value::new(b"there").expect("short"),
        },
        _ => Operation::Close,
    }
}

fn any_command(seed: &mut u64) -> Command {
    let session = match dice(seed, 4) {
        0 => SessionId(any_number(seed)),
        known => SessionId(known as u64),
    };
    let leadership = leadership(1 + dice(seed, 2) as u64);
    let (acquire, token) = (Sequence(any_number(seed)), Token(any_number(seed)));
    let lock = name(["a", "b", "c"][dice(seed, 3)]);
    match dice(seed, 24) {
        0 | 1 => Command::Open {
            nonce: Nonce(u128::from(any_number(seed))),
            ttl: Millis([0, 500, 10_000, 86_400_000, u64::MAX][dice(seed, 5)]),
            identity: ["", "x", "\t"][dice(seed, 3)].to_owned(),
            about: About {
                description: ["", "x", "\t"][dice(seed, 3)].to_owned(),
                ..About::default()
            },
        },
        2 => Command::Expire {
            session,
            leadership,
        },
        3 => Command::TimeOut {
            session,
            acquire,
            leadership,
        },
        4 => Command::Reopen {
            lock,
            token,
            leadership,
        },
        5 => Command::FinishBreak {
            lock,
            token,
            leadership,
        },
        6 => Command::Silent {
            session,
            spent: Millis(any_number(seed)),
            leadership,
        },
        7 => Command::Heard {
            session,
            leadership,
        },
        _ => Command::Request {
            session,
            sequence: Sequence(any_number(seed)),
            acknowledged: Sequence(any_number(seed)),
            operation: any_operation(seed),
        },
    }
}

// etcd-io/etcd#6093: a lease id that nobody had given out ended every node of the cluster at once.
#[test]
fn whatever_numbers_clients_make_up_in_any_order_no_node_ends() {
    let seeds = std::env::var("LOCKD_SCHEDULES").ok();
    let seeds: u64 = seeds.map_or(500, |seeds| seeds.parse().expect("a number"));
    let (mut granted, mut refused) = (0, 0);
    for first in 0..seeds {
        let mut seed = first;
        let mut bench = Bench::new(3);
        for _ in 0..200 {
            let effects = bench.apply(any_command(&mut seed));
            granted += granted_to(&effects).len();
            refused += usize::from(refusal(&effects).is_some());
        }
        let mut decoder = Decoder::default();
        for chunk in bench.state.encode() {
            decoder.feed(&chunk).expect("a sound snapshot");
        }
        assert_eq!(decoder.finish(), Ok(bench.state), "seed {first}");
    }
    assert!(granted > 500 && refused > 1000, "{granted} {refused}");
}

// Every service that wakes all waiters (the "herd" of ZooKeeper's first lock recipe; Consul).
#[test]
fn of_ten_thousand_waiters_one_is_woken_when_the_holder_dies() {
    let mut state = State::default();
    state.begin_leadership(leadership(1));
    let mut effects = Vec::new();
    for session in 1..=10_001u64 {
        state.apply(open(u128::from(session)), &mut effects);
        state.apply(
            request(session, 1, 0, acquire("a", Wait::Forever)),
            &mut effects,
        );
    }
    effects.clear();
    let (session, leadership) = (SessionId(1), leadership(1));
    let expire = Command::Expire {
        session,
        leadership,
    };
    state.apply(expire, &mut effects);
    assert_eq!(outcomes(&effects), [(2, 1, granted(2))]);
    let ended = Effect::Ended {
        session,
        reason: EndReason::Expired,
    };
    assert_eq!(effects.last(), Some(&ended));
    // Watches are told what changed: one hold ended, one began.
    let (changes, told): (Vec<_>, Vec<_>) = effects
        .iter()
        .partition(|effect| matches!(effect, Effect::Changed(_)));
    assert_eq!(changes.len(), 2);
    assert_eq!(told.len(), 2, "and nobody else hears of it");
}
