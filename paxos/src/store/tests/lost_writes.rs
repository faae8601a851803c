//! Disks that say that they wrote and did not, or wrote somewhere else.

use super::*;
use crate::sim::{Dice, DiskFault};

#[test]
fn a_sector_of_zeros_in_a_frame_that_another_follows_is_damage_and_no_torn_tail() {
    let files = SimFiles::new(1);
    let store = create(&files).with_segment_bytes(1 << 20);
    store.write(&batch(entries(1..=2, 1))).unwrap();
    store.write(&batch(entries(3..=60, 1))).unwrap();
    store.write(&promise(9)).unwrap();
    drop(store);
    let (name, frames) = newest_segment(&files);
    let last_but_one = frames.len() - 1024;
    for at in [1024, last_but_one] {
        let damaged = files.snapshot_of_disk(2);
        for (offset, byte) in frames.iter().enumerate().skip(at).take(512) {
            damaged.flip(&name, offset as u64, *byte).unwrap();
        }
        let store = open(&damaged).unwrap();
        let found = store.load().unwrap();
        assert_eq!(
            (found.claimed, found.promised),
            (Slot(60), ballot(9)),
            "{at}"
        );
        let intact = store.report().first_lost.map_or(60, |slot| slot.0 - 1);
        assert_eq!(found.entries, entries(1..=intact, 1), "{at}");
        assert_eq!(store.report().torn_bytes, 0, "{at}");
    }
}

#[test]
fn a_frame_in_a_wrong_place_is_not_taken_for_one() {
    let files = SimFiles::new(1);
    let store = create(&files).with_segment_bytes(1 << 20);
    store.write(&batch(entries(1..=2, 1))).unwrap();
    store.write(&batch(entries(3..=4, 1))).unwrap();
    drop(store);
    let (name, frames) = newest_segment(&files);
    assert_eq!(frames.len(), 1536);
    // The last frame once more, behind itself, and over the one before.
    for (from, to) in [(1024, 1536), (1024, 512)] {
        let copied = files.snapshot_of_disk(2);
        let whole = files.contents(&name).unwrap();
        for at in 0..512 {
            let mask = whole[from + at] ^ whole[to + at];
            copied.flip(&name, (to + at) as u64, mask).unwrap();
        }
        let (found, refused) = match open(&copied) {
            Ok(store) => (store.load().unwrap(), false),
            Err(error) => {
                assert!(error.to_string().contains("replace"), "{error}");
                (load(&files), true)
            }
        };
        assert_eq!(found.claimed, Slot(4), "{from} to {to}");
        assert!(refused || found.entries.len() < 4, "{from} to {to}");
    }
}

#[test]
fn a_newest_frame_that_landed_on_the_one_before_is_not_taken_for_a_torn_tail() {
    let files = SimFiles::new(1);
    let store = create(&files).with_segment_bytes(1 << 20);
    store.write(&promise(3)).unwrap();
    store.write(&promise(4)).unwrap();
    drop(store);
    let (name, frames) = newest_segment(&files);
    for at in 0..512_usize {
        let [one, two] = [frames[512 + at], frames[1024 + at]];
        files.flip(&name, 512 + at as u64, one ^ two).unwrap();
        files.flip(&name, 1024 + at as u64, two).unwrap();
    }
    let refused = open(&files).unwrap_err();
    assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
}

#[test]
fn a_newest_frame_that_landed_in_an_older_segment_is_missed() {
    let files = SimFiles::new(1);
    let store = create(&files).with_segment_bytes(1024);
    for slot in 1..=5 {
        store.write(&batch(entries(slot..=slot, 1))).unwrap();
    }
    drop(store);
    let (name, frames) = newest_segment(&files);
    let older = crate::store::segment::name(1);
    let bytes = files.contents(&older).unwrap();
    let last = frames.len() - 512;
    for to in [0, 512] {
        let misdirected = files.snapshot_of_disk(2);
        for at in 0..512_usize {
            let mask = bytes[to + at] ^ frames[last + at];
            misdirected.flip(&older, (to + at) as u64, mask).unwrap();
            misdirected
                .flip(&name, (last + at) as u64, frames[last + at])
                .unwrap();
        }
        let refused = open(&misdirected).unwrap_err();
        assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
    }
}

#[test]
fn an_older_entry_of_the_same_slot_in_the_place_of_the_newer_is_not_returned() {
    let files = SimFiles::new(1);
    let store = create(&files).with_segment_bytes(1024);
    store.write(&batch(entries(1..=1, 1))).unwrap();
    let older = files.contents(&crate::store::segment::name(1)).unwrap();
    store.write(&promise(2)).unwrap();
    let newer = WriteBatch {
        truncate_from: Some(Slot(1)),
        ..batch(entries(1..=1, 2))
    };
    store.write(&newer).unwrap();
    let newer = crate::store::segment::name(3);
    let bytes = files.contents(&newer).unwrap();
    assert_eq!(
        store.read(Slot(1), Slot(1), 0).unwrap().entries,
        entries(1..=1, 2)
    );
    for at in 512..1024_usize {
        files
            .flip(&newer, at as u64, bytes[at] ^ older[at])
            .unwrap();
    }
    let read = store.read(Slot(1), Slot(1), 0).unwrap();
    assert_eq!((read.entries, read.damaged), (vec![], Some(Slot(1))));
}

/// A few batches, one of which the disk does not write as it says; then others, a crash, and what
/// the store says. Whether it was refused, and whether entries were lost.
fn run(seed: u64, fault: DiskFault) -> (bool, bool) {
    let mut dice = Dice::new(seed);
    let files = SimFiles::new(seed);
    let store = create(&files).with_segment_bytes(8192);
    let (mut end, mut round) = (0, 0);
    let mut append = |dice: &mut Dice, store: &SimStore| {
        let count = dice.below(20);
        round += u64::from(dice.chance(0.3));
        let next = WriteBatch {
            promised: Some(ballot(round)).filter(|_| round > 0),
            decided: Slot(end),
            ..batch(entries(end + 1..=end + count, 1))
        };
        store.write(&next).unwrap();
        end += count;
        (end, round)
    };
    for _ in 0..dice.between(1, 29) {
        append(&mut dice, &store);
    }
    files.inject(fault, 0);
    append(&mut dice, &store);
    let (mut end, mut round) = (0, 0);
    for _ in 0..dice.between(1, 29) {
        (end, round) = append(&mut dice, &store);
    }
    drop(store);
    files.crash();
    let store = match open(&files) {
        Ok(store) => store,
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("replace"), "seed {seed}: {text}");
            return (true, false);
        }
    };
    let found = store.load().unwrap();
    assert_eq!(found.claimed, Slot(end), "seed {seed} {fault:?}");
    if round > 0 {
        assert_eq!(found.promised, ballot(round), "seed {seed} {fault:?}");
    }
    let mut lost = 0;
    for slot in 1..=end {
        let read = store.read(Slot(slot), Slot(slot), 0).unwrap();
        if read.entries.is_empty() {
            assert_eq!(read.damaged, Some(Slot(slot)), "seed {seed} {fault:?}");
            lost += 1;
        } else {
            assert_eq!(
                read.entries,
                entries(slot..=slot, 1),
                "seed {seed} {fault:?}"
            );
        }
    }
    let report = store.report();
    assert_eq!(
        report.first_lost.is_some(),
        lost > 0,
        "seed {seed} {fault:?}"
    );
    assert_eq!(
        !report.damaged.is_empty(),
        lost > 0,
        "seed {seed} {fault:?}"
    );
    (false, lost > 0)
}

#[test]
fn a_write_that_never_arrives_or_lands_elsewhere_is_noticed_once_others_follow() {
    for fault in [DiskFault::LostWrite, DiskFault::MisdirectedWrite] {
        let outcomes: Vec<(bool, bool)> = (0..400).map(|seed| run(seed, fault)).collect();
        let refused = outcomes.iter().filter(|(refused, _)| *refused).count();
        let repairable = outcomes.iter().filter(|(_, lost)| *lost).count();
        println!("{fault:?}: {refused} refused, {repairable} to be repaired");
        assert!(repairable > 100 && refused < 100, "{refused} {repairable}");
    }
}
