//! Every byte of a small store changed, one at a time, and its log cut at every length.

use super::*;
use crate::store::Files;

/// What a store may say after damage to one place.
enum Outcome {
    Everything,
    UpToDamage,
    Refused,
}

/// A store with several segments, a snapshot, a truncation and a repair; and what it holds.
fn small_store() -> (SimFiles, Recovered, Vec<Entry>) {
    let files = SimFiles::new(1);
    let store = create(&files).with_segment_bytes(2048);
    for slot in 1..=6 {
        let first = slot * 2 - 1;
        let batch = WriteBatch {
            promised: Some(ballot(slot)),
            accepted: Some(ballot(slot)),
            decided: Slot((first - 1).min(6)),
            ..batch(entries(first..=first + 1, 1))
        };
        store.write(&batch).unwrap();
    }
    let cut = WriteBatch {
        snapshot: Some(take_snapshot(&store, 5, 300)),
        ..decide(7, 4)
    };
    store.write(&cut).unwrap();
    let truncated = WriteBatch {
        truncate_from: Some(Slot(10)),
        promised: Some(ballot(9)),
        accepted: Some(ballot(9)),
        decided: Slot(8),
        ..batch(entries(10..=14, 9))
    };
    store.write(&truncated).unwrap();
    store
        .write(&WriteBatch {
            decided: Slot(8),
            ..batch(entries(6..=7, 1))
        })
        .unwrap();
    store
        .write(&WriteBatch {
            decided: Slot(9),
            ..promise(11)
        })
        .unwrap();
    let last = WriteBatch {
        decided: Slot(9),
        ..batch(entries(15..=17, 9))
    };
    store.write(&last).unwrap();
    let store = reopen(store, &files);
    let whole = store.load().unwrap();
    let log = store.read(Slot(4), Slot(99), usize::MAX).unwrap().entries;
    assert_eq!(log.len(), 14);
    (files, whole, log)
}

/// Opens a damaged store and checks that it says nothing wrong.
fn check(files: &SimFiles, whole: &Recovered, log: &[Entry], told: &str) -> Outcome {
    let store = match open(files) {
        Ok(store) => store,
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("replace"), "{told}: {text}");
            return Outcome::Refused;
        }
    };
    let found = store.load().unwrap();
    assert_eq!(
        found.promised, whole.promised,
        "{told}: a promise is never forgotten"
    );
    assert_eq!(found.accepted, whole.accepted, "{told}");
    assert_eq!(found.membership, whole.membership, "{told}");
    assert_eq!(
        found.claimed, whole.claimed,
        "{told}: nothing accepted is forgotten"
    );
    let mut lost = 0;
    for (slot, expected) in (4..).map(Slot).zip(log) {
        let read = store.read(slot, slot, 0).unwrap();
        match &read.entries[..] {
            [entry] => assert_eq!(entry, expected, "{told}"),
            [] => {
                assert_eq!(read.damaged, Some(slot), "{told}");
                lost += 1;
            }
            _ => panic!("{told}: {read:?}"),
        }
    }
    if found.snapshot.is_none() {
        assert_eq!(
            (found.decided, found.first),
            (Slot::NONE, Slot(1)),
            "{told}"
        );
        assert_eq!(found.entries, [], "{told}");
        assert!(!store.report().damaged.is_empty(), "{told}");
        return Outcome::UpToDamage;
    }
    assert_eq!(found.snapshot, whole.snapshot, "{told}");
    let end = found.decided.0 as usize + found.entries.len();
    let kept = &log[found.decided.0 as usize - 3..end - 3];
    assert_eq!(found.entries, kept, "{told}");
    assert!(found.decided <= whole.decided, "{told}");
    if lost == 0 {
        assert_eq!(found, *whole, "{told}");
        return Outcome::Everything;
    }
    assert!(!store.report().damaged.is_empty(), "{told}");
    let next = Slot(end as u64 + 1);
    let first_lost = store.report().first_lost;
    assert!(
        first_lost.is_none_or(|slot| slot == next),
        "{told}: {first_lost:?}"
    );
    Outcome::UpToDamage
}

#[test]
fn every_byte_that_is_changed_is_noticed_or_does_not_matter() {
    let (files, whole, log) = small_store();
    let (mut everything, mut up_to_damage, mut refused) = (0, 0, 0);
    for name in files.list().unwrap() {
        let bytes = files.contents(&name).unwrap();
        for (at, byte) in bytes.iter().enumerate() {
            let masks = [1 << (at % 8), 0xFF, *byte];
            for mask in masks.into_iter().filter(|mask| *mask != 0) {
                let damaged = files.snapshot_of_disk(2);
                damaged.flip(&name, at as u64, mask).unwrap();
                let told = format!("{name} byte {at} ^ {mask:#x}");
                match check(&damaged, &whole, &log, &told) {
                    Outcome::Everything => everything += 1,
                    Outcome::UpToDamage => up_to_damage += 1,
                    Outcome::Refused => refused += 1,
                }
            }
        }
    }
    println!("{everything} harmless, {up_to_damage} told, {refused} refused");
    assert!(everything > 0 && up_to_damage > 0);
    assert_eq!(
        refused, 0,
        "of everything that matters to a whole store there are two copies"
    );
}

#[test]
fn many_changed_bits_at_once_make_no_wrong_entry_and_lower_no_promise() {
    let (files, whole, log) = small_store();
    let (mut everything, mut up_to_damage, mut refused) = (0, 0, 0);
    for seed in 0..3000 {
        let damaged = files.snapshot_of_disk(seed);
        let flips = 1 + seed % 40;
        let places: Vec<_> = (0..flips).map(|_| damaged.flip_somewhere()).collect();
        match check(&damaged, &whole, &log, &format!("{places:?}")) {
            Outcome::Everything => everything += 1,
            Outcome::UpToDamage => up_to_damage += 1,
            Outcome::Refused => refused += 1,
        }
    }
    println!("{everything} harmless, {up_to_damage} told, {refused} refused");
    assert!(everything > 0 && up_to_damage > 0 && refused > 0);
}

#[test]
fn every_sector_that_is_lost_or_unreadable_is_noticed_or_does_not_matter() {
    let (files, whole, log) = small_store();
    let (newest, frames) = newest_segment(&files);
    let mut refused = 0;
    for name in files.list().unwrap() {
        let bytes = files.contents(&name).unwrap();
        for at in (0..bytes.len()).step_by(512) {
            let unreadable = files.snapshot_of_disk(2);
            unreadable.make_unreadable(&name, at as u64).unwrap();
            let told = format!("{name} sector at {at} unreadable");
            let outcome = check(&unreadable, &whole, &log, &told);
            refused += usize::from(matches!(outcome, Outcome::Refused));
            // Of the last frame, a sector of zeros is one that was never written.
            if name == newest && at + 512 >= frames.len() {
                continue;
            }
            let zeroed = files.snapshot_of_disk(3);
            for (offset, byte) in bytes.iter().enumerate().skip(at).take(512) {
                zeroed.flip(&name, offset as u64, *byte).unwrap();
            }
            check(
                &zeroed,
                &whole,
                &log,
                &format!("{name} sector at {at} zeroed"),
            );
        }
    }
    // The last frame, and the place of the next one, where nobody knows what was acknowledged.
    assert_eq!(refused, 2);
}

#[test]
fn a_log_that_is_cut_short_loses_its_last_frame_or_is_refused() {
    let (files, whole, _) = small_store();
    let (newest, bytes) = newest_segment(&files);
    // The store was opened once more after that frame, so all frames were known to be there.
    for length in 0..bytes.len() {
        let cut = files.snapshot_of_disk(2);
        cut.cut(&newest, length as u64).unwrap();
        let refused = open(&cut).map(drop).unwrap_err().to_string();
        assert!(refused.contains("replace"), "{length}: {refused}");
    }
    // One more frame, which may be torn: its loss is nothing that was acknowledged.
    let store = open(&files).unwrap();
    store
        .write(&WriteBatch {
            decided: Slot(9),
            ..batch(entries(18..=30, 9))
        })
        .unwrap();
    drop(store);
    let (_, longer) = newest_segment(&files);
    assert!(longer.len() > bytes.len() + 512);
    for length in bytes.len()..longer.len() {
        let cut = files.snapshot_of_disk(2);
        cut.cut(&newest, length as u64).unwrap();
        let store = open(&cut).unwrap();
        assert_eq!(store.load().unwrap(), whole, "{length}");
        let torn = (length - bytes.len()).next_multiple_of(512) as u64;
        assert_eq!(store.report().torn_bytes, torn);
        assert_eq!(store.report().damaged, []);
        store
            .write(&WriteBatch {
                decided: Slot(9),
                ..batch(entries(18..=18, 10))
            })
            .unwrap();
        drop(store);
        let expected = [&entries(10..=17, 9)[..], &entries(18..=18, 10)].concat();
        assert_eq!(load(&cut).entries, expected, "{length}");
    }
}

#[test]
fn a_torn_tail_is_cut_and_a_flipped_bit_is_reported() {
    let files = SimFiles::new(1);
    let store = create(&files);
    store.write(&batch(entries(1..=2, 1))).unwrap();
    store.write(&batch(entries(3..=40, 1))).unwrap();
    drop(store);
    let (name, bytes) = newest_segment(&files);
    let sector = bytes.len() as u64 - 1024;
    let torn = files.snapshot_of_disk(2);
    for at in sector..sector + 512 {
        torn.flip(&name, at, bytes[at as usize]).unwrap();
    }
    let store = open(&torn).unwrap();
    assert_eq!(store.load().unwrap().claimed, Slot(2), "never acknowledged");
    assert!(store.report().torn_bytes > 512);
    files.flip(&name, sector, 1).unwrap();
    let store = open(&files).unwrap();
    let recovered = store.load().unwrap();
    assert_eq!(recovered.claimed, Slot(40), "maybe acknowledged");
    assert!(recovered.entries.len() < 40);
    let damage = &store.report().damaged[0];
    assert_eq!(damage.slot, store.report().first_lost);
    assert_eq!(store.report().torn_bytes, 0);
}

#[test]
fn a_damaged_entry_is_put_back_by_a_repair() {
    let files = SimFiles::new(1);
    let store = create(&files);
    let all = WriteBatch {
        decided: Slot(4),
        ..batch(entries(1..=5, 1))
    };
    store.write(&all).unwrap();
    let (name, bytes) = newest_segment(&files);
    files.flip(&name, bytes.len() as u64 - 300, 1).unwrap();
    let store = reopen(store, &files);
    let found = store.load().unwrap();
    assert!(found.decided < Slot(4), "{found:?}");
    assert_eq!(found.entries, []);
    assert_eq!(found.claimed, Slot(5));
    let lost = found.decided.next();
    let repair = WriteBatch {
        decided: Slot(4),
        ..batch(entries(lost.0..=lost.0, 1))
    };
    store.write(&repair).unwrap();
    let store = reopen(store, &files);
    assert_eq!(store.report().damaged, []);
    assert_eq!(store.report().harmless, 1);
    assert_eq!(store.load().unwrap().decided, Slot(4));
    let read = store.read(Slot(1), Slot(5), usize::MAX).unwrap();
    assert_eq!(read.entries, entries(1..=5, 1));
}

#[test]
fn a_lost_segment_takes_no_promise_with_it_and_leaves_no_entry_that_was_replaced() {
    let files = SimFiles::new(1);
    let store = create(&files).with_segment_bytes(512);
    let first = WriteBatch {
        decided: Slot(2),
        accepted: Some(ballot(1)),
        ..batch(entries(1..=6, 1))
    };
    let first = WriteBatch {
        promised: Some(ballot(1)),
        ..first
    };
    store.write(&first).unwrap();
    let replaced = WriteBatch {
        truncate_from: Some(Slot(4)),
        promised: Some(ballot(2)),
        accepted: Some(ballot(2)),
        decided: Slot(2),
        ..batch(entries(4..=6, 2))
    };
    store.write(&replaced).unwrap();
    store
        .write(&WriteBatch {
            decided: Slot(2),
            ..batch(entries(7..=7, 2))
        })
        .unwrap();
    drop(store);
    files.remove(&crate::store::segment::name(3)).unwrap();
    let store = open(&files).unwrap();
    let found = store.load().unwrap();
    assert_eq!((found.promised, found.accepted), (ballot(2), ballot(2)));
    assert_eq!(found.decided, Slot(2));
    assert_eq!(
        found.entries,
        [],
        "slots 4 to 6 were replaced by what is lost"
    );
    assert_eq!(found.claimed, Slot(7));
    assert_eq!(store.report().first_lost, Some(Slot(3)));
    let read = store.read(Slot(7), Slot(7), 0).unwrap();
    assert_eq!(read.entries, entries(7..=7, 2));
}

#[test]
fn frames_of_another_store_are_not_taken_for_ones_own() {
    let files = SimFiles::new(1);
    let store = create(&files);
    store.write(&batch(entries(1..=2, 1))).unwrap();
    drop(store);
    let foreign = SimFiles::new(1);
    let other = Identity {
        incarnation: Incarnation(6),
        ..IDENTITY
    };
    drop(FileStore::create_in(foreign.clone(), other, &membership()).unwrap());
    let store = FileStore::open_in(foreign.clone(), CELL, NODE).unwrap();
    store.write(&batch(entries(1..=2, 7))).unwrap();
    drop(store);
    let name = "log-00000000000000000001.seg";
    files.put(name, foreign.contents(name).unwrap());
    let refused = open(&files).unwrap_err();
    assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
}
