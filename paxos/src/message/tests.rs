//! The encoding of messages: golden bytes, the largest message, and bytes that are none.

use bytes::Bytes;

use super::*;
use crate::limits::{
    ENTRY_OVERHEAD_BYTES, MESSAGE_ENTRIES_BYTES_MAX, MESSAGE_ENTRIES_MAX, PAYLOAD_BYTES_MAX,
};
use crate::membership::Membership;
use crate::types::{EntryKind, NodeId};

fn ballot(round: u64, node: u64) -> Ballot {
    Ballot {
        epoch: Epoch(1),
        round,
        node: NodeId(node),
    }
}

fn entry(slot: u64) -> Entry {
    let payload = Bytes::from_static(b"abc");
    Entry::new(Slot(slot), ballot(3, 2), EntryKind::Command, payload)
}

fn one_of_each() -> Vec<(Body, &'static str)> {
    let ballot = ballot(300, 2);
    let synced = Standing::Synced {
        persisted: Slot(4),
        received: Slot(5),
    };
    let unsynced = Standing::Unsynced { received: Slot(5) };
    let confirm = ConfirmNumber(6);
    let accepted = |standing| Accepted {
        ballot,
        standing,
        gap: true,
        confirm,
    };
    let (first, entries) = (Slot(7), vec![entry(7)]);
    let decided = Slot(4);
    vec![
        (Body::Prepare(Prepare { ballot }), "010001ac0202"),
        (
            Body::Promise(Promise {
                ballot,
                accepted: ballot,
                end: Slot(9),
                decided,
            }),
            "010101ac020201ac02020904",
        ),
        (
            Body::Fetch(Fetch {
                ballot,
                accepted: ballot,
                first,
                last: Slot(9),
            }),
            "010201ac020201ac02020709",
        ),
        (
            Body::Entries(Entries {
                ballot,
                entries: entries.clone(),
            }),
            "010301ac020201070103020103616263deb5f6820b",
        ),
        (
            Body::Sync(Sync {
                ballot,
                first,
                entries: entries.clone(),
                end: Slot(9),
                decided,
                confirm,
            }),
            "010401ac02020701070103020103616263deb5f6820b090406",
        ),
        (
            Body::Accept(Accept {
                ballot,
                first,
                entries,
                decided,
                confirm,
            }),
            "010501ac02020701070103020103616263deb5f6820b0406",
        ),
        (Body::Accepted(accepted(synced)), "010601ac02020104050106"),
        (Body::Accepted(accepted(unsynced)), "010601ac020200050106"),
        (
            Body::Reject(Reject {
                ballot,
                promised: ballot,
            }),
            "010701ac020201ac0202",
        ),
        (Body::Ping(Ping { round: 8 }), "010808"),
        (
            Body::Pong(Pong {
                round: 8,
                promised: ballot,
                accepted: ballot,
                end: Slot(9),
                happy: true,
                can_vote: false,
            }),
            "01090801ac020201ac0202090100",
        ),
        (Body::Behind(Behind { decided }), "010a04"),
        (
            Body::Learn(Learn {
                first,
                last: Slot(9),
                durable: Slot(5),
            }),
            "010b070905",
        ),
        (
            Body::Learned(Learned {
                entries: vec![entry(7)],
                decided,
            }),
            "010c01070103020103616263deb5f6820b04",
        ),
        (
            Body::Offer(Offer {
                meta: SnapshotMeta {
                    slot: Slot(9),
                    origin: ballot,
                    membership: Membership::first((1..=3).map(NodeId)).unwrap(),
                    bytes: 300,
                    crc: 10,
                },
            }),
            "010d0901ac0202010301020303020200ac020a",
        ),
        (
            Body::FetchChunk(FetchChunk {
                slot: Slot(9),
                crc: 10,
                offset: 200,
            }),
            "010e090ac801",
        ),
        (
            Body::Chunk(Chunk {
                slot: Slot(9),
                crc: 10,
                offset: 200,
                bytes: Bytes::from_static(b"abc"),
            }),
            "010f090ac80103616263",
        ),
        (Body::Removed, "0110"),
    ]
}

fn encoded(body: &Body) -> Vec<u8> {
    let mut bytes = Vec::new();
    Message {
        epoch: Epoch::FIRST,
        body: body.clone(),
    }
    .encode(&mut bytes);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn messages_on_the_wire_stay_as_they_are() {
    for (body, golden) in one_of_each() {
        assert_eq!(hex(&encoded(&body)), golden, "{body:?}");
    }
}

#[test]
fn messages_are_read_as_they_were_written() {
    for (body, _) in one_of_each() {
        let message = Message::decode(&encoded(&body)).unwrap();
        assert_eq!(
            message,
            Message {
                epoch: Epoch::FIRST,
                body
            }
        );
    }
}

#[test]
fn a_truncated_message_and_one_with_more_behind_it_are_refused() {
    for (body, _) in one_of_each() {
        let mut bytes = encoded(&body);
        for length in 0..bytes.len() {
            let cut = Message::decode(&bytes[..length]);
            assert!(
                matches!(cut, Err(DecodeError::Malformed(_))),
                "{body:?} cut to {length}"
            );
        }
        bytes.push(0);
        assert_eq!(
            Message::decode(&bytes),
            Err(DecodeError::Trailing { bytes: 1 })
        );
    }
}

#[test]
fn a_message_that_is_too_long_is_refused_unread() {
    let bytes = vec![0; MESSAGE_BYTES_MAX + 1];
    assert_eq!(
        Message::decode(&bytes),
        Err(DecodeError::TooLong { bytes: bytes.len() })
    );
}

#[test]
fn the_largest_message_fits() {
    let worst = |slot: u64, payload: usize| Entry {
        slot: Slot(slot),
        origin: ballot(u64::MAX, u64::MAX),
        kind: EntryKind::Command,
        payload: Bytes::from(vec![1; payload]),
        crc: u32::MAX,
    };
    let one_large = worst(u64::MAX, PAYLOAD_BYTES_MAX);
    let rest = MESSAGE_ENTRIES_BYTES_MAX - PAYLOAD_BYTES_MAX - 2 * ENTRY_OVERHEAD_BYTES;
    let many = vec![
        worst(
            u64::MAX,
            MESSAGE_ENTRIES_BYTES_MAX / MESSAGE_ENTRIES_MAX - 48
        );
        1024
    ];
    for entries in [vec![one_large, worst(u64::MAX, rest)], many] {
        let body = Body::Sync(Sync {
            ballot: ballot(u64::MAX, u64::MAX),
            first: Slot(u64::MAX),
            entries,
            end: Slot(u64::MAX),
            decided: Slot(u64::MAX),
            confirm: ConfirmNumber(u64::MAX),
        });
        let bytes = encoded(&body);
        assert!(bytes.len() <= MESSAGE_BYTES_MAX, "{} bytes", bytes.len());
    }
}
