//! What all roles of a replica share: who it is, the acceptor, and the queue of outputs.

use std::collections::VecDeque;

use crate::acceptor::{Acceptor, Answer};
use crate::catchup::{LoadFor, Loads};
use crate::interface::{Config, Output, Role, Timing};
use crate::limits::APPLY_ENTRIES_MAX;
use crate::message::{Body, Message};
use crate::planted::Plant;
use crate::quorum::Quorum;
use crate::types::{Epoch, NodeId, Recovered, Slot, Time};

/// The part of a replica that outlives its roles.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) node: NodeId,
    pub(crate) peers: Vec<NodeId>,
    pub(crate) quorum: Quorum,
    pub(crate) epoch: Epoch,
    pub(crate) timing: Timing,
    pub(crate) now: Time,
    pub(crate) acceptor: Acceptor,
    pub(crate) loads: Loads,
    pub(crate) plant: Plant,
    outputs: VecDeque<Output>,
    announced: Role,
}

impl Core {
    pub(crate) fn new(config: &Config, recovered: Recovered, now: Time) -> Core {
        let mut peers = config.members.clone();
        peers.retain(|peer| *peer != config.node);
        peers.sort_unstable();
        Core {
            node: config.node,
            quorum: Quorum::of(config.members.len()),
            peers,
            epoch: recovered.epoch,
            timing: config.timing,
            now,
            acceptor: Acceptor::new(recovered),
            loads: Loads::default(),
            plant: Plant::default(),
            outputs: VecDeque::new(),
            announced: Role::Follower { leader: None },
        }
    }

    pub(crate) fn pop_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(crate) fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(crate) fn send(&mut self, to: NodeId, body: Body) {
        let message = Message {
            epoch: self.epoch,
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

    /// Asks the store for entries that are no longer in memory.
    pub(crate) fn load(&mut self, load: LoadFor, first: Slot, last: Slot, bytes_max: usize) {
        let in_memory = self.acceptor.log().first();
        let last = last.min(in_memory.previous());
        if let Some(id) = self.loads.begin(load, first) {
            self.output(Output::Load {
                id,
                first,
                last,
                bytes_max,
            });
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
