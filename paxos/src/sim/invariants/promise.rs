//! A promise is never lowered, nor forgotten over a restart.
//!
//! (Lamport, *Paxos Made Simple*, 2001, section 2.5: an acceptor remembers the highest promise
//! and acceptance even if it fails and restarts.)

use crate::message::{Body, Standing};
use crate::sim::coverage::Check;
use crate::sim::invariants::{PerNode, Violation};
use crate::sim::shadow::Shadow;
use crate::types::{Ballot, NodeId, WriteBatch};

/// What each node has promised.
#[derive(Debug, Default)]
pub struct PromiseKept {
    /// In the present life of the node.
    in_memory: PerNode<Ballot>,
    /// What it has told others in a way that they may count on.
    spoken: PerNode<Ballot>,
}

impl PromiseKept {
    /// A replica gives out a write; whether it speaks of a promise at all.
    pub(crate) fn on_batch(&mut self, node: NodeId, batch: &WriteBatch) -> Result<bool, Violation> {
        let Some(promised) = batch.promised else {
            return Ok(false);
        };
        let before = std::mem::replace(self.in_memory.of(node), promised);
        if promised < before {
            let detail = format!("node {node} went from {before} back to {promised}");
            return Err(Violation::of(Check::PromiseKept, detail));
        }
        Ok(true)
    }

    /// A node sends a message: what it promises in it must be on its disk. Whether it
    /// promises at all.
    pub(crate) fn on_send(
        &mut self,
        node: NodeId,
        body: &Body,
        disk: &Shadow,
    ) -> Result<bool, Violation> {
        let ballot = match body {
            Body::Prepare(prepare) => prepare.ballot,
            Body::Promise(promise) => promise.ballot,
            Body::Accepted(accepted) => match accepted.standing {
                Standing::Synced { .. } => accepted.ballot,
                Standing::Unsynced { .. } => return Ok(false),
            },
            _ => return Ok(false),
        };
        let spoken = self.spoken.of(node);
        *spoken = ballot.max(*spoken);
        if disk.promised() < ballot {
            let durable = disk.promised();
            let detail = format!("node {node} spoke of {ballot}, but durable is {durable}");
            return Err(Violation::of(Check::DurableBeforeSpoken, detail));
        }
        Ok(true)
    }

    /// A node starts, and this is what its disk says.
    pub(crate) fn on_start(&mut self, node: NodeId, promised: Ballot) -> Result<(), Violation> {
        let spoken = *self.spoken.of(node);
        *self.in_memory.of(node) = promised;
        if promised < spoken {
            let detail = format!("node {node} promised {spoken} and starts with {promised}");
            return Err(Violation::of(Check::PromiseKept, detail));
        }
        Ok(())
    }
}
