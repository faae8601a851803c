//! What all roles of a replica share: who it is, the acceptor, and the queue of outputs.

use std::collections::VecDeque;

use crate::acceptor::{Acceptor, Answer};
use crate::interface::{Config, Output, Role, Timing};
use crate::limits::APPLY_ENTRIES_MAX;
use crate::membership::Membership;
use crate::message::{Body, Message};
use crate::planted::Plant;
#[cfg(feature = "sim")]
use crate::planted::Planted;
use crate::quorum::Quorum;
use crate::serve::{Learners, Loads};
use crate::types::{Epoch, NodeId, Recovered, Time};

/// The part of a replica that outlives its roles.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Core {
    pub(crate) node: NodeId,
    /// Who votes in the present epoch.
    pub(crate) membership: Membership,
    /// The other voters.
    pub(crate) peers: Vec<NodeId>,
    pub(crate) quorum: Quorum,
    /// Whom to ask while no voter is known.
    pub(crate) seeds: Vec<NodeId>,
    pub(crate) timing: Timing,
    pub(crate) now: Time,
    pub(crate) acceptor: Acceptor,
    pub(crate) loads: Loads,
    pub(crate) learners: Learners,
    /// Others have to lead, and without this node's promise: see `Learning::leaves_the_lead`.
    pub(crate) leaves_the_lead: bool,
    pub(crate) plant: Plant,
    outputs: VecDeque<Output>,
    announced: Role,
}

impl Core {
    pub(crate) fn new(config: &Config, recovered: Recovered, now: Time) -> Core {
        let mut seeds = config.seeds.clone();
        seeds.retain(|seed| *seed != config.node);
        Core {
            node: config.node,
            quorum: Quorum::of(&recovered.membership),
            peers: others(&recovered.membership, config.node),
            membership: recovered.membership.clone(),
            seeds,
            timing: config.timing,
            now,
            acceptor: Acceptor::new(recovered),
            loads: Loads::default(),
            learners: Learners::default(),
            leaves_the_lead: false,
            plant: Plant::default(),
            outputs: VecDeque::new(),
            announced: Role::Follower { leader: None },
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.membership.epoch
    }

    /// Whether this node votes.
    pub(crate) fn is_member(&self) -> bool {
        self.membership.contains(self.node)
    }

    /// Whether this node can promise: its disk answers, and can give others what they lack.
    pub(crate) fn can_vote(&self) -> bool {
        self.is_member() && self.disk_ok() && self.is_whole()
    }

    /// Whether the disk has kept all that was acknowledged, or others have what it has not.
    pub(crate) fn is_whole(&self) -> bool {
        self.acceptor.damaged().is_none() && !self.leaves_the_lead
    }

    /// From now on these vote.
    pub(crate) fn set_membership(&mut self, membership: Membership) {
        self.quorum = Quorum::of(&membership);
        self.weaken_quorum();
        self.peers = others(&membership, self.node);
        for member in &membership.members {
            self.learners.forget(*member);
        }
        self.membership = membership;
    }

    #[cfg(feature = "sim")]
    pub(crate) fn weaken_quorum(&mut self) {
        if self.plant.has(Planted::AcceptQuorumTooSmall) {
            self.quorum.weaken(true);
        }
        if self.plant.has(Planted::PrepareQuorumTooSmall) {
            self.quorum.weaken(false);
        }
    }

    #[cfg(not(feature = "sim"))]
    #[allow(clippy::unused_self)]
    fn weaken_quorum(&mut self) {}

    pub(crate) fn pop_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(crate) fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(crate) fn send(&mut self, to: NodeId, body: Body) {
        let message = Message {
            epoch: self.epoch(),
            body,
        };
        self.outputs.push_back(Output::Send { to, message });
    }

    pub(crate) fn send_to_all(&mut self, body: &Body) {
        for index in 0..self.peers.len() {
            self.send(self.peers[index], body.clone());
        }
    }

    /// Sends a message once everything that memory says now is durable.
    pub(crate) fn send_when_durable(&mut self, to: NodeId, body: Body) {
        if let Some((to, body)) = self.acceptor.hold((to, body)) {
            self.send(to, body);
        }
    }

    pub(crate) fn answer(&mut self, to: NodeId, answer: Answer) {
        if let Some(accepted) = answer.now {
            self.send(to, Body::Accepted(accepted));
        }
        if let Some(accepted) = answer.durable {
            self.send_when_durable(to, Body::Accepted(accepted));
        }
    }

    /// Hands out what has been decided.
    pub(crate) fn apply_decided(&mut self) {
        let mut decided = self.acceptor.take_decided();
        while decided.len() > APPLY_ENTRIES_MAX {
            let rest = decided.split_off(APPLY_ENTRIES_MAX);
            self.output(Output::Apply(std::mem::replace(&mut decided, rest)));
        }
        if !decided.is_empty() {
            self.output(Output::Apply(decided));
        }
    }

    /// Tells the driver of the role if it is another than was told last.
    pub(crate) fn announce(&mut self, role: Role) {
        if self.announced != role {
            self.announced = role;
            self.output(Output::RoleChanged(role));
        }
    }

    pub(crate) fn disk_ok(&self) -> bool {
        self.acceptor.durable().write_micros(self.now) <= self.timing.disk_timeout_micros
    }
}

fn others(membership: &Membership, node: NodeId) -> Vec<NodeId> {
    let mut others = membership.members.clone();
    others.retain(|member| *member != node);
    others
}
