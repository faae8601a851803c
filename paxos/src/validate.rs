//! Whether a message may be looked at: from a member, of this epoch, and sound in itself.
//!
//! Everything that a peer can get wrong ends here or is ignored later; nothing of it panics.

use crate::core::Core;
use crate::limits::{MESSAGE_ENTRIES_MAX, PAYLOAD_BYTES_MAX};
use crate::message::{Body, Message};
use crate::types::{Ballot, Entry, EntryKind, NodeId, Slot};

/// Beyond this no log grows; it keeps arithmetic on slots far from its end.
const SLOT_END: u64 = 1 << 62;

pub(crate) fn is_sound(core: &Core, from: NodeId, message: &Message) -> bool {
    if message.epoch != core.epoch || !core.peers.contains(&from) {
        return false;
    }
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
        Body::Promise(promise) => ours(promise.ballot) && is_slot(promise.end),
        Body::Entries(entries) => {
            let first = entries.entries.first().map_or(Slot(1), |entry| entry.slot);
            ours(entries.ballot) && are_sound(&entries.entries, first)
        }
        Body::Accepted(accepted) => ours(accepted.ballot),
        Body::Reject(reject) => ours(reject.ballot) && reject.promised > reject.ballot,
        Body::Ping(_) | Body::Pong(_) => true,
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

fn is_whole(entry: &Entry) -> bool {
    let fits = match entry.kind {
        EntryKind::NewLeader => entry.payload.is_empty(),
        EntryKind::Command => entry.payload.len() <= PAYLOAD_BYTES_MAX,
    };
    fits && entry.is_intact()
}
