//! One membership after the other: nodes join, leave, are replaced, while everyone goes on.

mod cell;

use bytes::Bytes;
use cell::Cell;
use paxos::message::{Accept, Body};
use paxos::{
    ConfirmNumber, Epoch, Input, Message, NodeId, ProposeError, Quorums, ReconfigureError, Role,
    Slot,
};

fn decide(cell: &mut Cell, count: usize) {
    for _ in 0..count {
        let leader = cell.wait_for_leader();
        cell.propose(leader, b"x");
    }
}

fn members_agree(cell: &Cell) -> bool {
    let members = cell
        .leader()
        .map(|leader| cell.nodes[leader].replica.status().membership);
    members.is_some_and(|membership| {
        let mut states = membership.members.iter().map(|member| {
            let node = &cell.nodes[member.0 as usize - 1];
            (&node.applied, node.replica.status().membership.epoch)
        });
        let first = states.next();
        states.all(|state| Some(state) == first)
    })
}

/// A node that knows nothing, and has learnt what there is to learn.
fn with_learner(cell: &mut Cell) -> usize {
    let learner = cell.start_learner();
    let leader = cell.wait_for_leader();
    let far = cell.nodes[leader].applied.len();
    cell.run_until(|cell| cell.nodes[learner].applied.len() >= far);
    cell.run_for(500_000);
    learner
}

#[test]
fn a_learner_follows_and_then_votes() {
    let mut cell = Cell::new();
    decide(&mut cell, 5);
    let learner = with_learner(&mut cell);
    assert_eq!(cell.nodes[learner].replica.role(), Role::Learner);
    cell.reconfigure(&[1, 2, 3, 4]);
    decide(&mut cell, 5);
    cell.run_until(members_agree);
    assert_eq!(cell.nodes[learner].payloads().len(), 10);
    assert_eq!(
        cell.nodes[learner].replica.status().membership.quorums,
        Quorums::majority(4)
    );
}

#[test]
fn three_become_five_and_three_again() {
    let mut cell = Cell::new();
    decide(&mut cell, 5);
    with_learner(&mut cell);
    cell.reconfigure(&[1, 2, 3, 4]);
    with_learner(&mut cell);
    cell.reconfigure(&[1, 2, 3, 4, 5]);
    decide(&mut cell, 5);
    cell.reconfigure(&[2, 3, 4, 5]);
    cell.reconfigure(&[3, 4, 5]);
    decide(&mut cell, 5);
    cell.run_until(members_agree);
    assert_eq!(cell.nodes[4].payloads().len(), 15);
    for gone in [0, 1] {
        cell.run_until(|cell| cell.nodes[gone].retired);
        assert!(cell.nodes[gone].removed.is_some());
    }
}

#[test]
fn a_dead_node_is_replaced() {
    let mut cell = Cell::new();
    decide(&mut cell, 5);
    let leader = cell.wait_for_leader();
    let dead = (leader + 1) % 3;
    cell.kill(dead);
    with_learner(&mut cell);
    let members: Vec<u64> = (1..=4).filter(|node| *node != dead as u64 + 1).collect();
    cell.reconfigure(&members);
    decide(&mut cell, 5);
    cell.run_until(members_agree);
    cell.restart(dead);
    cell.run_until(|cell| cell.nodes[dead].retired);
    assert_eq!(cell.nodes[dead].removed, Some(Epoch(2)));
}

#[test]
fn a_leader_may_remove_itself() {
    let mut cell = Cell::new();
    decide(&mut cell, 5);
    let leader = cell.wait_for_leader();
    let members: Vec<u64> = (1..=3).filter(|node| *node != leader as u64 + 1).collect();
    cell.reconfigure(&members);
    decide(&mut cell, 1);
    cell.run_until(|cell| cell.nodes[leader].retired);
    assert_ne!(cell.leader(), Some(leader));
    assert_eq!(cell.nodes[leader].replica.role(), Role::Learner);
}

#[test]
fn all_members_may_be_exchanged_at_once() {
    let mut cell = Cell::new();
    decide(&mut cell, 5);
    for _ in 0..3 {
        with_learner(&mut cell);
    }
    cell.reconfigure(&[4, 5, 6]);
    decide(&mut cell, 5);
    cell.run_until(members_agree);
    cell.run_until(|cell| (0..3).all(|old| cell.nodes[old].retired));
    assert_eq!(cell.nodes[5].payloads().len(), 10);
}

#[test]
fn a_leader_whose_epoch_is_about_to_end_takes_and_confirms_nothing() {
    let (mut cell, leader) = Cell::with_leader();
    cell.isolate(leader);
    let replica = &mut cell.nodes[leader].replica;
    let members = vec![NodeId(1), NodeId(2)];
    let begun = replica.reconfigure(cell.now, members.clone(), None, Bytes::new());
    begun.expect("allowed");
    let again = replica.reconfigure(cell.now, members, None, Bytes::new());
    assert_eq!(again, Err(ReconfigureError::Stopping));
    let refused = replica.propose(cell.now, Bytes::from_static(b"x"));
    assert_eq!(refused, Err(ProposeError::Stopping));
    assert!(replica.confirm(cell.now).is_err());
}

#[test]
fn an_acceptor_that_has_accepted_the_stop_entry_echoes_no_new_confirm() {
    let (mut cell, leader) = Cell::with_leader();
    let follower = (leader + 1) % 3;
    cell.run_for(100_000);
    let from = NodeId(leader as u64 + 1);
    let to = NodeId(follower as u64 + 1);
    // The stop entry reaches one follower, and its acknowledgement is lost.
    cell.cut.insert((to.0, from.0));
    cell.isolate((leader + 2) % 3);
    let members = vec![NodeId(1), NodeId(2)];
    let begun = cell.nodes[leader]
        .replica
        .reconfigure(cell.now, members, None, Bytes::new());
    let stop = begun.expect("allowed");
    cell.settle();
    let status = cell.nodes[follower].replica.status();
    assert_eq!(status.end, stop);
    cell.sent.clear();
    let accept = Accept {
        ballot: status.ballot,
        first: stop.next(),
        entries: Vec::new(),
        decided: Slot::NONE,
        confirm: ConfirmNumber(1000),
    };
    let epoch = Epoch::FIRST;
    let body = Body::Accept(accept);
    let message = Message { epoch, body };
    cell.input(follower, Input::Message { from, message });
    let echoed: Vec<ConfirmNumber> = cell
        .sent
        .iter()
        .filter_map(|(_, _, message)| match &message.body {
            Body::Accepted(accepted) => Some(accepted.confirm),
            _ => None,
        })
        .collect();
    assert!(!echoed.is_empty());
    assert!(
        echoed.iter().all(|echo| *echo < ConfirmNumber(1000)),
        "{echoed:?}"
    );
}

#[test]
fn a_new_leader_that_finds_the_stop_entry_completes_it() {
    let (mut cell, leader) = Cell::with_leader();
    let follower = (leader + 1) % 3;
    cell.run_for(100_000);
    cell.isolate((leader + 2) % 3);
    cell.cut.insert((follower as u64 + 1, leader as u64 + 1));
    let members = vec![NodeId(1), NodeId(2), NodeId(3)];
    let context = Bytes::from_static(b"other addresses");
    let begun = cell.nodes[leader]
        .replica
        .reconfigure(cell.now, members, None, context);
    let stop = begun.expect("allowed");
    cell.settle();
    cell.cut.clear();
    cell.isolate(leader);
    cell.run_until(|cell| cell.nodes[follower].replica.status().membership.epoch == Epoch(2));
    cell.cut.clear();
    decide(&mut cell, 1);
    cell.run_until(members_agree);
    let applied = &cell.nodes[leader].applied;
    let behind = applied.iter().find(|entry| entry.slot == stop.next());
    assert_eq!(behind.expect("decided").origin.epoch, Epoch(2));
}

#[test]
fn everyone_restarts_at_every_step_of_a_change() {
    // After so many messages of the change, all crash at once.
    for steps in 0..60 {
        let mut cell = Cell::new();
        decide(&mut cell, 3);
        with_learner(&mut cell);
        let leader = cell.wait_for_leader();
        let members = [1, 2, 3, 4].map(NodeId).to_vec();
        let begun = cell.nodes[leader]
            .replica
            .reconfigure(cell.now, members, None, Bytes::new());
        begun.expect("allowed");
        cell.deliver(steps);
        for node in 0..4 {
            cell.kill(node);
        }
        cell.forget_messages();
        for node in 0..4 {
            cell.restart(node);
        }
        decide(&mut cell, 3);
        cell.run_until(members_agree);
        assert_eq!(cell.nodes[0].payloads().len(), 6, "after {steps} messages");
    }
}

#[test]
fn changes_that_would_not_do_are_refused() {
    let (mut cell, leader) = Cell::with_leader();
    let follower = (leader + 1) % 3;
    let now = cell.now;
    let mut change = |node: usize, members: &[u64], quorums| {
        let members = members.iter().copied().map(NodeId).collect();
        let replica = &mut cell.nodes[node].replica;
        replica.reconfigure(now, members, quorums, Bytes::new())
    };
    assert_eq!(
        change(leader, &[1, 2, 3], None),
        Err(ReconfigureError::Unchanged)
    );
    assert!(matches!(
        change(leader, &[], None),
        Err(ReconfigureError::Invalid(_))
    ));
    let apart = Quorums {
        prepare: 1,
        accept: 2,
    };
    assert!(matches!(
        change(leader, &[1, 2, 3], Some(apart)),
        Err(ReconfigureError::Invalid(_))
    ));
    assert!(matches!(
        change(leader, &[1, 2, 3, 4], None),
        Err(ReconfigureError::NotCaughtUp {
            node: NodeId(4),
            ..
        })
    ));
    assert!(matches!(
        change(follower, &[1, 2], None),
        Err(ReconfigureError::NotLeader(_))
    ));
}

#[test]
fn a_number_is_given_once() {
    let mut cell = Cell::new();
    decide(&mut cell, 1);
    cell.reconfigure(&[1, 2]);
    let leader = cell.wait_for_leader();
    let members = vec![NodeId(1), NodeId(2), NodeId(3)];
    let refused = cell.nodes[leader]
        .replica
        .reconfigure(cell.now, members, None, Bytes::new());
    assert_eq!(
        refused,
        Err(ReconfigureError::NumberUsed {
            node: NodeId(3),
            newest: NodeId(3)
        })
    );
}

#[test]
fn a_member_that_slept_through_several_epochs_finds_its_way() {
    let mut cell = Cell::new();
    decide(&mut cell, 3);
    let leader = cell.wait_for_leader();
    let asleep = (leader + 1) % 3;
    cell.isolate(asleep);
    let stays: Vec<u64> = (1..=3).collect();
    for quorums in [(3, 1), (2, 2), (3, 2)] {
        let leader = cell.wait_for_leader();
        let (prepare, accept) = quorums;
        let quorums = Some(Quorums { prepare, accept });
        let members = stays.iter().copied().map(NodeId).collect();
        let replica = &mut cell.nodes[leader].replica;
        let begun = replica.reconfigure(cell.now, members, quorums, Bytes::new());
        begun.expect("allowed");
        cell.settle();
        if prepare == 3 {
            cell.cut.clear();
            cell.wait_for_leader();
            cell.run_until(members_agree);
            cell.isolate(asleep);
            cell.run_for(2_000_000);
        }
        cell.cut.clear();
        decide(&mut cell, 2);
    }
    cell.run_until(members_agree);
    assert_eq!(
        cell.nodes[asleep].replica.status().membership.epoch,
        Epoch(4)
    );
}

#[test]
fn removed_nodes_that_alone_know_of_it_tell_the_others_also_after_a_restart() {
    let mut cell = Cell::new();
    decide(&mut cell, 3);
    let leader = cell.wait_for_leader();
    let stays = (leader + 1) % 3;
    let gone = [leader, (leader + 2) % 3];
    cell.run_for(100_000);
    // The end of the epoch is decided without the one who stays, and those who know restart.
    cell.isolate(stays);
    let members = vec![NodeId(stays as u64 + 1)];
    let replica = &mut cell.nodes[leader].replica;
    let begun = replica.reconfigure(cell.now, members, None, Bytes::new());
    begun.expect("allowed");
    cell.run_until(|cell| gone.iter().all(|node| cell.nodes[*node].removed.is_some()));
    gone.iter().for_each(|node| cell.kill(*node));
    cell.cut.clear();
    gone.iter().for_each(|node| cell.restart(*node));
    cell.run_until(|cell| cell.leader() == Some(stays));
    cell.run_until(|cell| gone.iter().all(|node| cell.nodes[*node].retired));
    decide(&mut cell, 1);
}

#[test]
fn a_removed_node_that_missed_its_farewell_stays_until_a_quorum_has_what_it_decided() {
    let mut cell = Cell::new();
    decide(&mut cell, 3);
    let learner = with_learner(&mut cell);
    let leader = cell.wait_for_leader();
    let (stays, gone) = ((leader + 1) % 3, (leader + 2) % 3);
    // Entries and the end of the epoch are decided by the leader and the one who is removed, who
    // does not hear that they are.
    cell.isolate(stays);
    cell.isolate(learner);
    decide(&mut cell, 3);
    let next = [leader, stays, learner].map(|node| NodeId(node as u64 + 1));
    let replica = &mut cell.nodes[leader].replica;
    let begun = replica.reconfigure(cell.now, next.to_vec(), None, Bytes::new());
    let stop = begun.expect("allowed");
    let entered =
        |cell: &Cell, node: usize| cell.nodes[node].replica.status().membership.epoch == Epoch(2);
    cell.run_steps_until(|cell| entered(cell, leader));
    cell.forget_messages();
    assert!(!entered(&cell, gone));
    assert_eq!(cell.nodes[gone].replica.status().end, stop);
    // The leader alone tells it that it is removed, again and again.
    cell.run_for(3_000_000);
    assert!(!cell.nodes[gone].retired, "one of three knows");
    // The leader is lost. All that was decided is there.
    cell.kill(leader);
    cell.cut.clear();
    cell.run_until(|cell| cell.nodes[gone].retired);
    cell.kill(gone);
    decide(&mut cell, 1);
    assert_eq!(cell.nodes[stays].payloads().len(), 7);
    cell.run_until(|cell| cell.nodes[stays].applied == cell.nodes[learner].applied);
}
