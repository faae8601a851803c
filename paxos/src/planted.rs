//! Bugs that can be planted, to show that the simulator finds them.
//!
//! Without the feature `sim` no bug can be planted, and the questions fold to `false`.

use crate::types::Ballot;

/// A classic mistake of a Paxos implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "sim"), allow(unreachable_pub))]
#[non_exhaustive]
pub enum Planted {
    /// A promise is spoken before it is durable.
    PromiseNotSynced,
    /// Accepting under a higher ballot does not raise the promise.
    AcceptWithoutPromise,
    /// A leader counts acknowledgements of other ballots.
    AckOfOlderBallot,
    /// An acknowledgement is spoken before the entries are durable.
    AckNotSynced,
    /// A new leader adopts the longest log, whatever its ballot.
    LongestLog,
    /// A new leader confirms before its `NewLeader` is decided.
    ConfirmBeforeNewLeader,
    /// The first accept under a ballot takes only a part of the adopted log.
    PartialFirstAccept,
    /// A restarted candidate may use a ballot again.
    BallotReused,
    /// A confirm is believed on echoes from before it was asked for.
    OldEchoes,
}

#[cfg(feature = "sim")]
impl Planted {
    /// Every bug that can be planted.
    pub const ALL: [Planted; 9] = [
        Planted::PromiseNotSynced,
        Planted::AcceptWithoutPromise,
        Planted::AckOfOlderBallot,
        Planted::AckNotSynced,
        Planted::LongestLog,
        Planted::ConfirmBeforeNewLeader,
        Planted::PartialFirstAccept,
        Planted::BallotReused,
        Planted::OldEchoes,
    ];

    /// The bug of this name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Planted> {
        Planted::ALL
            .into_iter()
            .find(|bug| format!("{bug:?}").eq_ignore_ascii_case(name))
    }
}

/// The bug planted in one replica, if any.
#[derive(Clone, Copy, Debug, Default)]
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

    pub(crate) fn promised_when_asked(&mut self, ballot: Ballot) {
        self.floor = self.floor.max(ballot);
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

    pub(crate) fn promised_when_asked(&mut self, _ballot: Ballot) {}

    pub(crate) fn lets_pass(&self, _ballot: Ballot) -> bool {
        false
    }
}
