//! A replica as a whole: which messages it lets through to its parts, and how it changes roles.
//! `cutting`: when its log may be cut.

mod cutting;

use bytes::Bytes;

use super::*;
use crate::interface::Timing;
use crate::membership::Membership;
use crate::message::{Accept, Accepted, Behind, Learned, Offer, Promise, Standing};
use crate::testing::{
    OWN, ballot, ballot_of, commands, membership, recovered, snapshot, stop, timing,
};
use crate::types::{Entry, EntryKind, Epoch};

fn replica(recovered: Recovered) -> Replica {
    let config = Config {
        node: OWN,
        seeds: vec![NodeId(2), NodeId(3)],
        timing: Timing::default(),
        seed: 1,
    };
    Replica::new(config, recovered, Time(0)).expect("sound")
}

/// Gives a replica a message of node 2 in the first epoch; what it sends then.
fn gets(replica: &mut Replica, body: Body) -> Vec<(u64, Body)> {
    gets_from(replica, 2, Epoch::FIRST, body)
}

fn gets_from(replica: &mut Replica, from: u64, epoch: Epoch, body: Body) -> Vec<(u64, Body)> {
    let message = Message { epoch, body };
    let from = NodeId(from);
    replica.handle(replica.core.now, Input::Message { from, message });
    said(replica)
}

/// Carries out what a replica gives out: writes are done at once, and what it sends is told, but
/// for its questions whether anybody has a leader.
fn said(replica: &mut Replica) -> Vec<(u64, Body)> {
    let mut said = Vec::new();
    while let Some(output) = replica.poll_output() {
        match output {
            Output::Send { to, message } if !matches!(message.body, Body::Ping(_)) => {
                said.push((to.0, message.body));
            }
            Output::Persist(batch) => {
                replica.handle(replica.core.now, Input::Persisted(batch.id));
            }
            _ => {}
        }
    }
    said
}

fn tick(replica: &mut Replica, micros: u64) -> Vec<(u64, Body)> {
    replica.handle(replica.core.now.plus_micros(micros), Input::Tick);
    said(replica)
}

fn prepare(round: u64) -> Body {
    let ballot = ballot(round);
    Body::Prepare(Prepare { ballot })
}

fn heartbeat(round: u64) -> Body {
    Body::Accept(Accept {
        ballot: ballot(round),
        first: Slot(1),
        entries: Vec::new(),
        decided: Slot::NONE,
        confirm: ConfirmNumber(0),
    })
}

/// A replica that leads under the ballot 9.1, with its `NewLeader` decided.
fn leading(entries: Vec<Entry>) -> Replica {
    let mut replica = campaigning(entries);
    let end = replica.core.acceptor.log().end();
    let promise = Promise {
        ballot: ballot_of(9, 1),
        accepted: ballot(1),
        end,
        decided: Slot::NONE,
    };
    gets(&mut replica, Body::Promise(promise));
    accept(&mut replica, 2, end.next());
    assert!(matches!(
        replica.role(),
        Role::Leader {
            established: true,
            ..
        }
    ));
    replica
}

/// A replica that campaigns with the ballot 9.1 and has asked the others.
fn campaigning(entries: Vec<Entry>) -> Replica {
    let mut replica = replica(recovered(entries, 1));
    replica.election.saw_ballot(ballot(8));
    replica.campaign();
    said(&mut replica);
    assert_eq!(replica.role(), Role::Candidate);
    replica
}

/// A follower of a leading replica says that it has everything up to this slot.
fn accept(replica: &mut Replica, node: u64, slot: Slot) -> Vec<(u64, Body)> {
    let standing = Standing::Synced {
        persisted: slot,
        received: slot,
    };
    let accepted = Accepted {
        ballot: ballot_of(9, 1),
        standing,
        gap: false,
        confirm: ConfirmNumber(0),
    };
    gets_from(replica, node, Epoch::FIRST, Body::Accepted(accepted))
}

#[test]
fn a_higher_ballot_is_promised_and_a_lower_one_is_told_so() {
    let mut replica = replica(recovered(commands(1..=3, 1), 1));
    let promise = Body::Promise(Promise {
        ballot: ballot(5),
        accepted: ballot(1),
        end: Slot(3),
        decided: Slot::NONE,
    });
    assert_eq!(gets(&mut replica, prepare(5)), [(2, promise.clone())]);
    assert_eq!(
        gets(&mut replica, prepare(5)),
        [(2, promise)],
        "if it was lost"
    );
    let (ballot, promised) = (ballot(4), ballot(5));
    let reject = Body::Reject(Reject { ballot, promised });
    assert_eq!(gets(&mut replica, prepare(4)), [(2, reject.clone())]);
    assert_eq!(gets(&mut replica, heartbeat(4)), [(2, reject)]);
    assert_eq!(replica.status().promised, promised);
    assert_eq!(
        replica.election.next_ballot(&replica.core),
        Some(ballot_of(6, 1))
    );
}

#[test]
fn a_candidate_that_leads_already_is_not_promised_again() {
    let mut replica = replica(recovered(Vec::new(), 1));
    assert_eq!(gets(&mut replica, prepare(1)), []);
}

#[test]
fn a_disk_that_lost_something_promises_nothing() {
    let mut replica = replica(Recovered {
        claimed: Slot(4),
        ..recovered(commands(1..=3, 1), 1)
    });
    assert!(
        gets(&mut replica, prepare(5))
            .iter()
            .all(|(_, body)| !matches!(body, Body::Promise(_)))
    );
    assert_eq!(replica.status().promised, ballot(1));
    assert_eq!(replica.status().damaged, Some(Slot(4)));
}

#[test]
fn whoever_leads_or_campaigns_gives_way_to_a_higher_ballot() {
    for mut replica in [leading(Vec::new()), campaigning(Vec::new())] {
        gets(&mut replica, heartbeat(8));
        assert!(
            !matches!(replica.role(), Role::Follower { .. }),
            "that is lower"
        );
        gets(&mut replica, heartbeat(10));
        let leader = Some(NodeId(2));
        assert_eq!(replica.role(), Role::Follower { leader });
    }
}

#[test]
fn a_refusal_ends_the_leadership_or_the_campaign_that_it_is_of() {
    let reject = |round: u64| {
        let (ballot, promised) = (ballot_of(round, 1), ballot(20));
        Body::Reject(Reject { ballot, promised })
    };
    for mut replica in [leading(Vec::new()), campaigning(Vec::new())] {
        let before = replica.role();
        gets(&mut replica, reject(8));
        assert_eq!(replica.role(), before, "it is of an older one");
        gets(&mut replica, reject(9));
        assert_eq!(replica.role(), Role::Follower { leader: None });
        assert_eq!(
            replica.election.next_ballot(&replica.core),
            Some(ballot_of(21, 1))
        );
    }
}

#[test]
fn a_log_is_given_to_a_candidate_only_as_it_was_described_to_it() {
    let fetch = |round: u64, accepted: u64, first: u64, last: u64| {
        Body::Fetch(Fetch {
            ballot: ballot(round),
            accepted: ballot(accepted),
            first: Slot(first),
            last: Slot(last),
        })
    };
    let entries = |slots| {
        let (ballot, entries) = (ballot(5), commands(slots, 1));
        [(2, Body::Entries(Entries { ballot, entries }))]
    };
    let mut replica = replica(recovered(commands(1..=3, 1), 1));
    gets(&mut replica, prepare(5));
    assert_eq!(gets(&mut replica, fetch(5, 1, 2, 3)), entries(2..=3));
    assert_eq!(gets(&mut replica, fetch(5, 1, 3, 9)), entries(3..=3));
    assert_eq!(gets(&mut replica, fetch(5, 1, 1, 2)), entries(1..=2));
    assert_eq!(gets(&mut replica, fetch(5, 1, 4, 9)), []);
    assert_eq!(
        gets(&mut replica, fetch(4, 1, 1, 3)),
        [],
        "of another campaign"
    );
    assert_eq!(gets(&mut replica, fetch(5, 2, 1, 3)), [], "of another log");
}

#[test]
fn a_ping_is_answered_with_how_things_stand() {
    let pong = |replica: &mut Replica| {
        let said = gets(replica, Body::Ping(Ping { round: 7 }));
        let mut pongs = said.into_iter().filter_map(|(to, body)| match body {
            Body::Pong(pong) if to == 2 => Some(pong),
            _ => None,
        });
        let pong = pongs.next().expect("an answer");
        assert_eq!(pong.round, 7);
        pong
    };
    let mut follower = replica(recovered(commands(1..=3, 1), 1));
    let unhappy = pong(&mut follower);
    assert_eq!((unhappy.promised, unhappy.accepted), (ballot(1), ballot(1)));
    assert_eq!(
        (unhappy.end, unhappy.happy, unhappy.can_vote),
        (Slot(3), false, true)
    );
    gets(&mut follower, heartbeat(1));
    assert!(pong(&mut follower).happy);
    assert!(pong(&mut campaigning(Vec::new())).happy);
    assert!(pong(&mut leading(Vec::new())).happy);
    let mut damaged = replica(Recovered {
        claimed: Slot(4),
        ..recovered(commands(1..=3, 1), 1)
    });
    assert!(!pong(&mut damaged).can_vote);
}

#[test]
fn who_is_of_an_earlier_epoch_is_told_and_who_is_of_a_later_one_is_asked() {
    let second = || {
        let next = Membership {
            members: vec![NodeId(1), NodeId(2)],
            ..membership(2)
        };
        replica(Recovered::fresh(next))
    };
    let (mut member, epoch) = (second(), Epoch::FIRST);
    let decided = Slot::NONE;
    let behind = Body::Behind(Behind { decided });
    assert_eq!(gets_from(&mut member, 2, epoch, prepare(9)), [(2, behind)]);
    let theirs = |node: u64, epoch: Epoch| {
        let (round, node) = (9, NodeId(node));
        let ballot = Ballot { epoch, round, node };
        Body::Prepare(Prepare { ballot })
    };
    let removed = gets_from(&mut member, 3, epoch, theirs(3, epoch));
    assert_eq!(removed, [(3, Body::Removed)]);
    assert_eq!(
        gets_from(&mut member, 4, epoch, theirs(4, epoch)),
        [],
        "a stranger"
    );
    let asked = gets_from(&mut member, 2, Epoch(3), theirs(2, Epoch(3)));
    assert!(matches!(asked[..], [(2, Body::Learn(_))]), "{asked:?}");
    assert_eq!(member.status().promised, Ballot::floor(Epoch(2)));
    let present = gets_from(&mut member, 3, Epoch(2), theirs(3, Epoch(2)));
    assert_eq!(present, [], "it has no vote here");
}

#[test]
fn a_hint_is_followed_only_if_it_promises_more_than_is_decided_here() {
    let behind = |decided: u64| {
        let decided = Slot(decided);
        Body::Behind(Behind { decided })
    };
    let mut replica = replica(Recovered {
        decided: Slot(3),
        claimed: Slot(3),
        ..recovered(Vec::new(), 1)
    });
    assert_eq!(gets(&mut replica, behind(3)), []);
    assert!(matches!(
        gets(&mut replica, behind(4))[..],
        [(2, Body::Learn(_))]
    ));
}

fn learned(entries: Vec<Entry>) -> Body {
    let decided = entries.last().expect("some").slot;
    Body::Learned(Learned { entries, decided })
}

#[test]
fn a_leader_that_learns_what_a_later_one_decided_is_none_any_more() {
    for (origin, leads) in [
        (ballot(8), true),
        (ballot_of(9, 1), true),
        (ballot(10), false),
    ] {
        let mut replica = leading(Vec::new());
        let decided = Slot(9);
        gets(&mut replica, Body::Behind(Behind { decided }));
        let entry = Entry::new(Slot(2), origin, EntryKind::Command, Bytes::new());
        gets(&mut replica, learned(vec![entry]));
        assert_eq!(matches!(replica.role(), Role::Leader { .. }), leads);
    }
}

#[test]
fn a_candidate_for_whom_a_part_of_the_log_is_in_no_log_any_more_leaves_the_lead_to_others() {
    let offer = |replica: &mut Replica, from: u64| {
        let meta = snapshot(5, 1);
        gets_from(replica, from, Epoch::FIRST, Body::Offer(Offer { meta }))
    };
    let mut replica = campaigning(Vec::new());
    let promise = Promise {
        ballot: ballot_of(9, 1),
        accepted: ballot(2),
        end: Slot(9),
        decided: Slot(7),
    };
    gets(&mut replica, Body::Promise(promise));
    assert_eq!(offer(&mut replica, 3), []);
    assert_eq!(replica.role(), Role::Candidate, "that is another's log");
    let asked = offer(&mut replica, 2);
    assert_eq!(replica.role(), Role::Follower { leader: None });
    assert!(
        asked
            .iter()
            .any(|(to, body)| *to == 2 && matches!(body, Body::Learn(_)))
    );
}

#[test]
fn a_candidate_learns_what_is_decided_of_the_log_that_it_adopts_and_leads() {
    let mut replica = campaigning(Vec::new());
    let promise = Promise {
        ballot: ballot_of(9, 1),
        accepted: ballot(2),
        end: Slot(2),
        decided: Slot(2),
    };
    gets(&mut replica, Body::Promise(promise));
    gets(&mut replica, learned(commands(1..=2, 2)));
    assert!(matches!(
        replica.role(),
        Role::Leader {
            established: false,
            ..
        }
    ));
}

#[test]
fn only_followers_without_a_vote_are_learners() {
    assert_eq!(
        replica(Recovered::fresh(Membership::none())).role(),
        Role::Learner
    );
    let follower = replica(recovered(Vec::new(), 1));
    assert_eq!(follower.role(), Role::Follower { leader: None });
    let mut learner = replica(Recovered::fresh(Membership::none()));
    for _ in 0..20 {
        let asked = tick(&mut learner, timing().leader_timeout_micros);
        let only_learn = asked.iter().all(|(_, body)| matches!(body, Body::Learn(_)));
        assert!(only_learn && !asked.is_empty(), "{asked:?}");
    }
}

#[test]
fn who_is_no_member_of_a_cell_that_it_knows_only_learns() {
    let others = Membership::first((2..=4).map(NodeId)).expect("three nodes");
    let mut replica = replica(Recovered::fresh(others));
    let mut questions = 0;
    for _ in 0..5 {
        let later = replica.core.now.plus_micros(timing().leader_timeout_micros);
        replica.handle(later, Input::Tick);
        while let Some(output) = replica.poll_output() {
            if let Output::Send { message, .. } = output {
                assert!(matches!(message.body, Body::Learn(_)), "{message:?}");
                questions += 1;
            }
        }
    }
    assert!(questions > 0);
}

#[test]
fn a_timer_is_due_when_a_role_or_the_learning_has_something_to_do() {
    let mut follower = replica(recovered(Vec::new(), 1));
    gets(&mut follower, heartbeat(1));
    let timeout = timing().leader_timeout_micros;
    assert_eq!(follower.next_timer(), Time(timeout + 1));
    tick(&mut follower, 100);
    let decided = Slot(9);
    gets(&mut follower, Body::Behind(Behind { decided }));
    gets(&mut follower, heartbeat(1));
    assert_eq!(
        follower.next_timer(),
        Time(timeout + 100),
        "an answer is missing"
    );
    let heartbeat = timing().heartbeat_micros;
    assert_eq!(campaigning(Vec::new()).next_timer(), Time(heartbeat));
    assert_eq!(leading(Vec::new()).next_timer(), Time(heartbeat));
    let learner = replica(Recovered::fresh(Membership::none()));
    assert_eq!(learner.next_timer(), Time(0));
}

#[test]
fn silence_counts_only_while_the_process_runs() {
    let silent = |replica: &Replica| replica.status().peers[0].silent_micros;
    let half = timing().leader_timeout_micros / 2;
    let mut replica = leading(Vec::new());
    replica.handle(Time(half), Input::Tick);
    assert_eq!(silent(&replica), half, "an ordinary step");
    replica.handle(Time(half + half + 1), Input::Tick);
    assert_eq!(silent(&replica), 0, "a standstill");
    replica.handle(Time(5), Input::Tick);
    assert_eq!(
        replica.core.now,
        Time(2 * half + 1),
        "time does not go back"
    );
}

#[test]
fn a_standstill_is_not_taken_for_a_disk_that_does_not_answer() {
    let mut replica = leading(Vec::new());
    let now = replica.core.now;
    replica
        .propose(now, Bytes::from_static(b"x"))
        .expect("room");
    while let Some(output) = replica.poll_output() {
        drop(output);
    }
    assert!(replica.status().write_in_flight && !replica.idle_for_proposals());
    let long = 2 * timing().disk_timeout_micros;
    replica.handle(now.plus_micros(long), Input::Tick);
    assert!(replica.core.disk_ok());
}

#[test]
fn a_decided_end_of_the_epoch_is_gone_over_and_the_old_leader_campaigns_at_once() {
    let mut replica = leading(Vec::new());
    let members = vec![NodeId(1), NodeId(2), NodeId(3)];
    let context = Bytes::from_static(b"elsewhere");
    let now = replica.core.now;
    let slot = replica
        .reconfigure(now, members, None, context)
        .expect("it leads");
    said(&mut replica);
    let told = accept(&mut replica, 2, slot);
    assert_eq!(replica.status().membership.epoch, Epoch(2));
    assert_eq!(replica.role(), Role::Candidate);
    let farewell = |(to, body): &(u64, Body)| match body {
        Body::Accept(accept) => *to == 3 && accept.decided == slot,
        _ => false,
    };
    assert!(told.iter().any(farewell), "{told:?}");
    let prepared = |(_, body): &&(u64, Body)| matches!(body, Body::Prepare(_));
    assert_eq!(told.iter().filter(prepared).count(), 2);
}

#[test]
fn a_follower_that_goes_over_to_the_next_epoch_waits_for_others() {
    let mut replica = replica(recovered(Vec::new(), 1));
    let accept = Accept {
        ballot: ballot(1),
        first: Slot(1),
        entries: vec![stop(1, 1)],
        decided: Slot(1),
        confirm: ConfirmNumber(0),
    };
    gets(&mut replica, Body::Accept(accept));
    assert_eq!(replica.status().membership.epoch, Epoch(2));
    assert_eq!(replica.role(), Role::Follower { leader: None });
}

#[test]
fn what_a_disk_had_damaged_is_told_as_repaired_when_all_of_it_is_written() {
    let mut replica = replica(Recovered {
        claimed: Slot(2),
        ..recovered(Vec::new(), 1)
    });
    let decided = Slot(2);
    gets(&mut replica, Body::Behind(Behind { decided }));
    let entries = commands(1..=2, 1);
    let message = Message {
        epoch: Epoch::FIRST,
        body: learned(entries),
    };
    replica.handle(
        Time(0),
        Input::Message {
            from: NodeId(2),
            message,
        },
    );
    let mut repaired = Vec::new();
    let mut written = false;
    while let Some(output) = replica.poll_output() {
        match output {
            Output::Persist(batch) => {
                written = true;
                replica.handle(Time(0), Input::Persisted(batch.id));
            }
            Output::Repaired(slot) => repaired.push((slot, written)),
            _ => {}
        }
    }
    assert_eq!(repaired, [(Slot(2), true)]);
    assert_eq!(replica.status().damaged, None);
}

#[test]
fn what_is_decided_is_handed_out_in_pieces() {
    let mut replica = replica(recovered(Vec::new(), 1));
    let many = 2 * crate::limits::APPLY_ENTRIES_MAX as u64 + 1;
    replica.core.acceptor.learn(commands(1..=many, 1));
    replica.core.apply_decided();
    let mut pieces = Vec::new();
    while let Some(output) = replica.poll_output() {
        if let Output::Apply(entries) = output {
            pieces.push(entries.len() as u64);
        }
    }
    assert_eq!(pieces, [many / 2, many / 2, 1]);
}

#[test]
fn a_role_is_told_when_it_changes_and_not_again() {
    let mut replica = replica(recovered(Vec::new(), 1));
    let roles = |replica: &mut Replica| {
        let mut roles = Vec::new();
        while let Some(output) = replica.poll_output() {
            if let Output::RoleChanged(role) = output {
                roles.push(role);
            }
        }
        roles
    };
    assert_eq!(roles(&mut replica), []);
    let message = Message {
        epoch: Epoch::FIRST,
        body: heartbeat(1),
    };
    for _ in 0..2 {
        let (from, message) = (NodeId(2), message.clone());
        replica.handle(Time(0), Input::Message { from, message });
    }
    let leader = Some(NodeId(2));
    assert_eq!(roles(&mut replica), [Role::Follower { leader }]);
}
