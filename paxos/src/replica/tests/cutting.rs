//! When a replica's log may be cut behind a snapshot, and how far.

use super::*;
use crate::limits::Bounds;

/// A replica with sixty decided entries and short bounds.
fn with_sixty(mut replica: Replica) -> Replica {
    replica.tighten(Bounds {
        tail_cache_entries: 0,
        tail_slots: 10,
        log_slots: 20,
        ..Bounds::default()
    });
    let end = replica.core.acceptor.log().end().0;
    replica.core.acceptor.learn(commands(end + 1..=60, 1));
    said(&mut replica);
    replica
}

fn takes_snapshot(replica: &mut Replica, slot: u64) -> Slot {
    let now = replica.core.now;
    replica.handle(now, Input::SnapshotTaken(snapshot(slot, 1)));
    replica.core.acceptor.keep_from()
}

#[test]
fn a_log_is_cut_behind_a_snapshot_but_for_a_tail() {
    let follower = || with_sixty(replica(recovered(Vec::new(), 1)));
    assert_eq!(takes_snapshot(&mut follower(), 30), Slot(31));
    assert_eq!(takes_snapshot(&mut follower(), 50), Slot(51));
    assert_eq!(
        takes_snapshot(&mut follower(), 58),
        Slot(51),
        "ten are kept"
    );
    let mut replica = follower();
    assert_eq!(
        takes_snapshot(&mut replica, 61),
        Slot(1),
        "that is not decided"
    );
    takes_snapshot(&mut replica, 30);
    takes_snapshot(&mut replica, 30);
    takes_snapshot(&mut replica, 20);
    assert_eq!(
        replica.status().snapshot,
        Some(snapshot(30, 1)),
        "only newer ones"
    );
}

#[test]
fn a_snapshot_that_is_told_of_twice_cuts_once() {
    let mut replica = with_sixty(replica(recovered(Vec::new(), 1)));
    assert_eq!(takes_snapshot(&mut replica, 58), Slot(51));
    replica.core.acceptor.learn(commands(61..=70, 1));
    said(&mut replica);
    assert_eq!(takes_snapshot(&mut replica, 58), Slot(51));
}

#[test]
fn a_snapshot_of_what_is_not_durable_cuts_nothing() {
    let mut replica = replica(recovered(Vec::new(), 1));
    replica.core.acceptor.learn(commands(1..=60, 1));
    assert_eq!(takes_snapshot(&mut replica, 30), Slot(1));
    assert_eq!(replica.status().snapshot, None);
}

#[test]
fn a_leader_keeps_more_for_a_slow_follower_but_not_without_end() {
    let leader = || with_sixty(leading(Vec::new()));
    let mut replica = leader();
    accept(&mut replica, 2, Slot(45));
    accept(&mut replica, 3, Slot(60));
    assert_eq!(takes_snapshot(&mut replica, 50), Slot(46));
    let mut replica = leader();
    accept(&mut replica, 2, Slot(7));
    assert_eq!(takes_snapshot(&mut replica, 50), Slot(41), "twenty at most");
}

#[test]
fn damaged_entries_that_a_snapshot_holds_are_cut_off_and_told_as_repaired() {
    let mut replica = with_sixty(replica(recovered(Vec::new(), 1)));
    let now = replica.core.now;
    for slot in [53, 59] {
        replica.handle(now, Input::Damaged(Slot(slot)));
    }
    assert_eq!(takes_snapshot(&mut replica, 55), Slot(54));
    let mut repaired = Vec::new();
    while let Some(output) = replica.poll_output() {
        if let Output::Repaired(slot) = output {
            repaired.push(slot);
        }
    }
    assert_eq!((repaired, now), (vec![Slot(53)], replica.core.now));
}

#[test]
fn a_snapshot_that_was_fetched_is_installed_if_it_is_newer_than_what_is_decided() {
    for (slot, installed) in [(3, false), (4, true)] {
        let mut replica = replica(Recovered {
            decided: Slot(3),
            claimed: Slot(3),
            ..recovered(Vec::new(), 1)
        });
        replica.on_snapshot_ready(snapshot(slot, 1));
        let mut installs = false;
        while let Some(output) = replica.poll_output() {
            installs |= matches!(output, Output::Install(_));
        }
        assert_eq!(installs, installed, "of slot {slot}");
        assert_eq!(replica.status().snapshot, Some(snapshot(slot, 1)));
    }
}
