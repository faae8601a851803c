//! What a check has reached, so that nobody believes in one that has looked at nothing.

use std::sync::atomic::{AtomicU32, Ordering};

/// Something that must happen in some run of an instance, else its check says little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Two nodes lead at the same time.
    TwoLeaders,
    /// A candidate fetches a better log than its own, and leads with it.
    LongerLogAdopted,
    /// Undecided entries of an older ballot are accepted again under a newer one.
    Reaccepted,
    /// What a leader sent takes effect after another has led under a higher ballot.
    LateMessage,
    /// A crash loses a write.
    WriteLost,
    /// A crash comes after a write was durable and before the node knew.
    WriteKept,
    LeaderCrashed,
    /// Entries are read from a disk for a peer.
    Loaded,
    /// An entry of a leader that lost is replaced on a disk.
    EntryReplaced,
    /// A command is applied.
    CommandApplied,
    /// A leader confirms.
    Confirmed,
    /// A leader of the highest ballot confirms after it took over from another.
    ConfirmedBySuccessor,
    /// Something is decided in the second epoch.
    SecondEpochDecided,
    /// Nodes lead in both epochs at the same time.
    BothEpochsLed,
    /// A leader adopts a log whose end is the end of its epoch.
    StopAdopted,
    /// The entry that would have ended the epoch lost, and was replaced.
    StopReplaced,
    /// A node that was no member at first votes.
    JoinerVotes,
    /// A node that is no member any more gave up the lead.
    LeaderRemoved,
}

impl Mark {
    pub(crate) const ALL: [Mark; 18] = [
        Mark::TwoLeaders,
        Mark::LongerLogAdopted,
        Mark::Reaccepted,
        Mark::LateMessage,
        Mark::WriteLost,
        Mark::WriteKept,
        Mark::LeaderCrashed,
        Mark::Loaded,
        Mark::EntryReplaced,
        Mark::CommandApplied,
        Mark::Confirmed,
        Mark::ConfirmedBySuccessor,
        Mark::SecondEpochDecided,
        Mark::BothEpochsLed,
        Mark::StopAdopted,
        Mark::StopReplaced,
        Mark::JoinerVotes,
        Mark::LeaderRemoved,
    ];

    pub(crate) fn needs_two_memberships(&self) -> bool {
        *self as u32 >= Mark::SecondEpochDecided as u32
    }
}

/// The marks that were reached.
#[derive(Debug, Default)]
pub(crate) struct Marks(AtomicU32);

impl Marks {
    pub(crate) fn reach(&self, mark: Mark) {
        let bit = 1 << mark as u32;
        if self.0.load(Ordering::Relaxed) & bit == 0 {
            self.0.fetch_or(bit, Ordering::Relaxed);
        }
    }

    pub(crate) fn reached(&self, mark: Mark) -> bool {
        self.0.load(Ordering::Relaxed) & (1 << mark as u32) != 0
    }
}
