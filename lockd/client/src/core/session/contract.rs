//! What a session's core promises its user whatever the network and the machine do. Where another
//! lock service got it wrong, the comment says which.

use super::tests::*;
use super::*;

const KEEPALIVE: u64 = 3_333;

/// Something that the core is told.
type Said = fn() -> Input<&'static str>;

/// Ticks up to a time, as its timers ask for, and what comes of it.
fn pass(core: &mut Core, until: u64) -> Vec<Output<&'static str>> {
    let mut outputs = Vec::new();
    while let Some(next) = core.next_timeout().filter(|next| *next <= at(until)) {
        core.handle(next, Input::Tick);
        outputs.extend(drain(core));
    }
    outputs
}

fn holding() -> Core {
    let mut core = opened();
    give(&mut core, 20, submit(1, "a"));
    give(&mut core, 30, granted(1, 1));
    core
}

// redisson/redisson#775, #3194 and #5698: the watchdog renewed no more after one renewal had
// failed.
#[test]
fn renewals_that_fail_are_tried_again_until_the_deadline_and_one_that_succeeds_saves_the_lock() {
    for answered_at in 1..20 {
        let mut core = holding();
        let mut sent = Vec::new();
        let mut now = 40;
        while sent.len() < answered_at && core.ended().is_none() {
            now += 50;
            let outputs = give(&mut core, now, Input::Tick);
            sent.extend(keep_alives(&outputs));
            // Each is lost on the way, or its connection is.
            if now % 1_000 == 40 {
                give(&mut core, now, Input::Disconnected);
                sent.extend(keep_alives(&give(&mut core, now, Input::Connected)));
            }
        }
        if core.ended().is_some() {
            assert!(
                at(now) >= at(0).after(lease()),
                "it has not tried to the end"
            );
            continue;
        }
        let number = *sent.last().unwrap();
        give(&mut core, now, Input::KeptAlive { number });
        assert!(core.is_usable());
        // And so for another lease, and on.
        let renewed = pass(&mut core, now + KEEPALIVE);
        assert!(!keep_alives(&renewed).is_empty(), "it goes on renewing");
    }
}

// redisson/redisson#7272 and #2714: the watchdog went on after the unlock, and the lock was held
// for ever.
#[test]
fn nothing_is_renewed_after_the_session_is_closed_and_no_renewal_names_a_lock() {
    let mut core = holding();
    let (acquire, waiter) = (Sequence(1), "r");
    give(&mut core, 40, Input::Release { acquire, waiter });
    let close = Input::Submit {
        request: RequestId(2),
        operation: Operation::Close,
        waiter: "close",
    };
    give(&mut core, 41, close);
    give(&mut core, 42, reply(3, Outcome::Closed));
    assert_eq!(core.ended(), Some(&Ended::Closed));
    assert_eq!(core.next_timeout(), None);
    for input in [Input::Disconnected, Input::Connected, Input::Tick] {
        assert_eq!(give(&mut core, 99_000, input), Vec::new());
    }
}

// oborchers/proqi#62, leapmux/leapmux, pull request 403: the clock stood still while the machine
// was suspended, so that the lock seemed to be held when it woke.
#[test]
fn a_machine_that_wakes_from_a_suspend_finds_its_lock_lost_before_anything_else() {
    let first: [Said; 8] = [
        || Input::Tick,
        || Input::Connected,
        || Input::Disconnected,
        || Input::KeptAlive { number: 1 },
        || granted(2, 7),
        || submit(3, "late"),
        || Input::TakeBack {
            request: RequestId(2),
        },
        || Input::Release {
            acquire: Sequence(1),
            waiter: "late",
        },
    ];
    for first in first {
        let mut core = holding();
        give(&mut core, 40, submit(2, "waits"));
        // A renewal is under way when the lid is closed.
        give(&mut core, 9_000, Input::Tick);
        let outputs = give(&mut core, 9_000 + 8 * 3_600_000, first());
        assert_eq!(outputs[0], Output::Ended(Ended::LeaseRanOut));
        let held = |(_, outcome): &(&str, Outcome)| outcome.granted_token().is_some();
        assert!(!done(&outputs).iter().any(held), "{outputs:?}");
        assert!(failures(&outputs).contains(&"waits"));
        assert!(!core.is_usable());
    }
}

// apache/curator#1121: what the session before had was taken for the new one's. Loss is final.
#[test]
fn a_lost_session_stays_lost_whatever_comes_in_late() {
    let mut core = holding();
    let lost_at = 20_000;
    give(&mut core, lost_at, Input::Tick);
    let late: [Input<&'static str>; 5] = [
        Input::KeptAlive { number: 1 },
        Input::Opened { result: Ok(ID) },
        granted(1, 1),
        Input::Connected,
        Input::Lost {
            acquire: Sequence(1),
            reason: String::new(),
        },
    ];
    for input in late {
        assert_eq!(give(&mut core, lost_at + 1, input), Vec::new());
        assert_eq!(core.ended(), Some(&Ended::LeaseRanOut));
    }
}

// vitessio/vitess#8309: an acquisition that was cancelled returned success. etcd-io/etcd#10111: or
// it left its key.
#[test]
fn an_acquisition_that_was_taken_back_is_never_handed_out_however_its_answers_come() {
    // What the cell says, in any order that it can, and when the user gives up.
    let answers: [&[Said]; 4] = [
        &[|| granted(1, 3)],
        &[|| queued(1), || granted(1, 3)],
        &[
            || reply(1, Outcome::Refused(Refusal::Busy)),
            || granted(1, 3),
        ],
        &[
            || queued(1),
            || Input::Disconnected,
            || Input::Connected,
            || granted(1, 3),
        ],
    ];
    for answers in answers {
        for given_up in 0..=answers.len() {
            let mut core = opened();
            let mut now = 20;
            let mut outputs = give(&mut core, now, submit(1, "a"));
            for (n, answer) in answers.iter().enumerate() {
                if n == given_up {
                    let request = RequestId(1);
                    outputs.extend(give(&mut core, now, Input::TakeBack { request }));
                }
                now += 10;
                outputs.extend(give(&mut core, now, answer()));
            }
            let handed_out = done(&outputs)
                .iter()
                .any(|(_, outcome)| outcome.granted_token().is_some());
            let cancelled = operations(&outputs)
                .iter()
                .any(|operation| matches!(operation, Operation::Cancel { .. }));
            // Either the user has it, or the cell is told that nobody wants it.
            assert_eq!(handed_out, given_up == answers.len(), "{outputs:?}");
            assert_eq!(cancelled, given_up < answers.len(), "{outputs:?}");
        }
    }
}
