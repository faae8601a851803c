//! What must never happen, one name each.

use paxos::message::{Body, Standing};

use paxos::NodeId;

use crate::disk::Disk;
use crate::node::SetUp;

/// A property that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    /// Two values were applied for one slot.
    TwoValues,
    /// An entry is applied that is not durable at a quorum.
    NotDurable,
    /// An entry of an older ballot is applied behind the `NewLeader` of a later one.
    Ghost,
    /// A node has promised less than it has said that it promised.
    PromiseLowered,
    /// A promise was spoken of that is not on disk.
    PromiseNotDurable,
    /// An acceptance was spoken of that is not on disk.
    AcceptanceNotDurable,
    /// A node promises or accepts where it has no vote.
    NotAMember,
    /// A leader confirms, though a higher ballot led before it was asked, or without knowing all
    /// that had been applied then.
    StaleConfirm,
    /// An assertion of the replica, or of what its driver may expect, failed.
    Panicked,
}

impl Fault {
    pub(crate) const ALL: [Fault; 9] = [
        Fault::TwoValues,
        Fault::NotDurable,
        Fault::Ghost,
        Fault::PromiseLowered,
        Fault::PromiseNotDurable,
        Fault::AcceptanceNotDurable,
        Fault::NotAMember,
        Fault::StaleConfirm,
        Fault::Panicked,
    ];

    /// The property, as a sentence that holds.
    pub(crate) const fn property(self) -> &'static str {
        match self {
            Fault::TwoValues => "one value for each slot",
            Fault::NotDurable => "what is applied is durable at a quorum",
            Fault::Ghost => "nothing of an older ballot comes behind a later leader's entry",
            Fault::PromiseLowered => "a promise is never lowered",
            Fault::PromiseNotDurable => "a promise is durable before it is spoken of",
            Fault::AcceptanceNotDurable => "an acceptance is durable before it is spoken of",
            Fault::NotAMember => "only members promise and accept",
            Fault::StaleConfirm => "a confirm is current",
            Fault::Panicked => "no assertion fails",
        }
    }

    /// Whether users would notice by themselves, and not only who looks at disks and messages.
    pub(crate) fn is_outcome(self) -> bool {
        matches!(self, Fault::TwoValues | Fault::Ghost | Fault::StaleConfirm)
    }

    /// Whether a node says more with this message than its disk holds.
    pub(crate) fn of_message(
        node: NodeId,
        body: &Body,
        disk: &Disk,
        set_up: &SetUp,
    ) -> Option<Fault> {
        let voted = match body {
            Body::Prepare(prepare) => Some(prepare.ballot.epoch),
            Body::Promise(promise) => Some(promise.ballot.epoch),
            Body::Accepted(accepted) => Some(accepted.ballot.epoch),
            _ => None,
        };
        if voted.is_some_and(|epoch| !set_up.votes(node, epoch)) {
            return Some(Fault::NotAMember);
        }
        match body {
            Body::Prepare(prepare) if disk.promised < prepare.ballot => {
                Some(Fault::PromiseNotDurable)
            }
            Body::Promise(promise) if disk.promised < promise.ballot => {
                Some(Fault::PromiseNotDurable)
            }
            Body::Accepted(accepted) => match accepted.standing {
                // Under a higher promise, decided entries may replace the end of an older log.
                Standing::Synced { persisted, .. }
                    if disk.promised <= accepted.ballot && disk.end() < persisted
                        || disk.accepted < accepted.ballot =>
                {
                    Some(Fault::AcceptanceNotDurable)
                }
                _ => None,
            },
            _ => None,
        }
    }
}
