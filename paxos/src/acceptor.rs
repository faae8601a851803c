//! What every replica is, whatever its role: the keeper of a promise and a log.
//!
//! The only writer of what must be durable. It decides nothing about roles and knows no clock.

mod restore;
#[cfg(test)]
mod tests;

use crate::durable::{Durable, Finished, Held, Part};
use crate::limits::OPEN_SLOTS_MAX;
use crate::log::Log;
use crate::membership::Membership;
use crate::message::{Accept, Accepted, Promise, Standing, Sync};
use crate::planted::{Plant, Planted};
use crate::stage::Stage;
use crate::types::{
    Ballot, ConfirmNumber, Entry, EntryKind, PersistId, Recovered, Slot, SnapshotMeta, Time,
    WriteBatch,
};

/// The acceptor and learner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Acceptor {
    promised: Ballot,
    /// The one ballot of the whole log.
    accepted: Ballot,
    log: Log,
    /// The last slot that was ever accepted under `accepted`. Beyond the end of the log if the
    /// disk damaged what was there: then this acceptor cannot say what it accepted.
    claimed: Slot,
    /// The newest snapshot, durable.
    snapshot: Option<SnapshotMeta>,
    /// Entries before this slot are only in the snapshot.
    keep_from: Slot,
    /// Snapshot, or membership, that the next write must tell the store of.
    news: News,
    /// What the last write said of how much is decided.
    told_decided: Slot,
    /// A decided stop entry whose epoch has not been left yet, and what it says.
    stopped: Option<(Slot, Membership)>,
    /// Entries of a newer ballot's log, under the ballot promised.
    stage: Stage,
    durable: Durable,
    /// The newest confirm round seen under the ballot promised.
    confirm: ConfirmNumber,
    /// Decided and not yet handed out.
    decided: Vec<Entry>,
    plant: Plant,
}

/// What the store does not know yet, beside ballots and entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct News {
    snapshot: Option<SnapshotMeta>,
    membership: Option<Membership>,
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
        let (promised, accepted) = (recovered.promised, recovered.accepted);
        let log = Log::new(recovered.decided, recovered.entries);
        let mut acceptor = Acceptor {
            promised,
            accepted,
            durable: Durable::new(promised, accepted, log.end(), recovered.claimed),
            log,
            claimed: recovered.claimed,
            snapshot: recovered.snapshot,
            keep_from: recovered.first,
            news: News::default(),
            told_decided: recovered.decided,
            stopped: None,
            stage: Stage::default(),
            confirm: ConfirmNumber(0),
            decided: Vec::new(),
            plant: Plant::default(),
        };
        acceptor.forget_old_stop();
        acceptor
    }

    #[cfg(feature = "sim")]
    pub(crate) fn plant(&mut self, plant: Plant) {
        self.plant = plant;
        if plant.has(Planted::StopForgotten) {
            self.log.forget_stop();
        }
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

    pub(crate) fn snapshot(&self) -> Option<&SnapshotMeta> {
        self.snapshot.as_ref()
    }

    /// The first slot that can be had from memory or the store.
    pub(crate) fn keep_from(&self) -> Slot {
        self.keep_from
    }

    /// A decided stop entry, once the log up to it is durable: the next epoch may begin here.
    pub(crate) fn stopped(&self) -> Option<&(Slot, Membership)> {
        let durable = self.durable.clean_end();
        let lax = self.plant.has(Planted::EpochNotDurable);
        let stopped = self.stopped.as_ref();
        stopped.filter(|(stop, _)| *stop <= durable || lax)
    }

    /// Whether a decided stop entry waits for the epoch to be left.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopped.is_some()
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
        if !self.plant.has(Planted::EchoOutlivesBallot) {
            self.confirm = ConfirmNumber(0);
        }
        self.stage.clear();
        if !forget_to_write {
            self.durable.numbers_changed();
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
        if !self.plant.has(Planted::TailKept) {
            self.replace_from(end.next());
        }
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
        self.durable.numbers_changed();
    }

    /// Enters the epoch that a decided stop entry, or a snapshot, has begun. Nothing of an earlier
    /// one is promised or accepted any more; all who enter have the same log.
    pub(crate) fn enter_epoch(&mut self, membership: &Membership) {
        let floor = Ballot::floor(membership.epoch);
        assert!(floor > self.promised, "epochs only rise");
        self.stopped = None;
        self.replace_from(self.log.decided().next());
        self.log.forget_stop();
        self.promised = floor;
        self.accepted = floor;
        self.confirm = ConfirmNumber(0);
        self.stage.clear();
        self.news.membership = Some(membership.clone());
        self.durable.numbers_changed();
    }

    /// Takes in entries that are known to be decided, as far as they continue what is known.
    pub(crate) fn learn(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            let next = entry.slot == self.log.decided().next();
            if next && self.stopped.is_none() && self.has_room_to_learn() {
                let slot = entry.slot;
                self.install(entry);
                self.decide(slot);
            }
        }
        let decided = self.log.decided();
        while self.stage.pop_up_to(decided).is_some() {}
    }

    /// Whether the disk keeps up with what is learnt.
    pub(crate) fn has_room_to_learn(&self) -> bool {
        let durable = self.durable.clean_end();
        self.log.end().0.saturating_sub(durable.0) < OPEN_SLOTS_MAX
    }

    /// Marks entries as decided, as far as the log goes.
    pub(crate) fn decide(&mut self, to: Slot) {
        if to > self.log.decided() {
            let lax = self.plant.has(Planted::DecidedBeyondLog);
            let newly = self
                .log
                .decide(if lax { to } else { to.min(self.log.end()) });
            if let Some(last) = newly.last()
                && last.kind == EntryKind::Stop
                && let Some(next) = Membership::decode(&last.payload)
                // Else it was entered long ago: a log that the disk damaged is learnt again from
                // before the present epoch.
                && (next.epoch > self.promised.epoch || self.plant.has(Planted::StopTwice))
            {
                self.stopped = Some((last.slot, next));
            }
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
        self.saw_confirm(sync.confirm, false);
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
        let stops = accept
            .entries
            .iter()
            .any(|entry| entry.kind == EntryKind::Stop);
        let news = self.saw_confirm(accept.confirm, stops);
        self.accept_planted(&accept);
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
        // A stop entry counts as decided on disk only together with the epoch that it begins: a
        // restart would not look for it among what is decided.
        let decided = match &self.stopped {
            Some((stop, _)) => self.log.decided().min(stop.previous()),
            None => self.log.decided(),
        };
        let mut batch = WriteBatch {
            id: dirty.id,
            promised: None,
            accepted: None,
            membership: None,
            snapshot: None,
            restart: false,
            keep_from: self.keep_from,
            truncate_from: None,
            entries: Vec::new(),
            decided,
        };
        match dirty.what {
            Part::Repair(entries) => {
                // Of what else has changed nothing is told yet, nor is anything cut: the snapshot
                // behind which that may be done is news, too.
                batch.decided = self.told_decided;
                if !self.plant.has(Planted::RepairCuts) {
                    batch.keep_from = Slot::NONE;
                }
                batch.entries = entries;
            }
            Part::Changes {
                restart,
                truncate_from,
                entries_from,
            } => {
                self.told_decided = decided;
                batch.promised = (self.promised != was.0).then_some(self.promised);
                batch.accepted = (self.accepted != was.1).then_some(self.accepted);
                batch.membership = self.news.membership.take();
                batch.snapshot = self.news.snapshot.take();
                batch.restart = restart;
                batch.truncate_from = truncate_from;
                batch.entries = entries_from.map_or_else(Vec::new, |from| self.log.suffix(from));
                self.plant.spoil(&mut batch);
            }
        }
        Some(batch)
    }

    /// The write is durable: the messages that waited for it, and what it put right.
    pub(crate) fn end_write(&mut self, id: PersistId) -> Finished {
        let finished = self.durable.finish(id);
        self.log.evict(self.durable.clean_end());
        finished
    }

    /// Holds a message until all that memory says is durable; gives it back if it is.
    pub(crate) fn hold(&mut self, held: Held) -> Option<Held> {
        if self.plant.speaks_early(&held.1) {
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
    ///
    /// None is, once the entry that ends the epoch is in the log: the next epoch's leader may have
    /// restarted the leases that this echo would renew.
    fn saw_confirm(&mut self, confirm: ConfirmNumber, stops: bool) -> bool {
        let silent = stops || self.log.stop().is_some();
        if silent && !self.plant.echoes_after_stop() {
            return false;
        }
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
        if entry.slot <= self.log.end() {
            self.replace_from(entry.slot);
        }
        self.append(entry);
    }

    fn append(&mut self, entry: Entry) {
        self.durable.appended(entry.slot);
        self.append_planted(&entry);
        self.log.append(entry);
        self.forget_old_stop();
    }

    /// What ended an earlier epoch says nothing of the present one. It is met again where a disk
    /// lost it, or did not yet know that it was decided.
    fn forget_old_stop(&mut self) {
        let stop = self.log.stop().and_then(|slot| self.log.origin(slot));
        if stop.is_some_and(|origin| origin.epoch < self.promised.epoch) {
            self.log.forget_stop();
        }
    }

    /// The planted mistakes: too much is believed of a log that is not under the ballot.
    fn accept_planted(&mut self, accept: &Accept) {
        if self.plant.has(Planted::DecidedUnmatched) {
            self.decide(accept.decided.min(self.log.end()));
        }
        let fits = accept.first == self.log.end().next() && self.accepted < accept.ballot;
        if fits && self.plant.has(Planted::AppendUnmatched) {
            self.adopt_own(accept.ballot);
        }
    }

    /// The planted mistake: a stop entry counts before it is decided.
    fn append_planted(&mut self, entry: &Entry) {
        if entry.kind == EntryKind::Stop && self.plant.has(Planted::EpochOnUndecidedStop) {
            let next = Membership::decode(&entry.payload);
            self.stopped = next.map(|next| (entry.slot, next));
        }
    }

    /// Ends the log before `from`: another one takes the place of the rest, also of what is
    /// damaged and only claimed.
    fn replace_from(&mut self, from: Slot) {
        if from <= self.log.end() {
            self.log.truncate_from(from);
            self.durable.truncated_from(from);
        }
        if from <= self.claimed {
            self.claimed = from.previous();
            self.durable.truncated_from(from);
        }
    }
}
