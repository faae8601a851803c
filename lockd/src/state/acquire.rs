//! From a request to a grant, or to a place in the queues.

use std::collections::BTreeSet;

use lockd_protocol::client::{Acquire, Change, Metadata, Outcome, Refusal, Wait, Want, Wants};
use lockd_protocol::limits::{
    ACQUISITIONS_PER_SESSION_MAX, LOCK_DELAY_MAX_MS, PERMITS_MAX, REENTRIES_MAX,
    SEMAPHORE_NAME_BYTES_MAX, WANTS_MAX,
};
use lockd_protocol::planted::{self, Planted};
use lockd_protocol::{EventNumber, Millis, Mode, SessionId, Token};

use super::lock::{Hold, More, Waiter};
use super::session::Acquisition;
use super::{Effect, State, check_text, claim, reply};

/// Behind everybody who waits.
const LAST_PLACE: u64 = u64::MAX;

/// Which of the wants can be had now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chosen {
    /// All of them.
    All,
    /// This one, which is enough.
    One(usize),
}

impl State {
    /// Grants what is free, or queues. The acquisition has been replied to then, and lives on.
    ///
    /// # Errors
    /// The outcome, if the request is over with it.
    pub(super) fn acquire(
        &mut self,
        waiter: Waiter,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Outcome> {
        let Some(session) = self.sessions.get(&waiter.session) else {
            return Err(Outcome::Refused(Refusal::NoSession));
        };
        if session.acquisitions().len() >= ACQUISITIONS_PER_SESSION_MAX {
            let most = ACQUISITIONS_PER_SESSION_MAX as u64;
            return Err(Outcome::Refused(Refusal::TooManyAcquisitions(most)));
        }
        check(&waiter.acquire).map_err(Outcome::Refused)?;
        self.check_semaphores(&waiter.acquire)
            .map_err(Outcome::Refused)?;
        if self.reenter(&waiter, effects)? {
            return Ok(());
        }
        let barge = waiter.acquire.barge;
        match self.choose(&waiter.acquire.wants, LAST_PLACE, barge) {
            Ok(chosen) => self
                .give(&waiter, chosen, effects)
                .map_err(Outcome::Refused),
            Err(want) if waiter.acquire.wait == Wait::Try => Err(Outcome::NotAvailable {
                want: want as u32,
                holder: self.holder_of(&waiter.acquire.wants.each()[want]),
            }),
            Err(_) => self.enqueue(waiter, effects),
        }
    }

    fn holder_of(&self, want: &Want) -> Option<SessionId> {
        let hold = self.locks.get(&want.lock)?.holds.first()?;
        Some(hold.session)
    }

    /// As long as anybody holds or wants a permit, the semaphore keeps its size.
    fn check_semaphores(&self, acquire: &Acquire) -> Result<(), Refusal> {
        for Want { lock, mode } in acquire.wants.each() {
            let Mode::Permit { of } = *mode else {
                continue;
            };
            let permits = self.locks.get(lock).and_then(super::Lock::permits);
            if let Some(permits) = permits.filter(|permits| *permits != of) {
                let lock = lock.clone();
                return Err(Refusal::OtherSemaphore { lock, permits });
            }
        }
        Ok(())
    }

    /// Grants what the owner holds already once more, under the same token. `false`: it does not.
    fn reenter(&mut self, waiter: &Waiter, effects: &mut Vec<Effect>) -> Result<bool, Outcome> {
        let (Some(owner), Wants::One(want)) = (&waiter.acquire.owner, &waiter.acquire.wants) else {
            return Ok(false);
        };
        // Each permit is one of its own.
        if matches!(want.mode, Mode::Permit { .. }) {
            return Ok(false);
        }
        let version = self.next_event();
        let Some(lock) = self.locks.get_mut(&want.lock) else {
            return Ok(false);
        };
        let same = |hold: &&mut Hold| {
            hold.session == waiter.session
                && hold.owner() == Some(&owner.name)
                && !matches!(hold.mode, Mode::Permit { .. })
        };
        let Some(hold) = lock.holds.iter_mut().find(same) else {
            return Ok(false);
        };
        let lock = want.lock.clone();
        if hold.mode == Mode::Shared && want.mode == Mode::Exclusive {
            return Err(Outcome::Refused(Refusal::Upgrade { lock }));
        }
        let limit = owner.reentries.max(1);
        if hold.times() >= limit as usize {
            return Err(Outcome::Refused(Refusal::HeldAlready { lock, limit }));
        }
        hold.more_mut().reentries.push(waiter.sequence);
        hold.ticket |= waiter.acquire.ticket;
        let metadata = metadata(&waiter.acquire, version);
        let changed = metadata.is_some().then(|| {
            hold.more_mut().metadata = metadata;
            hold.clone()
        });
        let (grant, token) = (hold.grant(), hold.token);
        let tickets = match waiter.acquire.ticket {
            true => vec![claim(&lock, hold)],
            false => Vec::new(),
        };
        if let Some(session) = self.sessions.get_mut(&waiter.session) {
            session.add(waiter.sequence, Acquisition::Held(lock, token));
            session.note_owner(Some(&owner.name), |owned| {
                owned.held.insert(waiter.sequence);
            });
        }
        if let Some(hold) = changed {
            self.note_change(Change::MetadataSet, &want.lock, &hold, effects);
        }
        effects.push(Effect::Reply {
            session: waiter.session,
            sequence: waiter.sequence,
            outcome: Outcome::Granted(vec![grant]),
            tickets,
        });
        Ok(true)
    }

    /// What can be had by somebody at `place`. With `barge`, those who wait do not count.
    ///
    /// # Errors
    /// The first want that cannot.
    pub(super) fn choose(&self, wants: &Wants, place: u64, barge: bool) -> Result<Chosen, usize> {
        let is_open = |want: &Want| {
            if self.closed.contains_key(&want.lock) {
                return false;
            }
            match self.locks.get(&want.lock) {
                None => true,
                Some(lock) if barge => lock.has_room(want.mode),
                Some(lock) => lock.is_open_to(want.mode, place),
            }
        };
        match wants {
            Wants::One(want) if is_open(want) => Ok(Chosen::All),
            Wants::One(_) => Err(0),
            Wants::All(wants) => match wants.iter().position(|want| !is_open(want)) {
                None => Ok(Chosen::All),
                Some(taken) => Err(taken),
            },
            Wants::Any(wants) => wants.iter().position(is_open).map(Chosen::One).ok_or(0),
        }
    }

    /// Grants what was found to be free.
    pub(super) fn give(
        &mut self,
        waiter: &Waiter,
        chosen: Chosen,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let Waiter {
            session: id,
            sequence,
            acquire,
        } = waiter;
        let (first_want, wants) = match chosen {
            Chosen::All => (0, acquire.wants.each()),
            Chosen::One(want) => (want, std::slice::from_ref(&acquire.wants.each()[want])),
        };
        let first = self.take_tokens(waiter, wants.len())?;
        let mut held = Vec::with_capacity(wants.len());
        let (mut grants, mut tickets) = (Vec::with_capacity(wants.len()), Vec::new());
        for (n, want) in wants.iter().enumerate() {
            let version = self.next_event();
            let lock = self.locks.entry(want.lock.clone()).or_default();
            let slot = match want.mode {
                Mode::Permit { .. } => lock.free_slot(),
                _ => 0,
            };
            let hold = Hold {
                session: *id,
                acquire: *sequence,
                token: Token(first.0 + n as u64),
                mode: want.mode,
                slot,
                want: (first_want + n) as u32,
                ticket: acquire.ticket,
                more: more(acquire, version),
            };
            held.push((want.lock.clone(), hold.token));
            grants.push(hold.grant());
            if acquire.ticket {
                tickets.push(claim(&want.lock, &hold));
            }
            let told = hold.holder(&want.lock);
            lock.add(hold);
            self.tell_change(Change::Granted, told, effects);
        }
        // A session leaves every queue before it ends, so whoever is granted to is alive.
        if let Some(session) = self.sessions.get_mut(id) {
            session.add(*sequence, acquisition(held));
            session.note_owner(waiter.owner(), |owned| {
                owned.held.insert(*sequence);
            });
        }
        effects.push(Effect::Reply {
            session: *id,
            sequence: *sequence,
            outcome: Outcome::Granted(grants),
            tickets,
        });
        Ok(())
    }

    /// The first of as many new tokens, one after the other.
    fn take_tokens(&mut self, waiter: &Waiter, count: usize) -> Result<Token, Refusal> {
        if planted::has(Planted::TokenPerSession) {
            return Ok(Token(waiter.sequence.0));
        }
        let mut tokens = std::iter::successors(self.last_token.next(), |token| token.next());
        let first = tokens.next().ok_or(Refusal::TokensUsedUp)?;
        let last = match count {
            0 | 1 => first,
            count => tokens.nth(count - 2).ok_or(Refusal::TokensUsedUp)?,
        };
        self.last_token = last;
        if planted::has_at_odd_nodes(Planted::NonDeterministicApply) {
            self.last_place += 1;
        }
        Ok(first)
    }

    fn enqueue(&mut self, waiter: Waiter, effects: &mut Vec<Effect>) -> Result<(), Outcome> {
        self.last_place += 1;
        let place = self.last_place;
        for want in waiter.acquire.wants.each() {
            let lock = self.locks.entry(want.lock.clone()).or_default();
            lock.queue.insert(place, want.mode);
        }
        let (id, sequence) = (waiter.session, waiter.sequence);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.add(sequence, Acquisition::Queued(place));
            session.note_owner(waiter.owner(), |owned| {
                owned.places.insert(place);
            });
        }
        let began = waiter.wait_began();
        self.waiters.insert(place, waiter);
        if let Some(circle) = self.circle(place) {
            let refused = Outcome::Refused(Refusal::Deadlock(circle));
            self.quit_and_settle(id, sequence, &refused, Change::Released, effects);
            return Err(refused);
        }
        effects.push(reply(id, sequence, self.queued(place)));
        effects.extend(began);
        Ok(())
    }

    /// How many are ahead of a place.
    pub(super) fn queued(&self, place: u64) -> Outcome {
        let Some(waiter) = self.waiters.get(&place) else {
            return Outcome::Over;
        };
        let wants = waiter.acquire.wants.each().iter();
        let ahead = wants.filter_map(|want| {
            let lock = self.locks.get(&want.lock)?;
            let behind = lock.queue.range(place..).count();
            Some(lock.queue.len() - behind)
        });
        Outcome::Queued {
            ahead: ahead.max().unwrap_or(0) as u32,
        }
    }
}

/// What is held, as its session notes it.
pub(super) fn acquisition(mut held: Vec<(super::LockName, Token)>) -> Acquisition {
    match held.pop() {
        Some((lock, token)) if held.is_empty() => Acquisition::Held(lock, token),
        last => {
            held.extend(last);
            Acquisition::HeldAll(held.into())
        }
    }
}

/// What an acquisition puts on a grant by the event of this number, if anything.
fn metadata(acquire: &Acquire, version: EventNumber) -> Option<Metadata> {
    let value = &acquire.metadata;
    (!value.as_bytes().is_empty()).then(|| Metadata {
        version,
        value: value.clone(),
    })
}

fn more(acquire: &Acquire, version: EventNumber) -> Option<Box<More>> {
    let metadata = metadata(acquire, version);
    let plain = acquire.owner.is_none() && acquire.delay == Millis(0) && metadata.is_none();
    (!plain).then(|| {
        Box::new(More {
            owner: acquire.owner.as_ref().map(|owner| owner.name.clone()),
            delay: acquire.delay,
            metadata,
            ..More::default()
        })
    })
}

/// Whether an acquisition keeps to the limits, whatever the state is.
pub(super) fn check(acquire: &Acquire) -> Result<(), Refusal> {
    let range = |field: &str, value: u64, min: u64, max: u64| match (min..=max).contains(&value) {
        true => Ok(()),
        false => Err(Refusal::OutOfRange {
            field: field.to_owned(),
            min,
            max,
        }),
    };
    let wants = acquire.wants.each();
    let most = WANTS_MAX as u64;
    range("the number of locks", wants.len() as u64, 1, most)?;
    let delay = acquire.delay.0;
    range("the lock's delay, in ms,", delay, 0, LOCK_DELAY_MAX_MS)?;
    if let Some(owner) = &acquire.owner {
        check_text("the owner's name", &owner.name)?;
        let (times, most) = (u64::from(owner.reentries), u64::from(REENTRIES_MAX));
        range("the owner's limit", times, 1, most)?;
    }
    let mut names = BTreeSet::new();
    for Want { lock, mode } in wants {
        if wants.len() > 1 && !names.insert(lock) {
            return Err(Refusal::NamedTwice(lock.clone()));
        }
        let Mode::Permit { of } = *mode else {
            continue;
        };
        let (permits, most) = (u64::from(of), u64::from(PERMITS_MAX));
        range("the number of permits", permits, 1, most)?;
        if lock.as_str().len() > SEMAPHORE_NAME_BYTES_MAX {
            return Err(Refusal::SemaphoreName {
                lock: lock.clone(),
                max: SEMAPHORE_NAME_BYTES_MAX as u32,
            });
        }
    }
    Ok(())
}
