//! Bugs that can be planted, to show that the simulator finds them.
//!
//! Without the feature `sim` no bug can be planted, and the questions fold to `false`.

use crate::types::{Ballot, WriteBatch};

/// Declares the enumeration and the list of all of it.
macro_rules! planted {
    ($($name:ident = $doc:literal,)+) => {
        /// A classic mistake of a Paxos implementation, or one that was made here once.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[cfg_attr(not(feature = "sim"), allow(unreachable_pub, dead_code))]
        #[non_exhaustive]
        pub enum Planted {
            $(#[doc = $doc] $name,)+
        }

        #[cfg(feature = "sim")]
        impl Planted {
            /// Every bug that can be planted.
            pub const ALL: &[Planted] = &[$(Planted::$name,)+];
        }
    };
}

planted! {
    PromiseNotSynced = "A promise is spoken before it is durable.",
    AcceptWithoutPromise = "Accepting under a higher ballot does not raise the promise.",
    AckOfOlderBallot = "A leader counts acknowledgements of other ballots.",
    AckNotSynced = "An acknowledgement is spoken before the entries are durable.",
    LongestLog = "A new leader adopts the longest log, whatever its ballot.",
    ConfirmBeforeNewLeader = "A new leader confirms before its `NewLeader` is decided.",
    PartialFirstAccept = "The first accept under a ballot takes only a part of the adopted log.",
    BallotReused = "A restarted candidate may use a ballot again.",
    OldEchoes = "A confirm is believed on echoes from before it was asked for.",
    AcceptQuorumTooSmall = "One acceptance less than a quorum decides.",
    PrepareQuorumTooSmall = "One promise less than a quorum makes a leader.",
    MessagesCounted = "Promises are counted by message, so that one node may count twice.",
    AppendUnmatched = "A log of the right length is taken for the leader's, whatever it holds.",
    DecidedUnmatched = "What a leader says is decided is believed of a log not under its ballot.",
    PromiseApart = "A promise is not in the same write as the entries that come with it.",
    BallotApart = "The ballot of a log is not in the same write as its entries.",
    ConfirmAfterStop = "Confirms go on after the entry that ends the epoch.",
    ProposalAfterStop = "Proposals are taken after the entry that ends the epoch.",
    EpochOnUndecidedStop = "The next epoch is entered before its stop entry is decided.",
    MembershipForgotten = "The membership is not written when an epoch is entered.",
    StopTwice = "A stop entry that is learnt again begins its epoch again.",
    DeposedGoesOn = "A leader that learns what a later one decided goes on leading.",
    LearnerUnheard = "A node that wants to join asks the same helper for ever.",
    OlderSnapshot = "A snapshot that is older than the log is installed.",
    SnapshotKeepsTail = "What follows a snapshot in the log is kept, whatever it followed before.",
    CutBeforeSnapshot = "The log is cut before the snapshot is durable.",
    RepairCuts = "A repair cuts the log behind a snapshot that the store has not been told of.",
    DamagedPromises = "A node promises although its disk lost entries that it acknowledged.",
    DamageHidden = "Damaged entries are taken for a shorter log.",
    ApplyDiffers = "Applying depends on more than the entries.",
    WriteErrorIgnored = "A write that failed counts as durable.",
    WipedDiskVotes = "A node whose disk was wiped starts afresh under its old number.",
    CopiedDiskVotes = "A node starts from an old copy of its disk.",
    AskedAfterStop = "A leader takes questions behind the entry that ends its epoch.",
    EchoAfterStop = "An acceptor echoes confirms though its log ends its epoch.",
    EpochNotDurable = "The next epoch is entered before the log up to there is durable.",
}

#[cfg(feature = "sim")]
impl Planted {
    /// Rules whose loss another rule makes up for, as the model checker says: nothing finds these.
    pub const SECOND_LINES: &[Planted] = &[
        Planted::AskedAfterStop,
        Planted::EchoAfterStop,
        Planted::EpochNotDurable,
    ];

    /// The bug of this name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Planted> {
        let mut all = Planted::ALL.iter().copied();
        all.find(|bug| format!("{bug:?}").eq_ignore_ascii_case(name))
    }
}

/// The bug planted in one replica, if any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Plant {
    #[cfg(feature = "sim")]
    bug: Option<Planted>,
    /// The highest ballot that was promised when asked for, not by accepting.
    #[cfg(feature = "sim")]
    floor: Ballot,
}

#[cfg(feature = "sim")]
impl Plant {
    pub(crate) fn new(bug: Planted) -> Plant {
        Plant {
            bug: Some(bug),
            ..Plant::default()
        }
    }

    pub(crate) fn has(&self, bug: Planted) -> bool {
        self.bug == Some(bug)
    }

    /// Leaves out of a write what the planted bug forgets.
    pub(crate) fn spoil(&self, batch: &mut WriteBatch) {
        let with_entries = !batch.entries.is_empty();
        if with_entries && self.has(Planted::PromiseApart) {
            batch.promised = None;
        }
        if with_entries && self.has(Planted::BallotApart) {
            batch.accepted = None;
        }
        if self.has(Planted::MembershipForgotten) {
            batch.membership = None;
        }
    }

    pub(crate) fn promised_when_asked(&mut self, ballot: Ballot) {
        self.floor = self.floor.max(ballot);
    }

    /// Whether a leader is asked to confirm itself though its epoch is about to end.
    pub(crate) fn asks_after_stop(&self) -> bool {
        self.has(Planted::AskedAfterStop) || self.has(Planted::ConfirmAfterStop)
    }

    /// Whether an acceptor echoes though its epoch is about to end.
    pub(crate) fn echoes_after_stop(&self) -> bool {
        self.has(Planted::EchoAfterStop) || self.has(Planted::ConfirmAfterStop)
    }

    /// Whether a message of a ballot below the promise is taken all the same.
    pub(crate) fn lets_pass(&self, ballot: Ballot) -> bool {
        self.has(Planted::AcceptWithoutPromise) && ballot >= self.floor
    }
}

#[cfg(not(feature = "sim"))]
#[allow(clippy::unused_self, clippy::trivially_copy_pass_by_ref)]
impl Plant {
    pub(crate) fn has(&self, _bug: Planted) -> bool {
        false
    }

    pub(crate) fn spoil(&self, _batch: &mut WriteBatch) {}

    pub(crate) fn promised_when_asked(&mut self, _ballot: Ballot) {}

    pub(crate) fn asks_after_stop(&self) -> bool {
        false
    }

    pub(crate) fn echoes_after_stop(&self) -> bool {
        false
    }

    pub(crate) fn lets_pass(&self, _ballot: Ballot) -> bool {
        false
    }
}
