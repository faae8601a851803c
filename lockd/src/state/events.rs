//! Changes of who holds what: their numbers, and what holders put on what they hold.
//!
//! Metadata belongs to a grant and goes with it. Its version is the number of the event that put it
//! there, so that no version comes back, whoever held the lock in between.

use lockd_protocol::client::{Change, Event, Holder, Metadata, Outcome, Value};
use lockd_protocol::planted::{self, Planted};
use lockd_protocol::{EventNumber, LockName, Sequence, SessionId, Token};

use super::lock::Hold;
use super::{Effect, State};

impl State {
    /// Number of the last change of who holds what; 0 before the first one.
    #[must_use]
    pub fn last_event(&self) -> EventNumber {
        self.last_event
    }

    /// The number that the next change will have.
    pub(super) fn next_event(&self) -> EventNumber {
        self.last_event.next()
    }

    /// Numbers a change, and tells it.
    pub(super) fn note_change(
        &mut self,
        change: Change,
        lock: &LockName,
        hold: &Hold,
        effects: &mut Vec<Effect>,
    ) {
        self.tell_change(change, hold.holder(lock), effects);
    }

    /// Numbers a change that `holder` tells already.
    pub(super) fn tell_change(
        &mut self,
        change: Change,
        holder: Holder,
        effects: &mut Vec<Effect>,
    ) {
        self.last_event = self.last_event.next();
        effects.push(Effect::Changed(Event {
            number: self.last_event,
            change,
            holder,
        }));
    }

    /// A holder puts other metadata on one of its grants.
    pub(super) fn set_metadata(
        &mut self,
        id: SessionId,
        acquire: Sequence,
        token: Token,
        expect: Option<EventNumber>,
        value: Value,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let session = self.sessions.get(&id);
        let acquisition = session.and_then(|session| session.acquisitions().get(&acquire));
        let held = acquisition.and_then(|acquisition| {
            let mut held = acquisition.held();
            held.find(|(_, of)| *of == token)
                .map(|(name, _)| name.clone())
        });
        let Some(name) = held else {
            return Outcome::NotHeld;
        };
        let version = self.next_event();
        let Some(hold) = self.hold_mut(&name, token) else {
            return Outcome::NotHeld;
        };
        let present = hold
            .metadata()
            .map_or(EventNumber(0), |there| there.version);
        let other = expect.is_some_and(|expected| expected != present);
        if other && !planted::has(Planted::MetadataOfAnyVersion) {
            return Outcome::OtherMetadata { version: present };
        }
        hold.more_mut().metadata = Some(Metadata { version, value });
        let hold = hold.clone();
        self.note_change(Change::MetadataSet, &name, &hold, effects);
        Outcome::MetadataSet { version }
    }

    pub(super) fn hold_mut(&mut self, name: &LockName, token: Token) -> Option<&mut Hold> {
        let lock = self.locks.get_mut(name)?;
        let at = lock.find(token)?;
        lock.holds.get_mut(at)
    }
}

impl Hold {
    /// The grant, as a watch tells it.
    pub(super) fn holder(&self, lock: &LockName) -> Holder {
        Holder {
            lock: lock.clone(),
            token: self.token,
            session: self.session,
            mode: self.mode,
            slot: self.slot,
            metadata: self.metadata().cloned(),
        }
    }
}
