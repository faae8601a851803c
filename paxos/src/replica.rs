//! The replica: takes inputs, hands each to the part that it concerns, and moves between roles.
//!
//! Dispatch only; what the parts do is in their files.

use bytes::Bytes;

use crate::candidate::Candidate;
use crate::catchup::LoadFor;
use crate::core::Core;
use crate::election::Election;
use crate::interface::{Config, ConfigError, Input, NotLeader, Output, ProposeError, Role, Status};
use crate::leader::Leader;
use crate::limits::MESSAGE_ENTRIES_BYTES_MAX;
use crate::message::{Body, Entries, Fetch, Message, Ping, Pong, Reject};
#[cfg(feature = "sim")]
use crate::planted::Planted;
use crate::types::{
    Ballot, ConfirmNumber, Entry, LoadId, NodeId, PersistId, Recovered, Slot, Time,
};
use crate::validate::is_sound;

/// One replica of the log. It does nothing by itself: hand it inputs, then drain its outputs.
#[derive(Debug)]
pub struct Replica {
    core: Core,
    election: Election,
    state: State,
}

#[derive(Debug)]
enum State {
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
        Ok(Replica {
            core: Core::new(&config, recovered, now),
            election: Election::new(now, config.seed),
            state: State::Follower,
        })
    }

    /// Plants a bug, to show that a test finds it.
    #[cfg(feature = "sim")]
    pub fn plant(&mut self, bug: Planted) {
        let plant = crate::planted::Plant::new(bug);
        self.core.plant = plant;
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
                if is_sound(&self.core, from, &message) {
                    self.on_message(from, message);
                }
            }
            Input::Persisted(id) => self.on_persisted(id),
            Input::Loaded { id, entries } => self.on_loaded(id, entries),
        }
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
    /// If this replica does not lead.
    pub fn confirm(&mut self, now: Time) -> Result<ConfirmNumber, NotLeader> {
        self.pass_time(now);
        let leader = self.election.leader();
        match &mut self.state {
            State::Leader(state) => Ok(state.confirm(&self.core)),
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
        match &self.state {
            State::Follower => self.election.next_timer(&self.core),
            State::Candidate(candidate) => candidate.next_timer(),
            State::Leader(leader) => leader.next_timer(),
        }
    }

    /// What this replica is now.
    #[must_use]
    pub fn role(&self) -> Role {
        match &self.state {
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

    fn pass_time(&mut self, now: Time) {
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
            State::Follower => {
                if self.election.tick(core) {
                    self.campaign();
                }
                true
            }
            State::Candidate(candidate) => candidate.tick(core),
            State::Leader(leader) => leader.tick(core),
        };
        if !goes_on {
            self.step_down();
        }
    }

    fn campaign(&mut self) {
        let Some(ballot) = self.election.next_ballot(&self.core) else {
            return;
        };
        self.election.start_over();
        self.state = State::Candidate(Candidate::begin(&mut self.core, ballot));
    }

    fn step_down(&mut self) {
        if !matches!(self.state, State::Follower) {
            self.state = State::Follower;
            self.election.start_over();
        }
        self.core.announce(self.role());
    }

    fn on_message(&mut self, from: NodeId, message: Message) {
        match message.body {
            Body::Prepare(prepare) => {
                if self.admit(from, prepare.ballot)
                    && self.core.acceptor.accepted() != prepare.ballot
                {
                    self.core.plant.promised_when_asked(prepare.ballot);
                    self.election.heard(self.core.now, None);
                    let promise = self.core.acceptor.describe();
                    self.core.send_when_durable(from, Body::Promise(promise));
                }
            }
            Body::Sync(sync) => {
                if self.admit_leader(from, sync.ballot) {
                    let answer = self.core.acceptor.on_sync(sync);
                    self.core.apply_decided();
                    self.core.answer(from, answer);
                }
            }
            Body::Accept(accept) => {
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
            self.step_down();
            self.election.start_over();
            self.core.acceptor.promise(ballot);
        }
        true
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
        if entries.is_empty() {
            let load = LoadFor::Candidate { node: from, fetch };
            self.core
                .load(load, fetch.first, last, MESSAGE_ENTRIES_BYTES_MAX);
        } else {
            self.core.send(
                from,
                Body::Entries(Entries {
                    ballot: fetch.ballot,
                    entries,
                }),
            );
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
            disk_ok: self.core.disk_ok(),
        };
        self.core.send(from, Body::Pong(pong));
    }

    fn on_persisted(&mut self, id: PersistId) {
        for (to, body) in self.core.acceptor.end_write(id) {
            self.core.send(to, body);
        }
        match &mut self.state {
            State::Follower => {}
            State::Candidate(candidate) => {
                let leader = candidate.on_persisted(&mut self.core);
                self.lead(leader);
            }
            State::Leader(leader) => leader.advance(&mut self.core),
        }
    }

    fn on_loaded(&mut self, id: LoadId, entries: Vec<Entry>) {
        match self.core.loads.finish(id, &entries) {
            Some(LoadFor::Follower { node, ballot }) => {
                if let State::Leader(leader) = &mut self.state {
                    leader.on_loaded(node, ballot, entries);
                }
            }
            Some(LoadFor::Candidate { node, fetch }) if self.still_serves(&fetch) => {
                let ballot = fetch.ballot;
                let entries = self.core.acceptor.log().fitting(entries.iter());
                self.core
                    .send(node, Body::Entries(Entries { ballot, entries }));
            }
            Some(LoadFor::Candidate { .. }) | None => {}
        }
    }
}
