//! Sessions that the log calls silent, so that changes of leadership keep no dead session for ever.
//!
//! A new leadership knows nobody's last renewal and starts every session at its full TTL. If it
//! could not build on what the one before had seen, leaders that change more often than every TTL
//! would keep a dead holder's lock for ever. So a leader writes down who has been silent under it,
//! and for how long in all; the next one counts from there. Whoever is called silent is not renewed
//! before the log says that it was heard again: no leadership can then count a silence that a
//! confirmed renewal has ended. Of sessions that are renewed in time nothing is ever written.

use lockd_protocol::{Millis, SessionId};

use super::{Effect, State};

impl State {
    /// How long the session was silent, as far as the log says; `None` if it does not call it so.
    #[must_use]
    pub fn silent_for(&self, session: SessionId) -> Option<Millis> {
        self.silent.get(&session).copied()
    }

    /// Every session that the log calls silent, and for how long.
    pub fn silent_sessions(&self) -> impl Iterator<Item = (SessionId, Millis)> {
        self.silent
            .iter()
            .map(|(session, spent)| (*session, *spent))
    }

    pub(super) fn note_silent(&mut self, id: SessionId, spent: Millis) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let spent = spent.min(session.ttl());
        let noted = self.silent.entry(id).or_insert(spent);
        *noted = spent.max(*noted);
    }

    pub(super) fn note_heard(&mut self, session: SessionId, effects: &mut Vec<Effect>) {
        self.silent.remove(&session);
        effects.push(Effect::Heard { session });
    }
}
