//! Watches: who is told which change of who holds what.
//!
//! Only a leader has watches, as only a leader answers questions; what it tells has been decided,
//! so nothing is ever taken back. A watch is *live* (it was told everything that concerns it), or
//! *behind*: then it goes through what the node remembers, a bounded part of it in each turn. A
//! client that does not read holds up nobody: its watches stay behind until there is room in its
//! outbox again, and if by then something was forgotten, it is told so and gets a new listing.
//!
//! For a change, only the watches that it concerns are looked at: they are found by the name of the
//! lock and by each length that a watched prefix has.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lockd_protocol::client::{Event, Holder, News, NodeFrame, Refusal, Scope};
use lockd_protocol::limits::{LOCK_NAME_BYTES_MAX, WATCHES_PER_CONNECTION_MAX};
use lockd_protocol::planted::{self, Planted};
use lockd_protocol::{EventNumber, LockName};

use super::clients::{Clients, ConnectionId};
use super::history::{History, HistoryBounds};
use crate::limits::{
    WATCH_PAGES_PER_TURN_MAX, WATCH_SCANS_PER_TURN_MAX, WATCH_TOLD_PER_TURN_MAX, WATCHES_MAX,
};
use crate::state::State;
use crate::state::holders::Place;

/// A watch: its connection, and its number there.
type Key = (ConnectionId, u64);

/// All watches of a node, and what it remembers for them.
#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone))]
pub(super) struct Watching {
    history: History,
    watches: BTreeMap<Key, Watch>,
    by_name: BTreeMap<LockName, BTreeSet<Key>>,
    /// By length of the prefix in bytes, then by the prefix.
    by_prefix: BTreeMap<usize, BTreeMap<String, BTreeSet<Key>>>,
    /// Watches with something to be told, each once, in turn.
    queue: VecDeque<Key>,
    /// Watches that wait until their connection's outbox has room.
    held_up: BTreeMap<ConnectionId, Vec<u64>>,
    left: Budget,
}

#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone))]
struct Watch {
    scope: Scope,
    /// The first event that it was not told yet; `None`: it is live.
    next: Option<EventNumber>,
    listed: Listed,
    /// The last event that its client knows of, or knows not to be of interest.
    told: EventNumber,
    /// It is in the queue, or held up.
    waiting: bool,
}

/// Which of the holders a watch was told.
#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone))]
enum Listed {
    Nothing,
    UpTo(Place),
    All,
}

impl Listed {
    fn covers(&self, holder: &Holder) -> bool {
        match self {
            Listed::Nothing => false,
            Listed::UpTo((lock, token)) => (&holder.lock, &holder.token) <= (lock, token),
            Listed::All => true,
        }
    }
}

/// What may still be done in this turn.
#[derive(Clone, Copy, Debug)]
struct Budget {
    told: usize,
    scans: usize,
    pages: usize,
}

const PER_TURN: Budget = Budget {
    told: WATCH_TOLD_PER_TURN_MAX,
    scans: WATCH_SCANS_PER_TURN_MAX,
    pages: WATCH_PAGES_PER_TURN_MAX,
};

/// How a watch goes on.
enum Then {
    /// It is live.
    Rests,
    /// There is more for it.
    GoesOn,
    /// Its client has to read first.
    HeldUp,
}

impl Watching {
    pub(super) fn new(bounds: HistoryBounds, last: EventNumber) -> Watching {
        Watching {
            history: History::new(bounds, last),
            watches: BTreeMap::new(),
            by_name: BTreeMap::new(),
            by_prefix: BTreeMap::new(),
            queue: VecDeque::new(),
            held_up: BTreeMap::new(),
            left: PER_TURN,
        }
    }

    /// The state is another one now.
    pub(super) fn start_anew(&mut self, last: EventNumber) {
        self.history.start_anew(last);
    }

    /// Whether there is something to be done in another turn.
    pub(super) fn is_busy(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether there is no watch, and no trace of one.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let traces = self.by_name.len() + self.by_prefix.len() + self.held_up.len();
        self.watches.is_empty() && traces == 0
    }

    /// This node does not lead any more: clients start their watches at the leader.
    pub(super) fn end_all(&mut self) {
        self.watches.clear();
        self.by_name.clear();
        self.by_prefix.clear();
        self.queue.clear();
        self.held_up.clear();
    }

    /// A connection is gone.
    pub(super) fn leave(&mut self, connection: ConnectionId) {
        let all = self.watches.range((connection, 0)..=(connection, u64::MAX));
        let all: Vec<u64> = all.map(|((_, watch), _)| *watch).collect();
        for watch in all {
            self.end(connection, watch);
        }
        self.held_up.remove(&connection);
    }

    /// A client wants to hear no more.
    pub(super) fn end(&mut self, connection: ConnectionId, watch: u64) {
        let key = (connection, watch);
        let Some(watch) = self.watches.remove(&key) else {
            return;
        };
        match watch.scope {
            Scope::Lock(name) => {
                let keys = self.by_name.get_mut(&name);
                if keys.is_some_and(|keys| keys.remove(&key) && keys.is_empty()) {
                    self.by_name.remove(&name);
                }
            }
            Scope::Prefix(prefix) => {
                let Some(same_length) = self.by_prefix.get_mut(&prefix.len()) else {
                    return;
                };
                let keys = same_length.get_mut(&prefix);
                if keys.is_some_and(|keys| keys.remove(&key) && keys.is_empty()) {
                    same_length.remove(&prefix);
                }
                if same_length.is_empty() {
                    self.by_prefix.remove(&prefix.len());
                }
            }
        }
    }

    /// Starts a watch, after an event that its client has seen, or from a listing on.
    pub(super) fn start(
        &mut self,
        (connection, number): Key,
        scope: Scope,
        after: Option<EventNumber>,
        clients: &mut Clients,
    ) {
        self.end(connection, number);
        if clients.is_closing(connection) {
            return;
        }
        if let Err(refusal) = self.check(connection, &scope) {
            return send(clients, (connection, number), News::Refused(refusal));
        }
        let key = (connection, number);
        match &scope {
            Scope::Lock(name) => self.by_name.entry(name.clone()).or_default().insert(key),
            Scope::Prefix(prefix) => {
                let same_length = self.by_prefix.entry(prefix.len()).or_default();
                same_length.entry(prefix.clone()).or_default().insert(key)
            }
        };
        let skips = planted::has(Planted::WatchSkipsAfterReconnect);
        let watch = Watch {
            scope,
            next: after.filter(|_| !skips).map(EventNumber::next),
            listed: after.map_or(Listed::Nothing, |_| Listed::All),
            told: after.unwrap_or_default(),
            waiting: true,
        };
        self.watches.insert(key, watch);
        self.queue.push_back(key);
    }

    fn check(&self, connection: ConnectionId, scope: &Scope) -> Result<(), Refusal> {
        if let Scope::Prefix(prefix) = scope
            && prefix.len() > LOCK_NAME_BYTES_MAX
        {
            return Err(Refusal::BadText {
                field: "the prefix that is watched".to_owned(),
                max: LOCK_NAME_BYTES_MAX as u32,
            });
        }
        let own = self.watches.range((connection, 0)..=(connection, u64::MAX));
        if own.count() >= WATCHES_PER_CONNECTION_MAX {
            let most = WATCHES_PER_CONNECTION_MAX as u64;
            return Err(Refusal::TooManyWatches(most));
        }
        match self.watches.len() < WATCHES_MAX {
            true => Ok(()),
            false => Err(Refusal::Busy),
        }
    }

    /// Who holds what has changed.
    pub(super) fn happened(&mut self, event: Event, clients: &mut Clients) {
        if self.watches.is_empty() {
            return self.history.push(event);
        }
        for key in self.concerned(&event.holder.lock) {
            self.tell(key, &event, clients);
        }
        let number = event.number;
        self.history.push(event);
        if number.0.is_multiple_of(self.history.reminder()) {
            self.remind(number);
        }
    }

    /// The watches that a lock is watched by.
    fn concerned(&self, lock: &LockName) -> Vec<Key> {
        let name = lock.as_str();
        let mut keys: Vec<Key> = self
            .by_name
            .get(lock)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        for (bytes, prefixes) in self.by_prefix.range(..=name.len()) {
            if let Some(beginning) = name.get(..*bytes) {
                keys.extend(prefixes.get(beginning).into_iter().flatten());
            }
        }
        keys
    }

    fn tell(&mut self, key: Key, event: &Event, clients: &mut Clients) {
        let Some(watch) = self.watches.get_mut(&key) else {
            return;
        };
        if watch.next.is_some() || !watch.listed.covers(&event.holder) {
            return;
        }
        if self.left.told > 0 && clients.has_room(key.0) {
            self.left.told -= 1;
            watch.told = event.number;
            return send(clients, key, News::Event(event.clone()));
        }
        watch.next = Some(event.number);
        if !std::mem::replace(&mut watch.waiting, true) {
            self.queue.push_back(key);
        }
    }

    /// Watches that were told nothing for long have to know how far they are.
    fn remind(&mut self, now: EventNumber) {
        let span = self.history.reminder();
        for (key, watch) in &mut self.watches {
            if watch.told.0 + span <= now.0 && !std::mem::replace(&mut watch.waiting, true) {
                self.queue.push_back(*key);
            }
        }
    }

    /// Tells watches that are behind what they miss: a bounded part of it.
    pub(super) fn catch_up(&mut self, state: &State, clients: &mut Clients) {
        for _ in 0..self.queue.len() {
            let Budget { told, scans, pages } = self.left;
            if told == 0 || scans == 0 || pages == 0 {
                break;
            }
            let Some(key) = self.queue.pop_front() else {
                break;
            };
            let Some(watch) = self.watches.get_mut(&key) else {
                continue;
            };
            let mut at_work = AtWork {
                key,
                watch,
                history: &self.history,
                left: &mut self.left,
                clients,
            };
            match at_work.catch_up(state) {
                Then::Rests => watch.waiting = false,
                Then::GoesOn => self.queue.push_back(key),
                Then::HeldUp => self.held_up.entry(key.0).or_default().push(key.1),
            }
        }
        self.left = PER_TURN;
    }

    /// The outbox of a connection was emptied. Whether a turn is of use to its watches.
    pub(super) fn has_room_again(&mut self, connection: ConnectionId) -> bool {
        let Some(watches) = self.held_up.remove(&connection) else {
            return false;
        };
        let keys = watches.into_iter().map(|watch| (connection, watch));
        self.queue.extend(keys);
        true
    }
}

/// A watch that is told what it misses.
struct AtWork<'a> {
    key: Key,
    watch: &'a mut Watch,
    history: &'a History,
    left: &'a mut Budget,
    clients: &'a mut Clients,
}

impl AtWork<'_> {
    fn catch_up(&mut self, state: &State) -> Then {
        if !self.clients.has_room(self.key.0) {
            return Then::HeldUp;
        }
        if let Some(then) = self.go_through_events() {
            return then;
        }
        match self.watch.listed {
            Listed::All => {
                let last = self.history.last();
                if self.watch.told.0 + self.history.reminder() <= last.0 {
                    self.watch.told = last;
                    self.send(News::Nothing { until: last });
                }
                Then::Rests
            }
            _ => self.list(state),
        }
    }

    /// `None`: it was told every event that concerns it.
    fn go_through_events(&mut self) -> Option<Then> {
        let next = self.watch.next?;
        let Some(events) = self.history.from(next) else {
            return self.miss();
        };
        for event in events {
            let concerns = self.watch.scope.covers(&event.holder.lock)
                && self.watch.listed.covers(&event.holder);
            self.watch.next = Some(event.number);
            if self.left.scans == 0 || self.left.told == 0 {
                return Some(Then::GoesOn);
            }
            self.left.scans -= 1;
            if concerns {
                if !self.clients.has_room(self.key.0) {
                    return Some(Then::HeldUp);
                }
                self.left.told -= 1;
                self.watch.told = event.number;
                self.send(News::Event(event.clone()));
            }
        }
        self.watch.next = None;
        None
    }

    /// Not all that it misses is remembered: it has to begin anew.
    fn miss(&mut self) -> Option<Then> {
        if planted::has(Planted::GapUntold) {
            self.watch.next = Some(self.history.first());
            return self.go_through_events();
        }
        let after = self.watch.told;
        self.send(News::Missed { after });
        self.watch.next = None;
        self.watch.listed = Listed::Nothing;
        None
    }

    /// The next page of the listing. It is live in what was listed.
    fn list(&mut self, state: &State) -> Then {
        let page = match &self.watch.listed {
            Listed::UpTo(place) => state.holders_page(&self.watch.scope, Some(place)),
            _ => {
                self.send(News::Listing);
                state.holders_page(&self.watch.scope, None)
            }
        };
        self.left.pages -= 1;
        if !page.holders.is_empty() {
            self.send(News::Holders(page.holders));
        }
        if let Some(place) = page.next {
            self.watch.listed = Listed::UpTo(place);
            return Then::GoesOn;
        }
        let at = self.history.last();
        self.watch.listed = Listed::All;
        self.watch.told = at;
        self.send(News::Listed { at });
        Then::Rests
    }

    fn send(&mut self, news: News) {
        send(self.clients, self.key, news);
    }
}

fn send(clients: &mut Clients, (connection, watch): Key, news: News) {
    clients.send(connection, &NodeFrame::News { watch, news });
}
