//! Which branch of the protocol was taken, seen from outside: by messages, writes and roles.

use crate::interface::Role;
use crate::message::{Body, Message};
use crate::sim::coverage::{Branch, Coverage};
use crate::types::{Ballot, Recovered, Slot, WriteBatch};

pub(super) fn is_ping(message: &Message) -> bool {
    matches!(message.body, Body::Ping(_))
}

pub(super) fn is_fetch(message: &Message) -> bool {
    matches!(message.body, Body::Fetch(_))
}

/// A replica changed its role.
pub(super) fn role(coverage: &mut Coverage, before: Role, after: Role) {
    match (before, after) {
        (Role::Candidate, Role::Leader { .. }) => coverage.branch(Branch::Led),
        (Role::Candidate, _) => coverage.branch(Branch::CampaignLost),
        (Role::Leader { .. }, Role::Leader { .. }) => coverage.branch(Branch::Established),
        (Role::Leader { .. }, _) => coverage.branch(Branch::SteppedDown),
        (_, Role::Candidate) => coverage.branch(Branch::Campaign),
        _ => {}
    }
}

/// A message was sent.
pub(super) fn message(coverage: &mut Coverage, body: &Body) {
    match body {
        Body::Entries(_) => coverage.branch(Branch::Fetched),
        Body::Sync(sync) if sync.entries.last().is_some_and(|last| last.slot < sync.end) => {
            coverage.branch(Branch::SyncInParts);
        }
        Body::Accepted(accepted) if accepted.gap => coverage.branch(Branch::Gap),
        Body::Learned(learned) if !learned.entries.is_empty() => {
            coverage.branch(Branch::Learned);
        }
        Body::Offer(_) => coverage.branch(Branch::SnapshotOffered),
        Body::Reject(_) => coverage.branch(Branch::Rejected),
        Body::Pong(pong) if pong.happy => coverage.branch(Branch::Happy),
        _ => {}
    }
}

/// A write was given out.
pub(super) fn batch(coverage: &mut Coverage, batch: &WriteBatch) {
    if batch.truncate_from.is_some() {
        coverage.branch(Branch::TailReplaced);
    }
    if batch.restart {
        coverage.branch(Branch::LogRestarted);
    }
}

/// A node starts again.
pub(super) fn restart(coverage: &mut Coverage, disk: &Recovered) {
    if disk.decided > Slot::NONE {
        coverage.branch(Branch::RestartedDecided);
    }
    if !disk.entries.is_empty() {
        coverage.branch(Branch::RestartedOpen);
    }
}

/// A number that differs if what is said is another, but for what entries hold.
pub(super) fn fingerprint(body: &Body) -> u64 {
    let of = |kind: u64, ballot: Ballot, a: u64, b: u64| {
        let who = u64::from(ballot.epoch.0) << 48 ^ ballot.round << 8 | ballot.node.0;
        let mixed = (kind ^ who.rotate_left(9) ^ a.rotate_left(23)).wrapping_mul(0x9e37_79b9);
        mixed ^ b.rotate_left(41)
    };
    match body {
        Body::Prepare(prepare) => of(1, prepare.ballot, 0, 0),
        Body::Promise(promise) => of(2, promise.ballot, promise.end.0, promise.decided.0),
        Body::Fetch(fetch) => of(3, fetch.ballot, fetch.first.0, fetch.last.0),
        Body::Entries(entries) => of(4, entries.ballot, entries.entries.len() as u64, 0),
        Body::Sync(sync) => of(5, sync.ballot, sync.first.0, sync.end.0),
        Body::Accept(accept) => {
            let entries = accept.entries.len() as u64;
            let numbers = accept.decided.0 << 20 ^ accept.confirm.0 << 40 ^ entries;
            of(6, accept.ballot, accept.first.0, numbers)
        }
        Body::Accepted(accepted) => {
            let gap = u64::from(accepted.gap);
            of(7, accepted.ballot, accepted.confirm.0, gap)
        }
        Body::Reject(reject) => of(8, reject.promised, reject.ballot.round, 0),
        Body::Ping(ping) => of(9, Ballot::NONE, ping.round, 0),
        Body::Pong(pong) => of(10, pong.promised, pong.round, u64::from(pong.happy)),
        Body::Behind(behind) => of(11, Ballot::NONE, behind.decided.0, 0),
        Body::Learn(learn) => of(12, Ballot::NONE, learn.first.0, learn.durable.0),
        Body::Learned(learned) => {
            let entries = learned.entries.len() as u64;
            of(13, Ballot::NONE, learned.decided.0, entries)
        }
        Body::Offer(offer) => of(14, offer.meta.origin, offer.meta.slot.0, 0),
        Body::FetchChunk(fetch) => of(15, Ballot::NONE, fetch.slot.0, fetch.offset),
        Body::Chunk(chunk) => of(16, Ballot::NONE, chunk.slot.0, chunk.offset),
        Body::Removed => 17,
    }
}
