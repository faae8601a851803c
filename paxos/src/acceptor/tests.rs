//! An acceptor by itself: what it takes in, what it says of it, and what it has written.

use super::*;
use crate::limits::OPEN_SLOTS_MAX;
use crate::testing::{ballot, command, commands, membership, recovered, snapshot, stop};
use crate::types::Epoch;

fn fresh() -> Acceptor {
    Acceptor::new(Recovered::fresh(membership(1)))
}

/// With a log of these entries under this round, all of it durable.
fn with_log(entries: Vec<Entry>, round: u64) -> Acceptor {
    Acceptor::new(recovered(entries, round))
}

fn sync(round: u64, entries: Vec<Entry>, end: u64, decided: u64) -> Sync {
    Sync {
        ballot: ballot(round),
        first: entries.first().map_or(Slot(end + 1), |first| first.slot),
        entries,
        end: Slot(end),
        decided: Slot(decided),
        confirm: ConfirmNumber(0),
    }
}

fn accept(round: u64, first: u64, entries: Vec<Entry>, confirm: u64) -> Accept {
    Accept {
        ballot: ballot(round),
        first: Slot(first),
        entries,
        decided: Slot::NONE,
        confirm: ConfirmNumber(confirm),
    }
}

fn synced(accepted: Option<Accepted>) -> Slot {
    match accepted.expect("an acknowledgement").standing {
        Standing::Synced { persisted, .. } => persisted,
        Standing::Unsynced { .. } => panic!("the log has not come under the ballot"),
    }
}

fn unsynced(answer: &Answer) -> (Slot, bool) {
    assert_eq!(answer.durable, None, "nothing is acknowledged");
    let now = answer.now.expect("an answer");
    match now.standing {
        Standing::Unsynced { received } => (received, now.gap),
        Standing::Synced { .. } => panic!("the log has come under the ballot"),
    }
}

/// Gives out the next write and ends it.
fn write(acceptor: &mut Acceptor) -> WriteBatch {
    let batch = acceptor.begin_write(Time(0)).expect("something to write");
    acceptor.end_write(batch.id);
    batch
}

#[test]
fn a_log_is_exchanged_only_when_all_of_it_has_come_and_then_in_one_write() {
    let mut acceptor = with_log(commands(1..=3, 1), 1);
    acceptor.promise(ballot(2));
    write(&mut acceptor);
    let part = acceptor.on_sync(sync(2, commands(1..=2, 2), 4, 0));
    assert_eq!(unsynced(&part), (Slot(2), false));
    assert_eq!(acceptor.accepted(), ballot(1));
    assert_eq!(acceptor.log().origin(Slot(1)), Some(ballot(1)));
    let rest = acceptor.on_sync(sync(2, commands(3..=4, 2), 4, 0));
    assert_eq!(synced(rest.durable), Slot(4));
    let batch = write(&mut acceptor);
    assert_eq!(batch.accepted, Some(ballot(2)));
    assert_eq!(batch.truncate_from, Some(Slot(1)));
    assert_eq!(batch.entries, commands(1..=4, 2));
}

#[test]
fn what_is_decided_of_a_log_that_is_on_its_way_does_not_wait_for_the_rest() {
    let mut acceptor = fresh();
    acceptor.promise(ballot(2));
    let part = acceptor.on_sync(sync(2, commands(1..=3, 1), 4, 2));
    assert_eq!(unsynced(&part), (Slot(3), false));
    assert_eq!(acceptor.take_decided(), commands(1..=2, 1));
}

#[test]
fn what_follows_the_end_of_a_new_leaders_log_is_removed() {
    for last in [command(2, 2), command(2, 1)] {
        let mut acceptor = with_log(commands(1..=9, 1), 1);
        acceptor.promise(ballot(2));
        let answer = acceptor.on_sync(sync(2, vec![command(1, 1), last], 2, 0));
        assert_eq!(synced(answer.durable), Slot(2));
        assert_eq!(acceptor.log().end(), Slot(2));
    }
}

#[test]
fn a_part_that_does_not_continue_what_came_is_told_as_a_gap() {
    let mut acceptor = fresh();
    acceptor.promise(ballot(2));
    let early = acceptor.on_sync(sync(2, commands(3..=4, 2), 4, 0));
    assert_eq!(unsynced(&early), (Slot(0), true));
    let first = acceptor.on_sync(sync(2, commands(1..=1, 2), 4, 0));
    assert_eq!(unsynced(&first), (Slot(1), false));
    let mut other = fresh();
    other.promise(ballot(2));
    let greeting = other.on_accept(accept(2, 1, Vec::new(), 0));
    assert_eq!(unsynced(&greeting), (Slot(0), false));
    let greeting = other.on_accept(accept(2, 2, Vec::new(), 0));
    assert_eq!(unsynced(&greeting), (Slot(0), true));
}

#[test]
fn a_part_of_one_ballots_log_is_not_continued_by_another_ballots() {
    let mut acceptor = fresh();
    acceptor.promise(ballot(2));
    let first = acceptor.on_sync(sync(2, commands(1..=2, 2), 5, 0));
    assert_eq!(unsynced(&first), (Slot(2), false));
    acceptor.promise(ballot(3));
    let rest = acceptor.on_sync(sync(3, commands(3..=5, 3), 5, 0));
    assert_eq!(unsynced(&rest), (Slot::NONE, true));
}

#[test]
fn an_accept_for_a_log_of_an_older_ballot_appends_nothing() {
    let mut acceptor = with_log(commands(1..=3, 1), 1);
    acceptor.promise(ballot(2));
    let answer = acceptor.on_accept(accept(2, 4, commands(4..=4, 2), 0));
    assert_eq!(unsynced(&answer).0, Slot(0));
    assert_eq!(acceptor.log().end(), Slot(3));
}

#[test]
fn an_accept_that_repeats_a_part_of_the_log_appends_the_rest() {
    let mut acceptor = with_log(commands(1..=3, 1), 1);
    let answer = acceptor.on_accept(accept(1, 2, commands(2..=5, 1), 0));
    assert_eq!(synced(answer.durable), Slot(5));
    assert_eq!(write(&mut acceptor).entries, commands(4..=5, 1));
}

#[test]
fn an_accept_that_contradicts_the_log_appends_nothing() {
    let mut acceptor = with_log(commands(1..=3, 1), 1);
    let mut entries = commands(4..=5, 1);
    entries.insert(0, command(3, 0));
    acceptor.on_accept(accept(1, 3, entries, 0));
    assert_eq!(acceptor.log().end(), Slot(3));
}

#[test]
fn behind_a_gap_nothing_is_appended_and_the_gap_is_told() {
    let mut acceptor = with_log(commands(1..=3, 1), 1);
    let answer = acceptor.on_accept(accept(1, 5, commands(5..=6, 1), 0));
    assert_eq!(answer.durable, None);
    let now = answer.now.expect("at once");
    assert!(now.gap);
    assert_eq!(synced(Some(now)), Slot(3));
    let next = acceptor.on_accept(accept(1, 4, commands(4..=4, 1), 0));
    assert!(!next.durable.expect("no gap").gap);
}

#[test]
fn what_is_open_is_bounded_whatever_a_leader_sends() {
    let mut acceptor = with_log(Vec::new(), 1);
    for first in (1..=2 * OPEN_SLOTS_MAX).step_by(1024) {
        acceptor.on_accept(accept(1, first, commands(first..=first + 1023, 1), 0));
    }
    assert_eq!(acceptor.log().open_slots(), OPEN_SLOTS_MAX);
}

#[test]
fn a_confirm_round_that_comes_with_entries_is_echoed_once_before_they_are_durable() {
    let mut acceptor = with_log(Vec::new(), 1);
    let answer = acceptor.on_accept(accept(1, 1, commands(1..=1, 1), 1));
    assert_eq!(answer.now.expect("an echo").confirm, ConfirmNumber(1));
    assert_eq!(synced(answer.durable), Slot(1));
    let again = acceptor.on_accept(accept(1, 2, commands(2..=2, 1), 1));
    assert_eq!(again.now, None, "it was echoed before");
}

#[test]
fn the_entry_that_ends_the_epoch_silences_the_round_that_comes_with_it_and_all_later_ones() {
    let mut acceptor = with_log(Vec::new(), 1);
    acceptor.on_accept(accept(1, 1, commands(1..=1, 1), 1));
    let answer = acceptor.on_accept(accept(1, 2, vec![stop(2, 1)], 2));
    assert_eq!(answer.now, None);
    assert_eq!(answer.durable.expect("taken").confirm, ConfirmNumber(1));
    let later = acceptor.on_accept(accept(1, 3, Vec::new(), 3));
    assert_eq!(later.now.expect("at once").confirm, ConfirmNumber(1));
}

#[test]
fn a_promise_forgets_the_confirm_rounds_of_the_ballot_before() {
    let mut acceptor = with_log(Vec::new(), 1);
    acceptor.on_accept(accept(1, 1, Vec::new(), 7));
    acceptor.promise(ballot(2));
    let answer = acceptor.on_accept(accept(2, 1, Vec::new(), 0));
    assert_eq!(answer.now.expect("at once").confirm, ConfirmNumber(0));
}

#[test]
fn a_write_carries_ballots_that_changed_and_no_others() {
    let mut acceptor = fresh();
    acceptor.promise(ballot(1));
    acceptor.on_sync(sync(1, commands(1..=1, 1), 1, 0));
    let first = write(&mut acceptor);
    assert_eq!(first.promised, Some(ballot(1)));
    assert_eq!(first.accepted, Some(ballot(1)));
    acceptor.on_accept(accept(1, 2, commands(2..=2, 1), 0));
    let second = write(&mut acceptor);
    assert_eq!((second.promised, second.accepted), (None, None));
}

#[test]
fn a_decided_stop_entry_counts_as_decided_on_disk_with_the_epoch_that_it_begins() {
    let mut acceptor = with_log(Vec::new(), 1);
    let entries = vec![command(1, 1), stop(2, 1)];
    let decided = Slot(2);
    acceptor.on_accept(Accept {
        decided,
        ..accept(1, 1, entries, 0)
    });
    assert_eq!(acceptor.stopped(), None, "it is not durable");
    assert!(acceptor.is_stopping());
    assert_eq!(write(&mut acceptor).decided, Slot(1));
    let (slot, next) = acceptor.stopped().cloned().expect("durable now");
    assert_eq!(slot, Slot(2));
    acceptor.enter_epoch(&next);
    let batch = write(&mut acceptor);
    assert_eq!((batch.decided, batch.membership), (Slot(2), Some(next)));
}

/// A disk that lost an old entry has the logs of several epochs behind it.
#[test]
fn the_end_of_an_earlier_epoch_that_is_met_again_ends_nothing() {
    let floor = Ballot::floor(Epoch(2));
    let damaged = Recovered {
        promised: floor,
        accepted: floor,
        claimed: Slot(3),
        ..Recovered::fresh(membership(2))
    };
    let open = Acceptor::new(Recovered {
        entries: vec![command(1, 1), stop(2, 1)],
        ..damaged.clone()
    });
    assert_eq!(open.log().stop(), None);
    let mut acceptor = Acceptor::new(damaged);
    acceptor.learn(vec![command(1, 1), stop(2, 1), command(3, 1)]);
    assert_eq!(acceptor.log().stop(), None);
    assert!(!acceptor.is_stopping());
    assert_eq!(acceptor.log().decided(), Slot(3));
}

#[test]
fn the_end_of_the_present_epoch_is_remembered_over_a_restart_before_it_is_decided() {
    let acceptor = with_log(vec![command(1, 1), stop(2, 1)], 1);
    assert_eq!(acceptor.log().stop(), Some(Slot(2)));
}

#[test]
fn an_acceptor_learns_no_faster_than_its_disk_writes() {
    let mut acceptor = fresh();
    acceptor.learn(commands(1..=OPEN_SLOTS_MAX + 10, 1));
    assert_eq!(acceptor.log().end(), Slot(OPEN_SLOTS_MAX));
    assert!(!acceptor.has_room_to_learn());
    write(&mut acceptor);
    assert!(acceptor.has_room_to_learn());
}

#[test]
fn what_follows_a_snapshot_stays_if_the_log_has_its_last_entry() {
    let mut acceptor = with_log(commands(1..=9, 1), 1);
    acceptor.install_snapshot(snapshot(5, 1));
    assert_eq!(acceptor.log().decided(), Slot(5));
    assert_eq!(acceptor.log().end(), Slot(9));
    assert!(!write(&mut acceptor).restart);
}

#[test]
fn what_followed_another_entry_than_the_snapshots_last_is_given_up() {
    for (entries, round) in [(commands(1..=9, 1), 2), (commands(1..=3, 1), 1)] {
        let mut acceptor = with_log(entries, 1);
        acceptor.install_snapshot(snapshot(5, round));
        assert_eq!(acceptor.log().end(), Slot(5));
        assert_eq!(acceptor.damaged(), None);
        let batch = write(&mut acceptor);
        assert!(batch.restart && batch.entries.is_empty());
    }
}

/// A log of which the disk lost slot 2, and had four.
fn damaged() -> Acceptor {
    Acceptor::new(Recovered {
        promised: ballot(1),
        accepted: ballot(1),
        entries: commands(1..=1, 1),
        claimed: Slot(4),
        ..Recovered::fresh(membership(1))
    })
}

#[test]
fn what_a_disk_lost_behind_a_snapshot_is_not_forgotten_by_installing_it() {
    let mut acceptor = damaged();
    acceptor.install_snapshot(snapshot(3, 1));
    assert_eq!(acceptor.damaged(), Some(Slot(4)));
    assert!(!write(&mut acceptor).restart);
    let mut acceptor = damaged();
    acceptor.install_snapshot(snapshot(4, 1));
    assert_eq!(acceptor.damaged(), None);
    assert!(write(&mut acceptor).restart);
}

#[test]
fn another_log_takes_the_place_of_what_a_disk_lost() {
    let mut acceptor = damaged();
    acceptor.promise(ballot(2));
    let answer = acceptor.on_sync(sync(2, commands(1..=2, 2), 2, 0));
    assert_eq!(synced(answer.durable), Slot(2));
    assert_eq!(acceptor.damaged(), None);
    assert_eq!(write(&mut acceptor).truncate_from, Some(Slot(1)));
}

#[test]
fn entries_are_taken_back_from_the_disk_only_as_the_log_that_was_accepted() {
    let back = commands(3..=4, 1);
    let mended = |round: u64| {
        let mut acceptor = damaged();
        acceptor.learn(vec![command(1, 1), command(2, 1)]);
        if round > 0 {
            write(&mut acceptor);
        }
        acceptor.reread(ballot(round), &back);
        acceptor.log().end()
    };
    assert_eq!(mended(1), Slot(4));
    assert_eq!(mended(2), Slot(2), "of another ballot");
    assert_eq!(mended(0), Slot(2), "and not written");
    let mut acceptor = damaged();
    acceptor.reread(ballot(1), &back);
    assert_eq!(acceptor.log().end(), Slot(1), "slot 2 is missing");
    let mut broken = command(2, 1);
    broken.crc ^= 1;
    acceptor.reread(ballot(1), &[broken]);
    assert_eq!(acceptor.log().end(), Slot(1), "slot 2 is damaged");
    acceptor.reread(ballot(1), &commands(2..=6, 1));
    assert_eq!(acceptor.log().end(), Slot(4), "no more was accepted");
    assert_eq!(acceptor.durable().clean_end(), Slot(4));
    let mut writing = damaged();
    writing.promise(ballot(2));
    writing.reread(ballot(1), &commands(2..=4, 1));
    assert_eq!(writing.log().end(), Slot(1), "something is to be written");
}

#[test]
fn a_repair_cuts_nothing_and_tells_nothing_but_the_entries() {
    let mut acceptor = with_log(Vec::new(), 1);
    let (decided, entries) = (Slot(5), commands(1..=5, 1));
    acceptor.on_accept(Accept {
        decided,
        ..accept(1, 1, entries, 0)
    });
    write(&mut acceptor);
    acceptor.snapshot_taken(snapshot(4, 1), Slot(3));
    acceptor.repair(command(2, 1));
    acceptor.repair(command(6, 1));
    acceptor.repair(command(3, 1));
    let batch = write(&mut acceptor);
    assert_eq!(batch.entries, commands(3..=3, 1), "slots of the kept log");
    assert_eq!((batch.keep_from, batch.snapshot), (Slot::NONE, None));
    assert_eq!(batch.decided, Slot(5));
    let batch = write(&mut acceptor);
    assert_eq!(batch.keep_from, Slot(3));
    assert_eq!(batch.snapshot, Some(snapshot(4, 1)));
}

#[test]
#[should_panic(expected = "a promise only rises")]
fn lowering_a_promise_stops_the_process() {
    let mut acceptor = with_log(Vec::new(), 2);
    acceptor.promise(ballot(1));
}

#[test]
#[should_panic(expected = "epochs only rise")]
fn entering_an_epoch_twice_stops_the_process() {
    let mut acceptor = fresh();
    acceptor.enter_epoch(&membership(2));
    acceptor.enter_epoch(&membership(2));
}
