//! What a store without faults remembers and refuses.

use tempfile::TempDir;

use super::*;
use crate::limits::{ENTRY_OVERHEAD_BYTES, PAYLOAD_BYTES_MAX};
use crate::store::Read;

fn size(entry: &Entry) -> usize {
    entry.payload.len() + ENTRY_OVERHEAD_BYTES
}

#[test]
fn a_new_store_remembers_nothing_but_its_owner() {
    let files = SimFiles::new(1);
    let store = create(&files);
    assert_eq!(store.load().unwrap(), Recovered::fresh(membership()));
    let store = reopen(store, &files);
    assert_eq!(store.identity(), IDENTITY);
    assert_eq!(store.load().unwrap(), Recovered::fresh(membership()));
}

#[test]
fn a_batch_is_remembered_after_reopening() {
    let files = SimFiles::new(1);
    let store = create(&files);
    let first = WriteBatch {
        promised: Some(ballot(2)),
        accepted: Some(ballot(1)),
        decided: Slot(1),
        ..batch(entries(1..=3, 1))
    };
    store.write(&first).unwrap();
    let live = store.load().unwrap();
    let recovered = reopen(store, &files).load().unwrap();
    assert_eq!(live, recovered);
    assert_eq!(recovered.promised, ballot(2));
    assert_eq!(recovered.accepted, ballot(1));
    assert_eq!(recovered.decided, Slot(1));
    assert_eq!(recovered.entries, entries(2..=3, 1));
    assert_eq!(recovered.claimed, Slot(3));
}

#[test]
fn a_truncation_and_what_replaces_it_are_one_batch() {
    let files = SimFiles::new(1);
    let store = create(&files);
    store.write(&batch(entries(1..=5, 1))).unwrap();
    let second = WriteBatch {
        truncate_from: Some(Slot(3)),
        promised: Some(ballot(2)),
        accepted: Some(ballot(2)),
        ..batch(entries(3..=4, 2))
    };
    store.write(&second).unwrap();
    let recovered = reopen(store, &files).load().unwrap();
    let expected = [entry(1, 1), entry(2, 1), entry(3, 2), entry(4, 2)];
    assert_eq!(recovered.entries, expected);
    assert_eq!(recovered.claimed, Slot(4));
    assert_eq!(recovered.accepted, ballot(2));
}

#[test]
fn entries_that_lie_within_the_log_replace_those_and_no_others() {
    let files = SimFiles::new(1);
    let store = create(&files);
    store.write(&batch(entries(1..=5, 1))).unwrap();
    store.write(&batch(entries(2..=3, 2))).unwrap();
    let expected = [
        entry(1, 1),
        entry(2, 2),
        entry(3, 2),
        entry(4, 1),
        entry(5, 1),
    ];
    assert_eq!(store.load().unwrap().entries, expected);
    assert_eq!(reopen(store, &files).load().unwrap().entries, expected);
}

#[test]
fn a_membership_is_remembered_over_many_segments() {
    let files = SimFiles::new(1);
    let store = create(&files);
    let next = Membership {
        epoch: Epoch(2),
        context: Bytes::from(vec![9; crate::limits::MEMBERSHIP_CONTEXT_BYTES_MAX]),
        ..membership()
    };
    let change = WriteBatch {
        membership: Some(next.clone()),
        promised: Some(Ballot::floor(Epoch(2))),
        ..batch(Vec::new())
    };
    store.write(&change).unwrap();
    let writer = store.snapshots().create(Slot(0), ballot(1), next.clone());
    let with_snapshot = WriteBatch {
        snapshot: Some(writer.unwrap().finish().unwrap()),
        ..batch(Vec::new())
    };
    store.write(&with_snapshot).unwrap();
    for slot in 1..=100 {
        store.write(&batch(vec![entry(slot, 1)])).unwrap();
    }
    let recovered = reopen(store, &files).load().unwrap();
    assert_eq!(recovered.membership, next);
    assert_eq!(recovered.promised, Ballot::floor(Epoch(2)));
    assert_eq!(recovered.entries.len(), 100);
}

#[test]
fn a_read_gives_what_fits_and_at_least_one_entry() {
    let files = SimFiles::new(1);
    let store = create(&files);
    store.write(&batch(entries(1..=3, 1))).unwrap();
    store.write(&batch(entries(4..=5, 1))).unwrap();
    let read = |first, last, bytes| store.read(Slot(first), Slot(last), bytes).unwrap().entries;
    assert_eq!(read(2, 4, usize::MAX), entries(2..=4, 1));
    assert_eq!(read(2, 4, 2 * size(&entry(1, 1))), entries(2..=3, 1));
    assert_eq!(read(2, 4, 0), entries(2..=2, 1));
    assert_eq!(read(4, 9, usize::MAX), entries(4..=5, 1));
    assert_eq!(store.read(Slot(6), Slot(9), 99).unwrap(), Read::default());
    assert_eq!(store.read(Slot(0), Slot(9), 99).unwrap(), Read::default());
}

#[test]
fn the_largest_payload_and_an_empty_one_are_kept_and_a_larger_one_is_refused() {
    let files = SimFiles::new(1);
    let store = create(&files);
    let sized = |slot, bytes| {
        let payload = Bytes::from(vec![0; bytes]);
        Entry::new(Slot(slot), ballot(1), EntryKind::Command, payload)
    };
    let both = vec![sized(1, PAYLOAD_BYTES_MAX), sized(2, 0)];
    store.write(&batch(both.clone())).unwrap();
    let refused = store.write(&batch(vec![sized(3, PAYLOAD_BYTES_MAX + 1)]));
    assert!(matches!(refused, Err(StoreError::Inconsistent { .. })));
    assert_eq!(reopen(store, &files).load().unwrap().entries, both);
}

#[test]
fn batches_that_do_not_fit_the_log_are_refused_and_change_nothing() {
    let files = SimFiles::new(1);
    let store = create(&files);
    let good = WriteBatch {
        promised: Some(ballot(5)),
        ..batch(entries(1..=3, 1))
    };
    store.write(&good).unwrap();
    let before = store.load().unwrap();
    let gap = batch(entries(5..=5, 1));
    let hole = batch(vec![entry(4, 1), entry(6, 1)]);
    let lower = promise(4);
    let ahead = decide(4, 0);
    let long = WriteBatch {
        membership: Some(Membership {
            context: Bytes::from(vec![0; crate::limits::MEMBERSHIP_CONTEXT_BYTES_MAX + 1]),
            ..membership()
        }),
        ..batch(Vec::new())
    };
    let nowhere = WriteBatch {
        truncate_from: Some(Slot(0)),
        ..batch(Vec::new())
    };
    for bad in [gap, hole, nowhere] {
        let error = store.write(&bad).unwrap_err();
        assert!(matches!(error, StoreError::NotContiguous { .. }), "{error}");
    }
    for bad in [lower, ahead, long] {
        let error = store.write(&bad).unwrap_err();
        assert!(matches!(error, StoreError::Inconsistent { .. }), "{error}");
    }
    assert_eq!(store.load().unwrap(), before);
    store.write(&batch(entries(4..=4, 1))).unwrap();
    assert_eq!(reopen(store, &files).load().unwrap().claimed, Slot(4));
}

#[test]
fn a_log_that_is_cut_gives_its_segments_back_and_keeps_what_is_needed() {
    let files = SimFiles::new(1);
    let store = create(&files);
    for slot in 1..=200 {
        store.write(&batch(vec![entry(slot, 1)])).unwrap();
    }
    let segments = || {
        let names = crate::store::Files::list(&files).unwrap();
        names.iter().filter(|name| name.ends_with(".seg")).count()
    };
    let before = segments();
    let cut = WriteBatch {
        snapshot: Some(take_snapshot(&store, 180, 1000)),
        ..decide(190, 170)
    };
    store.write(&decide(190, 170)).unwrap();
    assert_eq!(segments(), before, "without a snapshot all is needed");
    store.write(&cut).unwrap();
    assert!(segments() * 4 < before, "{} of {before}", segments());
    let recovered = reopen(store, &files).load().unwrap();
    assert_eq!(recovered.first, Slot(170));
    assert_eq!(recovered.snapshot.as_ref().unwrap().slot, Slot(180));
    assert_eq!(recovered.decided, Slot(190));
    assert_eq!(recovered.entries, entries(191..=200, 1));
    let store = open(&files).unwrap();
    let read = store.read(Slot(170), Slot(200), usize::MAX).unwrap();
    assert_eq!(read.entries, entries(170..=200, 1));
    let read = store.read(Slot(169), Slot(200), usize::MAX).unwrap();
    assert_eq!(read, Read::default(), "cut off, not damaged");
}

#[test]
fn a_log_restarts_behind_a_snapshot_from_a_peer() {
    let files = SimFiles::new(1);
    let store = create(&files);
    store.write(&batch(entries(1..=9, 1))).unwrap();
    let restart = WriteBatch {
        snapshot: Some(take_snapshot(&store, 500, 10)),
        accepted: Some(ballot(3)),
        promised: Some(ballot(3)),
        decided: Slot(501),
        ..batch(entries(501..=502, 3))
    };
    store.write(&restart).unwrap();
    let store = reopen(store, &files);
    let recovered = store.load().unwrap();
    assert_eq!(recovered.first, Slot(501));
    assert_eq!(recovered.decided, Slot(501));
    assert_eq!(recovered.entries, entries(502..=502, 3));
    let within = WriteBatch {
        snapshot: Some(take_snapshot(&store, 501, 10)),
        restart: true,
        decided: Slot(501),
        ..batch(Vec::new())
    };
    store.write(&within).unwrap();
    let recovered = reopen(store, &files).load().unwrap();
    assert_eq!(recovered.first, Slot(502));
    assert_eq!(recovered.claimed, Slot(501));
    assert_eq!(recovered.entries, []);
}

#[test]
fn a_store_is_created_once_only() {
    let files = SimFiles::new(1);
    drop(create(&files));
    let again = FileStore::create_in(files, IDENTITY, &membership()).unwrap_err();
    assert!(matches!(again, StoreError::Exists { .. }), "{again}");
}

#[test]
fn the_store_of_another_cell_or_node_is_refused() {
    let files = SimFiles::new(1);
    drop(create(&files));
    let cell = FileStore::open_in(files.clone(), CellId([2; 16]), NODE).unwrap_err();
    assert!(matches!(cell, StoreError::WrongCell { .. }), "{cell}");
    let node = FileStore::open_in(files, CELL, NodeId(3)).unwrap_err();
    assert!(matches!(node, StoreError::WrongNode { .. }), "{node}");
}

#[test]
fn starts_are_counted_and_no_two_are_the_same() {
    let files = SimFiles::new(1);
    let mut starts = vec![create(&files).starts()];
    for after in 0..8 {
        starts.push(open(&files).unwrap().starts());
        files.stop_after(after);
        let cut_short = open(&files).map(|store| store.starts());
        starts.extend(cut_short.ok());
        files.crash();
    }
    assert!(starts.is_sorted_by(|a, b| a < b), "{starts:?}");
}

#[test]
fn a_real_directory_keeps_what_was_written() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("data");
    let store = FileStore::create(&path, IDENTITY, &membership()).unwrap();
    let store = store.with_segment_bytes(SEGMENT_BYTES);
    for slot in 1..=100 {
        store.write(&batch(vec![entry(slot, 1)])).unwrap();
    }
    drop(store);
    let store = FileStore::open(&path, CELL, NODE).unwrap();
    assert_eq!(store.load().unwrap().entries, entries(1..=100, 1));
    assert_eq!(store.starts(), 2);
}

#[test]
fn a_missing_store_is_not_created_and_the_message_says_to_replace_the_node() {
    let directory = TempDir::new().unwrap();
    for path in [directory.path().to_owned(), directory.path().join("none")] {
        let missing = FileStore::open(&path, CELL, NODE).unwrap_err();
        assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
        let text = missing.to_string();
        assert!(text.contains("must be replaced"), "{text}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_in_use_is_refused() {
    let directory = TempDir::new().unwrap();
    let store = FileStore::create(directory.path(), IDENTITY, &membership()).unwrap();
    let refused = FileStore::open(directory.path(), CELL, NODE).unwrap_err();
    assert!(matches!(refused, StoreError::InUse { .. }), "{refused}");
    let refused = FileStore::adopt(directory.path()).unwrap_err();
    assert!(matches!(refused, StoreError::InUse { .. }), "{refused}");
    drop(store);
    FileStore::open(directory.path(), CELL, NODE).unwrap();
}

#[test]
fn a_copied_directory_is_refused_until_it_is_adopted_and_a_moved_one_is_not() {
    let directory = TempDir::new().unwrap();
    let [original, moved, copy] = ["a", "b", "c"].map(|name| directory.path().join(name));
    drop(FileStore::create(&original, IDENTITY, &membership()).unwrap());
    std::fs::rename(&original, &moved).unwrap();
    drop(FileStore::open(&moved, CELL, NODE).unwrap());
    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(&moved).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    let refused = FileStore::open(&copy, CELL, NODE).unwrap_err();
    assert!(matches!(refused, StoreError::Copied { .. }), "{refused}");
    let text = refused.to_string();
    assert!(text.contains("replace this node"), "{text}");
    FileStore::adopt(&copy).unwrap();
    drop(FileStore::open(&copy, CELL, NODE).unwrap());
    drop(FileStore::open(&moved, CELL, NODE).unwrap());
}

#[test]
fn a_disk_in_another_machine_and_a_restored_copy_are_refused() {
    let files = SimFiles::new(1);
    drop(create(&files));
    drop(open(&files).unwrap());
    let restored = files.restored_copy(2);
    let refused = open(&restored).unwrap_err();
    assert!(matches!(refused, StoreError::Copied { .. }), "{refused}");
    files.set_machine("another");
    let refused = open(&files).unwrap_err();
    assert!(matches!(refused, StoreError::Copied { .. }), "{refused}");
    FileStore::adopt_in(&files).unwrap();
    open(&files).unwrap();
}

#[test]
fn a_store_that_was_never_started_belongs_to_where_it_is_started_first() {
    let files = SimFiles::new(1);
    drop(create(&files));
    let carried = files.restored_copy(2);
    carried.set_machine("another");
    drop(open(&carried).unwrap());
    carried.set_machine("a third");
    let refused = open(&carried).unwrap_err();
    assert!(matches!(refused, StoreError::Copied { .. }), "{refused}");
}

#[test]
fn an_interrupted_creation_is_told_from_a_damaged_store() {
    let (mut missing, mut unfinished, mut whole) = (0, 0, 0);
    for seed in 0..40 {
        for after in 0..12 {
            let files = SimFiles::new(seed);
            files.stop_after(after);
            let created = FileStore::create_in(files.clone(), IDENTITY, &membership());
            let created = created.map(drop).is_ok();
            files.crash();
            match open(&files) {
                Ok(store) => {
                    whole += 1;
                    assert_eq!(store.load().unwrap(), Recovered::fresh(membership()));
                }
                Err(StoreError::Missing { .. }) if !created => missing += 1,
                Err(StoreError::Unfinished { .. }) if !created => unfinished += 1,
                Err(error) => panic!("{seed} {after}: {error}"),
            }
        }
    }
    assert!(
        missing > 0 && unfinished > 0 && whole > 0,
        "{missing} {unfinished} {whole}"
    );
}
