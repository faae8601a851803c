//! What every replica is, whatever its role: the keeper of a promise and a log.
//!
//! The only writer of what must be durable. It decides nothing about roles and knows no clock.

use crate::catchup::Stage;
use crate::durable::{Durable, Held};
use crate::limits::OPEN_SLOTS_MAX;
use crate::log::Log;
use crate::message::{Accept, Accepted, Body, Promise, Standing, Sync};
use crate::planted::{Plant, Planted};
use crate::types::{Ballot, ConfirmNumber, Entry, PersistId, Recovered, Slot, Time, WriteBatch};

/// The acceptor and learner.
#[derive(Debug)]
pub(crate) struct Acceptor {
    promised: Ballot,
    /// The one ballot of the whole log.
    accepted: Ballot,
    log: Log,
    /// Entries of a newer ballot's log, under the ballot promised.
    stage: Stage,
    durable: Durable,
    /// The newest confirm round seen under the ballot promised.
    confirm: ConfirmNumber,
    /// Decided and not yet handed out.
    decided: Vec<Entry>,
    plant: Plant,
}

/// How to answer a leader.
pub(crate) struct Answer {
    /// May be sent at once.
    pub(crate) now: Option<Accepted>,
    /// May be sent when everything that memory says now is durable.
    pub(crate) durable: Option<Accepted>,
}

impl Acceptor {
    pub(crate) fn new(recovered: Recovered) -> Acceptor {
        let log = Log::new(recovered.decided, recovered.entries);
        Acceptor {
            promised: recovered.promised,
            accepted: recovered.accepted,
            durable: Durable::new(recovered.promised, recovered.accepted, log.end()),
            log,
            stage: Stage::default(),
            confirm: ConfirmNumber(0),
            decided: Vec::new(),
            plant: Plant::default(),
        }
    }

    #[cfg(feature = "sim")]
    pub(crate) fn plant(&mut self, plant: Plant) {
        self.plant = plant;
    }

    #[cfg(feature = "sim")]
    pub(crate) fn tighten(&mut self, bounds: crate::limits::Bounds) {
        self.log.tighten(bounds);
    }

    pub(crate) fn promised(&self) -> Ballot {
        self.promised
    }

    pub(crate) fn accepted(&self) -> Ballot {
        self.accepted
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) fn durable(&self) -> &Durable {
        &self.durable
    }

    pub(crate) fn durable_mut(&mut self) -> &mut Durable {
        &mut self.durable
    }

    /// Up to here the log of the ballot promised is known here, if not yet as the own log.
    pub(crate) fn staged_end(&self) -> Slot {
        self.stage.end(self.log.decided())
    }

    /// Promises another's ballot: to accept nothing below it.
    pub(crate) fn promise(&mut self, ballot: Ballot) {
        self.raise_promise(ballot, self.plant.has(Planted::PromiseNotSynced));
    }

    /// Promises the ballot of an own campaign.
    pub(crate) fn promise_own(&mut self, ballot: Ballot) {
        self.raise_promise(ballot, self.plant.has(Planted::BallotReused));
    }

    fn raise_promise(&mut self, ballot: Ballot, forget_to_write: bool) {
        let lax = self.plant.has(Planted::AcceptWithoutPromise);
        assert!(ballot > self.promised || lax, "a promise only rises");
        self.promised = ballot;
        self.confirm = ConfirmNumber(0);
        self.stage.clear();
        if !forget_to_write {
            self.durable.ballots_changed();
        }
    }

    /// What a candidate whose ballot is promised is told. To be held until it is durable.
    pub(crate) fn describe(&self) -> Promise {
        Promise {
            ballot: self.promised,
            accepted: self.accepted,
            end: self.log.end(),
            decided: self.log.decided(),
        }
    }

    /// Appends an entry of this replica's own leadership.
    pub(crate) fn append_own(&mut self, entry: Entry) {
        assert_eq!(
            self.accepted, self.promised,
            "a leader's log is its ballot's"
        );
        self.append(entry);
    }

    /// Takes in entries of the log that is to replace the own one, as far as they follow what is
    /// staged. Those up to `decided` are decided.
    pub(crate) fn stage(&mut self, entries: Vec<Entry>, decided: Slot) {
        for entry in entries {
            self.stage.offer(entry, self.log.decided());
            // At once, so that what is decided takes no room.
            self.learn_staged(decided);
        }
        self.learn_staged(decided);
    }

    /// Stages the own undecided entries: another log of the same ballot continues them.
    pub(crate) fn stage_own(&mut self) {
        let decided = self.log.decided();
        for entry in self.log.suffix(decided.next()) {
            self.stage.offer(entry, decided);
        }
    }

    /// Puts what is staged in the place of everything undecided, as the log of the ballot
    /// promised. One write carries all of it.
    pub(crate) fn adopt_stage(&mut self, ballot: Ballot) {
        let end = self.staged_end();
        while let Some(entry) = self.stage.pop_up_to(end) {
            self.install(entry);
        }
        self.truncate_from(end.next());
        self.adopt_own(ballot);
    }

    /// Makes the own log, as it is, the log of the ballot promised.
    pub(crate) fn adopt_own(&mut self, ballot: Ballot) {
        let lax = self.plant.has(Planted::AcceptWithoutPromise);
        assert!(
            lax || (ballot == self.promised && ballot > self.accepted),
            "a log is accepted under the ballot promised, and its ballot only rises"
        );
        self.accepted = ballot;
        self.durable.ballots_changed();
    }

    /// Marks entries as decided, as far as the log goes.
    pub(crate) fn decide(&mut self, to: Slot) {
        if to > self.log.decided() {
            let newly = self.log.decide(to.min(self.log.end()));
            self.decided.extend(newly);
            self.log.evict(self.durable.clean_end());
        }
    }

    /// What has been decided since the last call.
    pub(crate) fn take_decided(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.decided)
    }

    /// Takes a part of a leader's log that replaces the own one. The ballot is promised.
    pub(crate) fn on_sync(&mut self, sync: Sync) -> Answer {
        self.saw_confirm(sync.confirm);
        if self.accepted == sync.ballot {
            return Answer {
                now: Some(self.standing(sync.ballot, false)),
                durable: None,
            };
        }
        let gap = sync.first > self.staged_end().next();
        self.stage(sync.entries, sync.decided);
        if self.staged_end() < sync.end {
            return Answer {
                now: Some(self.standing(sync.ballot, gap)),
                durable: None,
            };
        }
        self.adopt_stage(sync.ballot);
        self.acknowledge(sync.ballot)
    }

    /// Takes the continuation of a leader's log. The ballot is promised.
    pub(crate) fn on_accept(&mut self, accept: Accept) -> Answer {
        let news = self.saw_confirm(accept.confirm);
        if self.accepted != accept.ballot {
            let gap = accept.first > self.staged_end().next();
            return Answer {
                now: Some(self.standing(accept.ballot, gap)),
                durable: None,
            };
        }
        let gap = accept.first > self.log.end().next();
        let heartbeat = accept.entries.is_empty();
        if !gap {
            self.append_missing(accept.entries);
        }
        self.decide(accept.decided);
        if gap || heartbeat {
            return Answer {
                now: Some(self.standing(accept.ballot, gap)),
                durable: None,
            };
        }
        let mut answer = self.acknowledge(accept.ballot);
        if news {
            // The echo of a confirm need not wait for the disk.
            answer.now = Some(self.standing(accept.ballot, false));
        }
        answer
    }

    /// Begins the next write, if there is one to begin.
    pub(crate) fn begin_write(&mut self, now: Time) -> Option<WriteBatch> {
        let end = self.log.end();
        let was = (self.durable.promised(), self.durable.accepted());
        let dirty = self.durable.begin(now, self.promised, self.accepted, end)?;
        Some(WriteBatch {
            id: dirty.id,
            promised: (self.promised != was.0).then_some(self.promised),
            accepted: (self.accepted != was.1).then_some(self.accepted),
            truncate_from: dirty.truncate_from,
            entries: dirty
                .entries_from
                .map_or_else(Vec::new, |from| self.log.suffix(from)),
            decided: self.log.decided(),
        })
    }

    /// The write is durable: the messages that waited for it.
    pub(crate) fn end_write(&mut self, id: PersistId) -> Vec<Held> {
        let released = self.durable.finish(id);
        self.log.evict(self.durable.clean_end());
        released
    }

    /// Holds a message until all that memory says is durable; gives it back if it is.
    pub(crate) fn hold(&mut self, held: Held) -> Option<Held> {
        let early = match held.1 {
            Body::Promise(_) => self.plant.has(Planted::PromiseNotSynced),
            Body::Accepted(_) => self.plant.has(Planted::AckNotSynced),
            _ => false,
        };
        if early {
            Some(held)
        } else {
            self.durable.hold(held)
        }
    }

    fn learn_staged(&mut self, decided: Slot) {
        while let Some(entry) = self.stage.pop_up_to(decided) {
            let slot = entry.slot;
            self.install(entry);
            self.decide(slot);
        }
    }

    /// How the log stands under a leader's ballot, as far as may be said at once.
    fn standing(&self, ballot: Ballot, gap: bool) -> Accepted {
        let standing = if self.accepted == ballot {
            let received = self.log.end();
            match self.durable.end_under(ballot) {
                Some(persisted) => Standing::Synced {
                    persisted,
                    received,
                },
                None => Standing::Unsynced { received },
            }
        } else {
            Standing::Unsynced {
                received: self.staged_end(),
            }
        };
        Accepted {
            ballot,
            standing,
            gap,
            confirm: self.confirm,
        }
    }

    /// The acknowledgement of the log as it is in memory.
    fn acknowledge(&self, ballot: Ballot) -> Answer {
        let end = self.log.end();
        let standing = Standing::Synced {
            persisted: end,
            received: end,
        };
        let accepted = Accepted {
            ballot,
            standing,
            gap: false,
            confirm: self.confirm,
        };
        Answer {
            now: None,
            durable: Some(accepted),
        }
    }

    /// Notes a confirm round of the ballot promised; whether it is a new one.
    fn saw_confirm(&mut self, confirm: ConfirmNumber) -> bool {
        let news = confirm > self.confirm;
        self.confirm = self.confirm.max(confirm);
        news
    }

    /// Appends the entries that are not in the log yet; none at all if one contradicts the log.
    fn append_missing(&mut self, entries: Vec<Entry>) {
        let contradicts = entries.iter().any(|entry| {
            self.log
                .origin(entry.slot)
                .is_some_and(|origin| origin != entry.origin)
        });
        if contradicts {
            return;
        }
        for entry in entries {
            if entry.slot == self.log.end().next() && self.log.open_slots() < OPEN_SLOTS_MAX {
                self.append(entry);
            }
        }
    }

    /// Puts an entry into its slot. Where the log has another one there, it ends before it: what
    /// follows an entry that was replaced belongs to a log that lost.
    fn install(&mut self, entry: Entry) {
        if self.log.origin(entry.slot) == Some(entry.origin) {
            return;
        }
        self.truncate_from(entry.slot);
        self.append(entry);
    }

    fn append(&mut self, entry: Entry) {
        self.durable.appended(entry.slot);
        self.log.append(entry);
    }

    fn truncate_from(&mut self, from: Slot) {
        if from <= self.log.end() {
            self.log.truncate_from(from);
            self.durable.truncated_from(from);
        }
    }
}
