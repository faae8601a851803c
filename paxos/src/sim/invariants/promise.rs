//! A promise is never lowered, nor forgotten over a restart.
//!
//! (Lamport, *Paxos Made Simple*, 2001, section 2.5: an acceptor remembers the highest promise
//! and acceptance even if it fails and restarts.)

use std::collections::BTreeMap;

use crate::message::{Body, Standing};
use crate::sim::disk::Disk;
use crate::sim::invariants::Violation;
use crate::types::{Ballot, NodeId};

const NAME: &str = "a promise is never lowered, nor forgotten over a restart";

/// What each node has promised.
#[derive(Debug, Default)]
pub struct PromiseKept {
    /// In the present life of the node.
    in_memory: BTreeMap<NodeId, Ballot>,
    /// What it has told others in a way that they may count on.
    spoken: BTreeMap<NodeId, Ballot>,
}

impl PromiseKept {
    /// After a step of a node.
    pub(crate) fn on_step(&mut self, node: NodeId, promised: Ballot) -> Result<(), Violation> {
        let before = self.in_memory.insert(node, promised).unwrap_or_default();
        if promised < before {
            let detail = format!("node {node} went from {before} back to {promised}");
            return Err(Violation::new(NAME, detail));
        }
        Ok(())
    }

    /// A node sends a message: what it promises in it must be on its disk.
    pub(crate) fn on_send(
        &mut self,
        node: NodeId,
        body: &Body,
        disk: &Disk,
    ) -> Result<(), Violation> {
        let ballot = match body {
            Body::Prepare(prepare) => prepare.ballot,
            Body::Promise(promise) => promise.ballot,
            Body::Accepted(accepted) => match accepted.standing {
                Standing::Synced { .. } => accepted.ballot,
                Standing::Unsynced { .. } => return Ok(()),
            },
            _ => return Ok(()),
        };
        let spoken = self.spoken.entry(node).or_default();
        *spoken = ballot.max(*spoken);
        if disk.promised() < ballot {
            let durable = disk.promised();
            let detail = format!("node {node} spoke of {ballot}, but durable is {durable}");
            return Err(Violation::new("durable before spoken", detail));
        }
        Ok(())
    }

    /// A node starts from its disk.
    pub(crate) fn on_start(&mut self, node: NodeId, disk: &Disk) -> Result<(), Violation> {
        let spoken = self.spoken.get(&node).copied().unwrap_or_default();
        let promised = disk.promised();
        self.in_memory.insert(node, promised);
        if promised < spoken {
            let detail = format!("node {node} promised {spoken} and starts with {promised}");
            return Err(Violation::new(NAME, detail));
        }
        Ok(())
    }
}
