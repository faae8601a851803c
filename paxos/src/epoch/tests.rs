//! The step from one membership to the next, and what a node makes of its own removal.

use super::*;
use crate::interface::{Config, Timing};
use crate::testing::{OWN, ballot, commands, membership, recovered, snapshot, stop};
use crate::types::Recovered;

/// Node 1 in the second epoch of three members, with so much decided.
fn second(decided: u64) -> Recovered {
    Recovered {
        decided: Slot(decided),
        claimed: Slot(decided),
        ..Recovered::fresh(membership(2))
    }
}

fn replica(recovered: Recovered) -> Replica {
    let config = Config {
        node: OWN,
        seeds: vec![NodeId(2)],
        timing: Timing::default(),
        seed: 1,
    };
    Replica::new(config, recovered, Time(0)).expect("sound")
}

fn outputs(replica: &mut Replica) -> Vec<Output> {
    std::iter::from_fn(|| replica.core.pop_output()).collect()
}

fn of_epoch(slot: u64, epoch: u32) -> SnapshotMeta {
    SnapshotMeta {
        membership: membership(epoch),
        ..snapshot(slot, 1)
    }
}

#[test]
fn a_snapshot_brings_its_epoch_with_it() {
    for (epoch, entered) in [(2, false), (3, true)] {
        let mut replica = replica(second(3));
        replica.install(of_epoch(9, epoch));
        let said = outputs(&mut replica);
        assert!(
            said.iter()
                .any(|output| matches!(output, Output::Install(_)))
        );
        let told = said
            .iter()
            .any(|output| matches!(output, Output::Membership(_)));
        assert_eq!(told, entered);
        assert_eq!(replica.status().membership.epoch, Epoch(epoch));
    }
}

#[test]
fn a_snapshot_of_an_earlier_epoch_is_only_for_a_disk_that_lost_something() {
    let mut whole = replica(second(3));
    whole.install(of_epoch(9, 1));
    assert_eq!(outputs(&mut whole), []);
    let mut damaged = replica(Recovered {
        claimed: Slot(20),
        ..second(3)
    });
    damaged.install(of_epoch(9, 1));
    assert!(!outputs(&mut damaged).is_empty());
    assert_eq!(
        damaged.status().membership.epoch,
        Epoch(2),
        "epochs only rise"
    );
}

/// The second epoch without node 1, of nodes 2 to 4 and highest number 4.
fn without_own() -> Membership {
    Membership {
        members: [2, 3, 4].map(NodeId).to_vec(),
        newest: NodeId(4),
        ..membership(2)
    }
}

fn retired(replica: &mut Replica) -> bool {
    outputs(replica).contains(&Output::Retired)
}

#[test]
fn a_node_that_was_removed_is_needed_until_a_quorum_of_the_others_knows() {
    let mut replica = replica(recovered(commands(1..=3, 1), 1));
    replica.enter_epoch(without_own());
    assert!(outputs(&mut replica).contains(&Output::Removed(Epoch(2))));
    replica.on_removed(NodeId(2), Epoch(2));
    replica.on_removed(NodeId(2), Epoch(2));
    replica.on_removed(NodeId(9), Epoch(2));
    assert!(!retired(&mut replica), "one of three, and a stranger");
    replica.on_removed(NodeId(4), Epoch(2));
    assert!(retired(&mut replica));
    replica.on_removed(NodeId(3), Epoch(2));
    assert!(!retired(&mut replica), "once");
}

#[test]
fn a_node_that_was_removed_is_so_after_a_restart_too() {
    let mut replica = replica(Recovered::fresh(without_own()));
    assert!(outputs(&mut replica).contains(&Output::Removed(Epoch(2))));
    assert!(replica.removal.is_some());
}

#[test]
fn a_node_that_was_away_when_it_was_removed_ends_when_a_member_or_a_seed_says_so() {
    let away = || replica(recovered(commands(1..=3, 1), 1));
    for (from, epoch, ends) in [(3, 2, true), (2, 2, true), (9, 2, false), (3, 1, false)] {
        let mut replica = away();
        replica.on_removed(NodeId(from), Epoch(epoch));
        assert_eq!(retired(&mut replica), ends, "node {from}, epoch {epoch}");
    }
    let mut learner = Membership::none();
    learner.context = Bytes::new();
    let mut unknown = replica(Recovered::fresh(learner));
    unknown.on_removed(NodeId(2), Epoch(2));
    assert!(retired(&mut unknown), "a seed is believed, too");
}

#[test]
fn a_node_that_accepted_the_end_of_its_epoch_asks_about_it_when_it_is_said_to_be_removed() {
    let mut ending = commands(1..=3, 1);
    ending.push(stop(4, 1));
    let ended = recovered(ending, 1);
    // What cannot be read any more may be such an end.
    let damaged = Recovered {
        claimed: Slot(4),
        ..recovered(commands(1..=3, 1), 1)
    };
    for last in [ended, damaged] {
        let mut replica = replica(last);
        replica.on_removed(NodeId(3), Epoch(2));
        let said = outputs(&mut replica);
        assert!(!said.contains(&Output::Removed(Epoch(2))), "{said:?}");
        let asked = said.iter().any(|output| {
            matches!(output, Output::Send { to: NodeId(3), message }
                if matches!(message.body, Body::Learn(_)))
        });
        assert!(asked, "{said:?}");
        // Voters of a later epoch have all that precedes them.
        replica.on_removed(NodeId(3), Epoch(3));
        assert!(retired(&mut replica));
    }
}

#[test]
fn entering_an_epoch_gives_up_what_was_open_and_promises_the_lowest_ballot() {
    let mut replica = replica(recovered(commands(1..=3, 1), 1));
    assert_eq!(replica.status().promised, ballot(1));
    replica.enter_epoch(membership(2));
    let status = replica.status();
    assert_eq!(status.promised, crate::types::Ballot::floor(Epoch(2)));
    assert_eq!((status.end, status.membership), (Slot::NONE, membership(2)));
    assert!(!outputs(&mut replica).contains(&Output::Removed(Epoch(2))));
}
