//! Replicas that are far behind, or whose disks damaged something: logs that were cut, snapshots,
//! and entries put right from the copies of others.

mod cell;

use cell::Cell;
use paxos::message::Body;
use paxos::{Input, Role, Slot};

/// Decides `count` more entries.
fn decide(cell: &mut Cell, count: usize) {
    let leader = cell.wait_for_leader();
    for _ in 0..count {
        cell.propose(leader, b"x");
    }
}

fn all_agree(cell: &Cell) -> bool {
    let first = &cell.nodes[0].applied;
    cell.nodes.iter().all(|node| node.applied == *first)
}

/// A cell in which one follower missed so much that all others have cut it off their logs.
fn one_far_behind() -> (Cell, usize) {
    let (mut cell, leader) = Cell::with_leader();
    decide(&mut cell, 3);
    let away = (leader + 1) % 3;
    cell.isolate(away);
    tighten(&mut cell);
    decide(&mut cell, 400);
    cell.run_for(1_000_000);
    for node in (0..3).filter(|node| *node != away) {
        cell.take_snapshot(node);
    }
    decide(&mut cell, 20);
    (cell, away)
}

/// Makes logs short, so that little is enough to be cut off.
fn tighten(cell: &mut Cell) {
    for node in &mut cell.nodes {
        node.replica.tighten(paxos::limits::Bounds {
            tail_cache_entries: 10,
            tail_slots: 10,
            log_slots: 20,
            ..Default::default()
        });
    }
}

#[test]
fn a_follower_that_missed_what_was_cut_off_is_given_a_snapshot() {
    let (mut cell, away) = one_far_behind();
    cell.cut.clear();
    cell.run_until(all_agree);
    assert_eq!(cell.nodes[away].installed.len(), 1);
    cell.restart(away);
    cell.run_until(all_agree);
}

#[test]
fn a_damaged_entry_that_an_installed_snapshot_holds_is_not_asked_for_any_more() {
    let (mut cell, away) = one_far_behind();
    cell.restart(away);
    cell.input(away, Input::Damaged(Slot(2)));
    cell.cut.clear();
    cell.run_until(all_agree);
    assert_eq!(cell.nodes[away].installed.len(), 1);
    assert_eq!(cell.nodes[away].repaired, [Slot(2)]);
}

#[test]
fn what_is_in_no_memory_but_in_a_log_is_read_from_there() {
    let (mut cell, leader) = Cell::with_leader();
    let away = (leader + 1) % 3;
    cell.isolate(away);
    tighten(&mut cell);
    decide(&mut cell, 300);
    cell.cut.clear();
    cell.run_until(all_agree);
    assert_eq!(cell.nodes[away].installed, []);
}

#[test]
fn accepts_go_on_while_a_snapshot_is_on_its_way() {
    let (mut cell, away) = one_far_behind();
    let leader = cell.wait_for_leader();
    cell.cut.clear();
    // Long enough for the first part to be asked for, too short for the last to arrive.
    let before = cell.sent.len();
    let payload = vec![7; 40_000];
    for _ in 0..30 {
        cell.propose(leader, &payload);
    }
    cell.run_until(all_agree);
    let chunks = cell.sent[before..].iter();
    let chunks = chunks.filter(|(_, _, message)| matches!(message.body, Body::Chunk(_)));
    assert!(chunks.count() > 0, "node {away} was given a snapshot");
}

#[test]
fn an_interrupted_snapshot_goes_on_where_it_ended() {
    let (mut cell, leader) = Cell::with_leader();
    let away = (leader + 1) % 3;
    cell.isolate(away);
    tighten(&mut cell);
    for _ in 0..40 {
        cell.propose(leader, &vec![7; 40_000]);
    }
    let other = (leader + 2) % 3;
    cell.run_for(500_000);
    let meta = cell.take_snapshot(leader);
    assert_eq!(cell.take_snapshot(other), meta);
    decide(&mut cell, 20);
    cell.cut.clear();
    let half = meta.bytes / 2;
    cell.run_steps_until(|cell| cell.nodes[away].stored >= half);
    assert_eq!(cell.nodes[away].installed, []);
    // The half that is on disk outlives the process, and its source may be another one.
    cell.isolate(leader);
    cell.restart(away);
    cell.run_until(|cell| cell.nodes[away].applied.len() >= meta.slot.0 as usize);
    assert_eq!(cell.nodes[away].installed, [meta.slot]);
    assert!(cell.nodes[away].stored <= meta.bytes - half);
}

#[test]
fn an_older_snapshot_is_not_installed() {
    let (mut cell, leader) = Cell::with_leader();
    decide(&mut cell, 5);
    let follower = (leader + 1) % 3;
    cell.run_for(100_000);
    let meta = cell.take_snapshot(leader);
    let before = cell.nodes[follower].applied.clone();
    cell.input(follower, Input::SnapshotReady(meta));
    assert_eq!(cell.nodes[follower].installed, []);
    assert_eq!(cell.nodes[follower].applied, before);
}

#[test]
fn a_snapshot_ahead_of_the_disk_does_not_cut_the_log() {
    let (mut cell, leader) = Cell::with_leader();
    cell.nodes[(leader + 1) % 3].stuck = true;
    decide(&mut cell, 5);
    let slow = (leader + 1) % 3;
    cell.run_for(100_000);
    cell.take_snapshot(slow);
    assert_eq!(cell.nodes[slow].replica.status().snapshot, None);
}

#[test]
fn a_leader_keeps_what_its_slowest_live_follower_lacks() {
    let (mut cell, leader) = Cell::with_leader();
    let slow = (leader + 1) % 3;
    tighten(&mut cell);
    cell.nodes[slow].stuck = true;
    decide(&mut cell, 15);
    cell.take_snapshot(leader);
    decide(&mut cell, 1);
    assert!(cell.nodes[leader].disk.log.contains_key(&Slot(2)));
    decide(&mut cell, 100);
    cell.take_snapshot(leader);
    decide(&mut cell, 1);
    let first = cell.nodes[leader].disk.log.keys().next();
    assert!(*first.unwrap() > Slot(50), "it is not kept for ever");
    cell.nodes[slow].stuck = false;
    cell.run_until(all_agree);
}

#[test]
fn a_damaged_entry_is_put_right_from_another_node() {
    let (mut cell, leader) = Cell::with_leader();
    decide(&mut cell, 20);
    cell.run_for(100_000);
    let node = (leader + 1) % 3;
    tighten(&mut cell);
    decide(&mut cell, 40);
    cell.nodes[node].disk.damaged.push(Slot(7));
    cell.input(node, Input::Damaged(Slot(7)));
    cell.run_until(|cell| cell.nodes[node].repaired == [Slot(7)]);
    assert_eq!(cell.nodes[node].disk.read(Slot(1), Slot(60)).len(), 60);
}

#[test]
fn damage_where_an_entry_is_yet_to_be_written_is_not_repaired_ahead_of_what_precedes_it() {
    let (mut cell, leader) = Cell::with_leader();
    let node = (leader + 1) % 3;
    cell.nodes[node].stuck = true;
    decide(&mut cell, 3);
    let last = cell.propose(leader, b"last");
    cell.run_until(|cell| cell.nodes[node].applied.len() as u64 == last.0);
    // What is there now is an older log's.
    cell.input(node, Input::Damaged(last));
    cell.nodes[node].stuck = false;
    cell.run_for(1_000_000);
    assert_eq!(cell.nodes[node].repaired, []);
    let written = cell.nodes[node].disk.read(Slot(1), last);
    assert_eq!(written, cell.nodes[node].applied);
}

#[test]
fn damage_found_at_the_start_is_put_right_by_any_node_that_knows_what_was_decided() {
    for damaged in [2, 7, 20] {
        let (mut cell, leader) = Cell::with_leader();
        decide(&mut cell, 20);
        cell.run_for(100_000);
        let node = (leader + 1) % 3;
        cell.kill(node);
        cell.nodes[node].disk.damaged.push(Slot(damaged));
        cell.isolate(leader);
        cell.restart(node);
        cell.run_until(|cell| !cell.nodes[node].repaired.is_empty());
        cell.cut.clear();
        decide(&mut cell, 1);
        cell.run_until(all_agree);
        assert_eq!(cell.nodes[node].disk.read(Slot(1), Slot(21)).len(), 21);
    }
}

#[test]
fn a_node_that_cannot_read_what_it_acknowledged_does_not_vote() {
    let (mut cell, leader) = Cell::with_leader();
    decide(&mut cell, 5);
    cell.run_for(100_000);
    let (node, other) = ((leader + 1) % 3, (leader + 2) % 3);
    // One more entry is decided, by the leader and the node only; then its copy is damaged.
    cell.isolate(other);
    let last = cell.propose(leader, b"precious");
    cell.kill(node);
    cell.nodes[node].disk.damaged.push(last);
    cell.cut.clear();
    cell.isolate(leader);
    cell.restart(node);
    cell.run_for(5_000_000);
    for node in [node, other] {
        let role = cell.nodes[node].replica.role();
        assert!(
            !matches!(role, Role::Leader { .. }),
            "the entry would be lost"
        );
    }
    assert_eq!(cell.nodes[node].replica.status().damaged, Some(last));
    cell.cut.clear();
    decide(&mut cell, 1);
    cell.run_until(all_agree);
    assert_eq!(cell.nodes[node].repaired, [last]);
    assert!(cell.nodes[other].payloads().contains(&&b"precious"[..]));
}

#[test]
fn damage_in_two_nodes_at_different_places_loses_nothing() {
    let (mut cell, leader) = Cell::with_leader();
    decide(&mut cell, 20);
    cell.run_for(100_000);
    let healthy = leader;
    for (node, slot) in [((leader + 1) % 3, 5), ((leader + 2) % 3, 9)] {
        cell.kill(node);
        cell.nodes[node].disk.damaged.push(Slot(slot));
        cell.restart(node);
    }
    cell.restart(healthy);
    decide(&mut cell, 1);
    cell.run_until(all_agree);
    assert!(cell.nodes.iter().all(|node| node.disk.damaged.is_empty()));
    assert_eq!(cell.nodes[0].payloads().len(), 21);
}

#[test]
fn damage_that_no_log_can_put_right_any_more_is_cut_off_behind_a_snapshot_of_another_node() {
    let (mut cell, leader) = Cell::with_leader();
    decide(&mut cell, 100);
    cell.run_for(100_000);
    let node = (leader + 1) % 3;
    tighten(&mut cell);
    decide(&mut cell, 40);
    for other in (0..3).filter(|other| *other != node) {
        cell.take_snapshot(other);
    }
    decide(&mut cell, 1);
    cell.nodes[node].disk.damaged.push(Slot(7));
    cell.input(node, Input::Damaged(Slot(7)));
    cell.run_until(|cell| cell.nodes[node].repaired == [Slot(7)]);
    assert_eq!(cell.nodes[node].installed, [], "its state is newer");
    decide(&mut cell, 1);
    cell.run_until(all_agree);
    cell.restart(node);
    decide(&mut cell, 1);
    cell.run_until(all_agree);
}

/// A cell in which a large snapshot is on its way to a node, half of it there: the node, the
/// leader that gives it, and how long it is.
fn half_way() -> (Cell, usize, usize, u64) {
    let (mut cell, leader) = Cell::with_leader();
    let away = (leader + 1) % 3;
    cell.isolate(away);
    tighten(&mut cell);
    for _ in 0..40 {
        cell.propose(leader, &vec![7; 40_000]);
    }
    cell.run_for(500_000);
    let meta = cell.take_snapshot(leader);
    cell.take_snapshot((leader + 2) % 3);
    decide(&mut cell, 20);
    cell.cut.clear();
    cell.run_steps_until(|cell| cell.nodes[away].stored >= meta.bytes / 2);
    (cell, away, leader, meta.bytes)
}

#[test]
fn a_part_that_was_lost_is_asked_for_again() {
    let (mut cell, away, _, bytes) = half_way();
    cell.forget_messages();
    cell.run_until(all_agree);
    assert_eq!(cell.nodes[away].installed.len(), 1);
    assert_eq!(cell.nodes[away].stored, bytes, "nothing was sent twice");
}

#[test]
fn when_the_source_of_a_snapshot_falls_silent_another_one_goes_on() {
    let (mut cell, away, leader, bytes) = half_way();
    cell.isolate(leader);
    cell.run_until(|cell| !cell.nodes[away].installed.is_empty());
    assert_eq!(cell.nodes[away].stored, bytes);
    cell.cut.clear();
    cell.run_until(all_agree);
}

#[test]
fn a_snapshot_that_was_replaced_on_its_way_is_given_up_for_the_newer_one() {
    let (mut cell, away, leader, _) = half_way();
    let newer = cell.nodes[leader].applied.len() as u64;
    cell.take_snapshot(leader);
    cell.run_until(all_agree);
    assert_eq!(cell.nodes[away].installed, [Slot(newer)]);
}

#[test]
fn parts_that_were_not_asked_for_are_dropped() {
    let (mut cell, away, leader, bytes) = half_way();
    let chunks = cell
        .sent
        .iter()
        .filter(|(_, to, _)| to.0 == away as u64 + 1);
    let mut chunks = chunks.filter(|(_, _, message)| matches!(message.body, Body::Chunk(_)));
    let (from, _, old) = chunks.next().expect("half of it was sent").clone();
    let stored = cell.nodes[away].stored;
    cell.input(away, Input::Message { from, message: old });
    let body = Body::Chunk(paxos::message::Chunk {
        slot: cell.nodes[leader].replica.status().snapshot.unwrap().slot,
        crc: 0,
        offset: stored,
        bytes: vec![0; 100].into(),
    });
    let epoch = paxos::Epoch::FIRST;
    let message = paxos::Message { epoch, body };
    cell.input(away, Input::Message { from, message });
    assert_eq!(cell.nodes[away].stored, stored);
    cell.run_until(all_agree);
    assert_eq!(cell.nodes[away].stored, bytes);
}

#[test]
fn who_cannot_give_what_it_knows_is_left_for_another() {
    let (mut cell, leader) = Cell::with_leader();
    let away = (leader + 1) % 3;
    cell.isolate(away);
    tighten(&mut cell);
    decide(&mut cell, 100);
    // The leader offers its help, but has lost an entry that nobody has missed so far.
    cell.nodes[leader].disk.damaged.push(Slot(30));
    cell.cut.clear();
    cell.run_until(all_agree);
    assert_eq!(cell.nodes[away].disk.read(Slot(1), Slot(100)).len(), 100);
    assert_eq!(
        cell.nodes[leader].repaired,
        [Slot(30)],
        "it noticed when it was asked"
    );
}

#[test]
fn a_leader_that_cannot_read_what_only_it_knows_to_be_decided_leaves_the_lead_to_others() {
    let (mut cell, leader) = Cell::with_leader();
    decide(&mut cell, 5);
    cell.run_for(100_000);
    for node in &mut cell.nodes {
        node.replica.tighten(paxos::limits::Bounds {
            tail_cache_entries: 0,
            ..Default::default()
        });
    }
    // One more entry is decided, by the leader and another node, which does not hear of it.
    let (has_it, lacks_it) = ((leader + 1) % 3, (leader + 2) % 3);
    cell.isolate(lacks_it);
    let last = cell.propose(leader, b"precious");
    (0..3).for_each(|node| cell.isolate(node));
    cell.run_for(2_000_000);
    let decided = |cell: &Cell, node: usize| cell.nodes[node].replica.status().decided;
    assert_eq!(decided(&cell, leader), last);
    assert!(decided(&cell, has_it) < last);
    assert_eq!(cell.nodes[has_it].replica.status().end, last);
    // It leads again, without the other one's promise, and its own copy is in no memory.
    cell.nodes[leader].disk.damaged.push(last);
    for way in [(leader, lacks_it), (lacks_it, leader)] {
        cell.cut.remove(&(way.0 as u64 + 1, way.1 as u64 + 1));
    }
    let leads = |cell: &Cell| matches!(cell.nodes[leader].replica.role(), Role::Leader { .. });
    cell.run_until(leads);
    cell.cut.clear();
    cell.run_until(|cell| cell.nodes[leader].repaired == [last]);
    decide(&mut cell, 1);
    cell.run_until(all_agree);
    assert!(cell.nodes[lacks_it].payloads().contains(&&b"precious"[..]));
}

#[test]
fn a_candidate_that_lacks_what_was_cut_off_leaves_the_lead_to_others() {
    let (mut cell, away) = one_far_behind();
    let leader = cell.wait_for_leader();
    let other = 3 - leader - away;
    // Only it can reach both of the others, so nobody else can be elected at first.
    let (leader_number, other_number) = (leader as u64 + 1, other as u64 + 1);
    cell.cut.clear();
    cell.cut.insert((leader_number, other_number));
    cell.cut.insert((other_number, leader_number));
    cell.run_until(|cell| cell.nodes[away].applied.len() >= cell.nodes[other].applied.len());
    assert_eq!(cell.nodes[away].installed.len(), 1);
    decide(&mut cell, 1);
    cell.cut.clear();
    cell.run_until(all_agree);
}
