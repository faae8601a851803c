//! A leadership by itself: what counts as decided and confirmed, what is sent to whom, and when it
//! ends.

use super::*;

use crate::limits::Bounds;
use crate::message::Learn;
use crate::testing::{
    OWN, ballot, ballot_of, command, commands, core, recovered, sent, stop, timing, write,
};
use crate::types::Recovered;

/// The ballot that every leader here leads under.
fn own() -> Ballot {
    Ballot {
        node: OWN,
        ..ballot(9)
    }
}

/// Node 1, which leads on the log that its disk has. Nothing of the leadership is durable yet.
fn leading_after(recovered: Recovered, promises: &[(u64, u64)]) -> (Core, Leader) {
    let mut core = core(recovered);
    core.acceptor.promise_own(own());
    core.acceptor.adopt_own(own());
    let promise = |(node, decided): &(u64, u64)| {
        let promise = Promise {
            ballot: own(),
            accepted: ballot(1),
            end: Slot(*decided),
            decided: Slot(*decided),
        };
        (NodeId(*node), promise)
    };
    let promises = promises.iter().map(promise).collect();
    let leader = Leader::begin(&mut core, &promises);
    (core, leader)
}

/// Node 1, which leads on an empty log; its `NewLeader` in slot 1 is durable and decided.
fn established() -> (Core, Leader) {
    let (mut core, mut leader) = leading_after(recovered(Vec::new(), 1), &[(2, 0)]);
    write(&mut core);
    leader.replicate(&mut core);
    for node in [2, 3] {
        leader.on_accepted(&mut core, NodeId(node), synced(1, 1, 0));
    }
    assert!(leader.is_established());
    outputs(&mut core);
    (core, leader)
}

fn synced(persisted: u64, received: u64, confirm: u64) -> Accepted {
    Accepted {
        ballot: own(),
        standing: Standing::Synced {
            persisted: Slot(persisted),
            received: Slot(received),
        },
        gap: false,
        confirm: ConfirmNumber(confirm),
    }
}

fn unsynced(received: u64, gap: bool) -> Accepted {
    let received = Slot(received);
    let standing = Standing::Unsynced { received };
    Accepted {
        standing,
        gap,
        ..synced(0, 0, 0)
    }
}

fn outputs(core: &mut Core) -> Vec<Output> {
    std::iter::from_fn(|| core.pop_output()).collect()
}

fn propose(core: &mut Core, leader: &mut Leader) -> Slot {
    let slot = leader.propose(core, Bytes::from_static(b"x"));
    slot.expect("there is room")
}

/// Proposes so many commands and sends them as they come.
fn propose_many(core: &mut Core, leader: &mut Leader, count: usize) {
    for _ in 0..count {
        propose(core, leader);
        leader.replicate(core);
    }
}

fn decided(core: &Core) -> Slot {
    core.acceptor.log().decided()
}

fn later(core: &mut Core, micros: u64) {
    core.now = core.now.plus_micros(micros);
}

/// To whom, whether as an exchange of logs, the first slot and the last.
fn slots_sent(core: &mut Core) -> Vec<(u64, bool, u64, usize)> {
    let sends = sent(core).into_iter().map(|(to, body)| match body {
        Body::Sync(sync) => (to, true, sync.first.0, sync.entries.len()),
        Body::Accept(accept) => (to, false, accept.first.0, accept.entries.len()),
        other => panic!("{other:?}"),
    });
    sends.collect()
}

#[test]
fn a_leadership_begins_with_its_own_entry_and_with_what_promises_told() {
    let (core, leader) = leading_after(recovered(commands(1..=5, 1), 1), &[(2, 3)]);
    let first = core
        .acceptor
        .log()
        .get(Slot(6))
        .expect("behind what was adopted");
    assert_eq!((first.kind, first.origin), (EntryKind::NewLeader, own()));
    let next: Vec<Slot> = leader
        .peers(core.now)
        .iter()
        .map(|peer| peer.next)
        .collect();
    assert_eq!(next, [Slot(4), Slot(7)], "of node 3 nothing is known");
    assert!(!leader.is_established());
}

#[test]
fn nothing_is_put_behind_the_end_of_an_epoch_that_was_adopted() {
    let log = vec![command(1, 1), stop(2, 1)];
    let (mut core, mut leader) = leading_after(recovered(log, 1), &[(2, 0)]);
    assert_eq!(core.acceptor.log().end(), Slot(2));
    let refused = leader.propose(&mut core, Bytes::new());
    assert_eq!(refused, Err(ProposeError::Stopping));
    assert_eq!(leader.confirm(&core), None);
    write(&mut core);
    leader.on_accepted(&mut core, NodeId(2), synced(2, 2, 0));
    assert_eq!(decided(&core), Slot(2), "but it is completed");
    assert!(!leader.is_established());
}

#[test]
fn a_slot_is_decided_when_a_quorum_of_disks_has_it_the_own_one_counted_like_others() {
    let (mut core, mut leader) = leading_after(recovered(Vec::new(), 1), &[(2, 0)]);
    leader.on_accepted(&mut core, NodeId(2), synced(1, 1, 0));
    assert_eq!(
        decided(&core),
        Slot::NONE,
        "the own disk has not written it"
    );
    leader.on_accepted(&mut core, NodeId(3), synced(1, 1, 0));
    assert_eq!(decided(&core), Slot(1));
    let (mut core, mut leader) = leading_after(recovered(Vec::new(), 1), &[(2, 0)]);
    write(&mut core);
    leader.advance(&mut core);
    assert_eq!(decided(&core), Slot::NONE);
    leader.on_accepted(&mut core, NodeId(3), synced(1, 1, 0));
    assert_eq!(decided(&core), Slot(1));
    assert!(leader.is_established());
}

#[test]
fn what_is_only_received_does_not_count() {
    let (mut core, mut leader) = leading_after(recovered(Vec::new(), 1), &[(2, 0)]);
    write(&mut core);
    leader.on_accepted(&mut core, NodeId(2), unsynced(1, false));
    leader.on_accepted(&mut core, NodeId(2), synced(0, 1, 0));
    assert_eq!(decided(&core), Slot::NONE);
}

#[test]
fn an_answer_that_cannot_be_true_or_is_to_another_ballot_changes_nothing() {
    let (mut core, mut leader) = leading_after(recovered(Vec::new(), 1), &[(2, 0)]);
    write(&mut core);
    leader.replicate(&mut core);
    outputs(&mut core);
    later(&mut core, 7);
    let before = leader.clone();
    let strange = [
        synced(2, 2, 0),
        synced(1, 2, 0),
        synced(1, 0, 0),
        synced(1, 1, 1),
        unsynced(2, false),
        Accepted {
            ballot: ballot_of(8, 1),
            ..synced(1, 1, 0)
        },
    ];
    for accepted in strange {
        leader.on_accepted(&mut core, NodeId(2), accepted);
        assert_eq!(leader, before, "{accepted:?}");
    }
    leader.on_accepted(&mut core, NodeId(9), synced(1, 1, 0));
    assert_eq!(leader, before, "a stranger");
    assert_eq!(decided(&core), Slot::NONE);
}

#[test]
fn a_confirm_is_given_once_for_a_round_that_a_quorum_has_echoed() {
    let (mut core, mut leader) = established();
    assert_eq!(leader.confirm(&core), Some(ConfirmNumber(1)));
    leader.replicate(&mut core);
    assert_eq!(slots_sent(&mut core), [(2, false, 2, 0), (3, false, 2, 0)]);
    leader.replicate(&mut core);
    assert_eq!(outputs(&mut core), [], "one round, once");
    leader.on_accepted(&mut core, NodeId(2), synced(1, 1, 0));
    assert_eq!(outputs(&mut core), [], "an older echo");
    leader.on_accepted(&mut core, NodeId(2), synced(1, 1, 1));
    let (leadership, number) = (own(), ConfirmNumber(1));
    assert_eq!(
        outputs(&mut core),
        [Output::Confirmed { leadership, number }]
    );
    leader.on_accepted(&mut core, NodeId(3), synced(1, 1, 1));
    assert_eq!(outputs(&mut core), []);
}

#[test]
fn no_confirm_is_given_before_the_first_entry_of_the_leadership_is_decided() {
    let (mut core, mut leader) = leading_after(recovered(Vec::new(), 1), &[(2, 0)]);
    assert_eq!(leader.confirm(&core), Some(ConfirmNumber(1)));
    leader.replicate(&mut core);
    leader.on_accepted(
        &mut core,
        NodeId(2),
        Accepted {
            confirm: ConfirmNumber(1),
            ..unsynced(0, false)
        },
    );
    let confirmed = |core: &mut Core| {
        let given = |output: &Output| matches!(output, Output::Confirmed { .. });
        outputs(core).iter().any(given)
    };
    assert!(!confirmed(&mut core));
    write(&mut core);
    leader.on_accepted(&mut core, NodeId(2), synced(1, 1, 0));
    assert!(leader.is_established() && confirmed(&mut core));
}

#[test]
fn a_round_goes_with_entries_where_there_are_some() {
    let (mut core, mut leader) = established();
    leader.confirm(&core);
    propose(&mut core, &mut leader);
    leader.replicate(&mut core);
    assert_eq!(slots_sent(&mut core), [(2, false, 2, 1), (3, false, 2, 1)]);
}

#[test]
fn a_log_of_an_older_ballot_is_exchanged_up_to_an_end_that_stays_and_then_continued() {
    let (mut core, mut leader) = leading_after(recovered(commands(1..=2, 1), 1), &[(2, 0)]);
    leader.replicate(&mut core);
    assert_eq!(slots_sent(&mut core), [(2, true, 1, 3), (3, true, 4, 0)]);
    propose(&mut core, &mut leader);
    leader.replicate(&mut core);
    assert_eq!(
        slots_sent(&mut core),
        [],
        "one at a time, as long as nothing is known"
    );
    // Node 3 has less than was thought.
    leader.on_accepted(&mut core, NodeId(3), unsynced(0, true));
    leader.replicate(&mut core);
    assert_eq!(slots_sent(&mut core), [(3, true, 1, 4)]);
    leader.on_accepted(&mut core, NodeId(2), synced(3, 3, 0));
    leader.replicate(&mut core);
    assert_eq!(slots_sent(&mut core), [(2, false, 4, 1)]);
    leader.on_accepted(&mut core, NodeId(2), unsynced(0, true));
    leader.replicate(&mut core);
    assert_eq!(
        slots_sent(&mut core),
        [],
        "what came under the ballot stays there"
    );
}

#[test]
fn who_has_learnt_all_entries_from_others_is_only_brought_under_the_ballot() {
    let (mut core, mut leader) = leading_after(recovered(Vec::new(), 1), &[(2, 0)]);
    leader.replicate(&mut core);
    assert_eq!(slots_sent(&mut core), [(2, true, 1, 1), (3, true, 2, 0)]);
    for node in [2, 3] {
        leader.on_accepted(&mut core, NodeId(node), unsynced(1, false));
    }
    leader.replicate(&mut core);
    assert_eq!(slots_sent(&mut core), [(2, true, 2, 0)], "node 3 was told");
    leader.on_accepted(&mut core, NodeId(2), unsynced(1, false));
    leader.replicate(&mut core);
    assert_eq!(slots_sent(&mut core), [], "and so was node 2");
    leader.on_accepted(&mut core, NodeId(2), synced(1, 1, 0));
    propose(&mut core, &mut leader);
    leader.replicate(&mut core);
    assert_eq!(slots_sent(&mut core), [(2, false, 2, 1)]);
}

#[test]
fn who_has_learnt_all_that_was_exchanged_is_brought_under_the_ballot_though_the_log_goes_on() {
    let (mut core, mut leader) = leading_after(recovered(commands(1..=4, 1), 1), &[(2, 0), (3, 4)]);
    core.acceptor.tighten(Bounds {
        message_entries_bytes: 1,
        ..Bounds::default()
    });
    write(&mut core);
    leader.replicate(&mut core);
    leader.on_accepted(&mut core, NodeId(3), synced(5, 5, 0));
    leader.on_accepted(&mut core, NodeId(2), unsynced(1, false));
    leader.replicate(&mut core);
    propose(&mut core, &mut leader);
    outputs(&mut core);
    // All of it is lost on the way, and learnt from node 3. Slot 6 belongs to no exchange yet.
    leader.on_accepted(&mut core, NodeId(2), unsynced(5, false));
    leader.replicate(&mut core);
    let to_node_2 = slots_sent(&mut core).into_iter().find(|sent| sent.0 == 2);
    assert_eq!(to_node_2, Some((2, true, 6, 1)));
}

#[test]
fn heartbeats_go_to_those_who_were_sent_nothing_lately() {
    let (mut core, mut leader) = established();
    assert!(leader.tick(&mut core), "the first is due at once");
    outputs(&mut core);
    let heartbeat = core.timing.heartbeat_micros;
    assert_eq!(leader.next_timer(), Time(heartbeat));
    later(&mut core, heartbeat - 1);
    assert!(leader.tick(&mut core));
    assert_eq!(outputs(&mut core), []);
    later(&mut core, 1);
    assert!(leader.tick(&mut core));
    assert_eq!(slots_sent(&mut core), [(2, false, 2, 0), (3, false, 2, 0)]);
    propose_many(&mut core, &mut leader, 1);
    outputs(&mut core);
    later(&mut core, heartbeat);
    assert!(leader.tick(&mut core));
    assert_eq!(outputs(&mut core), []);
    later(&mut core, heartbeat);
    assert!(leader.tick(&mut core));
    assert_eq!(outputs(&mut core).len(), 2);
}

#[test]
fn who_lacks_what_is_not_in_memory_any_more_is_told_to_ask_and_nobody_else_is() {
    let (mut core, mut leader) = established();
    core.acceptor.tighten(Bounds {
        tail_cache_entries: 3,
        ..Bounds::default()
    });
    propose_many(&mut core, &mut leader, 9);
    write(&mut core);
    leader.on_accepted(&mut core, NodeId(2), synced(10, 10, 0));
    let first = core.acceptor.log().first();
    assert!(first > Slot(2), "some are on the disk only");
    for (lacks_from, told) in [(first, 0), (first.previous(), 1)] {
        let lacks = Accepted {
            gap: true,
            ..synced(1, lacks_from.0 - 1, 0)
        };
        leader.on_accepted(&mut core, NodeId(3), lacks);
        sent(&mut core);
        later(&mut core, timing().heartbeat_micros);
        assert!(leader.tick(&mut core));
        let hints = sent(&mut core).into_iter();
        let hints: Vec<_> = hints
            .filter(|(_, body)| matches!(body, Body::Behind(_)))
            .map(|(to, _)| to)
            .collect();
        assert_eq!(hints, vec![3; told]);
    }
}

#[test]
fn a_leader_that_hears_no_quorum_for_its_timeout_steps_down() {
    let (mut core, mut leader) = established();
    let timeout = core.timing.leader_timeout_micros;
    later(&mut core, timeout);
    assert!(leader.tick(&mut core), "it was heard a timeout ago");
    leader.on_accepted(&mut core, NodeId(3), synced(1, 1, 0));
    later(&mut core, timeout);
    assert!(leader.tick(&mut core), "one of two is enough");
    let mut paused = leader.clone();
    later(&mut core, timing().heartbeat_micros);
    assert!(!leader.tick(&mut core));
    paused.forgive_stall(core.now);
    assert!(
        paused.tick(&mut core),
        "nobody was heard because it stood still"
    );
}

#[test]
fn a_leader_whose_disk_does_not_answer_steps_down() {
    let (mut core, mut leader) = established();
    propose(&mut core, &mut leader);
    core.acceptor.begin_write(core.now).expect("slot 2");
    later(&mut core, timing().disk_timeout_micros);
    leader.forgive_stall(core.now);
    assert!(leader.tick(&mut core));
    later(&mut core, timing().heartbeat_micros);
    assert!(!leader.tick(&mut core));
}

#[test]
fn the_slowest_follower_is_one_that_was_heard_lately() {
    let (mut core, mut leader) = established();
    propose_many(&mut core, &mut leader, 3);
    write(&mut core);
    leader.on_accepted(&mut core, NodeId(2), synced(4, 4, 0));
    leader.on_accepted(&mut core, NodeId(3), synced(2, 2, 0));
    later(&mut core, timing().leader_timeout_micros);
    assert_eq!(leader.slowest_live(&core), Some(Slot(2)));
    leader.on_accepted(&mut core, NodeId(2), synced(4, 4, 0));
    later(&mut core, 1);
    assert_eq!(leader.slowest_live(&core), Some(Slot(4)));
    later(&mut core, timing().leader_timeout_micros);
    assert_eq!(leader.slowest_live(&core), None);
}

#[test]
fn the_end_of_an_epoch_is_told_to_all_at_once() {
    let (mut core, mut leader) = established();
    leader.farewell(&mut core);
    assert_eq!(slots_sent(&mut core), [(2, false, 2, 0), (3, false, 2, 0)]);
}

fn next(core: &Core) -> Membership {
    Membership {
        epoch: core.epoch().next(),
        ..core.membership.clone()
    }
}

#[test]
fn any_part_of_a_membership_may_be_changed_by_itself() {
    let (mut core, mut leader) = established();
    let same = next(&core);
    assert_eq!(
        leader.stop(&mut core, &same),
        Err(ReconfigureError::Unchanged)
    );
    let members = vec![NodeId(1), NodeId(2)];
    let quorums = crate::membership::Quorums {
        prepare: 2,
        accept: 2,
    };
    let fewer = Membership {
        members,
        quorums,
        ..same.clone()
    };
    let quorums = crate::membership::Quorums {
        prepare: 3,
        accept: 1,
    };
    let other_quorums = Membership {
        quorums,
        ..same.clone()
    };
    let context = Bytes::from_static(b"elsewhere");
    let other_context = Membership { context, ..same };
    for change in [fewer, other_quorums, other_context] {
        let (mut core, mut leader) = established();
        assert_eq!(leader.stop(&mut core, &change), Ok(Slot(2)));
        let again = leader.stop(&mut core, &change);
        assert_eq!(again, Err(ReconfigureError::Stopping));
    }
}

/// A change by which node 4 joins, when so much is decided and it has asked for more, with this
/// much durable, so long ago.
fn joins(decided: u64, durable: u64, micros_ago: u64) -> Result<Slot, ReconfigureError> {
    let (mut core, mut leader) = established();
    let entries =
        (2..=decided).map(|slot| Entry::new(Slot(slot), own(), EntryKind::Command, Bytes::new()));
    core.acceptor.learn(entries.collect());
    let learn = Learn {
        first: Slot(1),
        last: Slot(1),
        durable: Slot(durable),
    };
    let epoch = core.epoch();
    serve::on_learn(&mut core, NodeId(4), epoch, learn);
    later(&mut core, micros_ago);
    let mut next = next(&core);
    next.members.push(NodeId(4));
    next.newest = NodeId(4);
    next.quorums = crate::membership::Quorums::majority(4);
    leader.stop(&mut core, &next)
}

#[test]
fn a_node_may_join_when_it_has_told_lately_that_it_has_nearly_all() {
    let timeouts = 2 * timing().leader_timeout_micros;
    let far = LEARNER_LAG_MAX + 10;
    assert!(joins(10, 1, 0).is_ok());
    assert!(joins(far, 10, timeouts).is_ok());
    for refused in [
        joins(10, 0, 0),
        joins(far, 9, 0),
        joins(far, 10, timeouts + 1),
    ] {
        assert!(
            matches!(refused, Err(ReconfigureError::NotCaughtUp { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn a_window_is_full_at_its_limit_of_slots_and_of_bytes() {
    let (mut core, mut leader) = established();
    core.acceptor.tighten(crate::limits::Bounds {
        window_slots: 3,
        ..Default::default()
    });
    for _ in 0..3 {
        propose(&mut core, &mut leader);
    }
    let busy = leader.propose(&mut core, Bytes::new());
    assert_eq!(busy, Err(ProposeError::Busy));
    let (mut core, mut leader) = established();
    let large = Bytes::from(vec![0; PAYLOAD_BYTES_MAX]);
    let mut bytes = 0;
    while leader.propose(&mut core, large.clone()).is_ok() {
        bytes += crate::log::size(
            core.acceptor
                .log()
                .get(core.acceptor.log().end())
                .expect("it"),
        );
    }
    let left = WINDOW_BYTES_MAX - bytes;
    assert!(left < PAYLOAD_BYTES_MAX);
    let too_large = leader.propose(&mut core, Bytes::from(vec![0; left + 1]));
    assert_eq!(too_large, Err(ProposeError::Busy));
    assert!(
        leader
            .propose(&mut core, Bytes::from(vec![0; left]))
            .is_ok()
    );
}
