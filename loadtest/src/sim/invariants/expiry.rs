//! 9: no session expires earlier than a TTL after its last acknowledged renewal was received (or
//! its opening), none is renewed after its end, and a silent one does not outlive its TTL by more
//! than a bound once a leader is there.

use std::collections::BTreeMap;

use lockd_protocol::SessionId;

use super::{Verdict, must};

pub(crate) const NAME: &str = "9 no session expires early or is renewed after its end";
pub(crate) const OUTLIVED: &str = "9 no silent session outlives its TTL by more than a bound";

/// How much longer than its TTL a silent session may live under a stable leader, microseconds.
pub(crate) const OUTLIVES_BY: u64 = 1_000_000;

/// Rounding of clocks, microseconds.
const ROUNDING: u64 = 2_000;

#[derive(Debug, Default)]
pub(crate) struct Expiry {
    /// When a renewal was received by the node that answered it.
    received: BTreeMap<(SessionId, u64), u64>,
    /// The last of those that were answered, or the opening.
    renewed: BTreeMap<SessionId, u64>,
    /// When it ended, and the TTL of those that expired.
    ended: BTreeMap<SessionId, (u64, Option<u64>)>,
    pub(crate) checked: u64,
}

impl Expiry {
    pub(crate) fn on_opened(&mut self, now: u64, session: SessionId) {
        self.renewed.entry(session).or_insert(now);
    }

    /// A node has read a renewal.
    pub(crate) fn on_received(&mut self, now: u64, session: SessionId, number: u64) {
        self.received.entry((session, number)).or_insert(now);
    }

    /// A node has answered a renewal.
    pub(crate) fn on_acknowledged(&mut self, session: SessionId, number: u64) -> Verdict {
        let Some(received) = self.received.get(&(session, number)).copied() else {
            return Ok(());
        };
        self.checked += 1;
        let renewed = self.renewed.entry(session).or_default();
        *renewed = received.max(*renewed);
        let Some((ended, ttl)) = self.ended.get(&session).copied() else {
            return Ok(());
        };
        must(received <= ended, NAME, || {
            format!("renewal {number} of {session}, received at {received}, ended at {ended} us")
        })?;
        match ttl {
            Some(ttl) => not_early(session, received, ended, ttl),
            None => Ok(()),
        }
    }

    /// A session has ended; `ttl_ms` if because it was silent.
    pub(crate) fn on_ended(
        &mut self,
        now: u64,
        session: SessionId,
        ttl_ms: Option<u64>,
    ) -> Verdict {
        let ttl = ttl_ms.map(|ms| ms * 1_000);
        self.ended.insert(session, (now, ttl));
        let renewed = self.renewed.get(&session).copied();
        match (renewed, ttl) {
            (Some(renewed), Some(ttl)) => {
                self.checked += 1;
                not_early(session, renewed, now, ttl)
            }
            _ => Ok(()),
        }
    }

    /// When the session ended, if it has.
    pub(crate) fn ended(&self, session: SessionId) -> Option<u64> {
        self.ended.get(&session).map(|(at, _)| *at)
    }
}

/// The leader's clock may be fast by the bound on rates.
fn not_early(session: SessionId, renewed: u64, ended: u64, ttl: u64) -> Verdict {
    let least = ttl * 1000 / 1010;
    must(ended + ROUNDING >= renewed + least, NAME, || {
        format!(
            "session {session} was renewed at {renewed} us and expired at {ended} us, TTL {ttl}"
        )
    })
}
