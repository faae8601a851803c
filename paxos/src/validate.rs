//! Whether a message may be looked at: sound in itself, and where votes are concerned from a member
//! and of this epoch.
//!
//! Everything that a peer can get wrong ends here or is ignored later; nothing of it panics.

use crate::core::Core;
use crate::limits::{CHUNK_BYTES_MAX, MESSAGE_ENTRIES_MAX, PAYLOAD_BYTES_MAX};
use crate::membership::Membership;
use crate::message::{Body, Message};
use crate::types::{Ballot, Entry, EntryKind, Epoch, NodeId, Slot};

/// Beyond this no log grows; it keeps arithmetic on slots far from its end.
const SLOT_END: u64 = 1 << 62;

/// The epoch whose voters a message is for. None if anyone may say it to anyone.
pub(crate) fn epoch_of(message: &Message) -> Option<Epoch> {
    let ballot = match &message.body {
        Body::Prepare(prepare) => prepare.ballot,
        Body::Promise(promise) => promise.ballot,
        Body::Fetch(fetch) => fetch.ballot,
        Body::Entries(entries) => entries.ballot,
        Body::Sync(sync) => sync.ballot,
        Body::Accept(accept) => accept.ballot,
        Body::Accepted(accepted) => accepted.ballot,
        Body::Reject(reject) => reject.ballot,
        Body::Ping(_) | Body::Pong(_) => return Some(message.epoch),
        Body::Behind(_)
        | Body::Learn(_)
        | Body::Learned(_)
        | Body::Offer(_)
        | Body::FetchChunk(_)
        | Body::Chunk(_)
        | Body::Removed => return None,
    };
    Some(ballot.epoch)
}

/// Whether the message is one that a right sender may have sent.
pub(crate) fn is_sound(core: &Core, from: NodeId, message: &Message) -> bool {
    let theirs = |ballot: Ballot| ballot.node == from;
    let ours = |ballot: Ballot| ballot.node == core.node;
    match &message.body {
        Body::Prepare(prepare) => theirs(prepare.ballot),
        Body::Fetch(fetch) => {
            let forward = Slot::NONE < fetch.first && fetch.first <= fetch.last;
            theirs(fetch.ballot) && forward && is_slot(fetch.last)
        }
        Body::Sync(sync) => {
            let slots = is_slot(sync.end) && is_slot(sync.decided);
            theirs(sync.ballot) && slots && are_sound(&sync.entries, sync.first)
        }
        Body::Accept(accept) => {
            let slots = is_slot(accept.decided);
            theirs(accept.ballot) && slots && are_sound(&accept.entries, accept.first)
        }
        Body::Promise(promise) => {
            let slots = is_slot(promise.end) && promise.decided <= promise.end;
            ours(promise.ballot) && slots
        }
        Body::Entries(entries) => {
            let first = entries.entries.first().map_or(Slot(1), |entry| entry.slot);
            ours(entries.ballot) && are_sound(&entries.entries, first)
        }
        Body::Accepted(accepted) => ours(accepted.ballot),
        Body::Reject(reject) => {
            let same_epoch = reject.promised.epoch == reject.ballot.epoch;
            ours(reject.ballot) && same_epoch && reject.promised > reject.ballot
        }
        Body::Learn(learn) => {
            let forward = Slot::NONE < learn.first && learn.first <= learn.last;
            forward && is_slot(learn.first)
        }
        Body::Learned(learned) => {
            let first = learned.entries.first().map_or(Slot(1), |entry| entry.slot);
            is_slot(learned.decided) && are_sound(&learned.entries, first)
        }
        Body::Offer(offer) => {
            let meta = &offer.meta;
            let filled = meta.bytes > 0 && Slot::NONE < meta.slot && is_slot(meta.slot);
            filled && meta.membership.validate().is_ok()
        }
        Body::Chunk(chunk) => chunk.bytes.len() <= CHUNK_BYTES_MAX,
        Body::Ping(_) | Body::Pong(_) | Body::Behind(_) | Body::FetchChunk(_) | Body::Removed => {
            true
        }
    }
}

fn is_slot(slot: Slot) -> bool {
    slot.0 < SLOT_END
}

fn are_sound(entries: &[Entry], first: Slot) -> bool {
    first > Slot::NONE
        && is_slot(first)
        && entries.len() <= MESSAGE_ENTRIES_MAX
        && (first.0..)
            .zip(entries)
            .all(|(slot, entry)| entry.slot.0 == slot && is_whole(entry))
}

pub(crate) fn is_whole(entry: &Entry) -> bool {
    let fits = match entry.kind {
        EntryKind::NewLeader => entry.payload.is_empty(),
        EntryKind::Command => entry.payload.len() <= PAYLOAD_BYTES_MAX,
        EntryKind::Stop => Membership::decode(&entry.payload)
            .is_some_and(|next| next.epoch == entry.origin.epoch.next()),
    };
    fits && entry.is_intact()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::interface::{Config, Timing};
    use crate::message::{
        Accept, Accepted, Chunk, Entries, Fetch, Learn, Learned, Offer, Prepare, Promise, Reject,
        Standing, Sync,
    };
    use crate::types::{ConfirmNumber, Recovered, SnapshotMeta, Time};

    const OWN: NodeId = NodeId(1);
    const PEER: NodeId = NodeId(2);

    fn membership() -> Membership {
        Membership::first((1..=3).map(NodeId)).unwrap()
    }

    fn core() -> Core {
        let config = Config {
            node: OWN,
            seeds: Vec::new(),
            timing: Timing::default(),
            seed: 1,
        };
        Core::new(&config, Recovered::fresh(membership()), Time(0))
    }

    fn ballot(node: NodeId) -> Ballot {
        let (epoch, round) = (Epoch::FIRST, 7);
        Ballot { epoch, round, node }
    }

    fn entry(slot: u64, kind: EntryKind, payload: Bytes) -> Entry {
        Entry::new(Slot(slot), ballot(PEER), kind, payload)
    }

    fn command(slot: u64) -> Entry {
        entry(slot, EntryKind::Command, Bytes::from_static(b"x"))
    }

    fn sound(body: Body) -> bool {
        let epoch = Epoch::FIRST;
        is_sound(&core(), PEER, &Message { epoch, body })
    }

    fn accept(first: u64, entries: Vec<Entry>, decided: u64) -> Body {
        Body::Accept(Accept {
            ballot: ballot(PEER),
            first: Slot(first),
            entries,
            decided: Slot(decided),
            confirm: ConfirmNumber(0),
        })
    }

    fn sync(first: u64, entries: Vec<Entry>, end: u64, decided: u64) -> Body {
        Body::Sync(Sync {
            ballot: ballot(PEER),
            first: Slot(first),
            entries,
            end: Slot(end),
            decided: Slot(decided),
            confirm: ConfirmNumber(0),
        })
    }

    #[test]
    fn entries_must_be_contiguous_whole_and_few_enough() {
        assert!(sound(accept(5, vec![command(5), command(6)], 4)));
        assert!(sound(sync(5, vec![command(5), command(6)], 6, 4)));
        assert!(!sound(accept(5, vec![command(5), command(7)], 4)));
        assert!(!sound(accept(4, vec![command(5)], 4)));
        assert!(!sound(accept(0, Vec::new(), 0)));
        assert!(sound(accept(1, Vec::new(), 0)));
        let mut broken = command(5);
        broken.crc ^= 1;
        assert!(!sound(accept(5, vec![broken.clone()], 4)));
        assert!(!sound(sync(5, vec![broken], 5, 4)));
        let many = |count: u64| (5..5 + count).map(command).collect();
        assert!(sound(accept(5, many(MESSAGE_ENTRIES_MAX as u64), 4)));
        assert!(!sound(accept(5, many(MESSAGE_ENTRIES_MAX as u64 + 1), 4)));
    }

    #[test]
    fn a_payload_must_suit_the_kind_of_its_entry() {
        let whole = |kind, payload| is_whole(&entry(5, kind, payload));
        let bytes = |count| Bytes::from(vec![1; count]);
        assert!(whole(EntryKind::NewLeader, bytes(0)));
        assert!(!whole(EntryKind::NewLeader, bytes(1)));
        assert!(whole(EntryKind::Command, bytes(PAYLOAD_BYTES_MAX)));
        assert!(!whole(EntryKind::Command, bytes(PAYLOAD_BYTES_MAX + 1)));
        let next = |epoch| Membership {
            epoch: Epoch(epoch),
            ..membership()
        };
        assert!(whole(EntryKind::Stop, next(2).encode()));
        assert!(!whole(EntryKind::Stop, next(1).encode()), "the same epoch");
        assert!(!whole(EntryKind::Stop, next(3).encode()), "one is left out");
        assert!(!whole(EntryKind::Stop, bytes(3)));
    }

    #[test]
    fn slots_beyond_the_end_of_all_logs_are_refused() {
        let (last, end) = (SLOT_END - 1, SLOT_END);
        assert!(sound(accept(5, Vec::new(), last)));
        assert!(!sound(accept(5, Vec::new(), end)));
        assert!(!sound(accept(end, Vec::new(), 4)));
        assert!(sound(sync(5, Vec::new(), last, last)));
        assert!(!sound(sync(5, Vec::new(), end, 4)));
        assert!(!sound(sync(5, Vec::new(), 4, end)));
        let promise = |end: u64, decided: u64| {
            Body::Promise(Promise {
                ballot: ballot(OWN),
                accepted: Ballot::NONE,
                end: Slot(end),
                decided: Slot(decided),
            })
        };
        assert!(sound(promise(9, 9)));
        assert!(!sound(promise(9, 10)), "more is decided than is there");
        assert!(!sound(promise(end, 4)));
        let learned = |decided| {
            Body::Learned(Learned {
                entries: Vec::new(),
                decided: Slot(decided),
            })
        };
        assert!(sound(learned(last)));
        assert!(!sound(learned(end)));
    }

    #[test]
    fn questions_for_entries_go_forward_from_the_first_slot_on() {
        let fetch = |first, last| {
            Body::Fetch(Fetch {
                ballot: ballot(PEER),
                accepted: Ballot::NONE,
                first: Slot(first),
                last: Slot(last),
            })
        };
        let learn = |first, last| {
            let durable = Slot::NONE;
            let (first, last) = (Slot(first), Slot(last));
            Body::Learn(Learn {
                first,
                last,
                durable,
            })
        };
        assert!(sound(fetch(1, 1)) && sound(learn(1, 1)));
        assert!(sound(fetch(1, 2)) && sound(learn(1, u64::MAX)));
        assert!(!sound(fetch(0, 2)) && !sound(learn(0, 2)));
        assert!(!sound(fetch(3, 2)) && !sound(learn(3, 2)));
        assert!(!sound(fetch(1, SLOT_END)) && !sound(learn(SLOT_END, SLOT_END)));
    }

    #[test]
    fn a_ballot_is_the_senders_or_in_an_answer_the_receivers() {
        let prepare = |node| {
            let ballot = ballot(node);
            Body::Prepare(Prepare { ballot })
        };
        let accepted = |node| {
            Body::Accepted(Accepted {
                ballot: ballot(node),
                standing: Standing::Unsynced {
                    received: Slot::NONE,
                },
                gap: false,
                confirm: ConfirmNumber(0),
            })
        };
        let entries = |node, entries| {
            let ballot = ballot(node);
            Body::Entries(Entries { ballot, entries })
        };
        assert!(sound(prepare(PEER)) && !sound(prepare(OWN)) && !sound(prepare(NodeId(3))));
        assert!(sound(accepted(OWN)) && !sound(accepted(PEER)));
        assert!(sound(entries(OWN, vec![command(5)])));
        assert!(!sound(entries(PEER, vec![command(5)])));
        assert!(!sound(entries(OWN, vec![command(5), command(5)])));
        let reject = |ballot, promised| Body::Reject(Reject { ballot, promised });
        let higher = Ballot {
            round: 8,
            ..ballot(PEER)
        };
        assert!(sound(reject(ballot(OWN), higher)));
        assert!(!sound(reject(ballot(PEER), higher)));
        assert!(!sound(reject(ballot(OWN), ballot(OWN))), "nothing higher");
        let other_epoch = Ballot::floor(Epoch(2));
        assert!(!sound(reject(ballot(OWN), other_epoch)));
    }

    #[test]
    fn a_snapshot_that_is_offered_has_bytes_and_a_membership() {
        let offer = |slot, bytes, membership: Membership| {
            Body::Offer(Offer {
                meta: SnapshotMeta {
                    slot: Slot(slot),
                    origin: ballot(PEER),
                    membership,
                    bytes,
                    crc: 0,
                },
            })
        };
        assert!(sound(offer(1, 1, membership())));
        assert!(!sound(offer(0, 1, membership())));
        assert!(!sound(offer(SLOT_END, 1, membership())));
        assert!(!sound(offer(1, 0, membership())));
        assert!(!sound(offer(1, 1, Membership::none())));
        let chunk = |bytes| {
            Body::Chunk(Chunk {
                slot: Slot(1),
                crc: 0,
                offset: 0,
                bytes: vec![0; bytes].into(),
            })
        };
        assert!(sound(chunk(CHUNK_BYTES_MAX)));
        assert!(!sound(chunk(CHUNK_BYTES_MAX + 1)));
    }
}
