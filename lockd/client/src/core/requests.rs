//! The requests of one session: their numbers, the window, and what is sent again after a
//! reconnect. Sends nothing itself.
//!
//! A request is *unsent* (it waits for the session or for the window), *unanswered*, or *queued*
//! (an acquisition whose first answer said that it waits). Unanswered and queued requests are
//! sent again on every new connection, under the numbers they have.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lockd_protocol::Sequence;
use lockd_protocol::client::Operation;
use lockd_protocol::limits::SESSION_WINDOW;

use super::time::Time;

/// Names a request before it has a number. Chosen by whoever makes the request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct RequestId(pub u64);

/// One request.
#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone))]
pub(super) struct Entry<W> {
    /// Name by which an acquisition may be taken back.
    pub(super) request: Option<RequestId>,
    /// What is asked for.
    pub(super) operation: Operation,
    /// Whoever is to be told; `None` if nobody is, or not any more.
    pub(super) waiter: Option<W>,
    /// The acquisition was taken back: its answer is of no interest.
    pub(super) cancelled: bool,
    /// The lock is being broken, although the grant was not seen here yet.
    pub(super) taken: bool,
    retry_at: Option<Time>,
}

impl<W> Entry<W> {
    pub(super) fn new(operation: Operation, waiter: Option<W>) -> Entry<W> {
        Entry {
            request: None,
            operation,
            waiter,
            cancelled: false,
            taken: false,
            retry_at: None,
        }
    }
}

/// What taking back an acquisition calls for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TakenBack {
    /// It is not here: it was answered. Whoever got the answer has to deal with it.
    Unknown,
    /// It had never been sent, and is forgotten.
    Unsent,
    /// It may have taken effect under this number.
    Sent(Sequence),
}

/// All requests of a session.
#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone))]
pub(super) struct Requests<W> {
    last: Sequence,
    unsent: VecDeque<Entry<W>>,
    unanswered: BTreeMap<Sequence, Entry<W>>,
    queued: BTreeMap<Sequence, Entry<W>>,
    retries: BTreeSet<(Time, Sequence)>,
    numbers: BTreeMap<RequestId, Sequence>,
}

impl<W> Requests<W> {
    pub(super) fn new() -> Requests<W> {
        Requests {
            last: Sequence(0),
            unsent: VecDeque::new(),
            unanswered: BTreeMap::new(),
            queued: BTreeMap::new(),
            retries: BTreeSet::new(),
            numbers: BTreeMap::new(),
        }
    }

    /// Takes a request. It gets its number later, from [`Requests::number_next`].
    pub(super) fn push(&mut self, entry: Entry<W>) {
        self.unsent.push_back(entry);
    }

    /// Gives the next unsent request its number, if the window allows.
    pub(super) fn number_next(&mut self) -> Option<Sequence> {
        let sequence = self.last.next();
        if sequence.0 > self.acknowledged().0 + SESSION_WINDOW {
            return None;
        }
        let entry = self.unsent.pop_front()?;
        self.last = sequence;
        if let Some(request) = entry.request {
            self.numbers.insert(request, sequence);
        }
        self.unanswered.insert(sequence, entry);
        Some(sequence)
    }

    /// Every request up to this number has been answered.
    pub(super) fn acknowledged(&self) -> Sequence {
        match self.unanswered.first_key_value() {
            Some((lowest, _)) => Sequence(lowest.0.saturating_sub(1)),
            None => self.last,
        }
    }

    /// A request that was sent and is not over.
    pub(super) fn get(&self, sequence: Sequence) -> Option<&Entry<W>> {
        let entry = self.unanswered.get(&sequence);
        entry.or_else(|| self.queued.get(&sequence))
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, sequence: Sequence) -> Option<&mut Entry<W>> {
        match self.unanswered.get_mut(&sequence) {
            Some(entry) => Some(entry),
            None => self.queued.get_mut(&sequence),
        }
    }

    /// The first answer to an acquisition said that it waits.
    pub(super) fn queue(&mut self, sequence: Sequence) {
        if let Some(entry) = self.unanswered.remove(&sequence) {
            self.forget_retry(sequence, &entry);
            self.queued.insert(sequence, entry);
        }
    }

    /// A request is over.
    pub(super) fn remove(&mut self, sequence: Sequence) -> Option<Entry<W>> {
        let entry = match self.unanswered.remove(&sequence) {
            Some(entry) => entry,
            None => self.queued.remove(&sequence)?,
        };
        self.forget_retry(sequence, &entry);
        if let Some(request) = entry.request {
            self.numbers.remove(&request);
        }
        Some(entry)
    }

    /// Sends a refused request again, under its number, at `time`.
    pub(super) fn retry_at(&mut self, sequence: Sequence, time: Time) {
        if let Some(entry) = self.unanswered.get_mut(&sequence) {
            if let Some(old) = entry.retry_at.replace(time) {
                self.retries.remove(&(old, sequence));
            }
            self.retries.insert((time, sequence));
        }
    }

    /// When the next retry is due.
    pub(super) fn next_retry(&self) -> Option<Time> {
        self.retries.first().map(|(time, _)| *time)
    }

    /// A request whose retry is due.
    pub(super) fn take_due(&mut self, now: Time) -> Option<Sequence> {
        let &(time, sequence) = self.retries.first()?;
        if time > now {
            return None;
        }
        self.retries.pop_first();
        if let Some(entry) = self.unanswered.get_mut(&sequence) {
            entry.retry_at = None;
        }
        Some(sequence)
    }

    /// Everything that has to be sent again on a new connection, in order.
    pub(super) fn resend_order(&mut self) -> Vec<Sequence> {
        for (time, sequence) in std::mem::take(&mut self.retries) {
            if let Some(entry) = self.unanswered.get_mut(&sequence) {
                debug_assert_eq!(entry.retry_at, Some(time));
                entry.retry_at = None;
            }
        }
        let mut all: Vec<Sequence> = self.unanswered.keys().copied().collect();
        all.extend(self.queued.keys().copied());
        all.sort_unstable();
        all
    }

    /// Takes back an acquisition.
    pub(super) fn take_back(&mut self, request: RequestId) -> TakenBack {
        if let Some(&sequence) = self.numbers.get(&request) {
            let held_off = self.get_mut(sequence).is_some_and(|entry| {
                entry.cancelled = true;
                entry.waiter = None;
                entry.retry_at.is_some()
            });
            if held_off {
                self.remove(sequence);
            }
            return TakenBack::Sent(sequence);
        }
        let unsent = |entry: &Entry<W>| entry.request == Some(request);
        match self.unsent.iter().position(unsent) {
            Some(at) => {
                self.unsent.remove(at);
                TakenBack::Unsent
            }
            None => TakenBack::Unknown,
        }
    }

    /// Empties the table: whoever still waits, in order.
    pub(super) fn drain(&mut self) -> Vec<W> {
        self.retries.clear();
        self.numbers.clear();
        let sent = self.resend_order();
        let mut waiters: Vec<W> = sent
            .into_iter()
            .filter_map(|sequence| self.remove(sequence)?.waiter)
            .collect();
        waiters.extend(self.unsent.drain(..).filter_map(|entry| entry.waiter));
        waiters
    }

    fn forget_retry(&mut self, sequence: Sequence, entry: &Entry<W>) {
        if let Some(time) = entry.retry_at {
            self.retries.remove(&(time, sequence));
        }
    }
}
