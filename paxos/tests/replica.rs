//! Replicas by their public interface, one behaviour at a time.

#![allow(
    clippy::unwrap_used,
    reason = "a set-up that fails is a test that fails"
)]

mod cell;

use bytes::Bytes;
use cell::Cell;
use paxos::limits::{MESSAGE_BYTES_MAX, PAYLOAD_BYTES_MAX, WINDOW_BYTES_MAX, WINDOW_SLOTS_MAX};
use paxos::message::{Body, Entries, Prepare, Promise};
use paxos::{
    Ballot, Config, ConfigError, Entry, EntryKind, Epoch, Input, Membership, MembershipError,
    Message, NodeId, ProposeError, Quorums, Recovered, Replica, Role, Slot, Time, Timing,
};

#[test]
fn a_proposal_is_applied_everywhere_once() {
    let (mut cell, leader) = Cell::with_leader();
    cell.propose(leader, b"one");
    cell.propose(leader, b"two");
    cell.run_for(200_000);
    for node in &cell.nodes {
        assert_eq!(node.payloads(), [b"one", b"two"]);
    }
}

#[test]
fn a_proposal_needs_one_round_trip_and_one_write() {
    let (mut cell, leader) = Cell::with_leader();
    let before = cell.sent.len();
    cell.propose(leader, b"one");
    assert_eq!(cell.nodes[leader].payloads(), [b"one"], "without any timer");
    assert_eq!(
        cell.sent.len() - before,
        4,
        "an accept to each follower, and its answer"
    );
}

#[test]
fn proposals_made_during_a_write_share_the_next_one() {
    let (mut cell, leader) = Cell::with_leader();
    cell.nodes[leader].stuck = true;
    cell.propose(leader, b"first");
    assert!(!cell.nodes[leader].replica.idle_for_proposals());
    for _ in 0..10 {
        cell.propose(leader, b"later");
    }
    cell.nodes[leader].stuck = false;
    cell.settle();
    assert!(cell.nodes[leader].replica.idle_for_proposals());
    assert_eq!(cell.nodes[leader].payloads().len(), 11);
}

#[test]
fn a_follower_refuses_proposals_and_names_the_leader() {
    let (mut cell, leader) = Cell::with_leader();
    cell.run_for(100_000);
    let follower = (leader + 1) % 3;
    let now = cell.now;
    let known = Some(NodeId(leader as u64 + 1));
    let refused = cell.nodes[follower]
        .replica
        .propose(now, Bytes::from_static(b"x"));
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: known }));
    assert_eq!(
        cell.nodes[follower]
            .replica
            .confirm(now)
            .unwrap_err()
            .leader,
        known
    );
}

#[test]
fn a_full_window_is_busy_and_empties_when_the_quorum_is_back() {
    let (mut cell, leader) = Cell::with_leader();
    cell.isolate(leader);
    let now = cell.now;
    for _ in 0..WINDOW_SLOTS_MAX {
        cell.nodes[leader]
            .replica
            .propose(now, Bytes::from_static(b"x"))
            .unwrap();
    }
    let refused = cell.nodes[leader]
        .replica
        .propose(now, Bytes::from_static(b"x"));
    assert_eq!(refused, Err(ProposeError::Busy));
    cell.cut.clear();
    cell.settle();
    cell.run_for(100_000);
    assert_eq!(cell.nodes[leader].payloads().len() as u64, WINDOW_SLOTS_MAX);
    cell.propose(leader, b"room again");
}

#[test]
fn the_window_is_bounded_in_bytes_too() {
    let (mut cell, leader) = Cell::with_leader();
    cell.isolate(leader);
    let now = cell.now;
    let large = Bytes::from(vec![1; PAYLOAD_BYTES_MAX]);
    let mut taken = 0;
    while cell.nodes[leader]
        .replica
        .propose(now, large.clone())
        .is_ok()
    {
        taken += large.len();
    }
    assert!(taken <= WINDOW_BYTES_MAX && taken + 2 * PAYLOAD_BYTES_MAX > WINDOW_BYTES_MAX);
}

#[test]
fn a_payload_that_is_too_large_is_refused_and_the_largest_is_not() {
    let (mut cell, leader) = Cell::with_leader();
    let now = cell.now;
    let bytes = PAYLOAD_BYTES_MAX + 1;
    let refused = cell.nodes[leader]
        .replica
        .propose(now, Bytes::from(vec![1; bytes]));
    assert_eq!(refused, Err(ProposeError::TooLarge { bytes }));
    cell.propose(leader, &vec![1; PAYLOAD_BYTES_MAX]);
    assert_eq!(cell.nodes[leader].payloads().len(), 1);
    for (_, _, message) in &cell.sent {
        let mut encoded = Vec::new();
        message.encode(&mut encoded);
        assert!(encoded.len() <= MESSAGE_BYTES_MAX);
    }
}

#[test]
fn a_confirm_is_given_by_a_quorum_without_any_disk() {
    let (mut cell, leader) = Cell::with_leader();
    cell.nodes.iter_mut().for_each(|node| node.stuck = true);
    let now = cell.now;
    let number = cell.nodes[leader].replica.confirm(now).unwrap();
    cell.settle();
    assert!(cell.nodes[leader].confirmed >= number);
}

#[test]
fn a_leader_that_is_cut_off_confirms_nothing_and_steps_down() {
    let (mut cell, leader) = Cell::with_leader();
    cell.isolate(leader);
    let now = cell.now;
    let number = cell.nodes[leader].replica.confirm(now).unwrap();
    cell.run_until(|cell| cell.leader().is_some_and(|other| other != leader));
    assert!(cell.nodes[leader].confirmed < number);
    assert!(!matches!(
        cell.nodes[leader].replica.role(),
        Role::Leader { .. }
    ));
}

#[test]
fn a_leader_whose_disk_is_stuck_steps_down_and_another_takes_over() {
    let (mut cell, leader) = Cell::with_leader();
    cell.nodes[leader].stuck = true;
    cell.propose(leader, b"x");
    cell.run_until(|cell| cell.leader().is_some_and(|other| other != leader));
    let other = cell.leader().unwrap();
    assert_eq!(cell.nodes[other].payloads(), [b"x"], "the followers had it");
}

#[test]
fn what_a_deposed_leader_had_alone_is_replaced() {
    let (mut cell, leader) = Cell::with_leader();
    cell.isolate(leader);
    cell.propose(leader, b"never decided");
    cell.run_until(|cell| cell.leader().is_some_and(|other| other != leader));
    let other = cell.leader().unwrap();
    cell.propose(other, b"decided");
    cell.cut.clear();
    cell.run_for(1_000_000);
    for node in &cell.nodes {
        assert_eq!(node.payloads(), [b"decided"]);
    }
}

#[test]
fn a_follower_that_was_away_catches_up() {
    let (mut cell, leader) = Cell::with_leader();
    let away = (leader + 1) % 3;
    cell.isolate(away);
    for number in 0..3000_u32 {
        cell.propose(leader, &number.to_le_bytes());
    }
    cell.cut.clear();
    cell.run_until(|cell| cell.nodes[away].payloads().len() == 3000);
}

#[test]
fn a_node_that_cannot_send_does_not_disturb_the_others() {
    let (mut cell, leader) = Cell::with_leader();
    let mute = (leader + 1) % 3;
    cell.cut.extend((1..=3).map(|to| (mute as u64 + 1, to)));
    cell.run_for(5_000_000);
    assert_eq!(cell.leader(), Some(leader));
}

/// It once took the answers of its first round, when nobody was happy, for those of the present.
#[test]
fn a_node_that_cannot_hear_does_not_disturb_the_others() {
    let (mut cell, leader) = Cell::with_leader();
    let deaf = (leader + 1) % 3;
    cell.cut.extend((1..=3).map(|from| (from, deaf as u64 + 1)));
    cell.run_for(5_000_000);
    assert_eq!(cell.leader(), Some(leader));
}

#[test]
fn losing_one_link_between_followers_and_leader_keeps_a_leader_that_reaches_a_quorum() {
    let (mut cell, leader) = Cell::with_leader();
    let cut_off = (leader + 1) % 3;
    let (one, two) = (leader as u64 + 1, cut_off as u64 + 1);
    cell.cut.extend([(one, two), (two, one)]);
    cell.run_for(5_000_000);
    assert_eq!(cell.leader(), Some(leader), "the third node is content");
}

#[test]
fn after_a_standstill_of_the_process_a_leader_reads_its_answers_before_it_gives_up() {
    let (mut cell, leader) = Cell::with_leader();
    cell.now = cell.now.plus_micros(10_000_000);
    cell.input(leader, Input::Tick);
    assert!(matches!(
        cell.nodes[leader].replica.role(),
        Role::Leader { .. }
    ));
}

#[test]
fn a_restarted_node_campaigns_with_a_higher_ballot() {
    let (mut cell, _) = Cell::with_leader();
    let before = (0..3)
        .map(|node| cell.nodes[node].replica.status().promised)
        .max()
        .unwrap();
    (0..3).for_each(|node| cell.restart(node));
    cell.run_until(|cell| cell.leader().is_some());
    let leader = cell.leader().unwrap();
    assert!(cell.nodes[leader].replica.status().promised > before);
}

#[test]
fn everything_decided_survives_a_restart_of_all() {
    let (mut cell, leader) = Cell::with_leader();
    let slot = cell.propose(leader, b"x");
    (0..3).for_each(|node| cell.restart(node));
    cell.run_until(|cell| cell.leader().is_some());
    cell.run_for(200_000);
    assert!(
        cell.nodes
            .iter()
            .all(|node| node.replica.status().decided >= slot)
    );
    let applied = cell
        .nodes
        .iter()
        .flat_map(cell::Node::payloads)
        .filter(|p| p == b"x");
    assert!(applied.count() >= 1);
}

/// Two answers to one question once doubled the questions, and so on: a storm.
#[test]
fn a_repeated_answer_with_entries_asks_for_no_more() {
    let (mut candidate, ballot) = lone_candidate();
    let origin = Ballot {
        epoch: Epoch::FIRST,
        round: 1,
        node: NodeId(2),
    };
    let promise = Promise {
        ballot,
        accepted: origin,
        end: Slot(2),
        decided: Slot::NONE,
    };
    let fetches = receive(&mut candidate, Body::Promise(promise));
    assert_eq!(fetches, 1);
    let entry = Entry::new(
        Slot(1),
        origin,
        EntryKind::Command,
        Bytes::from_static(b"x"),
    );
    let answer = Body::Entries(Entries {
        ballot,
        entries: vec![entry],
    });
    assert_eq!(
        receive(&mut candidate, answer.clone()),
        1,
        "the second entry"
    );
    assert_eq!(receive(&mut candidate, answer), 0);
}

#[test]
fn messages_of_strangers_and_of_other_epochs_are_dropped() {
    let (mut cell, leader) = Cell::with_leader();
    let before = cell.nodes[leader].replica.status();
    let prepare = |epoch, node| {
        let (round, node) = (99, NodeId(node));
        let ballot = Ballot { epoch, round, node };
        Message {
            epoch,
            body: Body::Prepare(Prepare { ballot }),
        }
    };
    let peer = (leader as u64 + 1) % 3 + 1;
    let bad = [
        (NodeId(9), prepare(Epoch::FIRST, 9)),
        (
            NodeId(leader as u64 + 1),
            prepare(Epoch::FIRST, leader as u64 + 1),
        ),
        (NodeId(peer), prepare(Epoch(2), peer)),
        (NodeId(peer), prepare(Epoch::FIRST, 9)),
    ];
    for (from, message) in bad {
        cell.input(leader, Input::Message { from, message });
    }
    assert_eq!(cell.nodes[leader].replica.status(), before);
}

/// Every message of a busy run, with every byte changed in some way, to every node.
#[test]
fn no_message_panics_a_replica() {
    let (mut cell, leader) = Cell::with_leader();
    cell.propose(leader, b"x");
    cell.isolate(leader);
    cell.run_until(|cell| cell.leader().is_some_and(|other| other != leader));
    cell.cut.clear();
    cell.run_for(300_000);
    let mut kinds: Vec<(NodeId, NodeId, Message)> = cell.sent.clone();
    kinds.dedup_by_key(|(from, to, message)| (*from, *to, std::mem::discriminant(&message.body)));
    let mut tried = 0;
    for (from, to, message) in kinds.into_iter().take(150) {
        let mut encoded = Vec::new();
        message.encode(&mut encoded);
        for position in 0..encoded.len() {
            for change in [1, 0x7f, 0x80, 0xff] {
                let mut changed = encoded.clone();
                changed[position] ^= change;
                if let Ok(message) = Message::decode(&changed) {
                    cell.nodes[to.0 as usize - 1]
                        .replica
                        .handle(cell.now, Input::Message { from, message });
                    tried += 1;
                }
            }
        }
        cell.settle();
    }
    assert!(tried > 1000, "{tried}");
}

#[test]
fn configurations_that_contradict_themselves_are_refused() {
    let refused = |config: Config, membership: Membership| {
        Replica::new(config, Recovered::fresh(membership), Time(0)).unwrap_err()
    };
    let three = membership(3);
    let apart = Membership {
        quorums: Quorums {
            prepare: 1,
            accept: 2,
        },
        ..three.clone()
    };
    assert!(matches!(
        refused(config(1), apart),
        ConfigError::Membership(MembershipError::Apart { .. })
    ));
    assert_eq!(refused(config(0), three.clone()), ConfigError::NodeZero);
    let mut hasty = config(1);
    hasty.timing.leader_timeout_micros = hasty.timing.heartbeat_micros;
    assert_eq!(refused(hasty, three), ConfigError::Timing);
}

#[test]
fn a_store_that_contradicts_itself_is_refused() {
    let mut gap = Recovered::fresh(membership(3));
    let entry = Entry::new(Slot(2), Ballot::NONE, EntryKind::Command, Bytes::new());
    gap.entries.push(entry);
    let mut lowered = Recovered::fresh(membership(3));
    lowered.accepted = Ballot {
        epoch: Epoch::FIRST,
        round: 1,
        node: NodeId(1),
    };
    lowered.promised = Ballot::floor(Epoch::FIRST);
    for recovered in [gap, lowered] {
        let refused = Replica::new(config(1), recovered, Time(0)).unwrap_err();
        assert!(
            matches!(refused, ConfigError::Inconsistent { .. }),
            "{refused}"
        );
    }
}

#[test]
fn a_cell_of_one_elects_itself_and_decides() {
    let recovered = Recovered::fresh(membership(1));
    let mut replica = Replica::new(config(1), recovered, Time(0)).unwrap();
    let mut applied = 0;
    let mut proposed = false;
    let mut now = Time(0);
    while applied < 2 {
        now = replica.next_timer().max(now);
        replica.handle(now, Input::Tick);
        if !proposed && matches!(replica.role(), Role::Leader { .. }) {
            replica.propose(now, Bytes::from_static(b"x")).unwrap();
            proposed = true;
        }
        while let Some(output) = replica.poll_output() {
            match output {
                paxos::Output::Persist(batch) => {
                    replica.handle(now, Input::Persisted(batch.id));
                }
                paxos::Output::Apply(entries) => applied += entries.len(),
                _ => {}
            }
        }
    }
}

fn membership(nodes: u64) -> Membership {
    Membership::first((1..=nodes).map(NodeId)).unwrap()
}

fn config(node: u64) -> Config {
    Config {
        node: NodeId(node),
        seeds: Vec::new(),
        timing: Timing::default(),
        seed: 1,
    }
}

/// Node 1, made a candidate by node 2, which answers its questions.
fn lone_candidate() -> (Replica, Ballot) {
    let recovered = Recovered::fresh(membership(3));
    let mut replica = Replica::new(config(1), recovered, Time(0)).expect("sound");
    let mut now = Time(0);
    let from = NodeId(2);
    loop {
        now = replica.next_timer().max(now);
        replica.handle(now, Input::Tick);
        while let Some(output) = replica.poll_output() {
            match output {
                paxos::Output::Send { to, message } if to == from => match message.body {
                    Body::Ping(ping) => {
                        let pong = paxos::message::Pong {
                            round: ping.round,
                            promised: Ballot {
                                epoch: Epoch::FIRST,
                                round: 5,
                                node: from,
                            },
                            accepted: Ballot::NONE,
                            end: Slot::NONE,
                            happy: false,
                            can_vote: true,
                        };
                        let message = Message {
                            epoch: Epoch::FIRST,
                            body: Body::Pong(pong),
                        };
                        replica.handle(now, Input::Message { from, message });
                    }
                    Body::Prepare(prepare) => return (replica, prepare.ballot),
                    _ => {}
                },
                paxos::Output::Persist(batch) => {
                    replica.handle(now, Input::Persisted(batch.id));
                }
                _ => {}
            }
        }
    }
}

/// Hands a message of node 2 to a replica; how many questions for entries that caused.
fn receive(replica: &mut Replica, body: Body) -> usize {
    let message = Message {
        epoch: Epoch::FIRST,
        body,
    };
    replica.handle(
        Time(0),
        Input::Message {
            from: NodeId(2),
            message,
        },
    );
    let mut fetches = 0;
    while let Some(output) = replica.poll_output() {
        let paxos::Output::Send { message, .. } = output else {
            continue;
        };
        fetches += usize::from(matches!(message.body, Body::Fetch(_)));
    }
    fetches
}
