//! One lock after the other, each request once, sessions that end.

use lockd_protocol::limits::{TTL_MAX_MS, TTL_MIN_MS};

use super::*;

#[test]
fn a_free_lock_is_granted_and_a_taken_one_is_not() {
    let mut bench = Bench::new(2);
    assert_eq!(bench.hold(1, "a").token, Token(1));
    let (sequence, effects) = bench.acquire(2, "a", Wait::Try);
    let refused = Outcome::NotAvailable {
        want: 0,
        holder: Some(SessionId(1)),
    };
    assert_eq!(outcomes(&effects), [(2, sequence.0, refused)]);
    assert_eq!(bench.hold(2, "b").token, Token(2));
}

#[test]
fn a_released_lock_goes_to_the_first_waiter_and_wakes_nobody_else() {
    let mut bench = Bench::new(4);
    let held = bench.hold(1, "a");
    let (second, effects) = bench.acquire(2, "a", Wait::Forever);
    assert_eq!(
        outcomes(&effects),
        [(2, second.0, Outcome::Queued { ahead: 0 })]
    );
    let (third, effects) = bench.acquire(3, "a", Wait::Forever);
    assert_eq!(
        outcomes(&effects),
        [(3, third.0, Outcome::Queued { ahead: 1 })]
    );
    bench.acquire(4, "a", Wait::Forever);
    let (release, effects) = bench.release(1, held);
    let granted = granted(2);
    assert_eq!(
        outcomes(&effects),
        [(2, second.0, granted), (1, release.0, Outcome::Released)]
    );
}

#[test]
fn a_release_takes_effect_only_for_the_token_it_names() {
    let mut bench = Bench::new(2);
    let first = bench.hold(1, "a");
    bench.release(1, first);
    let second = bench.hold(1, "a");
    let (sequence, effects) = bench.release(1, first);
    assert_eq!(outcomes(&effects), [(1, sequence.0, Outcome::NotHeld)]);
    let (sequence, effects) = bench.release(2, second);
    assert_eq!(outcomes(&effects), [(2, sequence.0, Outcome::NotHeld)]);
    assert_eq!(bench.state.lock_count(), 1);
}

#[test]
fn a_retried_release_does_not_delete_a_later_acquisition() {
    let mut bench = Bench::new(1);
    let held = bench.hold(1, "a");
    let (sequence, first) = bench.release(1, held);
    bench.hold(1, "a");
    let retried = bench.apply(request(1, sequence.0, 0, held.release()));
    assert_eq!(outcomes(&retried), outcomes(&first));
    assert_eq!(bench.state.lock_count(), 1);
}

#[test]
fn a_retried_acquisition_gets_the_grant_it_already_has() {
    let mut bench = Bench::new(2);
    let held = bench.hold(1, "a");
    let again = bench.apply(request(1, 1, 0, acquire("a", Wait::Try)));
    assert_eq!(granted_token(&again, 1, Sequence(1)), Some(held.token));
    // Even when the client had acknowledged being queued before it was granted.
    let (sequence, _) = bench.acquire(2, "a", Wait::Forever);
    bench.release(1, held);
    let again = bench.apply(request(
        2,
        sequence.0,
        sequence.0,
        acquire("a", Wait::Forever),
    ));
    assert_eq!(granted_token(&again, 2, sequence), Some(Token(2)));
}

#[test]
fn a_late_copy_of_an_acquisition_that_is_over_acquires_nothing() {
    let mut bench = Bench::new(1);
    let held = bench.hold(1, "a");
    bench.release(1, held);
    for acknowledged in [0, 1] {
        let late = bench.apply(request(1, 1, acknowledged, acquire("a", Wait::Try)));
        assert_eq!(outcomes(&late), [(1, 1, Outcome::Over)]);
    }
    assert_eq!(bench.state.lock_count(), 0);
}

#[test]
fn a_cancelled_wait_leaves_the_queue_and_its_late_copy_does_not_come_back() {
    let mut bench = Bench::new(3);
    let held = bench.hold(1, "a");
    let (second, _) = bench.acquire(2, "a", Wait::Forever);
    let (third, _) = bench.acquire(3, "a", Wait::Forever);
    let (cancel, effects) = bench.request(2, Operation::Cancel { acquire: second });
    assert_eq!(
        outcomes(&effects),
        [
            (2, second.0, Outcome::Cancelled),
            (2, cancel.0, Outcome::CancelDone)
        ]
    );
    bench.apply(request(2, second.0, 0, acquire("a", Wait::Forever)));
    let (_, effects) = bench.release(1, held);
    assert!(granted_token(&effects, 3, third).is_some());
}

#[test]
fn cancelling_at_the_moment_of_the_grant_gives_the_lock_back() {
    let mut bench = Bench::new(3);
    let held = bench.hold(1, "a");
    let (second, _) = bench.acquire(2, "a", Wait::Forever);
    let (third, _) = bench.acquire(3, "a", Wait::Forever);
    bench.release(1, held);
    let (_, effects) = bench.request(2, Operation::Cancel { acquire: second });
    assert!(granted_token(&effects, 3, third).is_some());
}

#[test]
fn an_acquisition_cancelled_before_it_arrives_is_void() {
    let mut bench = Bench::new(1);
    bench.apply(request(
        1,
        2,
        0,
        Operation::Cancel {
            acquire: Sequence(1),
        },
    ));
    let effects = bench.apply(request(1, 1, 0, acquire("a", Wait::Try)));
    assert_eq!(outcomes(&effects), [(1, 1, Outcome::Cancelled)]);
    assert_eq!(bench.state.lock_count(), 0);
}

#[test]
fn an_expired_session_loses_its_locks_and_its_places() {
    let mut bench = Bench::new(3);
    bench.hold(1, "a");
    let held = bench.hold(2, "b");
    bench.acquire(1, "b", Wait::Forever);
    let (third, _) = bench.acquire(3, "a", Wait::Forever);
    let (after, _) = bench.acquire(3, "b", Wait::Forever);
    let expire = Command::Expire {
        session: SessionId(1),
        leadership: leadership(1),
    };
    let effects = bench.apply(expire);
    assert!(granted_token(&effects, 3, third).is_some());
    let ended = Effect::Ended {
        session: SessionId(1),
        reason: EndReason::Expired,
    };
    assert!(effects.contains(&ended));
    let (_, effects) = bench.release(2, held);
    assert!(
        granted_token(&effects, 3, after).is_some(),
        "the dead waiter was passed over"
    );
    let effects = bench.apply(request(1, 9, 0, acquire("c", Wait::Try)));
    let ended = Effect::Ended {
        session: SessionId(1),
        reason: EndReason::Unknown,
    };
    assert_eq!(effects, [ended]);
}

#[test]
fn a_session_that_waits_behind_itself_is_not_granted_to_when_it_ends() {
    let mut bench = Bench::new(2);
    bench.hold(1, "a");
    bench.acquire(1, "a", Wait::Forever);
    let (_, effects) = bench.request(1, Operation::Close);
    assert!(
        effects
            .iter()
            .all(|e| granted_token(std::slice::from_ref(e), 1, Sequence(2)).is_none())
    );
    assert_eq!(
        (bench.state.lock_count(), bench.state.session_count()),
        (0, 1)
    );
}

#[test]
fn what_an_older_leadership_decided_by_its_clock_is_void() {
    let mut bench = Bench::new(2);
    let held = bench.hold(1, "a");
    let (waiter, _) = bench.acquire(2, "a", Wait::For(Millis(5)));
    bench.request(
        2,
        Operation::Break {
            lock: name("a"),
            reason: "test".into(),
            at_once: false,
        },
    );
    bench.state.begin_leadership(leadership(2));
    let before = bench.state.clone();
    let old = leadership(1);
    for command in [
        Command::Expire {
            session: SessionId(1),
            leadership: old,
        },
        Command::TimeOut {
            session: SessionId(2),
            acquire: waiter,
            leadership: old,
        },
        Command::FinishBreak {
            lock: name("a"),
            token: held.token,
            leadership: old,
        },
    ] {
        assert_eq!(bench.apply(command), []);
    }
    assert_eq!(bench.state, before);
}

#[test]
fn a_limited_wait_is_timed_out_unless_it_was_granted_first() {
    let mut bench = Bench::new(3);
    let held = bench.hold(1, "a");
    let (second, effects) = bench.acquire(2, "a", Wait::For(Millis(5)));
    let began = Effect::WaitBegan {
        session: SessionId(2),
        acquire: second,
        limit: Millis(5),
    };
    assert!(effects.contains(&began));
    assert_eq!(bench.state.pending_timers(), [began]);
    let (third, _) = bench.acquire(3, "a", Wait::For(Millis(9)));
    let time_out = |session, acquire| Command::TimeOut {
        session: SessionId(session),
        acquire,
        leadership: leadership(1),
    };
    let effects = bench.apply(time_out(2, second));
    assert_eq!(outcomes(&effects), [(2, second.0, Outcome::TimedOut)]);
    bench.release(1, held);
    assert_eq!(bench.apply(time_out(3, third)), []);
    assert_eq!(bench.state.lock_count(), 1);
}

#[test]
fn a_session_is_opened_once_per_nonce() {
    let mut bench = Bench::new(1);
    let again = bench.apply(open(1));
    assert_eq!(
        again,
        [Effect::Opened {
            nonce: Nonce(1),
            result: Ok(SessionId(1))
        }]
    );
    let other = bench.apply(open(2));
    assert_eq!(
        other,
        [Effect::Opened {
            nonce: Nonce(2),
            result: Ok(SessionId(2))
        }]
    );
}

#[test]
fn bad_ttls_descriptions_and_reasons_are_refused_by_name() {
    let mut bench = Bench::new(1);
    let open = |ttl, label: &str| Command::Open {
        nonce: Nonce(99),
        ttl: Millis(ttl),
        identity: "client".to_owned(),
        about: About::described(label),
    };
    for command in [
        open(TTL_MIN_MS - 1, "x"),
        open(TTL_MAX_MS + 1, "x"),
        open(TTL_MIN_MS, "a\nb"),
        open(TTL_MIN_MS, &"x".repeat(TEXT_BYTES_MAX + 1)),
    ] {
        let effects = bench.apply(command);
        assert!(
            matches!(&effects[..], [Effect::Opened { result: Err(_), .. }]),
            "{effects:?}"
        );
    }
    bench.hold(1, "a");
    let reason = "x".repeat(TEXT_BYTES_MAX + 1);
    let (_, effects) = bench.request(
        1,
        Operation::Break {
            lock: name("a"),
            reason,
            at_once: true,
        },
    );
    let refused = &outcomes(&effects)[0].2;
    assert!(
        matches!(refused, Outcome::Refused(Refusal::BadText { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_client_that_runs_a_window_ahead_is_refused() {
    let mut bench = Bench::new(1);
    let refused = bench.apply(request(1, SESSION_WINDOW + 1, 0, acquire("a", Wait::Try)));
    let (_, _, outcome) = &outcomes(&refused)[0];
    assert!(matches!(
        outcome,
        Outcome::Refused(Refusal::WindowExceeded { .. })
    ));
    let accepted = bench.apply(request(1, SESSION_WINDOW + 1, 1, acquire("a", Wait::Try)));
    assert!(granted_token(&accepted, 1, Sequence(SESSION_WINDOW + 1)).is_some());
}

#[test]
fn tokens_that_are_used_up_refuse_and_leave_no_orphan() {
    let mut bench = Bench::new(2);
    let held = bench.hold(1, "a");
    let (waiter, _) = bench.acquire(2, "a", Wait::Forever);
    bench.state.last_token = Token((1 << 48) - 1);
    let refused = Outcome::Refused(Refusal::TokensUsedUp);
    let (_, effects) = bench.acquire(2, "b", Wait::Try);
    assert_eq!(outcomes(&effects)[0].2, refused);
    let (_, effects) = bench.release(1, held);
    assert_eq!(outcomes(&effects)[0], (2, waiter.0, refused));
    assert_eq!(bench.state.lock_count(), 0);
}

#[test]
fn acknowledged_answers_are_forgotten_so_that_memory_stays_flat() {
    let mut bench = Bench::new(1);
    let mut sequence = 0;
    let size = |bench: &Bench| bench.state.encode().map(|chunk| chunk.len()).sum::<usize>();
    let before = size(&bench);
    for _ in 0..10_000 {
        sequence += 1;
        let effects = bench.apply(request(1, sequence, sequence - 1, acquire("a", Wait::Try)));
        let token = granted_token(&effects, 1, Sequence(sequence)).expect("free");
        sequence += 1;
        let acquire = Sequence(sequence - 1);
        let release = Operation::Release { acquire, token };
        bench.apply(request(1, sequence, sequence - 1, release));
    }
    assert!(size(&bench) < before + 32);
}

#[test]
fn listings_are_paged_in_order_and_fit_a_frame() {
    let mut bench = Bench::new(1);
    for n in 0..300 {
        bench.hold(1, &format!("{}/{n:04}", "x".repeat(240)));
    }
    bench.hold(1, "other");
    let prefix = "x".repeat(240);
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let answer = bench
            .state
            .list_locks(&prefix, after.as_ref(), 1000, &Unobserved);
        let mut frame = Vec::new();
        lockd_protocol::frame::encode(&answer, &mut frame).expect("fits a frame");
        let Answer::Locks { locks, more } = answer else {
            panic!("not a list of locks")
        };
        after = locks.last().map(|summary| summary.lock.clone());
        seen.extend(locks.into_iter().map(|summary| summary.lock));
        if !more {
            break;
        }
    }
    assert_eq!(seen.len(), 300);
    assert!(seen.is_sorted());
}

#[test]
fn a_batch_decodes_to_its_commands_and_damage_is_an_error() {
    let mut batch = command::Batch::default();
    let commands = [open(1), request(1, 1, 0, acquire("a", Wait::Forever))];
    commands.iter().for_each(|command| batch.push(command));
    let bytes = batch.take();
    assert!(batch.is_empty());
    assert_eq!(command::decode(&bytes), Ok(commands.to_vec()));
    assert!(command::decode(&bytes[..bytes.len() - 1]).is_err());
}
