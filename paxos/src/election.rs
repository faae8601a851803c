//! When to campaign: rounds of questions and answers among replicas that hear no leader.
//!
//! A replica campaigns only when a quorum answers it and nobody who answers is happy with a
//! leader. An answer proves both directions of a link, so a node that can only send, or only
//! receive, disturbs nobody; and a node that lost its leader alone leaves the others in peace.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::core::Core;
use crate::message::{Body, Ping, Pong};
use crate::planted::Planted;
use crate::types::{Ballot, NodeId, Time};

/// What a replica knows about who leads, and its wish to do so.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Election {
    leader: Option<NodeId>,
    /// When the owner of the ballot promised was last heard.
    heard: Option<Time>,
    /// The highest round of any ballot heard of.
    highest_round: u64,
    round: u64,
    /// A round is on its way: the answers are about the present.
    asking: bool,
    round_ends: Time,
    pongs: BTreeMap<NodeId, Pong>,
    campaign_at: Option<Time>,
    jitter: Jitter,
}

impl Election {
    pub(crate) fn new(now: Time, seed: u64) -> Election {
        Election {
            leader: None,
            heard: None,
            highest_round: 0,
            round: 0,
            asking: false,
            round_ends: now,
            pongs: BTreeMap::new(),
            campaign_at: None,
            jitter: Jitter(seed),
        }
    }

    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Whether the owner of the ballot promised was heard lately.
    pub(crate) fn is_happy(&self, core: &Core) -> bool {
        let timeout = core.timing.leader_timeout_micros;
        self.heard
            .is_some_and(|heard| core.now.micros_since(heard) <= timeout)
    }

    /// A candidate or leader of the ballot promised was heard.
    pub(crate) fn heard(&mut self, now: Time, leader: Option<NodeId>) {
        self.heard = Some(now);
        self.leader = leader.or(self.leader);
        self.stop_asking();
    }

    /// Whoever led or wanted to does not any more. What was answered so far was said of them.
    pub(crate) fn start_over(&mut self) {
        self.forget_leader();
        self.stop_asking();
    }

    fn forget_leader(&mut self) {
        self.heard = None;
        self.leader = None;
    }

    fn stop_asking(&mut self) {
        self.asking = false;
        self.pongs.clear();
        self.campaign_at = None;
    }

    /// Another epoch has begun: its ballots begin again.
    pub(crate) fn enter_epoch(&mut self, now: Time) {
        self.start_over();
        self.highest_round = 0;
        self.round_ends = now;
    }

    /// A ballot of the present epoch was heard of.
    pub(crate) fn saw_ballot(&mut self, ballot: Ballot) {
        self.highest_round = self.highest_round.max(ballot.round);
    }

    /// The ballot to campaign with; none when ballots are used up.
    pub(crate) fn next_ballot(&self, core: &Core) -> Option<Ballot> {
        let highest = self.highest_round.max(core.acceptor.promised().round);
        Some(Ballot {
            epoch: core.epoch(),
            round: highest.checked_add(1)?,
            node: core.node,
        })
    }

    pub(crate) fn on_pong(&mut self, core: &Core, from: NodeId, pong: Pong) {
        self.saw_ballot(pong.promised);
        if pong.round != self.round || !self.asking {
            return;
        }
        self.pongs.insert(from, pong);
        if self.pongs.len() == core.peers.len() {
            self.evaluate(core);
        }
    }

    pub(crate) fn next_timer(&self, core: &Core) -> Time {
        match self.heard {
            Some(heard) => heard.plus_micros(core.timing.leader_timeout_micros + 1),
            None => self
                .campaign_at
                .map_or(self.round_ends, |at| at.min(self.round_ends)),
        }
    }

    /// A follower's turn: asks around if it hears no leader; whether to campaign now.
    #[must_use]
    pub(crate) fn tick(&mut self, core: &mut Core) -> bool {
        if self.is_happy(core) {
            return false;
        }
        self.forget_leader();
        if self.campaign_at.is_some_and(|at| at <= core.now) {
            self.campaign_at = None;
            return true;
        }
        if core.now >= self.round_ends {
            self.evaluate(core);
            self.begin_round(core);
        }
        false
    }

    fn begin_round(&mut self, core: &mut Core) {
        self.round += 1;
        self.asking = true;
        self.pongs.clear();
        self.round_ends = core.now.plus_micros(core.timing.round_micros);
        core.send_to_all(&Body::Ping(Ping { round: self.round }));
    }

    fn somebody_has_a_better_log(&self, core: &Core) -> bool {
        let own = (core.acceptor.accepted(), core.acceptor.log().end());
        let mut logs = self.pongs.values().map(|pong| (pong.accepted, pong.end));
        logs.any(|log| log > own)
    }

    /// Plans a campaign if the answers of this round allow one, and drops the plan if not.
    fn evaluate(&mut self, core: &Core) {
        let able = 1 + self.pongs.values().filter(|pong| pong.can_vote).count();
        let unhappy = self.pongs.values().all(|pong| !pong.happy)
            || core.plant.has(Planted::CampaignAgainstHappy);
        // To be elected takes one quorum, to lead the other.
        let enough = core.quorum.is_prepared_by(able) && core.quorum.is_accepted_by(able)
            || core.plant.has(Planted::CampaignUnanswered);
        if self.asking && unhappy && core.can_vote() && enough {
            let mut delay = self.jitter.below(core.timing.jitter_micros);
            if self.somebody_has_a_better_log(core) {
                // It could lead at once, while this replica would first have to fetch.
                delay += core.timing.round_micros + core.timing.jitter_micros;
            }
            self.campaign_at.get_or_insert(core.now.plus_micros(delay));
        } else {
            self.campaign_at = None;
        }
    }
}

/// SplitMix64: all the randomness an election needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Jitter(u64);

impl Jitter {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }
}
