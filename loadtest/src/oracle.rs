//! Judges every answer of a lock service while it is being driven: are grants exclusive, do
//! tokens rise, is a release of what is held accepted?
//!
//! It relies on real time as the clients saw it, and on nothing that the service says about
//! itself. Each rule is a consequence of what a correct service promises, so a finding is a bug
//! in the service (or its SDK), never a matter of timing:
//!
//! - **Order.** Tokens rise in grant order over the whole cell. A grant that was *asked for* after
//!   another grant had been *received* must carry the higher token.
//! - **Order per lock.** A client that receives a grant holds the lock from then on, so the grants
//!   of one lock are received in grant order; only those who hold it as shared at the same time may
//!   learn of it in any order.
//! - **Uniqueness.** No token is granted twice.
//! - **Exclusion.** From receiving a grant until it lets go (or its lease ends by its own clock) no
//!   other client receives a grant of the same lock, unless both hold it as shared.
//! - **Release.** A release that is answered while the lease still runs is not answered with
//!   "not held".
//!
//! Each permit of a semaphore is a lock here. A service without tokens is judged by the last two
//! alone: the oracle numbers its grants in the order in which they are received, which breaks no
//! rule of order.
//!
//! It has no clock and does no I/O. It must stay cheap: it runs inside the measured loop.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use crate::driver::Released;

#[cfg(test)]
mod tests;

/// Events that are remembered of each lock, to tell how a violation came about.
const EVENTS_PER_LOCK: usize = 16;

/// Violations that are kept with their story; further ones are only counted.
const STORIES_MAX: usize = 8;

/// Tokens that are remembered at least, before those that can no longer come are forgotten.
const TOKENS_MIN: usize = 1 << 16;

/// Tokens lie below this (they fit a database's signed 64-bit integer).
const TOKEN_END: u64 = 1 << 63;

/// Number of a client in the run, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientIndex(pub usize);

/// Number of a lock in the run, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockIndex(pub usize);

/// The judge of one run.
pub struct Oracle {
    started: Instant,
    clients: Vec<ClientState>,
    locks: Vec<LockState>,
    highest_token: u64,
    /// What the numbers of grants are called.
    number_is: &'static str,
    tokens: HashSet<u64>,
    forget_at: usize,
    violations: u64,
    stories: Vec<Violation>,
}

/// What the oracle knows of a client.
#[derive(Clone, Copy)]
struct ClientState {
    /// The highest token that anyone had received when the client asked for its lock.
    floor: Option<u64>,
}

/// A grant of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Of which lock.
    pub lock: LockIndex,
    /// Its number.
    pub token: u64,
    /// Whether others may hold the lock as shared at the same time.
    pub shared: bool,
}

/// What the oracle knows of a lock.
#[derive(Clone, Default)]
struct LockState {
    last_token: u64,
    /// The last token under which nobody else could hold it.
    last_exclusive: u64,
    holders: Vec<Holder>,
    events: VecDeque<Event>,
}

/// Who relies on holding a lock, and how long it may.
#[derive(Clone, Copy)]
struct Holder {
    client: ClientIndex,
    hold: Hold,
    until: Instant,
}

/// Something that a client saw or did.
#[derive(Clone, Copy, Debug)]
struct Event {
    at: Duration,
    client: ClientIndex,
    what: What,
    token: u64,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Granted,
    LetGo,
    Released,
    NotHeld,
}

/// A broken promise, and how it came about.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Violation {
    /// Which promise, and by which tokens and clients.
    pub what: String,
    /// The latest events of the lock, oldest first.
    pub history: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.history
            .iter()
            .try_for_each(|event| write!(f, "\n    {event}"))
    }
}

impl Oracle {
    /// A judge over `clients` clients, each of which does one thing at a time, and `locks` locks.
    #[must_use]
    pub fn new(started: Instant, clients: usize, locks: usize) -> Oracle {
        Oracle {
            started,
            clients: vec![ClientState { floor: None }; clients],
            locks: vec![LockState::default(); locks],
            highest_token: 0,
            number_is: "token",
            tokens: HashSet::new(),
            forget_at: TOKENS_MIN,
            violations: 0,
            stories: Vec::new(),
        }
    }

    /// The client is about to ask for a lock.
    pub fn asks(&mut self, client: ClientIndex) {
        self.clients[client.0].floor = Some(self.highest_token);
    }

    /// The client gave up asking, or its attempt failed.
    pub fn gives_up(&mut self, client: ClientIndex) {
        self.clients[client.0].floor = None;
    }

    /// The number of the grant that is now received: its token or, of a service that gives none,
    /// the next one of the oracle's own.
    pub fn number(&mut self, token: Option<u64>) -> u64 {
        token.unwrap_or_else(|| {
            self.number_is = "hold";
            self.highest_token + 1
        })
    }

    /// The client received a grant on which it may rely until `until`. Who acquires several locks
    /// at once receives a grant of each.
    pub fn granted(&mut self, client: ClientIndex, hold: Hold, now: Instant, until: Instant) {
        let Hold {
            lock,
            token,
            shared,
        } = hold;
        self.record(client, lock, What::Granted, token, now);
        self.check_token(client, hold);
        self.check_holders(client, hold, now);
        let state = &mut self.locks[lock.0];
        state.last_token = state.last_token.max(token);
        if !shared {
            state.last_exclusive = state.last_exclusive.max(token);
        }
        let beside = |holder: &Holder| shared && holder.hold.shared && now < holder.until;
        state.holders.retain(beside);
        state.holders.push(Holder {
            client,
            hold,
            until,
        });
        self.highest_token = self.highest_token.max(token);
        self.forget_old_tokens();
    }

    /// The client was granted a permit that the semaphore does not have.
    pub fn no_such_permit(&mut self, client: ClientIndex, slot: usize, permits: usize) {
        let what = format!(
            "exclusion: client {} was granted permit {slot} of {permits}, counted from 0",
            client.0
        );
        self.violation(LockIndex(0), what);
    }

    /// The client stops relying on the lock: it is about to send its release, or lost it.
    pub fn lets_go(&mut self, client: ClientIndex, lock: LockIndex, token: u64, now: Instant) {
        self.clients[client.0].floor = None;
        self.record(client, lock, What::LetGo, token, now);
        let others = |holder: &Holder| holder.client != client || holder.hold.token != token;
        self.locks[lock.0].holders.retain(others);
    }

    /// The release was answered; the lease on which the client had relied ran until `until`.
    pub fn released(
        &mut self,
        client: ClientIndex,
        lock: LockIndex,
        token: u64,
        answer: Released,
        now: Instant,
        until: Instant,
    ) {
        let what = match answer {
            Released::Yes => What::Released,
            Released::NotHeld => What::NotHeld,
        };
        self.record(client, lock, what, token, now);
        if answer == Released::NotHeld && now < until {
            let left = until.duration_since(now).as_millis();
            self.violation(
                lock,
                format!(
                    "release: client {} released {} {token} with {left} ms of its lease left, and \
                 was told that it did not hold it",
                    client.0, self.number_is
                ),
            );
        }
    }

    /// How many promises were broken.
    #[must_use]
    pub fn violations(&self) -> u64 {
        self.violations
    }

    /// The first broken promises with their stories.
    #[must_use]
    pub fn stories(&self) -> &[Violation] {
        &self.stories
    }

    fn check_token(&mut self, client: ClientIndex, hold: Hold) {
        let Hold {
            lock,
            token,
            shared,
        } = hold;
        let who = client.0;
        if token == 0 || token >= TOKEN_END {
            self.violation(
                lock,
                format!("token: client {who} was granted token {token}"),
            );
        }
        if !self.tokens.insert(token) {
            self.violation(
                lock,
                format!("uniqueness: client {who} was granted token {token}, granted before"),
            );
        }
        let state = &self.locks[lock.0];
        let last = if shared {
            state.last_exclusive
        } else {
            state.last_token
        };
        if token < last {
            self.violation(
                lock,
                format!(
                    "order per lock: client {who} was granted token {token} after the lock's \
                     token {last} had been received"
                ),
            );
        }
        let floor = self.clients[client.0].floor.unwrap_or_default();
        if token <= floor {
            self.violation(
                lock,
                format!(
                    "order: client {who} was granted token {token}, yet token {floor} had been \
                     received before it asked"
                ),
            );
        }
    }

    fn check_holders(&mut self, client: ClientIndex, hold: Hold, now: Instant) {
        let against = |holder: &&Holder| now < holder.until && !(hold.shared && holder.hold.shared);
        let Some(holder) = self.locks[hold.lock.0]
            .holders
            .iter()
            .find(against)
            .copied()
        else {
            return;
        };
        let left = holder.until.duration_since(now).as_millis();
        self.violation(hold.lock, format!(
            "exclusion: client {} was granted {number_is} {} while client {} held the lock under \
             {number_is} {}, with {left} ms of its lease left",
            client.0, hold.token, holder.client.0, holder.hold.token, number_is = self.number_is
        ));
    }

    fn record(
        &mut self,
        client: ClientIndex,
        lock: LockIndex,
        what: What,
        token: u64,
        now: Instant,
    ) {
        let events = &mut self.locks[lock.0].events;
        if events.len() == EVENTS_PER_LOCK {
            events.pop_front();
        }
        events.push_back(Event {
            at: now.saturating_duration_since(self.started),
            client,
            what,
            token,
        });
    }

    fn violation(&mut self, lock: LockIndex, what: String) {
        self.violations += 1;
        if self.stories.len() < STORIES_MAX {
            let events = &self.locks[lock.0].events;
            let describe = |event: &Event| event.describe(lock, self.number_is);
            let history = events.iter().map(describe).collect();
            self.stories.push(Violation { what, history });
        }
    }

    /// Forgets the tokens at or below every floor: were one of them granted again, the rule of
    /// order would tell.
    fn forget_old_tokens(&mut self) {
        if self.tokens.len() < self.forget_at {
            return;
        }
        let floors = self.clients.iter().filter_map(|client| client.floor);
        let floor = floors.min().unwrap_or(self.highest_token);
        self.tokens.retain(|token| *token > floor);
        self.forget_at = TOKENS_MIN.max(self.tokens.len() * 2);
    }
}

impl Event {
    fn describe(&self, lock: LockIndex, number_is: &str) -> String {
        let what = match self.what {
            What::Granted => "was granted it",
            What::LetGo => "lets go",
            What::Released => "was told: released",
            What::NotHeld => "was told: not held",
        };
        format!(
            "{:>12.6} s  lock {} {number_is} {}: client {} {what}",
            self.at.as_secs_f64(),
            lock.0,
            self.token,
            self.client.0
        )
    }
}
