//! For a model checker: sessions that behave alike from now on have the same hash.

use std::hash::{Hash, Hasher};

use super::super::time::Time;
use super::{Phase, SessionCore};

impl<W> SessionCore<W> {
    /// All that decides what a session without requests does next, by times relative to `now`, if
    /// no KeepAlive after number `last` ever arrives. Outputs must be drained. Not when it suspects
    /// its connection, nor what it does about a cell that is busy.
    pub fn hash_at<H: Hasher>(&self, now: Time, last: u64, hasher: &mut H) {
        match &self.phase {
            Phase::Opening => {
                let lease = self.renewal.lease();
                let age = self.first_open.map(|sent| now.since(sent).min(lease));
                (0, age, self.last_open.is_some()).hash(hasher);
            }
            Phase::Open { session, believed } => {
                (1, session, believed).hash(hasher);
                self.renewal.hash(now, last, hasher);
            }
            Phase::Over(_) => 2.hash(hasher),
        }
        self.connected_at.is_some().hash(hasher);
    }

    /// From when on the session must not be believed in any more.
    #[must_use]
    pub fn deadline(&self) -> Time {
        self.renewal.deadline()
    }

    /// Whether an answer to this KeepAlive could move the deadline.
    #[must_use]
    pub fn waits_for(&self, now: Time, number: u64) -> bool {
        self.renewal.waits_for(now, number)
    }
}
