//! The replica: takes inputs, hands each to the part that it concerns, and moves between roles.
//!
//! Dispatch only; what the parts do is in their files.

use std::cmp::Ordering;

use bytes::Bytes;

use crate::candidate::Candidate;
use crate::core::Core;
use crate::election::Election;
use crate::epoch::Removal;
use crate::interface::{Config, ConfigError, Input, NotLeader, Output, ProposeError, Role, Status};
use crate::leader::Leader;
use crate::learn::Learning;
use crate::message::{
    Accept, Accepted, Body, Entries, Fetch, Message, Ping, Pong, Prepare, Reject, Standing,
};
use crate::planted::Planted;
use crate::serve;
use crate::types::{Ballot, ConfirmNumber, NodeId, PersistId, Recovered, Slot, SnapshotMeta, Time};
use crate::validate::{epoch_of, is_sound};

#[cfg(feature = "model")]
mod model;
#[cfg(test)]
mod tests;

/// One replica of the log. It does nothing by itself: hand it inputs, then drain its outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "model"), derive(Hash))]
pub struct Replica {
    pub(crate) core: Core,
    pub(crate) election: Election,
    pub(crate) learning: Learning,
    pub(crate) removal: Option<Removal>,
    pub(crate) state: State,
    /// What the disk had damaged, until all of it is replaced.
    damaged: Option<Slot>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    Follower,
    Candidate(Candidate),
    Leader(Leader),
}

impl Replica {
    /// A replica that goes on where `recovered` ended.
    ///
    /// # Errors
    ///
    /// If the configuration contradicts itself or what was recovered.
    pub fn new(config: Config, recovered: Recovered, now: Time) -> Result<Replica, ConfigError> {
        config.validate(&recovered)?;
        let mut core = Core::new(&config, recovered, now);
        let removed = core.membership.has_removed(core.node);
        let epoch = core.epoch();
        let removal = removed.then(|| Removal::begin(&mut core, epoch));
        Ok(Replica {
            damaged: core.acceptor.damaged(),
            learning: Learning::new(now, core.acceptor.log().end()),
            core,
            election: Election::new(now, config.seed),
            removal,
            state: State::Follower,
        })
    }

    /// Plants a bug, to show that a test finds it.
    #[cfg(feature = "sim")]
    pub fn plant(&mut self, bug: Planted) {
        let plant = crate::planted::Plant::new(bug);
        self.core.plant = plant;
        self.core.weaken_quorum();
        self.core.acceptor.plant(plant);
    }

    /// Tightens bounds, so that a test reaches them with little work.
    #[cfg(feature = "sim")]
    pub fn tighten(&mut self, bounds: crate::limits::Bounds) {
        self.core.acceptor.tighten(bounds);
    }

    /// Takes one input. Any number of inputs may be taken before the outputs are drained; what
    /// they cause together then goes out together.
    pub fn handle(&mut self, now: Time, input: Input) {
        self.pass_time(now);
        match input {
            Input::Tick => {}
            Input::Message { from, message } => {
                if is_sound(&self.core, from, &message) && self.is_for_this_epoch(from, &message) {
                    self.on_message(from, message);
                }
            }
            Input::Persisted(id) => self.on_persisted(id),
            Input::Loaded { id, entries } => serve::on_loaded(&mut self.core, id, &entries),
            Input::Damaged(slot) => self.learning.note_damaged(&mut self.core, slot),
            Input::SnapshotTaken(meta) => self.on_snapshot_taken(meta),
            Input::ChunkLoaded { id, bytes } => serve::on_chunk_loaded(&mut self.core, id, bytes),
            Input::ChunkStored { meta, stored } => {
                self.learning.on_chunk_stored(&mut self.core, &meta, stored);
            }
            Input::SnapshotReady(meta) => {
                if self.learning.on_ready(&meta) {
                    self.on_snapshot_ready(meta);
                }
            }
        }
        self.change_epoch();
        self.core.leaves_the_lead = self.learning.leaves_the_lead(&self.core);
        self.learning.reread(&mut self.core);
        self.tell_repaired();
        self.tick();
        self.core.announce(self.role());
    }

    /// Proposes a payload; the slot that it has if it is decided. It is decided if the entry that
    /// [`Output::Apply`] hands out for this slot has this leadership's ballot as its origin.
    ///
    /// # Errors
    ///
    /// If this replica does not lead, or the payload is too large, or too much is undecided.
    pub fn propose(&mut self, now: Time, payload: Bytes) -> Result<Slot, ProposeError> {
        self.pass_time(now);
        let leader = self.election.leader();
        match &mut self.state {
            State::Leader(state) => state.propose(&mut self.core, payload),
            _ => Err(ProposeError::NotLeader { leader }),
        }
    }

    /// Asks for a confirmation that this replica still leads. The number returned is answered by
    /// [`Output::Confirmed`] with this or a higher number, unless the leadership ends before.
    ///
    /// # Errors
    ///
    /// If this replica does not lead, or the epoch that it leads is about to end.
    pub fn confirm(&mut self, now: Time) -> Result<ConfirmNumber, NotLeader> {
        self.pass_time(now);
        let leader = self.election.leader();
        match &mut self.state {
            State::Leader(state) => state.confirm(&self.core).ok_or(NotLeader { leader: None }),
            _ => Err(NotLeader { leader }),
        }
    }

    /// The next thing to do, in order; `None` when there is nothing more for now.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.core.pop_output() {
            return Some(output);
        }
        // All inputs are in: one write and one message to each peer carry what they caused.
        if let Some(batch) = self.core.acceptor.begin_write(self.core.now) {
            self.core.output(Output::Persist(batch));
        }
        if let State::Leader(leader) = &mut self.state {
            leader.replicate(&mut self.core);
        }
        self.core.pop_output()
    }

    /// When to hand in [`Input::Tick`] at the latest.
    #[must_use]
    pub fn next_timer(&self) -> Time {
        let role = match &self.state {
            State::Follower if !self.core.is_member() => Time(u64::MAX),
            State::Follower => self.election.next_timer(&self.core),
            State::Candidate(candidate) => candidate.next_timer(),
            State::Leader(leader) => leader.next_timer(),
        };
        let learning = self.learning.next_timer(&self.core);
        learning.map_or(role, |learning| learning.min(role))
    }

    /// What this replica is now.
    #[must_use]
    pub fn role(&self) -> Role {
        match &self.state {
            State::Follower if !self.core.is_member() => Role::Learner,
            State::Follower => Role::Follower {
                leader: self.election.leader(),
            },
            State::Candidate(_) => Role::Candidate,
            State::Leader(leader) => leader.role(),
        }
    }

    /// A view for people and metrics.
    #[must_use]
    pub fn status(&self) -> Status {
        let acceptor = &self.core.acceptor;
        Status {
            role: self.role(),
            promised: acceptor.promised(),
            ballot: acceptor.accepted(),
            membership: self.core.membership.clone(),
            snapshot: acceptor.snapshot().cloned(),
            damaged: acceptor.damaged(),
            learners: self.core.learners.all(),
            first: acceptor.log().first(),
            end: acceptor.log().end(),
            decided: acceptor.log().decided(),
            peers: match &self.state {
                State::Leader(leader) => leader.peers(self.core.now),
                _ => Vec::new(),
            },
            write_in_flight: acceptor.durable().is_writing(),
        }
    }

    /// Whether no own log write is in flight. A driver that gathers commands proposes its next
    /// batch when this holds: batches then grow with the load by themselves.
    #[must_use]
    pub fn idle_for_proposals(&self) -> bool {
        !self.core.acceptor.durable().is_writing()
    }

    pub(crate) fn pass_time(&mut self, now: Time) {
        let stalled = now.micros_since(self.core.now) > self.core.timing.leader_timeout_micros / 2;
        self.core.now = self.core.now.max(now);
        if stalled {
            self.core.acceptor.durable_mut().forgive_stall(now);
            if let State::Leader(leader) = &mut self.state {
                leader.forgive_stall(now);
            }
        }
    }

    fn tick(&mut self) {
        let core = &mut self.core;
        let goes_on = match &mut self.state {
            State::Follower if !core.is_member() => true,
            State::Follower => {
                if self.election.tick(core) {
                    self.campaign();
                }
                true
            }
            State::Candidate(candidate) => candidate.tick(core),
            State::Leader(leader) => !core.leaves_the_lead && leader.tick(core),
        };
        if !goes_on {
            self.step_down();
        }
        self.learning.tick(&mut self.core);
    }

    /// Tells when what the disk had damaged is whole again, and durable.
    fn tell_repaired(&mut self) {
        let acceptor = &self.core.acceptor;
        let whole = acceptor.damaged().is_none() && acceptor.durable().is_clean();
        if let Some(slot) = self.damaged.take_if(|_| whole) {
            self.core.output(Output::Repaired(slot));
        }
    }

    pub(crate) fn campaign(&mut self) {
        let Some(ballot) = self.election.next_ballot(&self.core) else {
            return;
        };
        self.election.start_over();
        self.state = State::Candidate(Candidate::begin(&mut self.core, ballot));
    }

    pub(crate) fn step_down(&mut self) {
        if !matches!(self.state, State::Follower) {
            self.state = State::Follower;
            self.election.start_over();
        }
        self.core.announce(self.role());
    }

    /// Whether a message may be acted on under the present membership. Who is behind is told, and
    /// who is ahead is asked.
    fn is_for_this_epoch(&mut self, from: NodeId, message: &Message) -> bool {
        let Some(epoch) = epoch_of(message) else {
            return true;
        };
        match epoch.cmp(&self.core.epoch()) {
            Ordering::Less => self.answer_outdated(from),
            Ordering::Equal => return self.core.is_member() && self.core.peers.contains(&from),
            Ordering::Greater => self.learning.offered(&mut self.core, from),
        }
        false
    }

    fn on_message(&mut self, from: NodeId, message: Message) {
        let core = &mut self.core;
        match message.body {
            Body::Prepare(prepare) => self.on_prepare(from, prepare),
            Body::Behind(behind) => {
                if behind.decided > core.acceptor.log().decided() {
                    self.learning.offered(core, from);
                }
            }
            Body::Learn(learn) => serve::on_learn(core, from, message.epoch, learn),
            Body::Learned(learned) => {
                if let State::Candidate(candidate) = &mut self.state {
                    let leader = candidate.on_learned(core, from, learned);
                    self.lead(leader);
                } else {
                    self.learning.on_learned(core, from, learned);
                    self.give_way();
                }
            }
            Body::Offer(offer) => {
                self.enter_planted(&offer.meta.membership);
                let core = &mut self.core;
                if let State::Candidate(candidate) = &mut self.state
                    && candidate.adopts_from(from)
                {
                    if core.plant.has(Planted::PromiseAcrossCut) {
                        let leader = candidate.lead(core);
                        return self.lead(Some(leader));
                    }
                    // What it lacks is in no log: it has to catch up before it can lead.
                    self.step_down();
                    self.learning.offered(&mut self.core, from);
                } else {
                    self.learning.on_offer(core, from, offer);
                }
            }
            Body::FetchChunk(fetch) => serve::on_fetch_chunk(core, from, fetch),
            Body::Chunk(chunk) => self.learning.on_chunk(core, from, chunk),
            Body::Removed => self.on_removed(from, message.epoch),
            Body::Sync(sync) => {
                if self.admit_leader(from, sync.ballot) {
                    let answer = self.core.acceptor.on_sync(sync);
                    self.core.apply_decided();
                    self.core.answer(from, answer);
                }
            }
            Body::Accept(accept) => {
                self.echo_below_promise_planted(from, &accept);
                if self.admit_leader(from, accept.ballot) {
                    let answer = self.core.acceptor.on_accept(accept);
                    self.core.apply_decided();
                    self.core.answer(from, answer);
                }
            }
            Body::Promise(promise) => {
                if let State::Candidate(candidate) = &mut self.state {
                    let leader = candidate.on_promise(&mut self.core, from, promise);
                    self.lead(leader);
                }
            }
            Body::Entries(entries) => {
                if let State::Candidate(candidate) = &mut self.state {
                    let leader = candidate.on_entries(&mut self.core, from, entries);
                    self.lead(leader);
                }
            }
            Body::Accepted(accepted) => {
                if let State::Leader(leader) = &mut self.state {
                    leader.on_accepted(&mut self.core, from, accepted);
                }
            }
            Body::Fetch(fetch) => self.on_fetch(from, fetch),
            Body::Reject(reject) => self.on_reject(reject),
            Body::Ping(ping) => self.on_ping(from, ping),
            Body::Pong(pong) => self.election.on_pong(&self.core, from, pong),
        }
    }

    /// A leader that learns what a later one decided is none any more.
    fn give_way(&mut self) {
        let log = self.core.acceptor.log();
        if let State::Leader(leader) = &self.state
            && log.origin(log.decided()) > Some(leader.ballot())
            && !self.core.plant.has(Planted::DeposedGoesOn)
        {
            self.step_down();
        }
    }

    fn on_prepare(&mut self, from: NodeId, prepare: Prepare) {
        let lax = self.core.plant.has(Planted::DamagedPromises);
        if !self.core.is_whole() && !lax {
            // It could not say what it accepted, or not give what a candidate lacks. Who leads
            // without it brings its log in order.
            return;
        }
        if self.admit(from, prepare.ballot) && self.core.acceptor.accepted() != prepare.ballot {
            self.core.plant.promised_when_asked(prepare.ballot);
            self.election.heard(self.core.now, None);
            let promise = self.core.acceptor.describe();
            self.core.send_when_durable(from, Body::Promise(promise));
        }
    }

    /// Whether what comes under `ballot` may be taken; if so, the ballot is promised now.
    fn admit(&mut self, from: NodeId, ballot: Ballot) -> bool {
        self.election.saw_ballot(ballot);
        let promised = self.core.acceptor.promised();
        if ballot < promised && !self.core.plant.lets_pass(ballot) {
            self.core
                .send(from, Body::Reject(Reject { ballot, promised }));
            return false;
        }
        if ballot != promised {
            let outbid = matches!(self.state, State::Candidate(_));
            self.step_down();
            self.election.start_over();
            self.core.acceptor.promise(ballot);
            if outbid && self.core.plant.has(Planted::Duel) {
                self.campaign();
                return false;
            }
        }
        true
    }

    /// The planted mistake: whoever was deposed is confirmed.
    fn echo_below_promise_planted(&mut self, from: NodeId, accept: &Accept) {
        let deposed = accept.ballot < self.core.acceptor.promised();
        if deposed && self.core.plant.has(Planted::EchoBelowPromise) {
            let echo = Accepted {
                ballot: accept.ballot,
                standing: Standing::Unsynced {
                    received: Slot::NONE,
                },
                gap: false,
                confirm: accept.confirm,
            };
            self.core.send(from, Body::Accepted(echo));
        }
    }

    fn admit_leader(&mut self, from: NodeId, ballot: Ballot) -> bool {
        let admitted = self.admit(from, ballot);
        if admitted {
            self.election.heard(self.core.now, Some(from));
            self.core.announce(self.role());
        }
        admitted
    }

    fn lead(&mut self, leader: Option<Leader>) {
        if let Some(leader) = leader {
            self.state = State::Leader(leader);
            self.core.announce(self.role());
        }
    }

    fn on_fetch(&mut self, from: NodeId, fetch: Fetch) {
        if !self.still_serves(&fetch) {
            return;
        }
        let log = self.core.acceptor.log();
        let last = fetch.last.min(log.end());
        if fetch.first > last {
            return;
        }
        let entries = log.message_part(fetch.first, last);
        if !entries.is_empty() {
            let ballot = fetch.ballot;
            self.core
                .send(from, Body::Entries(Entries { ballot, entries }));
        }
    }

    /// Whether the log is still the one that the promise to the candidate described.
    fn still_serves(&self, fetch: &Fetch) -> bool {
        let acceptor = &self.core.acceptor;
        acceptor.promised() == fetch.ballot && acceptor.accepted() == fetch.accepted
    }

    fn on_reject(&mut self, reject: Reject) {
        self.election.saw_ballot(reject.promised);
        let rejected = match &self.state {
            State::Follower => false,
            State::Candidate(_) | State::Leader(_) => {
                self.core.acceptor.promised() == reject.ballot
            }
        };
        if rejected {
            self.step_down();
        }
    }

    fn on_ping(&mut self, from: NodeId, ping: Ping) {
        let happy = match &self.state {
            State::Follower => self.election.is_happy(&self.core),
            State::Candidate(_) | State::Leader(_) => true,
        };
        let pong = Pong {
            round: ping.round,
            promised: self.core.acceptor.promised(),
            accepted: self.core.acceptor.accepted(),
            end: self.core.acceptor.log().end(),
            happy,
            can_vote: self.core.can_vote(),
        };
        self.core.send(from, Body::Pong(pong));
    }

    fn on_persisted(&mut self, id: PersistId) {
        let finished = self.core.acceptor.end_write(id);
        for (to, body) in finished.released {
            self.core.send(to, body);
        }
        for slot in finished.repaired {
            self.learning.repaired(slot);
            self.core.output(Output::Repaired(slot));
        }
        match &mut self.state {
            State::Follower => {}
            State::Candidate(candidate) => {
                let leader = candidate.on_persisted(&mut self.core);
                self.lead(leader);
            }
            State::Leader(leader) => leader.advance(&mut self.core),
        }
        self.learning.go_on(&mut self.core);
    }

    fn on_snapshot_ready(&mut self, meta: SnapshotMeta) {
        let newer = meta.slot > self.core.acceptor.log().decided();
        if newer || self.core.plant.has(Planted::OlderSnapshot) {
            self.install(meta);
        } else {
            self.on_snapshot_taken(meta);
        }
    }

    /// The log may be cut behind a snapshot, but for a tail for those who are a little behind, and
    /// on a leader for what its slowest follower still lacks.
    fn on_snapshot_taken(&mut self, meta: SnapshotMeta) {
        let acceptor = &self.core.acceptor;
        let newer = acceptor.snapshot().is_none_or(|old| old.slot < meta.slot);
        let log = acceptor.log();
        if !newer || meta.slot > log.decided().min(acceptor.durable().clean_end()) {
            return;
        }
        let bounds = log.bounds();
        let tail = Slot(log.decided().0.saturating_sub(bounds.tail_slots));
        let cap = Slot(log.decided().0.saturating_sub(bounds.log_slots));
        let mut keep_after = meta.slot.min(tail);
        if let State::Leader(leader) = &self.state
            && let Some(slowest) = leader.slowest_live(&self.core)
        {
            keep_after = keep_after.min(slowest.max(cap));
        }
        // Of damaged entries that it contains none is needed any more.
        if let Some(damaged) = self.learning.damaged_up_to(meta.slot) {
            keep_after = keep_after.max(damaged);
        }
        self.core.acceptor.snapshot_taken(meta, keep_after.next());
        self.dispense_with_damaged(keep_after);
    }

    /// Entries up to here are not needed any more: those that were damaged are not asked for.
    pub(crate) fn dispense_with_damaged(&mut self, last: Slot) {
        for slot in self.learning.dispense_with(last) {
            self.core.output(Output::Repaired(slot));
        }
    }
}
