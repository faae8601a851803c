//! A session: its acquisitions, and the window of answers that makes its requests exactly-once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lockd_protocol::client::{About, Outcome};
use lockd_protocol::limits::SESSION_WINDOW;
use lockd_protocol::planted::{self, Planted};
use lockd_protocol::{LockName, Millis, Nonce, Sequence, Token};

/// A client's identity in the cell.
///
/// Every request is in exactly one of these states: at or below the floor (the client has its
/// answer), answered, an acquisition that is held or waited for, or new.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Session {
    nonce: Nonce,
    ttl: Millis,
    identity: Arc<str>,
    about: About,
    floor: Sequence,
    answers: BTreeMap<Sequence, Outcome>,
    acquisitions: BTreeMap<Sequence, Acquisition>,
    /// How many of them are waited for.
    waits: usize,
    /// Those of its owners that hold or wait for anything.
    owners: BTreeMap<String, Owned>,
    /// How many of its locks are being taken from it.
    pub(super) breaking: u32,
}

/// What one owner within a session has.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Owned {
    /// Acquisitions that are held.
    pub(super) held: BTreeSet<Sequence>,
    /// Places in queues.
    pub(super) places: BTreeSet<u64>,
}

/// An acquisition that is held or waited for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Acquisition {
    /// Waited for, at this place of the locks' queues.
    Queued(u64),
    /// One lock, under this token.
    Held(LockName, Token),
    /// Several locks, in order of tokens.
    HeldAll(Box<[(LockName, Token)]>),
}

impl Acquisition {
    /// Place in the queues; `None` once held.
    pub(super) fn place(&self) -> Option<u64> {
        match self {
            Acquisition::Queued(place) => Some(*place),
            _ => None,
        }
    }

    /// What is held, in order of tokens.
    pub(super) fn held(&self) -> impl Iterator<Item = (&LockName, Token)> {
        let (one, all) = match self {
            Acquisition::Queued(_) => (None, [].as_slice()),
            Acquisition::Held(lock, token) => (Some((lock, *token)), [].as_slice()),
            Acquisition::HeldAll(all) => (None, &all[..]),
        };
        one.into_iter()
            .chain(all.iter().map(|(lock, token)| (lock, *token)))
    }

    /// The lowest token held.
    pub(super) fn token(&self) -> Option<Token> {
        self.held().next().map(|(_, token)| token)
    }
}

/// What is known of a request's number when it arrives.
pub(super) enum Replay {
    /// Nothing: it is to be executed.
    New,
    /// It acquired a lock, or queued for it, and still does.
    Acquisition,
    /// It was executed, with this outcome.
    Answered(Outcome),
}

impl Session {
    pub(super) fn new(nonce: Nonce, ttl: Millis, identity: Arc<str>, about: About) -> Session {
        Session {
            nonce,
            ttl,
            identity,
            about,
            floor: Sequence(0),
            answers: BTreeMap::new(),
            acquisitions: BTreeMap::new(),
            waits: 0,
            owners: BTreeMap::new(),
            breaking: 0,
        }
    }

    pub(super) fn nonce(&self) -> Nonce {
        self.nonce
    }

    pub(super) fn ttl(&self) -> Millis {
        self.ttl
    }

    /// Whom it belongs to.
    pub(super) fn identity(&self) -> &Arc<str> {
        &self.identity
    }

    /// What it says of itself.
    pub(super) fn about(&self) -> &About {
        &self.about
    }

    /// The client has the answers up to this one.
    pub(super) fn floor(&self) -> Sequence {
        self.floor
    }

    pub(super) fn answers(&self) -> &BTreeMap<Sequence, Outcome> {
        &self.answers
    }

    /// The highest number that a request may have.
    pub(super) fn window_end(&self) -> Sequence {
        Sequence(self.floor.0.saturating_add(SESSION_WINDOW))
    }

    /// How many of its acquisitions are waited for.
    pub(super) fn waits(&self) -> usize {
        self.waits
    }

    pub(super) fn acquisitions(&self) -> &BTreeMap<Sequence, Acquisition> {
        &self.acquisitions
    }

    /// What an owner holds and waits for.
    pub(super) fn owned(&self, owner: &str) -> Option<&Owned> {
        self.owners.get(owner)
    }

    /// Every owner that holds or waits for anything.
    #[cfg(test)]
    pub(super) fn owners(&self) -> &BTreeMap<String, Owned> {
        &self.owners
    }

    /// Notes what an owner holds or waits for; one that has nothing any more is forgotten.
    pub(super) fn note_owner(&mut self, owner: Option<&str>, change: impl FnOnce(&mut Owned)) {
        let Some(owner) = owner else {
            return;
        };
        if !self.owners.contains_key(owner) {
            self.owners.insert(owner.to_owned(), Owned::default());
        }
        if let Some(owned) = self.owners.get_mut(owner) {
            change(owned);
            if owned.held.is_empty() && owned.places.is_empty() {
                self.owners.remove(owner);
            }
        }
    }

    /// The client has the answers up to `floor`: forget them.
    pub(super) fn acknowledge(&mut self, floor: Sequence) {
        if floor <= self.floor {
            return;
        }
        self.floor = floor;
        while self
            .answers
            .first_key_value()
            .is_some_and(|(sequence, _)| *sequence <= floor)
        {
            self.answers.pop_first();
        }
    }

    /// Whether a request is new, and if not, what came of it.
    pub(super) fn replay(&self, sequence: Sequence) -> Replay {
        if self.acquisitions.contains_key(&sequence) {
            return Replay::Acquisition;
        }
        match self.answers.get(&sequence) {
            Some(outcome) => Replay::Answered(outcome.clone()),
            None if sequence <= self.floor => Replay::Answered(Outcome::Over),
            None => Replay::New,
        }
    }

    /// Notes the outcome of a request for its retries.
    pub(super) fn answer(&mut self, sequence: Sequence, outcome: Outcome) {
        if planted::has(Planted::DedupEvicted) {
            self.answers.clear();
        }
        if sequence > self.floor {
            self.answers.insert(sequence, outcome);
        }
    }

    /// Notes an acquisition, or that it is no longer queued but held.
    pub(super) fn add(&mut self, acquire: Sequence, acquisition: Acquisition) {
        self.waits += usize::from(acquisition.place().is_some());
        let before = self.acquisitions.insert(acquire, acquisition);
        self.discount(before.as_ref());
    }

    fn discount(&mut self, gone: Option<&Acquisition>) {
        let waited = gone.is_some_and(|gone| gone.place().is_some());
        self.waits -= usize::from(waited);
    }

    /// An acquisition ends: a late copy of its request must not acquire again.
    pub(super) fn conclude(&mut self, acquire: Sequence, outcome: Outcome) -> Option<Acquisition> {
        let acquisition = self.acquisitions.remove(&acquire)?;
        self.discount(Some(&acquisition));
        self.answer(acquire, outcome);
        Some(acquisition)
    }

    /// An acquisition was cancelled before it arrived: should it still arrive, it is void.
    pub(super) fn forbid(&mut self, acquire: Sequence) {
        if acquire <= self.window_end() && !self.answers.contains_key(&acquire) {
            self.answer(acquire, Outcome::Cancelled);
        }
    }
}
