//! Learning by itself: whom a replica asks, for what, and what it makes of the answers.

use super::*;
use crate::interface::Output;
use crate::membership::Membership;
use crate::testing::{ballot, command, commands, core, recovered, sent, snapshot, timing, write};
use crate::types::{Recovered, SnapshotMeta};

/// A voter with a log of three decided entries, all of them durable and in memory.
fn voter() -> (Core, Learning) {
    let mut core = core(recovered(commands(1..=3, 1), 1));
    core.acceptor.decide(Slot(3));
    core.acceptor.durable_mut().numbers_changed();
    write(&mut core);
    let learning = Learning::new(core.now, core.acceptor.log().end());
    (core, learning)
}

/// A voter that has in memory nothing of its three decided entries.
fn voter_from_disk() -> (Core, Learning) {
    let core = core(Recovered {
        decided: Slot(3),
        claimed: Slot(3),
        ..recovered(Vec::new(), 1)
    });
    let learning = Learning::new(core.now, Slot(3));
    (core, learning)
}

/// A node without a vote, which knows two nodes to ask.
fn learner() -> (Core, Learning) {
    let mut core = core(Recovered::fresh(Membership::none()));
    core.seeds = vec![NodeId(2), NodeId(3)];
    let learning = Learning::new(core.now, Slot::NONE);
    (core, learning)
}

fn later(core: &mut Core, micros: u64) {
    core.now = core.now.plus_micros(micros);
}

fn answer(entries: Vec<Entry>, decided: u64) -> Learned {
    let decided = Slot(decided);
    Learned { entries, decided }
}

/// Who was asked, and from which slot to which.
fn asked(core: &mut Core) -> Vec<(u64, u64, u64)> {
    let questions = sent(core).into_iter().filter_map(|(to, body)| match body {
        Body::Learn(learn) => Some((to, learn.first.0, learn.last.0)),
        _ => None,
    });
    questions.collect()
}

#[test]
fn who_knows_more_is_asked_for_what_follows_and_one_question_is_open_at_a_time() {
    let (mut core, mut learning) = voter();
    learning.offered(&mut core, NodeId(2));
    let learn = Learn {
        first: Slot(4),
        last: Slot(4 + OPEN_SLOTS_MAX),
        durable: Slot(3),
    };
    assert_eq!(sent(&mut core), [(2, Body::Learn(learn))]);
    learning.offered(&mut core, NodeId(3));
    assert_eq!(sent(&mut core), []);
}

#[test]
fn an_answer_counts_only_from_who_was_asked_and_if_it_begins_where_it_was_asked_to() {
    let (mut core, mut learning) = voter();
    learning.offered(&mut core, NodeId(2));
    sent(&mut core);
    learning.on_learned(&mut core, NodeId(3), answer(vec![command(4, 1)], 4));
    learning.on_learned(&mut core, NodeId(2), answer(vec![command(5, 1)], 5));
    assert_eq!(core.acceptor.log().decided(), Slot(3));
    learning.on_learned(&mut core, NodeId(2), answer(vec![command(4, 1)], 4));
    assert_eq!(core.acceptor.log().decided(), Slot(4));
    learning.on_learned(&mut core, NodeId(2), answer(vec![command(5, 1)], 5));
    assert_eq!(core.acceptor.log().decided(), Slot(4), "nothing was asked");
}

#[test]
fn who_has_given_something_and_has_more_is_asked_on() {
    let (mut core, mut learning) = voter();
    learning.offered(&mut core, NodeId(2));
    sent(&mut core);
    learning.on_learned(&mut core, NodeId(2), answer(vec![command(4, 1)], 9));
    assert_eq!(asked(&mut core), [(2, 5, 5 + OPEN_SLOTS_MAX)]);
    learning.on_learned(&mut core, NodeId(2), answer(commands(5..=9, 1), 9));
    assert_eq!(asked(&mut core), [], "it has no more");
}

#[test]
fn who_cannot_give_what_it_knows_is_not_asked_when_it_offers_again() {
    let (mut core, mut learning) = voter();
    learning.offered(&mut core, NodeId(2));
    sent(&mut core);
    learning.on_learned(&mut core, NodeId(2), answer(Vec::new(), 9));
    assert_eq!(asked(&mut core), []);
    learning.offered(&mut core, NodeId(2));
    let questions = asked(&mut core);
    assert_eq!(questions.len(), 1);
    assert_eq!(questions[0].0, 3, "somebody else");
}

#[test]
fn only_who_does_not_give_what_it_knows_is_passed_over_when_it_offers_again() {
    let (mut core, mut learning) = voter();
    learning.offered(&mut core, NodeId(2));
    // It knows no more.
    learning.on_learned(&mut core, NodeId(2), answer(Vec::new(), 3));
    sent(&mut core);
    learning.offered(&mut core, NodeId(2));
    assert_eq!(asked(&mut core)[0].0, 2);
    // It gives some of what it knows, and then nothing is heard of it for a while.
    learning.on_learned(&mut core, NodeId(2), answer(commands(4..=5, 1), 9));
    assert_eq!(asked(&mut core)[0].0, 2);
    later(&mut core, timing().leader_timeout_micros);
    learning.tick(&mut core);
    learning.offered(&mut core, NodeId(2));
    assert_eq!(asked(&mut core)[0].0, 2);
}

#[test]
fn a_voter_that_gets_no_answer_waits_for_the_next_offer() {
    let (mut core, mut learning) = voter();
    assert_eq!(learning.next_timer(&core), None);
    learning.offered(&mut core, NodeId(2));
    sent(&mut core);
    let timeout = timing().leader_timeout_micros;
    assert_eq!(learning.next_timer(&core), Some(Time(timeout)));
    later(&mut core, timeout - 1);
    learning.tick(&mut core);
    assert!(learning.asked.is_some());
    later(&mut core, 1);
    learning.tick(&mut core);
    assert_eq!((learning.asked, asked(&mut core)), (None, vec![]));
    learning.offered(&mut core, NodeId(3));
    assert_eq!(asked(&mut core)[0].0, 3);
}

#[test]
fn who_offered_help_while_another_was_asked_is_the_next() {
    for (first, then) in [(2, 3), (3, 2)] {
        let (mut core, mut learning) = learner();
        learning.offered(&mut core, NodeId(first));
        learning.offered(&mut core, NodeId(then));
        sent(&mut core);
        later(&mut core, timing().leader_timeout_micros);
        learning.tick(&mut core);
        assert_eq!(asked(&mut core)[0].0, then);
    }
}

#[test]
fn a_question_that_is_open_is_not_asked_again_before_its_time_is_over() {
    let (mut core, mut learning) = learner();
    learning.tick(&mut core);
    assert_eq!(asked(&mut core).len(), 1);
    later(&mut core, timing().heartbeat_micros);
    learning.tick(&mut core);
    assert_eq!(asked(&mut core), []);
}

#[test]
fn a_node_without_a_vote_asks_one_after_the_other_with_every_heartbeat() {
    let (mut core, mut learning) = learner();
    let mut turns = Vec::new();
    for _ in 0..4 {
        learning.tick(&mut core);
        let questions = asked(&mut core);
        assert_eq!(questions.len(), 1);
        let node = NodeId(questions[0].0);
        turns.push(node.0);
        learning.on_learned(&mut core, node, answer(Vec::new(), 0));
        assert_eq!(asked(&mut core), []);
        let heartbeat = timing().heartbeat_micros;
        assert_eq!(
            learning.next_timer(&core),
            Some(core.now.plus_micros(heartbeat))
        );
        later(&mut core, heartbeat - 1);
        learning.tick(&mut core);
        assert_eq!(asked(&mut core), []);
        later(&mut core, 1);
    }
    assert!(turns == [2, 3, 2, 3] || turns == [3, 2, 3, 2], "{turns:?}");
}

#[test]
fn a_node_that_wants_to_join_leaves_a_good_helper_now_and_then_so_that_the_leader_hears_it() {
    let (mut core, mut learning) = learner();
    learning.offered(&mut core, NodeId(2));
    let patience = 4 * timing().leader_timeout_micros;
    later(&mut core, patience - 1);
    learning.on_learned(&mut core, NodeId(2), answer(vec![command(1, 1)], 9));
    assert_eq!(asked(&mut core).last().map(|last| last.0), Some(2));
    later(&mut core, 1);
    learning.on_learned(&mut core, NodeId(2), answer(vec![command(2, 1)], 9));
    assert_eq!(asked(&mut core), []);
    assert_eq!(learning.next_timer(&core), Some(core.now), "at once");
    let (mut core, mut learning) = voter();
    learning.offered(&mut core, NodeId(2));
    later(&mut core, patience);
    learning.on_learned(&mut core, NodeId(2), answer(vec![command(4, 1)], 9));
    assert_eq!(
        asked(&mut core).last().map(|last| last.0),
        Some(2),
        "a voter stays"
    );
}

/// Without that rule.
#[test]
fn a_learner_that_stays_with_a_good_helper_is_not_heard_by_the_leader() {
    let (mut core, mut learning) = learner();
    core.plant = crate::planted::Plant::new(Planted::LearnerUnheard);
    learning.offered(&mut core, NodeId(2));
    for slot in 1..=20 {
        later(&mut core, timing().leader_timeout_micros);
        learning.on_learned(&mut core, NodeId(2), answer(vec![command(slot, 1)], 99));
        let questions = asked(&mut core);
        assert!(questions.iter().all(|(helper, ..)| *helper == 2));
    }
    assert_eq!(core.acceptor.log().decided(), Slot(20), "though it learns");
}

#[test]
fn nothing_is_asked_for_while_the_disk_is_far_behind_or_an_epoch_ends() {
    let (mut core, mut learning) = voter();
    core.acceptor.learn(commands(4..=4 + OPEN_SLOTS_MAX, 1));
    learning.offered(&mut core, NodeId(2));
    assert_eq!(asked(&mut core), []);
    write(&mut core);
    learning.go_on(&mut core);
    assert_eq!(asked(&mut core).len(), 1);
    learning.go_on(&mut core);
    assert_eq!(asked(&mut core), [], "one question at a time");
    let (mut core, mut learning) = voter();
    core.acceptor.learn(vec![crate::testing::stop(4, 1)]);
    learning.offered(&mut core, NodeId(2));
    assert_eq!(asked(&mut core), []);
}

#[test]
fn a_damaged_entry_that_is_in_memory_is_written_again_from_there() {
    let (mut core, mut learning) = voter();
    learning.note_damaged(&mut core, Slot(2));
    assert_eq!(write(&mut core).entries, [command(2, 1)]);
}

#[test]
fn damaged_entries_are_asked_for_together_and_put_right_with_any_copy() {
    let (mut core, mut learning) = voter_from_disk();
    for slot in [1, 3, 4] {
        learning.note_damaged(&mut core, Slot(slot));
    }
    assert_eq!(
        learning.damaged,
        BTreeSet::from([Slot(1), Slot(3)]),
        "4 is not decided"
    );
    assert_eq!(learning.next_timer(&core), Some(core.now));
    learning.tick(&mut core);
    let questions = asked(&mut core);
    let (helper, first, last) = questions[0];
    assert_eq!((first, last), (1, 3));
    learning.on_learned(&mut core, NodeId(helper), answer(commands(1..=2, 1), 3));
    assert_eq!(asked(&mut core), [(helper, 3, 3)], "slot 1 is on its way");
    assert_eq!(write(&mut core).entries, commands(1..=1, 1));
    learning.repaired(Slot(1));
    learning.on_learned(&mut core, NodeId(helper), answer(commands(3..=3, 1), 3));
    assert_eq!(write(&mut core).entries, commands(3..=3, 1));
    learning.repaired(Slot(3));
    assert_eq!(learning.next_timer(&core), None);
}

#[test]
fn damaged_entries_that_lie_far_apart_are_asked_for_one_after_the_other() {
    let decided = Slot(1_000);
    let mut core = core(Recovered {
        decided,
        claimed: decided,
        ..recovered(Vec::new(), 1)
    });
    let mut learning = Learning::new(core.now, decided);
    let near = 10 + REPAIRS_MAX as u64;
    for slot in [10, near, near + 1, 900] {
        learning.note_damaged(&mut core, Slot(slot));
    }
    learning.tick(&mut core);
    let questions = asked(&mut core);
    assert_eq!((questions[0].1, questions[0].2), (10, near));
}

#[test]
fn others_are_to_lead_while_a_quorum_of_them_does_not_know_of_what_cannot_be_read_here() {
    let (mut core, mut learning) = voter_from_disk();
    learning.note_damaged(&mut core, Slot(3));
    let mut told = |decided| {
        let heartbeat = core.timing.heartbeat_micros;
        later(&mut core, heartbeat);
        learning.tick(&mut core);
        let [(node, 3, 3)] = asked(&mut core)[..] else {
            panic!("one of the two is asked for it");
        };
        learning.on_learned(&mut core, NodeId(node), answer(Vec::new(), decided));
        learning.leaves_the_lead(&core)
    };
    assert!(!told(2), "one of two");
    assert!(told(2));
    assert!(!told(3), "who knows of it can have it");
    assert!(!told(2), "the other one, again");
    assert!(told(2));
    learning.repaired(Slot(3));
    assert!(!learning.leaves_the_lead(&core));
}

#[test]
fn damage_that_is_kept_account_of_is_bounded() {
    let decided = Slot(1_000);
    let mut core = core(Recovered {
        decided,
        claimed: decided,
        ..recovered(Vec::new(), 1)
    });
    let mut learning = Learning::new(core.now, decided);
    for slot in 1..=2 * REPAIRS_MAX as u64 {
        learning.note_damaged(&mut core, Slot(slot));
    }
    assert_eq!(learning.damaged.len(), REPAIRS_MAX);
}

#[test]
fn damage_that_the_own_snapshot_holds_is_cut_off() {
    let (mut core, mut learning) = voter_from_disk();
    core.acceptor.snapshot_taken(snapshot(2, 1), Slot(1));
    learning.note_damaged(&mut core, Slot(2));
    assert_eq!(learning.damaged, BTreeSet::new());
    assert_eq!(core.acceptor.keep_from(), Slot(3));
    learning.note_damaged(&mut core, Slot(1));
    assert_eq!(core.acceptor.keep_from(), Slot(3), "that is gone already");
    learning.note_damaged(&mut core, Slot(3));
    assert_eq!(learning.damaged, BTreeSet::from([Slot(3)]));
}

#[test]
fn what_a_snapshot_makes_dispensable_is_not_missed() {
    let (mut core, mut learning) = voter_from_disk();
    for slot in 1..=3 {
        learning.note_damaged(&mut core, Slot(slot));
    }
    assert_eq!(learning.damaged_up_to(Slot(2)), Some(Slot(2)));
    assert_eq!(learning.damaged_up_to(Slot(0)), None);
    let gone = learning.dispense_with(Slot(2));
    assert_eq!(gone, BTreeSet::from([Slot(1), Slot(2)]));
    assert_eq!(learning.damaged, BTreeSet::from([Slot(3)]));
}

fn offer(meta: SnapshotMeta) -> Offer {
    Offer { meta }
}

/// Whether a transfer has begun.
fn takes(core: &mut Core, learning: &mut Learning, from: u64, slot: u64) -> bool {
    learning.on_offer(core, NodeId(from), offer(snapshot(slot, 1)));
    let outputs = std::iter::from_fn(|| core.pop_output());
    let begins = outputs.filter(|output| matches!(output, Output::StoreChunk { .. }));
    begins.count() > 0
}

#[test]
fn a_snapshot_is_taken_from_who_was_asked_if_it_is_newer_than_the_log() {
    let (mut core, mut learning) = voter();
    assert!(!takes(&mut core, &mut learning, 2, 9), "nobody was asked");
    learning.offered(&mut core, NodeId(2));
    assert!(!takes(&mut core, &mut learning, 3, 9), "another was asked");
    assert!(takes(&mut core, &mut learning, 2, 4));
    assert!(!learning.on_ready(&snapshot(5, 1)), "another one");
    assert!(learning.on_ready(&snapshot(4, 1)));
    assert!(!learning.on_ready(&snapshot(4, 1)), "once");
    let (mut core, mut learning) = voter();
    learning.offered(&mut core, NodeId(2));
    assert!(!takes(&mut core, &mut learning, 2, 3), "it is not newer");
}

#[test]
fn while_a_snapshot_comes_nothing_else_is_asked_for() {
    let (mut core, mut learning) = voter();
    learning.offered(&mut core, NodeId(2));
    assert!(takes(&mut core, &mut learning, 2, 4));
    learning.offered(&mut core, NodeId(3));
    learning.go_on(&mut core);
    later(&mut core, timing().heartbeat_micros);
    learning.note_damaged(&mut core, Slot(2));
    learning.tick(&mut core);
    assert_eq!(asked(&mut core), []);
    assert!(learning.on_ready(&snapshot(4, 1)));
    learning.go_on(&mut core);
    assert_eq!(asked(&mut core).len(), 1);
}

#[test]
fn an_older_snapshot_is_of_use_where_it_holds_what_is_damaged() {
    let mending = |slot: u64, own: Option<u64>| {
        let (mut core, mut learning) = voter_from_disk();
        if let Some(own) = own {
            core.acceptor.snapshot_taken(snapshot(own, 1), Slot(1));
        }
        learning.note_damaged(&mut core, Slot(2));
        learning.tick(&mut core);
        let (helper, ..) = asked(&mut core)[0];
        takes(&mut core, &mut learning, helper, slot)
    };
    assert!(mending(2, None));
    assert!(mending(3, Some(1)));
    assert!(!mending(1, None), "it ends before the damage");
}

#[test]
fn the_own_log_is_read_on_once_for_each_end_and_only_when_all_is_written() {
    let mut core = core(Recovered {
        claimed: Slot(9),
        ..recovered(commands(1..=3, 1), 1)
    });
    let mut learning = Learning::new(core.now, Slot(3));
    let mut loads = |core: &mut Core| {
        learning.reread(core);
        let outputs = std::iter::from_fn(|| core.pop_output());
        let loads = outputs.filter_map(|output| match output {
            Output::Load { first, last, .. } => Some((first.0, last.0)),
            _ => None,
        });
        loads.collect::<Vec<_>>()
    };
    assert_eq!(loads(&mut core), [], "what follows slot 3 is damaged");
    core.acceptor.learn(commands(1..=4, 1));
    assert_eq!(loads(&mut core), [], "slot 4 is not written");
    write(&mut core);
    assert_eq!(loads(&mut core), [(5, 9)]);
    assert_eq!(loads(&mut core), [], "once");
    assert_eq!(core.acceptor.accepted(), ballot(1));
}
