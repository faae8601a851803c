//! What a check has reached, so that nobody believes in one that has looked at nothing.

use std::sync::atomic::{AtomicU32, Ordering};

/// Something that must happen in some run of some instance, else the checks say little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The end of the session is decided.
    Ended,
    /// An expiry is decided that has no effect, because another leadership had decided it.
    StaleExpiry,
    /// Two nodes lead at the same time, and both know that their first entry is decided.
    TwoEstablished,
    /// A renewal is answered by the first leadership.
    RenewedByFirst,
    /// A renewal is answered by the second leadership.
    RenewedBySecond,
    /// A renewal is answered by the third leadership.
    RenewedByThird,
    /// A renewal is answered by one leadership while a later one leads already.
    RenewedByDeposed,
    /// The renewal that one leader answers waits at another one, too.
    RenewedAtTwo,
    /// A new leader holds an expiry that it has not applied.
    ExpiryAdopted,
    /// The deadline moves although an answer comes a tick after the KeepAlive was sent.
    LateAnswer,
    /// A question is answered.
    Read,
    /// A question is answered while another leads.
    ReadFromDeposed,
    /// A renewal is answered in the second epoch.
    RenewedInNextEpoch,
    /// The session expires in the second epoch.
    EndedInNextEpoch,
    /// A renewal that came before the end of the epoch was in the log is answered after it was.
    RenewedWhileStopping,
    /// A crash of a leader.
    LeaderCrashed,
}

impl Mark {
    pub(crate) const ALL: [Mark; 16] = [
        Mark::Ended,
        Mark::StaleExpiry,
        Mark::TwoEstablished,
        Mark::RenewedByFirst,
        Mark::RenewedBySecond,
        Mark::RenewedByThird,
        Mark::RenewedByDeposed,
        Mark::RenewedAtTwo,
        Mark::ExpiryAdopted,
        Mark::LateAnswer,
        Mark::Read,
        Mark::ReadFromDeposed,
        Mark::RenewedInNextEpoch,
        Mark::EndedInNextEpoch,
        Mark::RenewedWhileStopping,
        Mark::LeaderCrashed,
    ];
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
