//! Histories that a lock can have had, and histories that must be refused.

use super::check::Operation;
use super::*;

const fn owner(session: u64) -> Owner {
    Owner { session, who: 0 }
}

fn operation(called: u64, returned: u64, op: Op, ret: Ret) -> Operation {
    let returned = Some((returned, ret));
    Operation {
        called,
        op,
        returned,
    }
}

fn acquire(session: u64, called: u64, returned: u64, fence: u64) -> Operation {
    let op = Op::Acquire {
        owner: owner(session),
        shared: false,
    };
    operation(called, returned, op, Ret::Granted(Some(fence)))
}

fn share(session: u64, called: u64, returned: u64, fence: u64) -> Operation {
    let op = Op::Acquire {
        owner: owner(session),
        shared: true,
    };
    operation(called, returned, op, Ret::Granted(Some(fence)))
}

fn release(session: u64, called: u64, returned: u64) -> Operation {
    let owner = owner(session);
    operation(called, returned, Op::Release { owner }, Ret::Done)
}

fn unseen(called: u64, op: Op) -> Operation {
    Operation {
        called,
        op,
        returned: None,
    }
}

fn unseen_acquire(session: u64, called: u64) -> Operation {
    let owner = owner(session);
    let shared = false;
    unseen(called, Op::Acquire { owner, shared })
}

fn end(session: u64, called: u64) -> Operation {
    unseen(called, Op::End { session })
}

fn holds(model: LockModel, history: &[Operation]) {
    assert_eq!(check(model, history), Verdict::Linearizable, "{history:?}");
}

fn refused(model: LockModel, history: &[Operation]) {
    let verdict = check(model, history);
    assert!(verdict.is_refused(), "{verdict:?}: {history:?}");
}

#[test]
fn one_after_the_other_is_a_mutex_whatever_the_order_of_overlapping_calls() {
    holds(LockModel::MUTEX, &[]);
    let history = [
        acquire(2, 0, 30, 2),
        acquire(1, 1, 10, 1),
        release(1, 11, 40),
        release(2, 41, 50),
    ];
    holds(LockModel::MUTEX, &history);
    holds(LockModel::FENCED_MUTEX, &history);
}

#[test]
fn two_holders_at_a_time_are_refused() {
    let history = [
        acquire(1, 0, 10, 1),
        acquire(2, 5, 20, 2),
        release(1, 21, 30),
        release(2, 31, 40),
    ];
    refused(LockModel::MUTEX, &history);
    holds(LockModel::semaphore(2), &history);
}

#[test]
fn a_release_by_who_does_not_hold_is_refused_and_so_is_one_that_found_nothing() {
    refused(LockModel::MUTEX, &[acquire(1, 0, 1, 1), release(2, 2, 3)]);
    let owner = owner(1);
    let not = operation(2, 3, Op::Release { owner }, Ret::Not);
    refused(LockModel::MUTEX, &[acquire(1, 0, 1, 1), not]);
    // Unless its session had ended.
    holds(LockModel::MUTEX, &[acquire(1, 0, 1, 1), end(1, 2), not]);
}

#[test]
fn a_mutex_is_not_entered_twice_and_a_reentrant_one_not_three_times() {
    let mut history = vec![acquire(1, 0, 1, 1), acquire(1, 2, 3, 1)];
    refused(LockModel::MUTEX, &history);
    holds(LockModel::REENTRANT_MUTEX, &history);
    history.push(acquire(1, 4, 5, 1));
    refused(LockModel::REENTRANT_MUTEX, &history);
    // It is free when it was given back as often as it was entered.
    let history = [
        acquire(1, 0, 1, 1),
        acquire(1, 2, 3, 1),
        release(1, 4, 5),
        acquire(2, 6, 7, 2),
    ];
    refused(LockModel::REENTRANT_MUTEX, &history);
    let history = [
        history[0],
        history[1],
        history[2],
        release(1, 5, 6),
        history[3],
    ];
    holds(LockModel::REENTRANT_FENCED_MUTEX, &history);
}

#[test]
fn a_fence_that_does_not_rise_is_refused() {
    for fence in [7, 6] {
        let history = [
            acquire(1, 0, 1, 7),
            release(1, 2, 3),
            acquire(2, 4, 5, fence),
        ];
        refused(LockModel::FENCED_MUTEX, &history);
        holds(LockModel::MUTEX, &history);
    }
}

#[test]
fn whoever_enters_again_has_the_fence_that_it_has() {
    let history = [acquire(1, 0, 1, 1), acquire(1, 2, 3, 2)];
    refused(LockModel::REENTRANT_FENCED_MUTEX, &history);
    holds(LockModel::REENTRANT_MUTEX, &history);
}

#[test]
fn more_holders_than_permits_are_refused() {
    let three = [
        acquire(1, 0, 1, 1),
        acquire(2, 2, 3, 2),
        acquire(3, 4, 5, 3),
    ];
    refused(LockModel::semaphore(2), &three);
    holds(LockModel::semaphore(3), &three);
}

#[test]
fn readers_share_and_a_writer_does_not() {
    let readers = [share(1, 0, 1, 1), share(2, 2, 3, 2)];
    holds(LockModel::FENCED_MUTEX, &readers);
    refused(LockModel::FENCED_MUTEX, &[readers[0], acquire(2, 2, 3, 2)]);
    refused(LockModel::FENCED_MUTEX, &[acquire(1, 0, 1, 1), readers[1]]);
    let owner = owner(1);
    let downgrade = operation(1, 2, Op::Downgrade { owner }, Ret::Done);
    holds(
        LockModel::FENCED_MUTEX,
        &[acquire(1, 0, 1, 1), downgrade, readers[1]],
    );
}

#[test]
fn what_nobody_saw_may_have_happened_or_not() {
    // The lock was taken by whoever got no answer, and given back as it was taken.
    let taken = [
        unseen_acquire(1, 0),
        operation(
            1,
            2,
            Op::Acquire {
                owner: owner(2),
                shared: false,
            },
            Ret::Not,
        ),
        release(1, 3, 4),
        acquire(2, 5, 6, 2),
    ];
    holds(LockModel::FENCED_MUTEX, &taken);
    // Or it was not.
    holds(
        LockModel::FENCED_MUTEX,
        &[unseen_acquire(1, 0), acquire(2, 5, 6, 2)],
    );
    // But it cannot have been before it was asked for.
    refused(
        LockModel::FENCED_MUTEX,
        &[release(1, 3, 4), unseen_acquire(1, 5)],
    );
}

#[test]
fn a_session_that_ends_frees_its_lock_and_not_before_its_lease_is_over() {
    let moved = |ended| [acquire(1, 0, 1, 1), end(1, ended), acquire(2, 5, 8, 2)];
    holds(LockModel::FENCED_MUTEX, &moved(7));
    refused(LockModel::FENCED_MUTEX, &moved(9));
    // Nor does it free the lock of another session.
    refused(
        LockModel::MUTEX,
        &[acquire(1, 0, 1, 1), end(3, 2), acquire(2, 5, 8, 2)],
    );
}

#[test]
fn a_grant_that_was_taken_back_by_nobody_is_refused_for_the_next() {
    // Given back, perhaps: then the next one may have it. Without that it may not.
    let owner = owner(1);
    let taken_back = unseen(2, Op::Release { owner });
    let history = [acquire(1, 0, 1, 1), taken_back, acquire(2, 3, 4, 2)];
    holds(LockModel::FENCED_MUTEX, &history);
    refused(LockModel::FENCED_MUTEX, &[history[0], history[2]]);
}

#[test]
fn a_long_history_with_much_overlap_is_decided_and_one_fault_in_it_is_found() {
    let mut history = Vec::new();
    for n in 0..3000u64 {
        // Everybody asks early and is answered when it is its turn; one in ten never hears.
        history.push(acquire(n, (n * 10).saturating_sub(60), n * 10 + 3, n + 1));
        let mut give = release(n, n * 10 + 4, n * 10 + 25);
        if n % 10 == 0 {
            give.returned = None;
        }
        history.push(give);
    }
    holds(LockModel::FENCED_MUTEX, &history);
    let Some((_, ret)) = &mut history[4001 - 1].returned else {
        panic!("an acquisition");
    };
    *ret = Ret::Granted(Some(3));
    refused(LockModel::FENCED_MUTEX, &history);
}

#[test]
fn a_refusal_is_told_in_lines_with_names() {
    let history = [
        acquire(1, 0, 10, 1),
        acquire(2, 11, 20, 2),
        release(1, 21, 30),
    ];
    let Verdict::Refused(refusal) = check(LockModel::FENCED_MUTEX, &history) else {
        panic!("two hold it at the same time");
    };
    let name = |owner: Owner| format!("client {}", owner.session);
    assert_eq!(
        refusal.describe(&name, &|time| format!("{time} ms")),
        "no order of its operations explains their answers\n\
         \x20 after 1 of them it is held by client 1 under token 1,\n\
         \x20 and none of these can be next:\n\
         \x20   11 ms to 20 ms  client 2 acquires: granted under token 2"
    );
}

#[test]
fn a_refusal_lists_a_few_of_many() {
    let mut history = vec![acquire(1, 0, 1, 1)];
    history.extend((2..50).map(|session| acquire(session, 2, 100, session)));
    let Verdict::Refused(refusal) = check(LockModel::FENCED_MUTEX, &history) else {
        panic!("many hold it at the same time");
    };
    let text = refusal.to_string();
    assert!(text.ends_with("and 36 more"), "{text}");
}
