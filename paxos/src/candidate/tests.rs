//! A candidate by itself: whose promises count, which log it adopts, and how long it tries.

use super::*;
use crate::testing::{
    OWN, ballot, ballot_of, command, commands, core, recovered, sent, timing, write,
};
use crate::types::Recovered;

/// The ballot that every candidate here campaigns with.
fn own() -> Ballot {
    Ballot {
        node: OWN,
        ..ballot(9)
    }
}

/// Node 1, whose promise to itself is durable and which has asked the others.
fn campaigning(recovered: Recovered) -> (Core, Candidate) {
    let mut core = core(recovered);
    let mut candidate = Candidate::begin(&mut core, own());
    write(&mut core);
    assert!(candidate.on_persisted(&mut core).is_none());
    sent(&mut core);
    (core, candidate)
}

fn promise(accepted: u64, end: u64, decided: u64) -> Promise {
    Promise {
        ballot: own(),
        accepted: ballot(accepted),
        end: Slot(end),
        decided: Slot(decided),
    }
}

fn entries(slots: std::ops::RangeInclusive<u64>, round: u64) -> Entries {
    let (ballot, entries) = (own(), commands(slots, round));
    Entries { ballot, entries }
}

fn learned(slots: std::ops::RangeInclusive<u64>, round: u64) -> Learned {
    let decided = Slot(*slots.end());
    let entries = commands(slots, round);
    Learned { entries, decided }
}

fn fetch(accepted: u64, first: u64, last: u64) -> Body {
    Body::Fetch(Fetch {
        ballot: own(),
        accepted: ballot(accepted),
        first: Slot(first),
        last: Slot(last),
    })
}

fn later(core: &mut Core, micros: u64) {
    core.now = core.now.plus_micros(micros);
}

#[test]
fn nobody_is_asked_before_the_own_promise_is_durable() {
    let mut core = core(recovered(commands(1..=1, 1), 1));
    // A write from before the campaign is on its way.
    core.acceptor.learn(vec![command(1, 1), command(2, 1)]);
    let before = core.acceptor.begin_write(core.now).expect("slot 2");
    let mut candidate = Candidate::begin(&mut core, own());
    core.acceptor.end_write(before.id);
    assert!(candidate.on_persisted(&mut core).is_none());
    assert_eq!(sent(&mut core), []);
    later(&mut core, timing().heartbeat_micros);
    assert!(candidate.tick(&mut core));
    assert_eq!(sent(&mut core), [], "nor is that repeated");
    assert_eq!(write(&mut core).promised, Some(own()));
    assert!(candidate.on_persisted(&mut core).is_none());
    let prepare = Body::Prepare(Prepare { ballot: own() });
    let asked = [(2, prepare.clone()), (3, prepare)];
    assert_eq!(sent(&mut core), asked);
    assert!(candidate.on_persisted(&mut core).is_none());
    assert_eq!(sent(&mut core), [], "once");
}

#[test]
fn a_promise_counts_only_for_the_campaign_that_asked_for_it() {
    let (mut core, mut candidate) = campaigning(recovered(Vec::new(), 1));
    let other = Promise {
        ballot: ballot_of(8, 1),
        ..promise(1, 0, 0)
    };
    assert!(candidate.on_promise(&mut core, NodeId(2), other).is_none());
    let strange = [
        promise(1, 3, 4),
        Promise {
            accepted: own(),
            ..promise(1, 3, 0)
        },
    ];
    for promise in strange {
        assert!(
            candidate
                .on_promise(&mut core, NodeId(2), promise)
                .is_none()
        );
    }
    assert_eq!(sent(&mut core), []);
    let leader = candidate.on_promise(&mut core, NodeId(2), promise(1, 0, 0));
    assert!(leader.is_some());
    let mut unprepared = crate::testing::core(recovered(Vec::new(), 1));
    let mut candidate = Candidate::begin(&mut unprepared, own());
    let leader = candidate.on_promise(&mut unprepared, NodeId(2), promise(1, 0, 0));
    assert!(leader.is_none(), "its own promise is not durable");
}

#[test]
fn the_log_of_the_highest_ballot_is_adopted_and_not_a_longer_one() {
    let (mut core, mut candidate) = campaigning(recovered(commands(1..=5, 1), 1));
    let leader = candidate.on_promise(&mut core, NodeId(2), promise(2, 1, 0));
    assert!(leader.is_none());
    assert_eq!(sent(&mut core), [(2, fetch(2, 1, 1))]);
    let leader = candidate.on_entries(&mut core, NodeId(2), entries(1..=1, 2));
    assert!(leader.is_some());
    assert_eq!(core.acceptor.accepted(), own());
    assert_eq!(core.acceptor.log().get(Slot(1)), Some(&command(1, 2)));
    assert_eq!(core.acceptor.log().end(), Slot(2), "NewLeader is next");
}

#[test]
fn a_candidate_whose_log_is_the_best_leads_at_once() {
    for other in [promise(1, 5, 0), promise(1, 4, 0), promise(0, 9, 0)] {
        let (mut core, mut candidate) = campaigning(recovered(commands(1..=5, 1), 1));
        let leader = candidate.on_promise(&mut core, NodeId(2), other);
        assert!(leader.is_some(), "{other:?}");
        assert_eq!(core.acceptor.log().end(), Slot(6));
    }
}

#[test]
fn of_a_log_of_the_own_ballot_only_what_is_missing_is_fetched() {
    let (mut core, mut candidate) = campaigning(recovered(commands(1..=2, 1), 1));
    assert!(
        candidate
            .on_promise(&mut core, NodeId(3), promise(1, 4, 0))
            .is_none()
    );
    assert_eq!(sent(&mut core), [(3, fetch(1, 3, 4))]);
    assert!(
        candidate
            .on_entries(&mut core, NodeId(3), entries(3..=4, 1))
            .is_some()
    );
    assert_eq!(core.acceptor.log().end(), Slot(5));
}

#[test]
fn entries_count_only_from_who_was_asked_under_the_own_ballot_and_not_twice() {
    let (mut core, mut candidate) = campaigning(recovered(Vec::new(), 1));
    assert!(
        candidate
            .on_promise(&mut core, NodeId(2), promise(2, 3, 0))
            .is_none()
    );
    sent(&mut core);
    let mut older = entries(1..=1, 2);
    older.ballot = ballot_of(8, 1);
    assert!(candidate.on_entries(&mut core, NodeId(2), older).is_none());
    assert!(
        candidate
            .on_entries(&mut core, NodeId(3), entries(1..=1, 2))
            .is_none()
    );
    assert_eq!(core.acceptor.staged_end(), Slot::NONE);
    assert_eq!(sent(&mut core), []);
    assert!(
        candidate
            .on_entries(&mut core, NodeId(2), entries(1..=1, 2))
            .is_none()
    );
    assert_eq!(sent(&mut core), [(2, fetch(2, 2, 3))]);
    assert!(
        candidate
            .on_entries(&mut core, NodeId(2), entries(1..=1, 2))
            .is_none()
    );
    assert_eq!(sent(&mut core), [], "a repeated answer asks for nothing");
    // What lies behind the log that was described is not part of it.
    let leader = candidate.on_entries(&mut core, NodeId(2), entries(2..=5, 2));
    assert!(leader.is_some());
    assert_eq!(core.acceptor.log().end(), Slot(4));
}

#[test]
fn a_promise_that_comes_while_a_log_is_fetched_changes_nothing() {
    let (mut core, mut candidate) = campaigning(recovered(Vec::new(), 1));
    assert!(
        candidate
            .on_promise(&mut core, NodeId(2), promise(2, 3, 0))
            .is_none()
    );
    sent(&mut core);
    assert!(
        candidate
            .on_promise(&mut core, NodeId(3), promise(3, 9, 0))
            .is_none()
    );
    assert_eq!(sent(&mut core), []);
    assert!(candidate.adopts_from(NodeId(2)) && !candidate.adopts_from(NodeId(3)));
}

#[test]
fn what_is_decided_of_the_log_that_is_adopted_is_learnt_first() {
    let (mut core, mut candidate) = campaigning(recovered(Vec::new(), 1));
    assert!(!candidate.adopts_from(NodeId(2)));
    assert!(
        candidate
            .on_promise(&mut core, NodeId(2), promise(2, 4, 3))
            .is_none()
    );
    let learn = |first: u64| {
        let durable = Slot::NONE;
        let (first, last) = (Slot(first), Slot(3));
        (
            2,
            Body::Learn(Learn {
                first,
                last,
                durable,
            }),
        )
    };
    assert_eq!(sent(&mut core), [learn(1)]);
    assert!(
        candidate
            .on_learned(&mut core, NodeId(3), learned(1..=2, 2))
            .is_none()
    );
    assert_eq!(core.acceptor.log().decided(), Slot::NONE, "nobody asked it");
    assert!(
        candidate
            .on_learned(&mut core, NodeId(2), learned(1..=2, 2))
            .is_none()
    );
    assert_eq!(core.acceptor.log().decided(), Slot(2));
    assert_eq!(sent(&mut core), [learn(3)]);
    assert!(
        candidate
            .on_learned(&mut core, NodeId(2), learned(1..=2, 2))
            .is_none()
    );
    assert_eq!(sent(&mut core), [], "a repeated answer asks for nothing");
    assert!(
        candidate
            .on_learned(&mut core, NodeId(2), learned(3..=3, 2))
            .is_none()
    );
    assert_eq!(sent(&mut core), [(2, fetch(2, 4, 4))]);
    assert!(
        candidate
            .on_entries(&mut core, NodeId(2), entries(4..=4, 2))
            .is_some()
    );
}

#[test]
fn the_last_decided_entry_may_complete_the_log_that_is_adopted() {
    let (mut core, mut candidate) = campaigning(recovered(Vec::new(), 1));
    assert!(
        candidate
            .on_promise(&mut core, NodeId(2), promise(2, 2, 2))
            .is_none()
    );
    assert!(
        candidate
            .on_learned(&mut core, NodeId(2), learned(1..=2, 2))
            .is_some()
    );
}

#[test]
fn prepares_and_fetches_are_repeated_with_every_heartbeat() {
    let (mut core, mut candidate) = campaigning(recovered(Vec::new(), 1));
    let heartbeat = core.timing.heartbeat_micros;
    assert_eq!(candidate.next_timer(), Time(heartbeat));
    later(&mut core, heartbeat - 1);
    assert!(candidate.tick(&mut core));
    assert_eq!(sent(&mut core), []);
    later(&mut core, 1);
    assert!(candidate.tick(&mut core));
    assert_eq!(sent(&mut core).len(), 2);
    assert_eq!(candidate.next_timer(), Time(2 * heartbeat));
    assert!(
        candidate
            .on_promise(&mut core, NodeId(2), promise(2, 3, 0))
            .is_none()
    );
    sent(&mut core);
    later(&mut core, heartbeat);
    assert!(candidate.tick(&mut core));
    assert_eq!(sent(&mut core).last(), Some(&(2, fetch(2, 1, 3))));
}

#[test]
fn a_candidate_that_hears_nothing_new_for_two_timeouts_gives_up() {
    let (mut core, mut candidate) = campaigning(recovered(Vec::new(), 1));
    let patience = 2 * core.timing.leader_timeout_micros;
    later(&mut core, patience);
    assert!(candidate.tick(&mut core));
    // Anything new begins that anew.
    assert!(
        candidate
            .on_promise(&mut core, NodeId(2), promise(2, 3, 0))
            .is_none()
    );
    later(&mut core, patience);
    assert!(candidate.tick(&mut core));
    assert!(
        candidate
            .on_entries(&mut core, NodeId(2), entries(1..=1, 2))
            .is_none()
    );
    later(&mut core, patience);
    assert!(candidate.tick(&mut core));
    later(&mut core, timing().heartbeat_micros);
    assert!(!candidate.tick(&mut core));
}

#[test]
fn a_candidate_waits_for_its_own_disk_as_long_as_that_may_take() {
    let mut core = core(recovered(Vec::new(), 1));
    let mut candidate = Candidate::begin(&mut core, own());
    core.acceptor.begin_write(core.now).expect("the promise");
    later(&mut core, timing().disk_timeout_micros);
    assert!(candidate.tick(&mut core));
    later(&mut core, timing().heartbeat_micros);
    assert!(!candidate.tick(&mut core));
}

#[test]
fn a_candidate_that_has_asked_is_not_made_patient_by_other_writes() {
    let (mut core, mut candidate) = campaigning(recovered(Vec::new(), 1));
    core.acceptor.learn(vec![command(1, 1)]);
    core.acceptor.begin_write(core.now).expect("slot 1");
    let patience = 2 * core.timing.leader_timeout_micros;
    assert!(
        patience < core.timing.disk_timeout_micros,
        "the disk may take longer"
    );
    later(&mut core, patience);
    assert!(candidate.tick(&mut core));
    later(&mut core, timing().heartbeat_micros);
    assert!(!candidate.tick(&mut core));
}

#[test]
fn who_lacks_promises_of_a_quorum_does_not_lead_however_often_one_node_promises() {
    let five = crate::membership::Membership::first((1..=5).map(NodeId)).unwrap();
    let (mut core, mut candidate) = campaigning(Recovered::fresh(five));
    let fresh = Promise {
        accepted: Ballot::floor(crate::types::Epoch::FIRST),
        ..promise(0, 0, 0)
    };
    for _ in 0..3 {
        assert!(candidate.on_promise(&mut core, NodeId(2), fresh).is_none());
    }
    assert!(candidate.on_promise(&mut core, NodeId(3), fresh).is_some());
}
