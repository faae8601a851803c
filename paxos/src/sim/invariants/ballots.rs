//! A ballot is used by one leadership only, and leaderships of one node have rising ballots.
//!
//! (Lamport, *The Part-Time Parliament*, 1998, section 2.1, condition B1: each ballot has a unique
//! number. Reused after a restart it is the bug of phxpaxos issue 145.)

use crate::sim::coverage::Check;
use crate::sim::invariants::{PerNode, Violation};
use crate::types::{Ballot, NodeId};

/// Who led under which ballot.
#[derive(Debug, Default)]
pub struct BallotsAreUsedOnce {
    nodes: PerNode<Led>,
}

#[derive(Debug, Default)]
struct Led {
    highest: Ballot,
    /// In this life of the node.
    now: Ballot,
}

impl BallotsAreUsedOnce {
    /// A node starts: whatever it led before has ended.
    pub(crate) fn on_start(&mut self, node: NodeId) {
        self.nodes.of(node).now = Ballot::NONE;
    }

    /// A node leads under a ballot, newly or still.
    pub(crate) fn on_leading(&mut self, node: NodeId, ballot: Ballot) -> Result<(), Violation> {
        let led = self.nodes.of(node);
        let known = led.now == ballot;
        if ballot.node != node || (!known && ballot <= led.highest) {
            let before = led.highest;
            let detail = format!("node {node} leads under {ballot}, after it led under {before}");
            return Err(Violation::of(Check::Ballots, detail));
        }
        led.highest = ballot;
        led.now = ballot;
        Ok(())
    }
}
