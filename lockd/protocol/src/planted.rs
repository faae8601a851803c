//! Bugs that can be planted in nodes, clients and gateways, to show that the simulator of the
//! whole system, or the model check of the leases, finds them.
//!
//! Without the feature `sim` no bug can be planted, and the question folds to `false`. It lives
//! here because this crate lies below all that can have one. What is planted is planted for one
//! thread, which is all that a simulation runs on.

/// A mistake that somebody could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Planted {
    /// State: a request that was executed is executed again when it is retried.
    RetryExecutedTwice,
    /// State: the answer of a request is forgotten before the client has acknowledged it.
    DedupEvicted,
    /// State: a release that names nothing the session has is taken for its newest grant.
    ReleaseWithoutToken,
    /// State: a session that ends stays in the queues, and is granted what it waits for.
    GrantToEndedSession,
    /// State: the last of a queue is served first.
    UnfairQueue,
    /// State: what follows from a command differs from node to node.
    NonDeterministicApply,
    /// State: each session counts its tokens for itself.
    TokenPerSession,
    /// Node: a renewal is answered although its session has ended.
    RenewedAfterTheEnd,
    /// Node: a renewal is answered without waiting for a confirmation.
    NoConfirmRound,
    /// Node: a renewal is taken while the expiry of its session is queued.
    RenewedWhileExpiring,
    /// Node: a new leader does not give sessions their full TTL.
    TimersNotRestarted,
    /// Node: one that does not lead answers renewals all the same.
    FollowerAnswers,
    /// Client: the lease counts from the receipt of an answer.
    LeaseFromReceipt,
    /// Client: a repeated renewal has the number of the first, and counts from its own sending.
    RenewalNumberReused,
    /// Client: the lease is shortened by the drift of one clock only.
    MarginOfOneClock,
    /// Gateway: compares tokens in its memory, and the database does not look.
    MemoryOnly,
    /// Gateway: admits while older writers are still busy.
    AdmitBeforeDrained,
    /// Gateway: after the database lost its memory, the cell is not asked.
    NoReseed,
    /// State: metadata is changed whatever version of it the holder expects.
    MetadataOfAnyVersion,
    /// Node: a watch that is resumed goes on with what happens next.
    WatchSkipsAfterReconnect,
    /// Node: a watch is not told that something cannot be told any more.
    GapUntold,
    /// Client: the lease of a new session counts from the answer to Open.
    LeaseFromOpened,
    /// Node: a renewal restarts its session's timer when it is answered, not when it comes.
    TimerFromAnswer,
    /// Node: a renewal gives a session half of its TTL.
    ExpiredTooSoon,
    /// Node: a decision to end a session outlives the leadership that took it, and goes into the
    /// log as soon as the next one is established.
    QueueOutlivesLeadership,
    /// State: an expiry counts whichever leadership decided it.
    ExpiryOfAnyLeadership,
    /// Node: a question is answered without waiting for a confirmation.
    AnsweredUnconfirmed,
    /// Node: a session that the log calls silent is renewed, and the log goes on calling it so.
    SilentRenewed,
    /// Node: who is silent is not noted in the log. It breaks nothing but that leaders which change
    /// all the time keep dead sessions; with it there is less to model.
    SilenceNotNoted,
}

impl Planted {
    /// The bugs that the simulator of the whole system finds.
    pub const ALL: [Planted; 21] = [
        Planted::RetryExecutedTwice,
        Planted::DedupEvicted,
        Planted::ReleaseWithoutToken,
        Planted::GrantToEndedSession,
        Planted::UnfairQueue,
        Planted::NonDeterministicApply,
        Planted::TokenPerSession,
        Planted::RenewedAfterTheEnd,
        Planted::NoConfirmRound,
        Planted::RenewedWhileExpiring,
        Planted::TimersNotRestarted,
        Planted::FollowerAnswers,
        Planted::LeaseFromReceipt,
        Planted::RenewalNumberReused,
        Planted::MarginOfOneClock,
        Planted::MemoryOnly,
        Planted::AdmitBeforeDrained,
        Planted::NoReseed,
        Planted::MetadataOfAnyVersion,
        Planted::WatchSkipsAfterReconnect,
        Planted::GapUntold,
    ];

    /// The others, for which so much has to come together that only the model check of the leases
    /// looks for them.
    pub const MODELLED: [Planted; 6] = [
        Planted::LeaseFromOpened,
        Planted::TimerFromAnswer,
        Planted::ExpiredTooSoon,
        Planted::QueueOutlivesLeadership,
        Planted::ExpiryOfAnyLeadership,
        Planted::AnsweredUnconfirmed,
    ];
}

#[cfg(feature = "sim")]
mod here {
    use std::cell::Cell;

    use super::Planted;

    thread_local! {
        /// A bit for each bug.
        static BUGS: Cell<u64> = const { Cell::new(0) };
        static NODE: Cell<u64> = const { Cell::new(0) };
    }

    /// Plants a bug in everything that runs on this thread, or removes the one that is there.
    pub fn plant(bug: Option<Planted>) {
        plant_all(bug.as_slice());
    }

    /// Plants these bugs, and only these, in everything that runs on this thread: where one rule
    /// makes up for the loss of another.
    pub fn plant_all(bugs: &[Planted]) {
        let bits = bugs.iter().map(|bug| 1 << *bug as u64);
        BUGS.set(bits.fold(0, |all, bit| all | bit));
    }

    /// Says which node is about to run on this thread: what differs from node to node.
    pub fn run_as(node: u64) {
        NODE.set(node);
    }

    /// Whether this bug is planted.
    #[must_use]
    pub fn has(bug: Planted) -> bool {
        BUGS.get() & 1 << bug as u64 != 0
    }

    /// Whether this bug is planted, and the node that runs has an odd number.
    #[must_use]
    pub fn has_at_odd_nodes(bug: Planted) -> bool {
        has(bug) && NODE.get() % 2 == 1
    }
}

#[cfg(feature = "sim")]
pub use here::{has, has_at_odd_nodes, plant, plant_all, run_as};

/// Whether this bug is planted: never, in what is not built for simulation.
#[cfg(not(feature = "sim"))]
#[must_use]
pub const fn has(_bug: Planted) -> bool {
    false
}

/// Whether this bug is planted at the node that runs: never, in what is not built for simulation.
#[cfg(not(feature = "sim"))]
#[must_use]
pub const fn has_at_odd_nodes(_bug: Planted) -> bool {
    false
}
