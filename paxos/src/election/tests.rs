//! Elections by themselves: who may campaign, when, and with which ballot.

use super::*;
use crate::membership::{Membership, Quorums};
use crate::testing::{OWN, ballot, ballot_of, commands, core, recovered, sent, timing};
use crate::types::{Recovered, Slot};

const SEED: u64 = 7;

fn start(recovered: Recovered) -> (Core, Election) {
    let mut core = core(recovered);
    // Far from 0, where timers of all kinds would be due at once.
    core.now = Time(1_000_000);
    let election = Election::new(core.now, SEED);
    (core, election)
}

/// A node whose first round of questions is on its way.
fn asking() -> (Core, Election) {
    let (mut core, mut election) = start(recovered(commands(1..=3, 1), 1));
    assert!(!election.tick(&mut core));
    sent(&mut core);
    (core, election)
}

/// An answer to the first round, of a node that would vote and is no further than this one.
fn answer() -> Pong {
    Pong {
        round: 1,
        promised: ballot(1),
        accepted: ballot(1),
        end: Slot(3),
        happy: false,
        can_vote: true,
    }
}

fn later(core: &mut Core, micros: u64) {
    core.now = core.now.plus_micros(micros);
}

/// Whether a campaign begins before the present round ends and the jitter has passed.
fn campaigns(core: &mut Core, election: &mut Election) -> bool {
    later(core, timing().round_micros - 1);
    let before = election.tick(core);
    later(core, 1);
    let at_the_end = election.tick(core);
    later(core, timing().jitter_micros);
    before || at_the_end || election.tick(core)
}

#[test]
fn a_node_that_hears_its_leader_asks_nobody_until_the_timeout_has_passed() {
    let (mut core, mut election) = start(recovered(Vec::new(), 1));
    election.heard(core.now, Some(NodeId(2)));
    assert_eq!(election.leader(), Some(NodeId(2)));
    let timeout = timing().leader_timeout_micros;
    assert_eq!(
        election.next_timer(&core),
        core.now.plus_micros(timeout + 1)
    );
    later(&mut core, timeout);
    assert!(election.is_happy(&core) && !election.tick(&mut core));
    assert_eq!(sent(&mut core), []);
    later(&mut core, 1);
    assert!(!election.is_happy(&core) && !election.tick(&mut core));
    assert_eq!(election.leader(), None);
    let ping = Body::Ping(Ping { round: 1 });
    assert_eq!(sent(&mut core), [(2, ping.clone()), (3, ping)]);
    let ends = core.now.plus_micros(timing().round_micros);
    assert_eq!(election.next_timer(&core), ends);
}

#[test]
fn a_candidate_that_was_heard_does_not_take_the_place_of_a_known_leader() {
    let (core, mut election) = start(recovered(Vec::new(), 1));
    election.heard(core.now, Some(NodeId(2)));
    election.heard(core.now, None);
    assert_eq!(election.leader(), Some(NodeId(2)));
    election.start_over();
    assert_eq!(election.leader(), None);
    assert!(!election.is_happy(&core));
}

#[test]
fn a_node_campaigns_when_a_quorum_has_answered_and_nobody_is_happy() {
    let (mut core, mut election) = asking();
    election.on_pong(&core, NodeId(2), answer());
    assert!(campaigns(&mut core, &mut election));
    assert!(!election.tick(&mut core), "once");
}

#[test]
fn when_all_have_answered_the_end_of_the_round_is_not_waited_for() {
    let (mut core, mut election) = asking();
    election.on_pong(&core, NodeId(2), answer());
    assert_eq!(election.campaign_at, None);
    election.on_pong(&core, NodeId(3), answer());
    let at = election.campaign_at.expect("planned");
    assert!(core.now <= at && at < core.now.plus_micros(timing().jitter_micros));
    let first = at.min(election.round_ends);
    assert_eq!(election.next_timer(&core), first);
    core.now = at;
    assert!(election.tick(&mut core));
}

#[test]
fn nobody_campaigns_without_answers_or_against_one_who_is_happy() {
    let happy = Pong {
        happy: true,
        ..answer()
    };
    let mute = Pong {
        can_vote: false,
        ..answer()
    };
    let older = Pong {
        round: 0,
        ..answer()
    };
    let (two, three) = (NodeId(2), NodeId(3));
    let refusing: [&[(NodeId, Pong)]; 5] = [
        &[],
        &[(two, answer()), (three, happy)],
        &[(two, mute)],
        &[(two, mute), (three, mute)],
        &[(two, older), (three, older)],
    ];
    for answers in refusing {
        let (mut core, mut election) = asking();
        for (from, pong) in answers {
            election.on_pong(&core, *from, *pong);
        }
        assert!(!campaigns(&mut core, &mut election), "{answers:?}");
    }
    let (mut core, mut election) = asking();
    election.on_pong(&core, two, mute);
    election.on_pong(&core, three, answer());
    assert!(campaigns(&mut core, &mut election), "one of two is enough");
}

#[test]
fn to_campaign_takes_enough_nodes_to_be_elected_and_enough_to_lead() {
    for (prepare, accept) in [(3, 2), (2, 3)] {
        let first = Membership::first((1..=4).map(NodeId)).unwrap();
        let membership = Membership {
            quorums: Quorums { prepare, accept },
            ..first
        };
        let (mut core, mut election) = start(Recovered {
            membership,
            ..recovered(commands(1..=3, 1), 1)
        });
        assert!(!election.tick(&mut core));
        election.on_pong(&core, NodeId(2), answer());
        assert!(!campaigns(&mut core, &mut election), "two of four");
    }
}

#[test]
fn answers_from_before_a_leader_was_heard_say_nothing_any_more() {
    let (mut core, mut election) = asking();
    election.on_pong(&core, NodeId(2), answer());
    election.heard(core.now, Some(NodeId(3)));
    election.on_pong(&core, NodeId(2), answer());
    election.on_pong(&core, NodeId(3), answer());
    assert_eq!(election.campaign_at, None);
    later(&mut core, timing().leader_timeout_micros + 1);
    assert!(!campaigns(&mut core, &mut election));
}

#[test]
fn a_planned_campaign_is_dropped_when_the_next_round_says_otherwise() {
    let (mut core, mut election) = asking();
    election.on_pong(&core, NodeId(2), answer());
    election.on_pong(&core, NodeId(3), answer());
    election.campaign_at = Some(Time(u64::MAX));
    later(&mut core, timing().round_micros);
    assert!(!election.tick(&mut core), "the second round begins");
    let happy = Pong {
        round: 2,
        happy: true,
        ..answer()
    };
    election.on_pong(&core, NodeId(2), happy);
    election.on_pong(&core, NodeId(3), happy);
    assert_eq!(election.campaign_at, None);
}

#[test]
fn a_node_whose_disk_lost_something_does_not_campaign() {
    let damaged = Recovered {
        claimed: Slot(4),
        ..recovered(commands(1..=3, 1), 1)
    };
    let (mut core, mut election) = start(damaged);
    assert!(!election.tick(&mut core));
    election.on_pong(&core, NodeId(2), answer());
    assert!(!campaigns(&mut core, &mut election));
}

#[test]
fn whoever_has_a_better_log_is_given_precedence() {
    let longer = Pong {
        end: Slot(4),
        ..answer()
    };
    let newer = Pong {
        accepted: ballot(2),
        end: Slot(0),
        ..answer()
    };
    let shorter = Pong {
        end: Slot(2),
        ..answer()
    };
    let plan = |pong: Pong| {
        let (core, mut election) = asking();
        election.on_pong(&core, NodeId(2), answer());
        election.on_pong(&core, NodeId(3), pong);
        election
            .campaign_at
            .expect("planned")
            .micros_since(core.now)
    };
    let usual = plan(answer());
    assert_eq!(plan(shorter), usual);
    let precedence = timing().round_micros + timing().jitter_micros;
    assert_eq!(plan(longer), usual + precedence);
    assert_eq!(plan(newer), usual + precedence);
}

#[test]
fn a_ballot_is_above_all_that_were_heard_of_in_this_epoch() {
    let (core, mut election) = start(recovered(Vec::new(), 5));
    assert_eq!(election.next_ballot(&core), Some(ballot_of(6, OWN.0)));
    election.saw_ballot(ballot(9));
    election.saw_ballot(ballot(7));
    assert_eq!(election.next_ballot(&core), Some(ballot_of(10, OWN.0)));
    let promised = ballot(12);
    election.on_pong(
        &core,
        NodeId(2),
        Pong {
            promised,
            ..answer()
        },
    );
    assert_eq!(election.next_ballot(&core), Some(ballot_of(13, OWN.0)));
    election.enter_epoch(core.now);
    assert_eq!(election.next_ballot(&core), Some(ballot_of(6, OWN.0)));
    election.saw_ballot(ballot(u64::MAX));
    assert_eq!(election.next_ballot(&core), None, "ballots are used up");
}

#[test]
fn an_epoch_that_begins_is_asked_about_at_once() {
    let (mut core, mut election) = start(recovered(Vec::new(), 1));
    election.heard(core.now, Some(NodeId(2)));
    later(&mut core, 10);
    election.enter_epoch(core.now);
    assert!(!election.tick(&mut core));
    assert_eq!(sent(&mut core).len(), 2);
}

#[test]
fn jitter_is_below_its_bound_and_differs_from_seed_to_seed() {
    let draw = |seed| {
        let mut jitter = Jitter(seed);
        [(); 20].map(|()| jitter.below(1_000))
    };
    assert!(draw(1).iter().all(|drawn| *drawn < 1_000));
    assert_ne!(draw(1), draw(2));
    assert!(draw(1).windows(2).any(|pair| pair[0] != pair[1]));
    assert_eq!(Jitter(1).below(0), 0);
    // SplitMix64 from 0: Steele, Lea, Flood, OOPSLA 2014.
    assert_eq!(Jitter(0).below(u64::MAX), 0xe220_a839_7b1d_cdaf);
}
