//! One session under a clock that the tests move.

use lockd_protocol::client::{About, Acquire, Grant, Wait};
use lockd_protocol::{LockName, Millis, Mode};

use super::*;

const TTL: Millis = Millis(10_000);
pub(super) const ID: SessionId = SessionId(7);

pub(super) type Core = SessionCore<&'static str>;

pub(super) fn at(ms: u64) -> Time {
    Time::from_micros(ms * 1000)
}

pub(super) fn lease() -> Duration {
    TTL.client_lease().into()
}

fn core() -> Core {
    SessionCore::new(SessionOptions {
        nonce: Nonce(1),
        ttl: TTL,
        keepalive: Duration::from_millis(3_333),
        about: About::described("test"),
        seed: 1,
    })
}

pub(super) fn drain(core: &mut Core) -> Vec<Output<&'static str>> {
    std::iter::from_fn(|| core.poll_output()).collect()
}

pub(super) fn give(
    core: &mut Core,
    ms: u64,
    input: Input<&'static str>,
) -> Vec<Output<&'static str>> {
    core.handle(at(ms), input);
    drain(core)
}

pub(super) fn opened() -> Core {
    let mut core = core();
    give(&mut core, 0, Input::Connected);
    give(&mut core, 10, Input::Opened { result: Ok(ID) });
    core
}

fn acquire() -> Operation {
    let lock = LockName::new("orders/42").unwrap();
    Operation::Acquire(Acquire::one(lock, Mode::Exclusive, Wait::Forever))
}

pub(super) fn submit(request: u64, waiter: &'static str) -> Input<&'static str> {
    Input::Submit {
        request: RequestId(request),
        operation: acquire(),
        waiter,
    }
}

pub(super) fn reply(sequence: u64, outcome: Outcome) -> Input<&'static str> {
    Input::Reply {
        sequence: Sequence(sequence),
        outcome,
        tickets: Vec::new(),
    }
}

pub(super) fn granted(sequence: u64, token: u64) -> Input<&'static str> {
    reply(sequence, grant(token))
}

fn grant(token: u64) -> Outcome {
    Outcome::Granted(vec![Grant {
        want: 0,
        token: Token(token),
        slot: 0,
    }])
}

pub(super) fn queued(sequence: u64) -> Input<&'static str> {
    reply(sequence, Outcome::Queued { ahead: 0 })
}

/// Sequence and floor of every request sent.
fn requests(outputs: &[Output<&'static str>]) -> Vec<(u64, u64)> {
    let request = |output: &Output<_>| match output {
        Output::Send(ClientFrame::Request {
            sequence,
            acknowledged,
            ..
        }) => Some((sequence.0, acknowledged.0)),
        _ => None,
    };
    outputs.iter().filter_map(request).collect()
}

pub(super) fn operations(outputs: &[Output<&'static str>]) -> Vec<Operation> {
    let operation = |output: &Output<_>| match output {
        Output::Send(ClientFrame::Request { operation, .. }) => Some(operation.clone()),
        _ => None,
    };
    outputs.iter().filter_map(operation).collect()
}

pub(super) fn keep_alives(outputs: &[Output<&'static str>]) -> Vec<u64> {
    let number = |output: &Output<_>| match output {
        Output::Send(ClientFrame::KeepAlive { number, .. }) => Some(*number),
        _ => None,
    };
    outputs.iter().filter_map(number).collect()
}

pub(super) fn done(outputs: &[Output<&'static str>]) -> Vec<(&'static str, Outcome)> {
    let outcome = |output: &Output<&'static str>| match output {
        Output::Done {
            waiter, outcome, ..
        } => Some((*waiter, outcome.clone())),
        _ => None,
    };
    outputs.iter().filter_map(outcome).collect()
}

pub(super) fn failures(outputs: &[Output<&'static str>]) -> Vec<&'static str> {
    let waiter = |output: &Output<&'static str>| match output {
        Output::Failed { waiter, .. } => Some(*waiter),
        _ => None,
    };
    outputs.iter().filter_map(waiter).collect()
}

#[test]
fn a_session_is_opened_under_one_nonce_however_often_it_is_tried() {
    let mut core = core();
    let open = |outputs: &[Output<_>]| {
        let nonce = |output: &Output<_>| match output {
            Output::Send(ClientFrame::Open { nonce, .. }) => Some(*nonce),
            _ => None,
        };
        outputs.iter().filter_map(nonce).collect::<Vec<_>>()
    };
    assert_eq!(open(&give(&mut core, 0, Input::Connected)), [Nonce(1)]);
    give(&mut core, 100, Input::Disconnected);
    assert_eq!(open(&give(&mut core, 200, Input::Connected)), [Nonce(1)]);
    let outputs = give(&mut core, 300, Input::Opened { result: Ok(ID) });
    let deadline = at(0).after(lease());
    let session = ID;
    assert_eq!(outputs, [Output::Opened { session, deadline }]);
}

#[test]
fn an_opening_refused_as_busy_is_tried_again_and_any_other_refusal_ends_it() {
    let mut core = core();
    give(&mut core, 0, Input::Connected);
    let busy = Err(Refusal::Busy);
    assert_eq!(
        give(&mut core, 1, Input::Opened { result: busy }),
        Vec::new()
    );
    let again = core.next_timeout().unwrap();
    core.handle(again, Input::Tick);
    assert!(matches!(
        drain(&mut core)[..],
        [Output::Send(ClientFrame::Open { .. })]
    ));
    let refusal = Refusal::BadTtl {
        min_ms: 1,
        max_ms: 2,
    };
    let result = Err(refusal.clone());
    let outputs = give(&mut core, 900, Input::Opened { result });
    assert_eq!(outputs, [Output::Ended(Ended::NotOpened(refusal))]);
}

#[test]
fn an_answer_to_open_that_took_longer_than_the_lease_is_believed_only_after_a_renewal() {
    let mut core = core();
    give(&mut core, 0, Input::Connected);
    give(&mut core, 1, submit(1, "a"));
    let outputs = give(&mut core, 20_000, Input::Opened { result: Ok(ID) });
    assert_eq!(keep_alives(&outputs), [1]);
    assert!(!core.is_usable() && requests(&outputs).is_empty());
    let outputs = give(&mut core, 20_100, Input::KeptAlive { number: 1 });
    assert!(core.is_usable());
    assert_eq!(requests(&outputs), [(1, 0)]);
}

#[test]
fn requests_made_before_the_session_is_open_are_sent_when_it_is() {
    let mut core = core();
    give(&mut core, 0, submit(1, "a"));
    assert_eq!(requests(&give(&mut core, 1, Input::Connected)), []);
    let outputs = give(&mut core, 2, Input::Opened { result: Ok(ID) });
    assert_eq!(requests(&outputs), [(1, 0)]);
}

#[test]
fn nothing_but_the_answer_to_a_keep_alive_moves_the_deadline() {
    let mut core = opened();
    give(&mut core, 1_000, submit(1, "a"));
    let outputs = give(&mut core, 5_000, granted(1, 1));
    assert_eq!(keep_alives(&outputs), [1]);
    assert!(!outputs.iter().any(|o| matches!(o, Output::Deadline(_))));
    let outputs = give(&mut core, 9_000, Input::KeptAlive { number: 1 });
    let moved = Output::Deadline(at(5_000).after(lease()));
    assert!(outputs.contains(&moved), "{outputs:?}");
}

#[test]
fn every_connection_gets_a_fresh_keep_alive_and_then_what_is_unanswered_in_order() {
    let mut core = opened();
    give(&mut core, 20, submit(1, "queued"));
    give(&mut core, 21, submit(2, "answered"));
    give(&mut core, 22, submit(3, "unanswered"));
    give(&mut core, 30, queued(1));
    give(&mut core, 31, granted(2, 5));
    give(&mut core, 40, Input::Disconnected);
    assert_eq!(give(&mut core, 41, submit(4, "late")), Vec::new());

    let outputs = give(&mut core, 50, Input::Connected);
    assert_eq!(keep_alives(&outputs), [1]);
    assert_eq!(requests(&outputs), [(1, 2), (3, 2), (4, 2)]);
}

#[test]
fn a_queued_acquisition_counts_as_answered_and_gets_its_second_answer_once() {
    let mut core = opened();
    assert_eq!(requests(&give(&mut core, 20, submit(1, "first"))), [(1, 0)]);
    give(&mut core, 21, queued(1));
    assert_eq!(
        requests(&give(&mut core, 22, submit(2, "second"))),
        [(2, 1)]
    );
    assert_eq!(
        done(&give(&mut core, 23, granted(1, 9))),
        [("first", grant(9))]
    );
    assert_eq!(give(&mut core, 24, granted(1, 9)), Vec::new());
}

#[test]
fn requests_beyond_the_window_wait_until_the_oldest_is_answered() {
    let mut core = opened();
    let window = lockd_protocol::limits::SESSION_WINDOW;
    for n in 1..=window {
        assert_eq!(requests(&give(&mut core, 20, submit(n, "x"))), [(n, 0)]);
    }
    let beyond = window + 1;
    assert_eq!(requests(&give(&mut core, 21, submit(beyond, "y"))), []);
    assert_eq!(requests(&give(&mut core, 22, granted(2, 1))), []);
    let outputs = give(&mut core, 23, granted(1, 2));
    assert_eq!(requests(&outputs), [(beyond, 2)]);
}

#[test]
fn a_request_refused_as_busy_is_sent_again_under_its_number() {
    let mut core = opened();
    give(&mut core, 20, submit(1, "a"));
    let busy = Outcome::Refused(Refusal::Busy);
    assert_eq!(give(&mut core, 21, reply(1, busy)), Vec::new());
    let again = core.next_timeout().unwrap();
    assert!(again > at(21) && again < at(40));
    core.handle(again, Input::Tick);
    assert_eq!(requests(&drain(&mut core)), [(1, 0)]);
}

#[test]
fn taking_back_an_acquisition_sends_a_cancel_and_its_late_grant_reaches_nobody() {
    let mut core = opened();
    give(&mut core, 20, submit(1, "a"));
    let request = RequestId(1);
    let outputs = give(&mut core, 21, Input::TakeBack { request });
    let acquire = Sequence(1);
    assert_eq!(operations(&outputs), [Operation::Cancel { acquire }]);
    assert_eq!(give(&mut core, 22, granted(1, 3)), Vec::new());
    assert_eq!(
        give(&mut core, 23, reply(2, Outcome::CancelDone)),
        Vec::new()
    );
    assert_eq!(requests(&give(&mut core, 24, submit(2, "b"))), [(3, 2)]);
}

#[test]
fn an_acquisition_taken_back_before_it_was_sent_leaves_no_trace() {
    let mut core = core();
    give(&mut core, 0, submit(1, "a"));
    let request = RequestId(1);
    give(&mut core, 1, Input::TakeBack { request });
    give(&mut core, 2, Input::Connected);
    let outputs = give(&mut core, 3, Input::Opened { result: Ok(ID) });
    assert_eq!(requests(&outputs), []);
}

#[test]
fn an_acquisition_taken_back_while_it_is_held_off_is_not_sent_again() {
    let mut core = opened();
    give(&mut core, 20, submit(1, "a"));
    give(&mut core, 21, reply(1, Outcome::Refused(Refusal::Busy)));
    let request = RequestId(1);
    let outputs = give(&mut core, 22, Input::TakeBack { request });
    assert_eq!(requests(&outputs), [(2, 1)]);
    assert_eq!(requests(&give(&mut core, 900, Input::Tick)), []);
}

#[test]
fn a_release_names_its_token_and_a_second_one_finds_nothing_held() {
    let mut core = opened();
    give(&mut core, 20, submit(1, "a"));
    give(&mut core, 21, granted(1, 3));
    let acquire = Sequence(1);
    let give_back = |waiter| Input::Release { acquire, waiter };
    let outputs = give(&mut core, 22, give_back("r"));
    let token = Token(3);
    let release = Operation::Release { acquire, token };
    assert_eq!(operations(&outputs), [release]);
    assert_eq!(
        done(&give(&mut core, 23, give_back("again"))),
        [("again", Outcome::NotHeld)]
    );
    assert_eq!(
        done(&give(&mut core, 24, reply(2, Outcome::Released))),
        [("r", Outcome::Released)]
    );
}

#[test]
fn the_holder_of_a_broken_lock_is_told_once_and_its_release_lets_the_lock_move() {
    let mut core = opened();
    give(&mut core, 20, submit(1, "a"));
    give(&mut core, 21, granted(1, 3));
    let acquire = Sequence(1);
    let lost = |reason: &str| {
        let reason = reason.to_owned();
        Input::Lost { acquire, reason }
    };
    let reason = "maintenance".to_owned();
    let told = [Output::GrantLost { acquire, reason }];
    assert_eq!(give(&mut core, 22, lost("maintenance")), told);
    assert_eq!(give(&mut core, 23, lost("maintenance")), []);
    let waiter = "r";
    let outputs = give(&mut core, 24, Input::Release { acquire, waiter });
    let token = Token(3);
    let release = Operation::Release { acquire, token };
    assert_eq!(operations(&outputs), [release]);
}

#[test]
fn a_grant_that_was_broken_before_it_was_seen_is_given_back_and_not_handed_out() {
    let mut core = opened();
    give(&mut core, 20, submit(1, "a"));
    let acquire = Sequence(1);
    let reason = String::new();
    give(&mut core, 21, Input::Lost { acquire, reason });
    let outputs = give(&mut core, 22, granted(1, 3));
    assert_eq!(done(&outputs), [("a", Outcome::Over)]);
    let token = Token(3);
    let release = Operation::Release { acquire, token };
    assert_eq!(operations(&outputs), [release]);
}

#[test]
fn a_session_whose_deadline_passes_is_lost_for_good() {
    let mut core = opened();
    give(&mut core, 20, submit(1, "waits"));
    let renewal = give(&mut core, 5_000, Input::Tick);
    assert_eq!(keep_alives(&renewal), [1]);
    let deadline = at(0).after(lease());
    assert!(core.next_timeout().unwrap() <= deadline);
    core.handle(deadline, Input::KeptAlive { number: 1 });
    let outputs = drain(&mut core);
    assert_eq!(outputs[0], Output::Ended(Ended::LeaseRanOut));
    assert_eq!(failures(&outputs), ["waits"]);
    assert_eq!(
        failures(&give(&mut core, 10_001, submit(2, "late"))),
        ["late"]
    );
    assert_eq!(core.next_timeout(), None);
}

#[test]
fn a_session_that_the_cell_ended_fails_whoever_waits_in_order() {
    let mut core = opened();
    give(&mut core, 20, submit(1, "queued"));
    give(&mut core, 20, submit(2, "unanswered"));
    give(&mut core, 21, queued(1));
    let reason = EndReason::Expired;
    let outputs = give(&mut core, 22, Input::SessionEnded { reason });
    assert_eq!(outputs[0], Output::Ended(Ended::ByCell(reason)));
    assert_eq!(failures(&outputs), ["queued", "unanswered"]);
}

#[test]
fn a_refusal_for_want_of_a_session_ends_the_session() {
    let mut core = opened();
    give(&mut core, 20, submit(1, "a"));
    let outcome = Outcome::Refused(Refusal::NoSession);
    let outputs = give(&mut core, 21, reply(1, outcome));
    let ended = Ended::ByCell(EndReason::Unknown);
    assert_eq!(outputs[0], Output::Ended(ended));
    assert_eq!(failures(&outputs), ["a"]);
}

#[test]
fn a_connection_that_leaves_renewals_unanswered_is_suspected_once() {
    let mut core = opened();
    let mut suspected = 0;
    for ms in (3_000..9_000).step_by(50) {
        let outputs = give(&mut core, ms, Input::Tick);
        suspected += outputs.iter().filter(|o| **o == Output::Suspect).count();
    }
    assert_eq!(suspected, 1);
}

#[test]
fn closing_a_session_ends_it_when_the_cell_has_confirmed() {
    let mut core = opened();
    let close = Input::Submit {
        request: RequestId(1),
        operation: Operation::Close,
        waiter: "close",
    };
    let outputs = give(&mut core, 20, close);
    assert_eq!(operations(&outputs), [Operation::Close]);
    let outputs = give(&mut core, 21, reply(1, Outcome::Closed));
    assert_eq!(done(&outputs), [("close", Outcome::Closed)]);
    assert_eq!(outputs.last(), Some(&Output::Ended(Ended::Closed)));
}

#[test]
fn a_session_that_was_never_asked_for_is_closed_without_a_word_to_the_cell() {
    let mut core = core();
    let close = Input::Submit {
        request: RequestId(1),
        operation: Operation::Close,
        waiter: "close",
    };
    let outputs = give(&mut core, 0, close);
    assert_eq!(done(&outputs), [("close", Outcome::Closed)]);
    assert_eq!(core.ended(), Some(&Ended::Closed));
}

#[test]
fn a_downgrade_names_its_token_and_what_is_not_held_is_not_asked_for() {
    let mut core = opened();
    give(&mut core, 20, submit(1, "a"));
    give(&mut core, 21, granted(1, 3));
    let downgrade = |acquire, waiter| Input::Downgrade {
        acquire: Sequence(acquire),
        ticket: true,
        waiter,
    };
    let outputs = give(&mut core, 22, downgrade(1, "d"));
    let asked = Operation::Downgrade {
        acquire: Sequence(1),
        token: Token(3),
        ticket: true,
    };
    assert_eq!(operations(&outputs), [asked]);
    let outputs = give(&mut core, 23, downgrade(9, "x"));
    assert_eq!(done(&outputs), [("x", Outcome::NotHeld)]);
    let outputs = give(&mut core, 24, reply(2, Outcome::Downgraded));
    assert_eq!(done(&outputs), [("d", Outcome::Downgraded)]);
    // It is still held, and given back as before.
    let (acquire, waiter) = (Sequence(1), "r");
    let outputs = give(&mut core, 25, Input::Release { acquire, waiter });
    let token = Token(3);
    assert_eq!(
        operations(&outputs),
        [Operation::Release { acquire, token }]
    );
}
