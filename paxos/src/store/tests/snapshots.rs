//! Snapshot files: written, received in pieces, damaged, lost.

use super::*;
use crate::sim::DiskFault;
use crate::store::Files;

#[test]
fn a_snapshot_is_read_as_it_was_written() {
    for bytes in [0, 1, 65_531, 65_532, 65_533, 200_000] {
        let files = SimFiles::new(1);
        let store = create(&files);
        let writer = store.snapshots().create(Slot(9), ballot(2), membership());
        let mut writer = writer.unwrap();
        for part in state(9, bytes).chunks(999) {
            writer.append(part).unwrap();
        }
        let meta = writer.finish().unwrap();
        assert_eq!((meta.slot, meta.origin), (Slot(9), ballot(2)));
        assert_eq!(meta.bytes, bytes as u64);
        assert_eq!(meta.crc, crc32c::crc32c(&state(9, bytes)));
        let reader = store.snapshots().open(Slot(9)).unwrap();
        assert_eq!(reader.meta(), &meta);
        assert_eq!(reader.read_at(0, usize::MAX).unwrap(), state(9, bytes));
        let middle = reader.read_at(bytes as u64 / 2, 70_000).unwrap();
        let expected = &state(9, bytes)[bytes / 2..];
        assert_eq!(middle, expected[..expected.len().min(70_000)]);
        assert!(reader.read_at(bytes as u64, 10).unwrap().is_empty());
        reader.verify().unwrap();
    }
}

#[test]
fn a_snapshot_that_was_not_finished_is_none() {
    let files = SimFiles::new(1);
    let store = create(&files);
    let mut writer = store
        .snapshots()
        .create(Slot(9), ballot(2), membership())
        .unwrap();
    writer.append(&[1; 100_000]).unwrap();
    drop(writer);
    assert_eq!(store.snapshots().list().unwrap(), []);
    let store = reopen(store, &files);
    assert!(
        !files
            .list()
            .unwrap()
            .iter()
            .any(|name| name.ends_with(".tmp"))
    );
    assert_eq!(store.snapshots().list().unwrap(), []);
}

#[test]
fn a_log_never_refers_to_a_snapshot_that_is_not_there() {
    let files = SimFiles::new(1);
    let store = create(&files);
    store.write(&batch(entries(1..=9, 1))).unwrap();
    let mut meta = take_snapshot(&store, 5, 100);
    meta.crc ^= 1;
    let cut = |meta| WriteBatch {
        snapshot: Some(meta),
        ..decide(5, 5)
    };
    let refused = store.write(&cut(meta.clone())).unwrap_err();
    assert!(matches!(refused, StoreError::Snapshot { .. }), "{refused}");
    meta.slot = Slot(6);
    let refused = store.write(&cut(meta)).unwrap_err();
    assert!(matches!(refused, StoreError::Snapshot { .. }), "{refused}");
    assert_eq!(store.load().unwrap().first, Slot(1));
}

#[test]
fn a_snapshot_is_received_in_pieces_over_restarts_and_crashes() {
    let bytes = 300_000;
    let meta = take_snapshot(&create(&SimFiles::new(2)), 70, bytes);
    let whole = state(70, bytes);
    let mut resumed = 0;
    for seed in 0..40 {
        let files = SimFiles::new(seed);
        let mut store = create(&files);
        for pieces in 2.. {
            assert!(pieces < 20, "it comes to an end");
            let mut incoming = store.snapshots().receive(meta.clone()).unwrap();
            let begin = incoming.stored();
            resumed += usize::from(begin > 0);
            assert_eq!(
                incoming.append(begin + 1, b"gap").unwrap(),
                begin,
                "left out"
            );
            for _ in 0..pieces {
                let from = incoming.stored() as usize;
                let chunk = &whole[from..bytes.min(from + 50_000)];
                incoming.append(from as u64, chunk).unwrap();
            }
            if incoming.is_complete() {
                assert_eq!(incoming.finish().unwrap(), meta);
                break;
            }
            drop((incoming, store));
            if seed % 2 == 0 {
                files.crash();
            }
            store = open(&files).unwrap();
        }
        let reader = store.snapshots().open(Slot(70)).unwrap();
        assert_eq!(reader.read_at(0, usize::MAX).unwrap(), whole);
        let restart = WriteBatch {
            snapshot: Some(meta.clone()),
            decided: Slot(70),
            ..batch(vec![])
        };
        store.write(&restart).unwrap();
        drop(store);
        files.crash();
        assert_eq!(load(&files).snapshot, Some(meta.clone()));
    }
    assert!(resumed > 20, "{resumed}");
}

#[test]
fn a_received_snapshot_that_is_wrong_is_received_again() {
    let meta = take_snapshot(&create(&SimFiles::new(2)), 70, 1000);
    let files = SimFiles::new(1);
    let store = create(&files);
    let mut incoming = store.snapshots().receive(meta.clone()).unwrap();
    incoming.append(0, &[9; 1000]).unwrap();
    let wrong = incoming.finish().unwrap_err();
    assert!(matches!(wrong, StoreError::Snapshot { .. }), "{wrong}");
    let mut incoming = store.snapshots().receive(meta.clone()).unwrap();
    assert_eq!(incoming.stored(), 0);
    assert_eq!(
        incoming.append(0, &[9; 1001]).unwrap(),
        0,
        "longer than it says"
    );
    incoming.append(0, &state(70, 1000)).unwrap();
    assert_eq!(incoming.finish().unwrap(), meta);
}

#[test]
fn only_the_newest_snapshot_is_kept() {
    let files = SimFiles::new(1);
    let store = create(&files);
    store.write(&batch(entries(1..=9, 1))).unwrap();
    let other = take_snapshot(&create(&SimFiles::new(2)), 4, 10);
    drop(store.snapshots().receive(other).unwrap());
    for slot in [3, 5, 8] {
        let snapshot = Some(take_snapshot(&store, slot, 10));
        store
            .write(&WriteBatch {
                snapshot,
                ..decide(8, slot)
            })
            .unwrap();
    }
    assert_eq!(store.snapshots().list().unwrap(), [Slot(8)]);
    let left = files.list().unwrap();
    assert!(!left.iter().any(|name| name.ends_with(".part")), "{left:?}");
    assert_eq!(reopen(store, &files).load().unwrap().first, Slot(8));
}

#[test]
fn a_node_without_a_sound_snapshot_keeps_its_promises_and_lets_its_peers_repair_it() {
    let files = SimFiles::new(1);
    let store = create(&files);
    let all = WriteBatch {
        promised: Some(ballot(7)),
        accepted: Some(ballot(6)),
        ..batch(entries(1..=60, 1))
    };
    store.write(&all).unwrap();
    let snapshot = Some(take_snapshot(&store, 50, 1000));
    store
        .write(&WriteBatch {
            snapshot,
            ..decide(55, 40)
        })
        .unwrap();
    files
        .flip("snapshot-00000000000000000050.snap", 17_000, 1)
        .unwrap();
    let store = reopen(store, &files);
    let damaged = &store.report().damaged;
    assert_eq!(damaged.len(), 1);
    assert!(
        damaged[0]
            .file
            .ends_with("snapshot-00000000000000000050.snap")
    );
    let expected = Recovered {
        promised: ballot(7),
        accepted: ballot(6),
        claimed: Slot(60),
        ..Recovered::fresh(membership())
    };
    assert_eq!(store.load().unwrap(), expected);
    // It may go on writing, come up again, take entries from the beginning, or a snapshot.
    store.write(&promise(8)).unwrap();
    let store = reopen(store, &files);
    let expected = Recovered {
        promised: ballot(8),
        ..expected
    };
    assert_eq!(store.load().unwrap(), expected);
    let repair = WriteBatch {
        decided: Slot(3),
        ..batch(entries(1..=3, 1))
    };
    store.write(&repair).unwrap();
    let store = reopen(store, &files);
    assert_eq!(store.load().unwrap().decided, Slot(3));
    assert_eq!(store.load().unwrap().claimed, Slot(60));
    let snapshot = Some(take_snapshot(&store, 58, 1000));
    let install = WriteBatch {
        snapshot,
        restart: true,
        ..decide(58, 59)
    };
    store.write(&install).unwrap();
    let recovered = reopen(store, &files).load().unwrap();
    assert_eq!((recovered.first, recovered.decided), (Slot(59), Slot(58)));
    assert_eq!(
        (recovered.claimed, recovered.promised),
        (Slot(58), ballot(8))
    );
}

#[test]
fn a_damaged_snapshot_is_done_without_if_the_log_still_has_everything() {
    let files = SimFiles::new(1);
    let store = create(&files);
    store.write(&batch(entries(1..=9, 1))).unwrap();
    let snapshot = Some(take_snapshot(&store, 5, 1000));
    store
        .write(&WriteBatch {
            snapshot,
            ..decide(7, 0)
        })
        .unwrap();
    files
        .flip("snapshot-00000000000000000005.snap", 17_000, 1)
        .unwrap();
    let store = reopen(store, &files);
    let recovered = store.load().unwrap();
    assert_eq!(recovered.snapshot, None);
    assert_eq!((recovered.first, recovered.decided), (Slot(1), Slot(7)));
    assert_eq!(recovered.entries, entries(8..=9, 1));
    // A newer one that the log does not refer to yet serves as well.
    store
        .write(&WriteBatch {
            snapshot: Some(take_snapshot(&store, 6, 10)),
            ..decide(7, 7)
        })
        .unwrap();
    take_snapshot(&store, 7, 20);
    files
        .flip("snapshot-00000000000000000006.snap", 16_384, 1)
        .unwrap();
    let recovered = reopen(store, &files).load().unwrap();
    assert_eq!(recovered.snapshot.unwrap().slot, Slot(7));
    assert_eq!(recovered.entries, entries(8..=9, 1));
}

#[test]
fn a_snapshot_that_cannot_be_written_harms_nothing_else() {
    for fault in [DiskFault::WriteError, DiskFault::SyncError, DiskFault::Full] {
        let files = SimFiles::new(1);
        let store = create(&files);
        let mut writer = store
            .snapshots()
            .create(Slot(9), ballot(2), membership())
            .unwrap();
        files.inject(fault, 0);
        let appended = writer.append(&[1; 100_000]);
        let finished = appended.and_then(|()| writer.finish().map(drop));
        finished.unwrap_err();
        assert_eq!(store.snapshots().list().unwrap(), []);
        store.write(&promise(3)).unwrap();
        take_snapshot(&store, 9, 10);
    }
}

#[test]
fn a_damaged_header_beside_a_right_one_does_no_harm_and_is_told() {
    let files = SimFiles::new(1);
    let mut store = create(&files);
    store.write(&batch(entries(1..=30, 1))).unwrap();
    let cut = WriteBatch {
        snapshot: Some(take_snapshot(&store, 20, 1000)),
        ..decide(20, 21)
    };
    store.write(&cut).unwrap();
    for copy in [0, 8 * 1024] {
        let name = "snapshot-00000000000000000020.snap";
        files.flip(name, copy + 20, 4).unwrap();
        store = reopen(store, &files);
        assert_eq!(store.report().harmless, 1);
        assert_eq!(store.report().damaged, []);
        assert_eq!(store.load().unwrap().snapshot, cut.snapshot);
        files.flip(name, copy + 20, 4).unwrap();
        store = reopen(store, &files);
        assert_eq!(store.report().harmless, 0);
    }
}
