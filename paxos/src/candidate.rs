//! Phase 1: from a ballot to a leadership.
//!
//! A candidate collects promises, chooses the log with the highest (accepted ballot, end) among
//! those of a quorum, and fetches what it lacks of it. Promises carry no entries: an acceptor that
//! has promised keeps the log that it described, so it can be fetched piece by piece. What is
//! decided comes first, as anyone learns it; if that has been cut off every log, somebody else
//! should lead.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::core::Core;
use crate::leader::Leader;
use crate::message::{Body, Entries, Fetch, Learn, Learned, Prepare, Promise};
use crate::planted::Planted;
use crate::types::{Ballot, NodeId, Slot, Time};

/// An attempt to lead.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Candidate {
    ballot: Ballot,
    /// The own promise is durable, so the ballot will not be used again after a restart.
    prepared: bool,
    promises: BTreeMap<NodeId, Promise>,
    /// Promises that came, repeated ones included; counted for one planted bug only.
    messages: usize,
    fetching: Option<Fetching>,
    last_progress: Time,
    next_resend: Time,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Fetching {
    from: NodeId,
    /// The log that is being adopted.
    best: Promise,
}

impl Candidate {
    /// Promises the ballot to itself. Nobody is asked before that is durable.
    pub(crate) fn begin(core: &mut Core, ballot: Ballot) -> Candidate {
        core.acceptor.promise_own(ballot);
        core.plant.promised_when_asked(ballot);
        Candidate {
            ballot,
            prepared: core.plant.has(Planted::BallotReused),
            promises: BTreeMap::from([(core.node, core.acceptor.describe())]),
            messages: 0,
            fetching: None,
            last_progress: core.now,
            next_resend: core.now.plus_micros(core.timing.heartbeat_micros),
        }
    }

    #[cfg(feature = "model")]
    pub(crate) fn resend_is_due(&mut self, now: Time) {
        self.next_resend = now;
    }

    pub(crate) fn next_timer(&self) -> Time {
        self.next_resend
    }

    /// A write ended: perhaps the own promise is durable now.
    pub(crate) fn on_persisted(&mut self, core: &mut Core) -> Option<Leader> {
        if self.prepared || core.acceptor.durable().promised() != self.ballot {
            return None;
        }
        self.prepared = true;
        self.last_progress = core.now;
        core.send_to_all(&Body::Prepare(Prepare {
            ballot: self.ballot,
        }));
        self.choose(core)
    }

    pub(crate) fn on_promise(
        &mut self,
        core: &mut Core,
        from: NodeId,
        promise: Promise,
    ) -> Option<Leader> {
        let counts = promise.ballot == self.ballot && self.prepared && self.fetching.is_none();
        if !counts || promise.accepted >= self.ballot || promise.decided > promise.end {
            return None;
        }
        self.promises.insert(from, promise);
        self.count_planted(core);
        self.last_progress = core.now;
        self.choose(core)
    }

    pub(crate) fn on_entries(
        &mut self,
        core: &mut Core,
        from: NodeId,
        entries: Entries,
    ) -> Option<Leader> {
        let fetching = self.fetching.as_ref()?;
        if entries.ballot != self.ballot || fetching.from != from {
            return None;
        }
        let best = fetching.best;
        let before = core.acceptor.staged_end();
        let mut entries = entries.entries;
        entries.retain(|entry| entry.slot <= best.end);
        core.acceptor.stage(entries, best.decided);
        core.apply_decided();
        if core.acceptor.staged_end() == before {
            // A repeated answer must not ask again: two of each would soon be a storm.
            return None;
        }
        self.last_progress = core.now;
        self.fetch_or_lead(core)
    }

    /// Decided entries came of the log that is being adopted.
    pub(crate) fn on_learned(
        &mut self,
        core: &mut Core,
        from: NodeId,
        learned: Learned,
    ) -> Option<Leader> {
        let fetching = self.fetching.as_ref()?;
        if fetching.from != from {
            return None;
        }
        let before = core.acceptor.log().decided();
        core.acceptor.learn(learned.entries);
        core.apply_decided();
        if core.acceptor.log().decided() == before {
            return None;
        }
        self.last_progress = core.now;
        self.fetch_or_lead(core)
    }

    /// Whether the log that is being adopted is this node's.
    pub(crate) fn adopts_from(&self, node: NodeId) -> bool {
        let fetching = self.fetching.as_ref();
        fetching.is_some_and(|fetching| fetching.from == node)
    }

    /// Sends again what may be lost; whether it is worth going on.
    #[must_use]
    pub(crate) fn tick(&mut self, core: &mut Core) -> bool {
        if core.now < self.next_resend {
            return true;
        }
        if !self.is_patient(core) || !core.can_vote() {
            return false;
        }
        self.next_resend = core.now.plus_micros(core.timing.heartbeat_micros);
        if self.prepared {
            // To those who have promised too: it tells them that somebody is at it.
            core.send_to_all(&Body::Prepare(Prepare {
                ballot: self.ballot,
            }));
            self.send_fetch(core);
        }
        true
    }

    /// Whether to wait on. Promises wait for disks, which may be slower than a heartbeat's way;
    /// while the own disk writes, its bound is the one that counts.
    fn is_patient(&self, core: &Core) -> bool {
        let silent = core.now.micros_since(self.last_progress);
        let own_write = !self.prepared && core.acceptor.durable().is_writing();
        own_write || silent <= 2 * core.timing.leader_timeout_micros
    }

    fn choose(&mut self, core: &mut Core) -> Option<Leader> {
        let promised = self.promises.len().max(self.messages);
        if !core.quorum.is_prepared_by(promised) {
            return None;
        }
        let longest = core.plant.has(Planted::LongestLog);
        let rank = |promise: &Promise| match longest {
            true => (Ballot::NONE, promise.end),
            false => (promise.accepted, promise.end),
        };
        let own = core.acceptor.describe();
        let (from, best) = self
            .promises
            .iter()
            .max_by_key(|(_, promise)| rank(promise))?;
        if rank(best) <= rank(&own) {
            core.acceptor.adopt_own(self.ballot);
            return Some(Leader::begin(core, &self.promises));
        }
        if best.accepted == own.accepted {
            // Of two logs of one ballot the shorter is the beginning of the longer.
            core.acceptor.stage_own();
        }
        self.fetching = Some(Fetching {
            from: *from,
            best: *best,
        });
        self.fetch_or_lead(core)
    }

    /// The planted mistake: whoever promises twice counts twice.
    fn count_planted(&mut self, core: &Core) {
        if core.plant.has(Planted::MessagesCounted) {
            self.messages = self.messages.max(1) + 1;
        }
    }

    fn fetch_or_lead(&mut self, core: &mut Core) -> Option<Leader> {
        let best = self.fetching.as_ref()?.best;
        if core.acceptor.staged_end() < best.end {
            self.send_fetch(core);
            return None;
        }
        Some(self.lead(core))
    }

    /// Begins to lead with what is staged as the log.
    pub(crate) fn lead(&self, core: &mut Core) -> Leader {
        core.acceptor.adopt_stage(self.ballot);
        Leader::begin(core, &self.promises)
    }

    fn send_fetch(&self, core: &mut Core) {
        let Some(Fetching { from, best }) = self.fetching else {
            return;
        };
        let first: Slot = core.acceptor.staged_end().next();
        let decided = core.acceptor.log().decided();
        if decided < best.decided {
            let durable = core.acceptor.durable().clean_end().min(decided);
            let learn = Learn {
                first: decided.next(),
                last: best.decided,
                durable,
            };
            return core.send(from, Body::Learn(learn));
        }
        let fetch = Fetch {
            ballot: self.ballot,
            accepted: best.accepted,
            first,
            last: best.end,
        };
        core.send(from, Body::Fetch(fetch));
    }
}
