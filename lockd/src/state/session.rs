//! A session: its acquisitions, and the window of answers that makes its requests exactly-once.

use std::collections::BTreeMap;

use lockd_protocol::client::Outcome;
use lockd_protocol::limits::SESSION_WINDOW;
use lockd_protocol::planted::{self, Planted};
use lockd_protocol::{LockName, Millis, Nonce, Sequence};
use serde::{Deserialize, Serialize};

/// A client's identity in the cell.
///
/// Every request is in exactly one of these states: at or below the floor (the client has its
/// answer), answered, an acquisition that is held or waited for, or new.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Session {
    nonce: Nonce,
    ttl: Millis,
    label: String,
    floor: Sequence,
    answers: BTreeMap<Sequence, Outcome>,
    acquisitions: BTreeMap<Sequence, Acquisition>,
    /// How many of its locks are being taken from it.
    pub(super) breaking: u32,
}

/// An acquisition that is held or waited for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Acquisition {
    pub(super) lock: LockName,
    /// Place in the lock's queue; `None` once held.
    pub(super) place: Option<u64>,
}

impl Acquisition {
    pub(super) fn held(lock: LockName) -> Acquisition {
        Acquisition { lock, place: None }
    }

    pub(super) fn queued(lock: LockName, place: u64) -> Acquisition {
        Acquisition {
            lock,
            place: Some(place),
        }
    }
}

/// What is known of a request's number when it arrives.
pub(super) enum Replay<'a> {
    /// Nothing: it is to be executed.
    New,
    /// It acquired a lock, or queued for it, and still does.
    Acquisition(&'a Acquisition),
    /// It was executed, with this outcome.
    Answered(Outcome),
}

impl Session {
    pub(super) fn new(nonce: Nonce, ttl: Millis, label: String) -> Session {
        Session {
            nonce,
            ttl,
            label,
            floor: Sequence(0),
            answers: BTreeMap::new(),
            acquisitions: BTreeMap::new(),
            breaking: 0,
        }
    }

    pub(super) fn nonce(&self) -> Nonce {
        self.nonce
    }

    pub(super) fn ttl(&self) -> Millis {
        self.ttl
    }

    pub(super) fn label(&self) -> &str {
        &self.label
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

    pub(super) fn acquisitions(&self) -> &BTreeMap<Sequence, Acquisition> {
        &self.acquisitions
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
    pub(super) fn replay(&self, sequence: Sequence) -> Replay<'_> {
        if let Some(acquisition) = self.acquisitions.get(&sequence) {
            return Replay::Acquisition(acquisition);
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
        self.acquisitions.insert(acquire, acquisition);
    }

    /// An acquisition ends: a late copy of its request must not acquire again.
    pub(super) fn conclude(&mut self, acquire: Sequence, outcome: Outcome) {
        self.acquisitions.remove(&acquire);
        self.answer(acquire, outcome);
    }

    /// An acquisition was cancelled before it arrived: should it still arrive, it is void.
    pub(super) fn forbid(&mut self, acquire: Sequence) {
        if acquire <= self.window_end() && !self.answers.contains_key(&acquire) {
            self.answer(acquire, Outcome::Cancelled);
        }
    }
}
