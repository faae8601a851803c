//! For a model checker: what time does is done when the checker says so, and replicas that behave
//! alike from now on have the same hash.

use std::hash::{Hash, Hasher};

use super::{Replica, State};
use crate::candidate::Candidate;
use crate::types::{Ballot, NodeId, Time};

impl Replica {
    /// Campaigns, whatever role this replica has and whomever it hears, under a ballot of this
    /// round; whether it may, which takes a higher ballot than any it has promised.
    pub fn campaign_now(&mut self, now: Time, round: u64) -> bool {
        let (epoch, node) = (self.core.epoch(), self.core.node);
        let ballot = Ballot { epoch, round, node };
        if !self.core.can_vote() || ballot <= self.core.acceptor.promised() {
            return false;
        }
        self.pass_time(now);
        self.step_down();
        self.election.start_over();
        self.state = State::Candidate(Candidate::begin(&mut self.core, ballot));
        self.tick();
        true
    }

    /// Does what a leader does when a heartbeat is due, or a candidate when it is time to ask
    /// again; whether this replica is one.
    pub fn heartbeat_now(&mut self, now: Time) -> bool {
        self.pass_time(now);
        match &mut self.state {
            State::Follower => return false,
            State::Candidate(candidate) => candidate.resend_is_due(now),
            State::Leader(leader) => leader.heartbeat_is_due(now),
        }
        self.tick();
        true
    }

    /// Asks this node for what is decided, as if all questions before had remained unanswered and
    /// it were the node's turn; whether it is another one.
    pub fn ask_now(&mut self, now: Time, node: NodeId) -> bool {
        if node == self.core.node {
            return false;
        }
        self.pass_time(now);
        self.learning.ask_now(&mut self.core, node);
        self.tick();
        true
    }
}

/// All that decides what the replica does next, as long as time stands still and somebody else
/// says when it campaigns: not the election, nor what it told last. Outputs must be drained.
impl Hash for Replica {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let core = &self.core;
        (core.node, &core.membership, &core.seeds, core.now).hash(state);
        (&core.acceptor, &core.loads, &core.learners, core.plant).hash(state);
        (&self.state, &self.learning, &self.removal, self.damaged).hash(state);
    }
}
