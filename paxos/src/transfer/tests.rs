//! A transfer by itself: which parts are asked for, and when it asks again or is given up.

use super::*;
use crate::limits::CHUNK_BYTES_MAX;
use crate::testing::{core as core_of, recovered, snapshot, timing};
use crate::types::Slot;

/// A snapshot of a hundred parts of this many bytes.
const PART: u64 = CHUNK_BYTES_MAX as u64;

fn meta() -> SnapshotMeta {
    SnapshotMeta {
        bytes: 100 * PART,
        ..snapshot(5, 1)
    }
}

/// A transfer from node 2; the driver has said that it has `stored` bytes.
fn transfer(stored: u64) -> (Core, Transfer) {
    let mut core = core_of(recovered(Vec::new(), 1));
    let mut transfer = Transfer::begin(&mut core, NodeId(2), meta());
    let first = outputs(&mut core);
    assert_eq!(first, [Said::Stored(0, 0)], "what is there already?");
    transfer.on_stored(&mut core, &meta(), stored);
    (core, transfer)
}

/// What a transfer gives out.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// So many bytes from this offset are to be stored.
    Stored(u64, usize),
    /// The part from this offset is asked for.
    Asked(u64),
}

fn outputs(core: &mut Core) -> Vec<Said> {
    let outputs = std::iter::from_fn(|| core.pop_output());
    let said = outputs.map(|output| match output {
        Output::StoreChunk { offset, bytes, .. } => Said::Stored(offset, bytes.len()),
        Output::Send { to, message } => match message.body {
            Body::FetchChunk(fetch) if to == NodeId(2) => Said::Asked(fetch.offset),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    });
    said.collect()
}

fn chunk(offset: u64, bytes: u64) -> Chunk {
    let (slot, crc) = (meta().slot, meta().crc);
    let bytes = Bytes::from(vec![0; bytes as usize]);
    Chunk {
        slot,
        crc,
        offset,
        bytes,
    }
}

fn gets(core: &mut Core, transfer: &mut Transfer, chunk: Chunk) -> bool {
    transfer.on_chunk(core, NodeId(2), chunk)
}

fn later(core: &mut Core, micros: u64) {
    core.now = core.now.plus_micros(micros);
}

#[test]
fn the_first_part_that_is_missing_is_asked_for_and_then_the_next() {
    let (mut core, mut transfer) = transfer(7);
    assert_eq!(outputs(&mut core), [Said::Asked(7)]);
    assert!(gets(&mut core, &mut transfer, chunk(7, PART)));
    let said = outputs(&mut core);
    assert_eq!(
        said,
        [Said::Stored(7, PART as usize), Said::Asked(7 + PART)]
    );
    assert_eq!(transfer.from(), NodeId(2));
}

#[test]
fn parts_that_were_not_asked_for_are_dropped() {
    let (mut core, mut transfer) = transfer(0);
    outputs(&mut core);
    assert!(transfer.on_chunk(&mut core, NodeId(3), chunk(0, 9)));
    assert!(gets(&mut core, &mut transfer, chunk(1, 9)));
    let other_slot = Chunk {
        slot: Slot(6),
        ..chunk(0, 9)
    };
    assert!(gets(&mut core, &mut transfer, other_slot));
    let other_state = Chunk {
        crc: 1,
        ..chunk(0, 9)
    };
    assert!(gets(&mut core, &mut transfer, other_state));
    assert_eq!(outputs(&mut core), []);
    let mut unknown = Transfer::begin(&mut core, NodeId(2), meta());
    outputs(&mut core);
    assert!(gets(&mut core, &mut unknown, chunk(0, 9)));
    assert_eq!(outputs(&mut core), [], "the driver has not answered");
}

#[test]
fn a_part_that_is_empty_or_too_long_ends_the_transfer() {
    let (mut core, mut transfer) = transfer(100 * PART - 5);
    assert!(!gets(
        &mut core,
        &mut transfer.clone(),
        chunk(100 * PART - 5, 0)
    ));
    assert!(!gets(
        &mut core,
        &mut transfer.clone(),
        chunk(100 * PART - 5, 6)
    ));
    outputs(&mut core);
    assert!(gets(&mut core, &mut transfer, chunk(100 * PART - 5, 5)));
    let last = Said::Stored(100 * PART - 5, 5);
    assert_eq!(
        outputs(&mut core),
        [last],
        "there is nothing more to ask for"
    );
}

#[test]
fn no_more_is_fetched_than_the_driver_can_store_meanwhile() {
    let (mut core, mut transfer) = transfer(0);
    let mut fetched = 0;
    loop {
        let said = outputs(&mut core);
        if !said.contains(&Said::Asked(fetched)) {
            break;
        }
        assert!(gets(&mut core, &mut transfer, chunk(fetched, PART)));
        fetched += PART;
    }
    assert_eq!(fetched, CHUNKS_UNSTORED_MAX + PART);
    transfer.on_stored(&mut core, &meta(), PART);
    assert_eq!(outputs(&mut core), [Said::Asked(fetched)]);
    transfer.on_stored(&mut core, &meta(), 2 * PART);
    assert_eq!(outputs(&mut core), [], "one question at a time");
}

#[test]
fn what_the_driver_has_lost_is_fetched_again() {
    let (mut core, mut transfer) = transfer(3 * PART);
    gets(&mut core, &mut transfer, chunk(3 * PART, PART));
    outputs(&mut core);
    transfer.on_stored(&mut core, &meta(), 3 * PART);
    assert_eq!(outputs(&mut core), [], "it is still on its way");
    transfer.on_stored(&mut core, &meta(), PART);
    assert_eq!(outputs(&mut core), [Said::Asked(PART)]);
    transfer.on_stored(&mut core, &meta(), 0);
    assert_eq!(outputs(&mut core), [Said::Asked(0)]);
}

#[test]
fn what_the_driver_says_of_another_snapshot_or_beyond_the_end_is_not_heard() {
    let (mut core, transfer) = transfer(0);
    outputs(&mut core);
    let mut after = transfer.clone();
    after.on_stored(&mut core, &snapshot(6, 1), 1);
    after.on_stored(&mut core, &meta(), 100 * PART + 1);
    assert_eq!(after, transfer);
    after.on_stored(&mut core, &meta(), 100 * PART);
    assert_ne!(after, transfer);
}

#[test]
fn a_question_is_repeated_after_a_timeout_and_after_four_the_source_is_left() {
    let (mut core, mut transfer) = transfer(0);
    outputs(&mut core);
    let timeout = timing().leader_timeout_micros;
    assert_eq!(transfer.next_timer(&core), Time(timeout));
    later(&mut core, timeout - 1);
    assert!(transfer.tick(&mut core));
    assert_eq!(outputs(&mut core), []);
    later(&mut core, 1);
    for _ in 0..4 {
        assert!(transfer.tick(&mut core));
        assert_eq!(outputs(&mut core), [Said::Asked(0)]);
        assert_eq!(transfer.next_timer(&core), core.now.plus_micros(timeout));
        later(&mut core, timeout);
    }
    assert!(!transfer.tick(&mut core));
}

#[test]
fn a_driver_that_says_nothing_of_what_it_has_is_asked_again() {
    let (mut core, mut transfer) = transfer(100 * PART);
    assert_eq!(outputs(&mut core), []);
    let timeout = timing().leader_timeout_micros;
    for _ in 0..4 {
        later(&mut core, timeout);
        assert!(transfer.tick(&mut core));
        assert_eq!(outputs(&mut core), [], "it may take its time to check");
    }
    later(&mut core, timeout);
    assert!(transfer.tick(&mut core));
    assert_eq!(outputs(&mut core), [Said::Stored(0, 0)]);
    transfer.on_stored(&mut core, &meta(), 0);
    assert_eq!(
        outputs(&mut core),
        [Said::Asked(0)],
        "and what it lost is fetched"
    );
}
