//! Taking a lock from its holders: they are told, and the lock moves when they have let go or their
//! leases must have ended; or at once, if the operator says so.

use std::collections::BTreeSet;

use lockd_protocol::client::{Change, Outcome, Refusal};
use lockd_protocol::limits::BROKEN_HOLDERS_TOLD_MAX;
use lockd_protocol::{LockName, Sequence, SessionId, Token};

use super::lock::Hold;
use super::{Effect, State, check_text};

impl State {
    pub(super) fn break_lock(
        &mut self,
        name: &LockName,
        reason: String,
        at_once: bool,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        if let Err(refusal) = check_text("the reason", &reason) {
            return Outcome::Refused(refusal);
        }
        let Some(lock) = self
            .locks
            .get_mut(name)
            .filter(|lock| !lock.holds.is_empty())
        else {
            return Outcome::NothingToBreak;
        };
        let Some(fence) = self.last_token.next() else {
            return Outcome::Refused(Refusal::TokensUsedUp);
        };
        self.last_token = fence;
        let mut holders = Vec::new();
        for hold in &mut lock.holds {
            holders.push((hold.session, hold.token));
            let first_time = hold.breaking().is_none();
            let reason = hold
                .more_mut()
                .breaking
                .get_or_insert(reason.clone())
                .clone();
            let Some(session) = self.sessions.get_mut(&hold.session) else {
                continue;
            };
            session.breaking += u32::from(first_time);
            let ttl = session.ttl();
            effects.extend(breaks(name, hold, &reason, ttl, at_once));
        }
        if at_once {
            for (_, token) in &holders {
                self.end_hold(name, *token, effects);
            }
        }
        holders.truncate(BROKEN_HOLDERS_TOLD_MAX);
        Outcome::Broken { holders, fence }
    }

    pub(super) fn finish_break(
        &mut self,
        name: &LockName,
        token: Token,
        effects: &mut Vec<Effect>,
    ) {
        let hold = self
            .locks
            .get(name)
            .and_then(|lock| lock.holds.get(lock.find(token)?));
        if hold.is_some_and(|hold| hold.breaking().is_some()) {
            self.end_hold(name, token, effects);
        }
    }

    /// The locks that are being taken from a session, which it has to be told.
    #[must_use]
    pub fn breaks_of(&self, id: SessionId) -> Vec<Effect> {
        let Some(session) = self.sessions.get(&id).filter(|s| s.breaking > 0) else {
            return Vec::new();
        };
        let mut told = Vec::new();
        let mut seen = BTreeSet::new();
        for acquisition in session.acquisitions().values() {
            for (name, hold) in self.holds(acquisition) {
                if let Some(reason) = hold.breaking()
                    && seen.insert(hold.token)
                {
                    told.extend(breaks(name, hold, reason, session.ttl(), false));
                }
            }
        }
        told
    }

    /// A grant ends, with all acquisitions that it belongs to and with all that they have.
    fn end_hold(&mut self, name: &LockName, token: Token, effects: &mut Vec<Effect>) {
        let hold = self
            .locks
            .get(name)
            .and_then(|lock| lock.holds.get(lock.find(token)?));
        let Some((session, acquisitions)) = hold.map(|hold| {
            let acquisitions: Vec<Sequence> = hold.acquisitions().collect();
            (hold.session, acquisitions)
        }) else {
            return;
        };
        let mut freed = BTreeSet::new();
        for acquire in acquisitions {
            let over = &Outcome::Over;
            self.quit(session, acquire, over, Change::Broken, &mut freed, effects);
        }
        self.settle(freed, effects);
    }
}

/// What the holder has to be told: once for each of its acquisitions.
fn breaks<'a>(
    name: &'a LockName,
    hold: &'a Hold,
    reason: &'a str,
    ttl: lockd_protocol::Millis,
    at_once: bool,
) -> impl Iterator<Item = Effect> + 'a {
    hold.acquisitions().map(move |acquire| Effect::BreakBegan {
        lock: name.clone(),
        session: hold.session,
        acquire,
        token: hold.token,
        reason: reason.to_owned(),
        ttl,
        at_once,
    })
}
