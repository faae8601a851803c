//! One watch: what it has seen, and where it goes on at the next node. Sends nothing itself.

use std::collections::BTreeMap;

use lockd_protocol::client::{ClientFrame, Event, Holder, News, Refusal, Scope};
use lockd_protocol::{EventNumber, LockName, Token};

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Update {
    /// The first one: these are the holders.
    Snapshot(Snapshot),
    /// What happened next. Nothing lies between it and what was told before.
    Event(Event),
    /// Something was missed, because this watch was behind for too long, or because the node does
    /// not remember far enough back. What was told before does not count: these are the holders.
    Resync(Snapshot),
}

/// Who holds what, at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The last event that it takes into account; 0 if there was none yet.
    pub at: EventNumber,
    /// Everybody, in order of lock and token.
    pub holders: Vec<Holder>,
}

/// Who holds what, as a watch has told it so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders(BTreeMap<(LockName, Token), Holder>);

impl Holders {
    /// Takes what a watch told.
    pub fn apply(&mut self, update: &Update) {
        match update {
            Update::Snapshot(snapshot) | Update::Resync(snapshot) => {
                self.0.clear();
                self.extend(snapshot.holders.iter().cloned());
            }
            Update::Event(event) => self.note(event),
        }
    }

    /// Everybody, in order of lock and token.
    pub fn iter(&self) -> impl Iterator<Item = &Holder> {
        self.0.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody holds anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn extend(&mut self, holders: impl IntoIterator<Item = Holder>) {
        let holders = holders.into_iter();
        let with_keys = holders.map(|holder| ((holder.lock.clone(), holder.token), holder));
        self.0.extend(with_keys);
    }

    fn note(&mut self, event: &Event) {
        let holder = &event.holder;
        let key = (holder.lock.clone(), holder.token);
        match event.change.is_end() {
            true => self.0.remove(&key),
            false => self.0.insert(key, holder.clone()),
        };
    }
}

/// The state of one watch.
#[derive(Clone, Debug)]
pub struct WatchCore {
    scope: Scope,
    /// The last event that it knows of; `None`: it needs a listing.
    seen: Option<EventNumber>,
    listing: Option<Holders>,
    /// There was a first listing.
    began: bool,
}

impl WatchCore {
    /// A watch that knows nothing yet.
    #[must_use]
    pub fn new(scope: Scope) -> WatchCore {
        WatchCore {
            scope,
            seen: None,
            listing: None,
            began: false,
        }
    }

    /// What is watched.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// What to send to a node that is to tell it from here on, under a new number.
    pub fn start(&mut self, watch: u64) -> ClientFrame {
        self.listing = None;
        ClientFrame::Watch {
            watch,
            scope: self.scope.clone(),
            after: self.seen,
        }
    }

    /// Something that it told was lost: the next start is with a listing.
    pub fn forget(&mut self) {
        self.seen = None;
        self.listing = None;
    }

    /// Takes what the node tells.
    ///
    /// # Errors
    /// The node refuses. After [`Refusal::Busy`] it may be started again.
    pub fn take(&mut self, news: News) -> Result<Option<Update>, Refusal> {
        match news {
            News::Listing => {
                self.forget();
                self.listing = Some(Holders::default());
            }
            News::Holders(holders) => {
                if let Some(listing) = &mut self.listing {
                    listing.extend(holders);
                }
            }
            News::Listed { at } => {
                let Some(Holders(holders)) = self.listing.take() else {
                    return Ok(None);
                };
                self.seen = Some(at);
                let holders = holders.into_values().collect();
                let snapshot = Snapshot { at, holders };
                return Ok(Some(match std::mem::replace(&mut self.began, true) {
                    false => Update::Snapshot(snapshot),
                    true => Update::Resync(snapshot),
                }));
            }
            News::Event(event) => {
                if let Some(listing) = &mut self.listing {
                    listing.note(&event);
                } else if self.seen.is_some_and(|seen| seen < event.number) {
                    self.seen = Some(event.number);
                    return Ok(Some(Update::Event(event)));
                }
            }
            News::Nothing { until } => {
                if let Some(seen) = &mut self.seen {
                    *seen = until.max(*seen);
                }
            }
            News::Missed { .. } => self.forget(),
            News::Refused(refusal) => return Err(refusal),
            // What a later node tells in another way.
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockd_protocol::client::Change;
    use lockd_protocol::{Mode, SessionId};

    fn holder(lock: &str, token: u64) -> Holder {
        Holder {
            lock: LockName::new(lock).expect("a name"),
            token: Token(token),
            session: SessionId(1),
            mode: Mode::Exclusive,
            slot: 0,
            metadata: None,
        }
    }

    fn event(number: u64, change: Change, holder: Holder) -> News {
        News::Event(Event {
            number: EventNumber(number),
            change,
            holder,
        })
    }

    fn watch() -> WatchCore {
        WatchCore::new(Scope::Prefix("a".to_owned()))
    }

    fn after(watch: &mut WatchCore) -> Option<EventNumber> {
        match watch.start(1) {
            ClientFrame::Watch { after, .. } => after,
            other => panic!("{other:?}"),
        }
    }

    fn listed(watch: &mut WatchCore, at: u64, holders: Vec<Holder>) -> Option<Update> {
        assert_eq!(watch.take(News::Listing), Ok(None));
        assert_eq!(watch.take(News::Holders(holders)), Ok(None));
        let at = EventNumber(at);
        watch.take(News::Listed { at }).expect("not refused")
    }

    #[test]
    fn what_happens_during_the_listing_is_in_the_snapshot() {
        let mut watch = watch();
        assert_eq!(after(&mut watch), None);
        let (one, two, three) = (holder("a1", 1), holder("a2", 2), holder("a1", 3));
        let page = vec![one.clone(), two.clone()];
        for news in [
            News::Listing,
            News::Holders(page),
            event(5, Change::Released, one),
            event(6, Change::Granted, three.clone()),
        ] {
            assert_eq!(watch.take(news), Ok(None));
        }
        let at = EventNumber(6);
        let holders = vec![three, two];
        let snapshot = Update::Snapshot(Snapshot { at, holders });
        assert_eq!(watch.take(News::Listed { at }), Ok(Some(snapshot)));
        assert_eq!(after(&mut watch), Some(at));
    }

    #[test]
    fn it_goes_on_behind_the_last_event_and_takes_none_twice() {
        let mut watch = watch();
        listed(&mut watch, 6, vec![]);
        let seven = event(7, Change::Granted, holder("a", 3));
        assert!(watch.take(seven.clone()).expect("not refused").is_some());
        assert_eq!(watch.take(seven), Ok(None));
        let until = EventNumber(90);
        assert_eq!(watch.take(News::Nothing { until }), Ok(None));
        assert_eq!(after(&mut watch), Some(until));
    }

    #[test]
    fn after_a_gap_the_state_comes_anew_and_says_so() {
        let mut watch = watch();
        listed(&mut watch, 6, vec![]);
        let missed = News::Missed {
            after: EventNumber(6),
        };
        assert_eq!(watch.take(missed), Ok(None));
        assert_eq!(
            after(&mut watch),
            None,
            "a listing that was cut off begins anew"
        );
        let anew = listed(&mut watch, 50, vec![holder("a", 9)]);
        let Some(Update::Resync(snapshot)) = anew else {
            panic!("{anew:?}");
        };
        assert_eq!((snapshot.at, snapshot.holders.len()), (EventNumber(50), 1));
    }

    #[test]
    fn a_set_of_holders_follows_what_it_is_told() {
        let mut set = Holders::default();
        let at = EventNumber(1);
        let holders = vec![holder("a", 1), holder("b", 2)];
        set.apply(&Update::Snapshot(Snapshot { at, holders }));
        let told = |number, change, holder| match event(number, change, holder) {
            News::Event(event) => Update::Event(event),
            other => panic!("{other:?}"),
        };
        set.apply(&told(2, Change::Expired, holder("a", 1)));
        let mut reader = holder("b", 2);
        reader.mode = Mode::Shared;
        set.apply(&told(3, Change::Downgraded, reader.clone()));
        assert_eq!(set.iter().collect::<Vec<_>>(), [&reader]);
        let holders = Vec::new();
        set.apply(&Update::Resync(Snapshot { at, holders }));
        assert!(set.is_empty());
    }
}
