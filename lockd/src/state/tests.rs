//! The state machine, driven command by command.

use super::*;
use lockd_protocol::client::Answer;
use paxos::{Epoch, NodeId};

fn leadership(round: u64) -> Ballot {
    Ballot {
        epoch: Epoch(1),
        round,
        node: NodeId(1),
    }
}

/// A state with sessions 1, 2, 3 ... and a leadership, and what its commands brought about.
struct Bench {
    state: State,
    next: BTreeMap<SessionId, u64>,
}

impl Bench {
    fn new(sessions: u64) -> Bench {
        let mut bench = Bench {
            state: State::default(),
            next: BTreeMap::new(),
        };
        bench.state.begin_leadership(leadership(1));
        for n in 1..=sessions {
            let opened = bench.apply(open(u128::from(n)));
            assert_eq!(opened.len(), 1);
        }
        bench
    }

    fn apply(&mut self, command: Command) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.state.apply(command, &mut effects);
        self.check();
        effects
    }

    fn request(&mut self, session: u64, operation: Operation) -> (Sequence, Vec<Effect>) {
        let next = self.next.entry(SessionId(session)).or_insert(0);
        *next += 1;
        let sequence = Sequence(*next);
        (
            sequence,
            self.apply(request(session, sequence.0, 0, operation)),
        )
    }

    fn acquire(&mut self, session: u64, lock: &str, wait: Wait) -> (Sequence, Vec<Effect>) {
        self.request(session, acquire(lock, wait))
    }

    fn hold(&mut self, session: u64, lock: &str) -> Token {
        let (sequence, effects) = self.acquire(session, lock, Wait::Try);
        granted_token(&effects, session, sequence).expect("the lock is free")
    }

    fn release(&mut self, session: u64, lock: &str, token: Token) -> (Sequence, Vec<Effect>) {
        self.request(
            session,
            Operation::Release {
                lock: name(lock),
                token,
            },
        )
    }

    fn check(&self) {
        check(&self.state);
    }
}

/// What holds after every command.
pub(super) fn check(state: &State) {
    let mut acquisitions = 0;
    for (name, lock) in &state.locks {
        let holder = &state.sessions[&lock.hold.session];
        let held = &holder.acquisitions()[&lock.hold.acquire];
        assert_eq!((&held.lock, held.place), (name, None));
        assert!(lock.hold.token <= state.last_token);
        for (place, waiter) in &lock.queue {
            let waits = &state.sessions[&waiter.session].acquisitions()[&waiter.acquire];
            assert_eq!((&waits.lock, waits.place), (name, Some(*place)));
        }
        acquisitions += 1 + lock.queue.len();
    }
    let sessions = state.sessions.values();
    let of_sessions: usize = sessions.map(|s| s.acquisitions().len()).sum();
    assert_eq!(acquisitions, of_sessions);
    assert_eq!(state.nonces.len(), state.sessions.len());
}

fn name(text: &str) -> LockName {
    LockName::new(text).expect("a lock name")
}

fn open(nonce: u128) -> Command {
    Command::Open {
        nonce: Nonce(nonce),
        ttl: Millis(10_000),
        label: format!("client {nonce}"),
    }
}

fn acquire(lock: &str, wait: Wait) -> Operation {
    Operation::Acquire {
        lock: name(lock),
        mode: Mode::Exclusive,
        wait,
        ticket: false,
    }
}

fn request(session: u64, sequence: u64, acknowledged: u64, operation: Operation) -> Command {
    Command::Request {
        session: SessionId(session),
        sequence: Sequence(sequence),
        acknowledged: Sequence(acknowledged),
        operation,
    }
}

fn outcomes(effects: &[Effect]) -> Vec<(u64, u64, Outcome)> {
    let replies = effects.iter().filter_map(|effect| match effect {
        Effect::Reply {
            session,
            sequence,
            outcome,
            ..
        } => Some((session.0, sequence.0, outcome.clone())),
        _ => None,
    });
    replies.collect()
}

fn granted_token(effects: &[Effect], session: u64, sequence: Sequence) -> Option<Token> {
    outcomes(effects).into_iter().find_map(|reply| match reply {
        (s, q, Outcome::Granted { token }) if (s, q) == (session, sequence.0) => Some(token),
        _ => None,
    })
}

#[test]
fn a_free_lock_is_granted_and_a_taken_one_is_not() {
    let mut bench = Bench::new(2);
    assert_eq!(bench.hold(1, "a"), Token(1));
    let (sequence, effects) = bench.acquire(2, "a", Wait::Try);
    let refused = Outcome::NotAvailable {
        holder: SessionId(1),
    };
    assert_eq!(outcomes(&effects), [(2, sequence.0, refused)]);
    assert_eq!(bench.hold(2, "b"), Token(2));
}

#[test]
fn a_released_lock_goes_to_the_first_waiter_and_wakes_nobody_else() {
    let mut bench = Bench::new(4);
    let token = bench.hold(1, "a");
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
    let (release, effects) = bench.release(1, "a", token);
    let granted = Outcome::Granted { token: Token(2) };
    assert_eq!(
        outcomes(&effects),
        [(2, second.0, granted), (1, release.0, Outcome::Released)]
    );
}

#[test]
fn a_release_takes_effect_only_for_the_token_it_names() {
    let mut bench = Bench::new(2);
    let first = bench.hold(1, "a");
    bench.release(1, "a", first);
    let second = bench.hold(1, "a");
    let (sequence, effects) = bench.release(1, "a", first);
    assert_eq!(outcomes(&effects), [(1, sequence.0, Outcome::NotHeld)]);
    let (sequence, effects) = bench.release(2, "a", second);
    assert_eq!(outcomes(&effects), [(2, sequence.0, Outcome::NotHeld)]);
    assert_eq!(bench.state.lock_count(), 1);
}

#[test]
fn a_retried_release_does_not_delete_a_later_acquisition() {
    let mut bench = Bench::new(1);
    let token = bench.hold(1, "a");
    let (sequence, first) = bench.release(1, "a", token);
    bench.hold(1, "a");
    let operation = Operation::Release {
        lock: name("a"),
        token,
    };
    let retried = bench.apply(request(1, sequence.0, 0, operation));
    assert_eq!(outcomes(&retried), outcomes(&first));
    assert_eq!(bench.state.lock_count(), 1);
}

#[test]
fn a_retried_acquisition_gets_the_grant_it_already_has() {
    let mut bench = Bench::new(2);
    let token = bench.hold(1, "a");
    let again = bench.apply(request(1, 1, 0, acquire("a", Wait::Try)));
    assert_eq!(granted_token(&again, 1, Sequence(1)), Some(token));
    // Even when the client had acknowledged being queued before it was granted.
    let (sequence, _) = bench.acquire(2, "a", Wait::Forever);
    bench.release(1, "a", token);
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
    let token = bench.hold(1, "a");
    bench.release(1, "a", token);
    for acknowledged in [0, 1] {
        let late = bench.apply(request(1, 1, acknowledged, acquire("a", Wait::Try)));
        assert_eq!(outcomes(&late), [(1, 1, Outcome::Over)]);
    }
    assert_eq!(bench.state.lock_count(), 0);
}

#[test]
fn a_cancelled_wait_leaves_the_queue_and_its_late_copy_does_not_come_back() {
    let mut bench = Bench::new(3);
    let token = bench.hold(1, "a");
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
    let (_, effects) = bench.release(1, "a", token);
    assert!(granted_token(&effects, 3, third).is_some());
}

#[test]
fn cancelling_at_the_moment_of_the_grant_gives_the_lock_back() {
    let mut bench = Bench::new(3);
    let token = bench.hold(1, "a");
    let (second, _) = bench.acquire(2, "a", Wait::Forever);
    let (third, _) = bench.acquire(3, "a", Wait::Forever);
    bench.release(1, "a", token);
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
    let token = bench.hold(2, "b");
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
    let (_, effects) = bench.release(2, "b", token);
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
    let token = bench.hold(1, "a");
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
            token,
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
    let token = bench.hold(1, "a");
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
    bench.release(1, "a", token);
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
fn bad_ttls_labels_and_reasons_are_refused_by_name() {
    let mut bench = Bench::new(1);
    let open = |ttl, label: &str| Command::Open {
        nonce: Nonce(99),
        ttl: Millis(ttl),
        label: label.to_owned(),
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
fn a_break_tells_the_holder_and_moves_the_lock_when_it_lets_go() {
    let mut bench = Bench::new(3);
    let token = bench.hold(1, "a");
    let (waiter, _) = bench.acquire(2, "a", Wait::Forever);
    let operation = Operation::Break {
        lock: name("a"),
        reason: "stuck".into(),
        at_once: false,
    };
    let (sequence, effects) = bench.request(3, operation);
    let broken = Outcome::Broken {
        holder: SessionId(1),
        token,
        fence: Token(2),
    };
    assert_eq!(outcomes(&effects), [(3, sequence.0, broken)]);
    assert_eq!(bench.state.breaks_of(SessionId(1)).len(), 1);
    assert!(
        granted_token(&effects, 2, waiter).is_none(),
        "the holder may still believe"
    );
    let (_, effects) = bench.release(1, "a", token);
    assert_eq!(granted_token(&effects, 2, waiter), Some(Token(3)));
    assert_eq!(bench.state.breaks_of(SessionId(1)), []);
}

#[test]
fn a_break_moves_the_lock_of_a_silent_holder_after_its_lease() {
    let mut bench = Bench::new(3);
    let token = bench.hold(1, "a");
    let (waiter, _) = bench.acquire(2, "a", Wait::Forever);
    let operation = Operation::Break {
        lock: name("a"),
        reason: "stuck".into(),
        at_once: false,
    };
    bench.request(3, operation);
    let finish = Command::FinishBreak {
        lock: name("a"),
        token,
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

#[test]
fn tokens_that_are_used_up_refuse_and_leave_no_orphan() {
    let mut bench = Bench::new(2);
    bench.hold(1, "a");
    let (waiter, _) = bench.acquire(2, "a", Wait::Forever);
    bench.state.last_token = Token((1 << 48) - 1);
    let refused = Outcome::Refused(Refusal::TokensUsedUp);
    let (_, effects) = bench.acquire(2, "b", Wait::Try);
    assert_eq!(outcomes(&effects)[0].2, refused);
    let (_, effects) = bench.release(1, "a", Token(1));
    assert_eq!(outcomes(&effects)[0], (2, waiter.0, refused));
    assert_eq!(bench.state.lock_count(), 0);
}

#[test]
fn acknowledged_answers_are_forgotten_so_that_memory_stays_flat() {
    let mut bench = Bench::new(1);
    let mut sequence = 0;
    let size = |bench: &Bench| postcard::to_stdvec(&bench.state).expect("encodes").len();
    let before = size(&bench);
    for _ in 0..10_000 {
        sequence += 1;
        let effects = bench.apply(request(1, sequence, sequence - 1, acquire("a", Wait::Try)));
        let token = granted_token(&effects, 1, Sequence(sequence)).expect("free");
        sequence += 1;
        let release = Operation::Release {
            lock: name("a"),
            token,
        };
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
        let answer = bench.state.list_locks(&prefix, after.as_ref(), 1000);
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
