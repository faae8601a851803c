//! For a model checker: elections begin when the checker says so, and nodes that behave alike from
//! now on have the same hash.

use std::hash::{Hash, Hasher};

use lockd_protocol::client::ClientFrame;
use lockd_protocol::{Nonce, SessionId};
use paxos::{Replica, Time};

use super::Core;
use super::answers::Asked;
use super::clients::ConnectionId;
use crate::limits::{EXPIRY_GRACE, STALL};

impl Core {
    /// Ends the epoch with one in which only these vote, which an operator does in several steps.
    pub fn reconfigure_now(&mut self, now: Time, voters: Vec<paxos::NodeId>) -> bool {
        let context = self.membership.context.clone();
        let begun = self.replica.reconfigure(now, voters, None, context);
        begun.is_ok()
    }

    /// The replica underneath.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// See [`Replica::campaign_now`].
    pub fn campaign_now(&mut self, now: Time, round: u64) -> bool {
        self.replica.campaign_now(now, round)
    }

    /// See [`Replica::heartbeat_now`].
    pub fn heartbeat_now(&mut self, now: Time) -> bool {
        self.replica.heartbeat_now(now)
    }

    /// Whether a session is open here, as far as this node has applied the log.
    #[must_use]
    pub fn has_session(&self, session: SessionId) -> bool {
        self.state.session_ttl(session).is_some()
    }

    /// Whether this node judges by its clock, and its turn is due at `now`.
    #[must_use]
    pub fn is_due(&self, now: Time) -> bool {
        self.is_established() && self.due <= now
    }

    /// Whether this node leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leading.is_some()
    }

    /// Whether a renewal of this number waits here for its confirmation.
    #[must_use]
    pub fn is_renewing(&self, number: u64) -> bool {
        let leading = self.leading.as_ref();
        leading.is_some_and(|leading| leading.leases.is_renewing(number))
    }

    /// Hands in a frame of a client that has shaken hands.
    pub fn welcomed_frame(&mut self, now: Time, connection: ConnectionId, frame: ClientFrame) {
        self.clients.welcome(connection);
        self.client_frame(now, connection, frame);
    }

    /// All that decides what the node does next, by times relative to `now`: not its connections
    /// but for whether one waits for the answer to `opening`, nor when a snapshot is due, nor what
    /// it tells of itself. A time that was over for so long that it makes no difference is as if
    /// it had been over for that long.
    pub fn hash_at<H: Hasher>(&self, now: Time, opening: Nonce, hasher: &mut H) {
        let oldest = -((EXPIRY_GRACE + STALL).as_micros() as i64) - 1;
        let relative = |time: Time| (time.0 as i64 - now.0 as i64).max(oldest);
        (&self.replica, &self.membership, self.applied, self.origin).hash(hasher);
        (self.state.digest(), &self.proposals, self.removed).hash(hasher);
        self.clients.is_opening(opening).hash(hasher);
        let Some(leading) = &self.leading else {
            return;
        };
        (leading.leadership, leading.established).hash(hasher);
        leading.leases.hash(relative, hasher);
        let alarms = leading.timers.next().map(relative);
        let due = leading.established.then(|| relative(self.due));
        (alarms, due, leading.pending.len()).hash(hasher);
        for pending in &leading.pending {
            let id = match &pending.asked {
                Asked::Query { id, .. } => *id,
                Asked::Request(_) => 0,
                Asked::Watch { watch, .. } | Asked::Unwatch { watch } => *watch,
            };
            (pending.confirm, id).hash(hasher);
        }
    }
}
