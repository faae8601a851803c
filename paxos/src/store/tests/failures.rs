//! Errors of the disk: nothing is tried twice, nothing is forgotten, and the message says why.

use super::*;
use crate::sim::DiskFault;
use crate::store::{Files, Scrub};

#[test]
fn a_failed_write_or_sync_stops_the_store_for_good() {
    for fault in [DiskFault::WriteError, DiskFault::SyncError, DiskFault::Full] {
        let files = SimFiles::new(1);
        let store = create(&files);
        store.write(&promise(3)).unwrap();
        files.inject(fault, 0);
        let failed = store.write(&promise(4)).unwrap_err().to_string();
        let again = store.write(&promise(4)).unwrap_err().to_string();
        assert_eq!(failed, again, "the disk is not asked again");
        files.crash();
        let promised = load(&files).promised;
        assert!(
            promised == ballot(3) || promised == ballot(4),
            "{fault:?}: {promised}"
        );
    }
}

#[test]
fn a_failed_directory_sync_stops_the_store_before_anything_is_acknowledged() {
    let files = SimFiles::new(1);
    let store = create(&files).with_segment_bytes(1);
    files.inject(DiskFault::DirectoryError, 0);
    let failed = store.write(&promise(4)).unwrap_err();
    assert!(matches!(failed, StoreError::Io { .. }), "{failed}");
    store.write(&promise(4)).unwrap_err();
    files.crash();
    assert_eq!(load(&files).promised, Ballot::floor(Epoch::FIRST));
}

#[test]
fn what_a_restarted_process_was_shown_survives_a_crash_though_its_sync_failed() {
    let mut shown = 0;
    for seed in 0..50 {
        let files = SimFiles::new(seed);
        let store = create(&files);
        store.write(&promise(3)).unwrap();
        files.inject(DiskFault::SyncError, 0);
        store.write(&promise(4)).unwrap_err();
        drop(store);
        files.end_process();
        let store = open(&files).unwrap();
        let promised = store.load().unwrap().promised;
        shown += usize::from(promised == ballot(4));
        drop(store);
        files.crash();
        assert_eq!(load(&files).promised, promised, "seed {seed}");
    }
    assert!(shown > 0);
}

#[test]
fn a_full_disk_says_so_and_the_store_opens_again_when_there_is_room() {
    let files = SimFiles::new(1);
    let store = create(&files);
    files.set_capacity(12 * 1024);
    let mut slot = 0;
    let failed = loop {
        slot += 1;
        match store.write(&batch(vec![entry(slot, 1)])) {
            Ok(()) => assert!(slot < 1000),
            Err(error) => break error,
        }
    };
    assert!(matches!(failed, StoreError::Full { .. }), "{failed}");
    assert!(failed.to_string().contains("free some space"), "{failed}");
    assert!(slot > 3, "some room was there");
    drop(store);
    files.set_capacity(u64::MAX);
    let store = open(&files).unwrap();
    assert_eq!(store.load().unwrap().claimed, Slot(slot - 1));
    store.write(&batch(vec![entry(slot, 2)])).unwrap();
}

#[test]
fn short_reads_and_short_writes_are_gone_on_with() {
    let files = SimFiles::new(1);
    for after in 0..3 {
        files.inject(DiskFault::ShortWrite, after);
    }
    let store = create(&files);
    for slot in 1..=50 {
        files.inject(DiskFault::ShortWrite, slot % 3);
        store.write(&batch(vec![entry(slot, 1)])).unwrap();
    }
    for after in 0..20 {
        files.inject(DiskFault::ShortRead, after);
    }
    let store = reopen(store, &files);
    for slot in 1..=50 {
        files.inject(DiskFault::ShortRead, 0);
        let read = store.read(Slot(slot), Slot(slot), 0).unwrap();
        assert_eq!(read.entries, entries(slot..=slot, 1));
    }
}

#[test]
fn an_entry_in_an_unreadable_sector_is_damaged_and_the_others_are_read() {
    let files = SimFiles::new(1);
    let store = create(&files);
    store.write(&batch(entries(1..=30, 1))).unwrap();
    files
        .make_unreadable("log-00000000000000000001.seg", 1024)
        .unwrap();
    let read = store.read(Slot(1), Slot(30), usize::MAX).unwrap();
    let lost = read.damaged.unwrap();
    assert_eq!(read.entries, entries(1..=lost.0 - 1, 1));
    let mut beyond = lost;
    while store.read(beyond, beyond, 0).unwrap().damaged.is_some() {
        beyond = beyond.next();
    }
    let read = store.read(beyond, Slot(30), usize::MAX).unwrap();
    assert_eq!(read.entries, entries(beyond.0..=30, 1));
    let recovered = reopen(store, &files).load().unwrap();
    assert_eq!(recovered.claimed, Slot(30));
    assert_eq!(recovered.entries, entries(1..=lost.0 - 1, 1));
}

#[test]
fn an_entry_that_changes_under_a_running_store_is_never_returned() {
    let files = SimFiles::new(1);
    let store = create(&files);
    store.write(&batch(entries(1..=9, 1))).unwrap();
    let name = "log-00000000000000000001.seg";
    let length = files.contents(name).unwrap().len() as u64;
    for at in 0..length {
        files.flip(name, at, 0x10).unwrap();
        let read = store.read(Slot(1), Slot(9), usize::MAX).unwrap();
        let intact = read.damaged.map_or(9, |slot| slot.0 - 1);
        assert_eq!(read.entries, entries(1..=intact, 1), "byte {at}");
        files.flip(name, at, 0x10).unwrap();
    }
}

#[test]
fn a_scrub_finds_what_nobody_reads() {
    let files = SimFiles::new(1);
    let store = create(&files);
    for slot in 1..=60 {
        store.write(&batch(vec![entry(slot, 1)])).unwrap();
    }
    let cut = WriteBatch {
        snapshot: Some(take_snapshot(&store, 20, 200_000)),
        ..decide(20, 15)
    };
    store.write(&cut).unwrap();
    let scrub = || {
        let (mut scrub, mut damaged, mut steps) = (Scrub::default(), Vec::new(), 0);
        loop {
            let step = scrub.step(&store, 300).unwrap();
            damaged.extend(step.damaged);
            steps += 1;
            if step.complete {
                return (damaged, step.snapshot_damaged, steps);
            }
        }
    };
    let (damaged, snapshot_damaged, steps) = scrub();
    assert_eq!((damaged, snapshot_damaged), (vec![], false));
    assert!(steps > 600, "{steps}: in small steps");
    let names = files.list().unwrap();
    let segment = names
        .iter()
        .filter(|name| name.ends_with(".seg"))
        .nth(1)
        .unwrap();
    files.make_unreadable(segment, 1024).unwrap();
    files
        .flip("snapshot-00000000000000000020.snap", 100_000, 4)
        .unwrap();
    let (damaged, snapshot_damaged, _) = scrub();
    assert_eq!(damaged.len(), 1);
    assert!(snapshot_damaged);
}

#[test]
fn a_snapshot_that_is_replaced_during_a_scrub_is_not_reported_as_damaged() {
    let files = SimFiles::new(1);
    let store = create(&files);
    store.write(&batch(entries(1..=60, 1))).unwrap();
    let snapshot = |slot| WriteBatch {
        snapshot: Some(take_snapshot(&store, slot, 200_000)),
        ..decide(slot, slot + 1)
    };
    store.write(&snapshot(20)).unwrap();
    let mut scrub = Scrub::default();
    let mut step = || scrub.step(&store, 10_000).unwrap();
    while step().bytes < 10_000 {}
    store.write(&snapshot(40)).unwrap();
    let replaced = step();
    assert!(replaced.complete && !replaced.snapshot_damaged);
    let mut read = 0;
    loop {
        let found = step();
        read += found.bytes;
        assert!(found.damaged.is_empty() && !found.snapshot_damaged);
        if found.complete {
            break;
        }
    }
    assert!(read >= 200_000, "{read}");
}

#[test]
fn reads_go_on_while_segments_are_written_and_removed() {
    let files = SimFiles::new(1);
    let store = create(&files);
    store.write(&batch(entries(1..=9, 1))).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0_u64;
            loop {
                let numbers = store.numbers();
                let read = store.read(numbers.first, numbers.end, 2000).unwrap();
                assert_eq!(read.damaged, None);
                for found in &read.entries {
                    assert_eq!(*found, entry(found.slot.0, 1));
                }
                reads += 1;
                if numbers.end >= Slot(2000) {
                    return reads;
                }
            }
        });
        for slot in 10..=2000 {
            let mut next = batch(vec![entry(slot, 1)]);
            if slot % 100 == 0 {
                next.snapshot = Some(take_snapshot(&store, slot - 10, 10));
                next.keep_from = Slot(slot - 20);
            }
            next.decided = Slot(slot - 10);
            store.write(&next).unwrap();
        }
        assert!(reader.join().unwrap() > 0);
    });
}
