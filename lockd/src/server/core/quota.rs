//! What one client may take at most, so that there is something left for the others.
//!
//! Quotas are the configuration of a node. The leader looks at them before it proposes anything, so
//! what is decided does not depend on them; what is on its way into the log is not counted.

use lockd_protocol::SessionId;
use lockd_protocol::client::{Operation, Quota, Wait};
use lockd_protocol::limits::ACQUISITIONS_PER_SESSION_MAX;
use paxos::Time;
use serde::{Deserialize, Serialize};

use crate::limits::{CLIENT_CONNECTIONS_MAX, SESSIONS_MAX};
use crate::state::State;

/// What `[quota]` of a node's configuration says. Should be the same at every node: the one that
/// leads applies its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quotas {
    /// Most sessions of one identity.
    pub sessions_per_identity: u64,
    /// Most connections of one identity to this node.
    pub connections_per_identity: u64,
    /// Most requests, openings and questions of one identity in a second.
    pub requests_per_second: u64,
    /// Most acquisitions of one session, held and waited for.
    pub acquisitions_per_session: u64,
    /// Most waiters of one lock.
    pub waiters_per_lock: u64,
}

impl Default for Quotas {
    fn default() -> Quotas {
        Quotas {
            sessions_per_identity: SESSIONS_MAX as u64 / 2,
            connections_per_identity: CLIENT_CONNECTIONS_MAX as u64 / 2,
            requests_per_second: 200_000,
            acquisitions_per_session: ACQUISITIONS_PER_SESSION_MAX as u64,
            waiters_per_lock: 100_000,
        }
    }
}

/// More than any node serves in a second, or has waiting, so that a higher quota means nothing.
const ANY: u64 = 1_000_000_000;

impl Quotas {
    /// Whether nothing was configured.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Quotas::default()
    }

    /// Whether the values make sense.
    ///
    /// # Errors
    /// Names the field and its range.
    pub fn check(&self) -> Result<(), String> {
        let sessions = SESSIONS_MAX as u64;
        let connections = CLIENT_CONNECTIONS_MAX as u64;
        let acquisitions = ACQUISITIONS_PER_SESSION_MAX as u64;
        let fields = [
            (
                "sessions_per_identity",
                self.sessions_per_identity,
                sessions,
            ),
            (
                "connections_per_identity",
                self.connections_per_identity,
                connections,
            ),
            ("requests_per_second", self.requests_per_second, ANY),
            (
                "acquisitions_per_session",
                self.acquisitions_per_session,
                acquisitions,
            ),
            ("waiters_per_lock", self.waiters_per_lock, ANY),
        ];
        let wrong = |(_, value, most): &&(&str, u64, u64)| !(1..=*most).contains(value);
        match fields.iter().find(wrong) {
            Some((field, _, most)) => Err(format!("`{field}` must be from 1 to {most}")),
            None => Ok(()),
        }
    }

    /// The quota that an operation would exceed, if it were executed now.
    pub(super) fn exceeded(
        &self,
        state: &State,
        session: SessionId,
        operation: &Operation,
    ) -> Option<Quota> {
        let Operation::Acquire(acquire) = operation else {
            return None;
        };
        let limit = self.acquisitions_per_session;
        if state.acquisitions_of(session) as u64 >= limit {
            return Some(Quota::AcquisitionsPerSession { limit });
        }
        let limit = self.waiters_per_lock;
        if acquire.wait == Wait::Try || (state.waiter_count() as u64) < limit {
            return None;
        }
        let mut wants = acquire.wants.each().iter();
        let full = wants.find(|want| state.waiters_of(&want.lock) as u64 >= limit)?;
        let lock = full.lock.clone();
        Some(Quota::WaitersPerLock { lock, limit })
    }
}

/// A bucket of tokens: what one identity may still ask for just now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    /// Millionths of requests.
    left: u64,
    at: Option<Time>,
}

/// A request's worth.
const REQUEST: u64 = 1_000_000;

impl Rate {
    /// Takes one request of at most so many in a second. `false`: there is none left.
    pub(super) fn take(&mut self, now: Time, per_second: u64) -> bool {
        let full = per_second.saturating_mul(REQUEST);
        let gained = match self.at {
            Some(at) => now.micros_since(at).saturating_mul(per_second),
            None => full,
        };
        self.at = Some(now);
        self.left = self.left.saturating_add(gained).min(full);
        let enough = self.left >= REQUEST;
        if enough {
            self.left -= REQUEST;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_allows_a_burst_of_one_second_and_then_its_share_of_the_time() {
        let mut rate = Rate::default();
        let taken = |rate: &mut Rate, at| (0..100).filter(|_| rate.take(Time(at), 10)).count();
        assert_eq!(taken(&mut rate, 5_000_000), 10);
        assert_eq!(taken(&mut rate, 5_300_000), 3);
        assert_eq!(taken(&mut rate, 5_300_001), 0);
        assert_eq!(taken(&mut rate, 99_000_000), 10);
    }
}
