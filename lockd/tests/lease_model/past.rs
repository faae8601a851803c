//! What must be remembered of the past to judge the present, and the judgement.

use std::sync::Arc;

use paxos::Ballot;

use crate::catalog::{Catalog, Known, Step};

/// A property that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    /// The client believes in its session, whose end is decided: its locks may be another's.
    TwoHolders,
    /// A session ends within a TTL of a renewal that was received, and acknowledged.
    ExpiredEarly,
    /// An answer shows less than had been applied anywhere when the question came.
    StaleRead,
    /// An assertion of the node, or of what its driver may expect, failed.
    Panicked,
}

impl Fault {
    pub(crate) const ALL: [Fault; 4] = [
        Fault::TwoHolders,
        Fault::ExpiredEarly,
        Fault::StaleRead,
        Fault::Panicked,
    ];

    /// The property, as a sentence that holds.
    pub(crate) const fn property(self) -> &'static str {
        match self {
            Fault::TwoHolders => "one holder",
            Fault::ExpiredEarly => "no early expiry",
            Fault::StaleRead => "linearizable reads",
            Fault::Panicked => "no assertion fails",
        }
    }
}

/// What nobody needs to know, but a judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Past {
    /// The end of the session is decided.
    pub(crate) ended: bool,
    /// An expiry of the session is decided that has no effect.
    pub(crate) stale: bool,
    /// For each node and KeepAlive, if it was received there: one more than the ticks since.
    received: [[u8; 4]; 3],
    /// Ticks since the last acknowledged renewal was received.
    acknowledged: u8,
    /// For each question that is not answered: to which node it came, and how many sessions had
    /// been opened then, as far as any node had applied the log.
    questions: [Option<(u8, u8)>; 2],
}

impl Past {
    /// A tick of all nodes' clocks passes; so many are a TTL.
    pub(crate) fn pass(&mut self, ticks: u8) {
        if self.ended {
            return;
        }
        self.acknowledged = ticks.min(self.acknowledged + 1);
        for since in self
            .received
            .iter_mut()
            .flatten()
            .filter(|since| **since > 0)
        {
            *since = (ticks + 1).min(*since + 1);
        }
    }

    /// This KeepAlive waits for its confirmation at this node, from now on.
    pub(crate) fn receive(&mut self, node: usize, number: u8) {
        self.received[node][usize::from(number)] = 1;
    }

    /// A question comes to this node.
    pub(crate) fn ask(&mut self, id: u8, node: usize, nodes: &[Arc<Known>; 3]) {
        let applied = nodes.iter().map(|known| known.sessions).max();
        self.questions[usize::from(id)] = Some((node as u8, applied.unwrap_or(0)));
    }

    /// Looks at what is decided; whether something ends too early.
    pub(crate) fn look(&mut self, catalog: &Catalog, nodes: &[Arc<Known>; 3], ticks: u8) -> bool {
        let ended = self.ended;
        for known in nodes {
            let decided = decided_under(catalog, nodes, known.accepted);
            let fate = catalog.fate(&known.log[..decided.min(known.log.len())]);
            self.ended |= fate.ended;
            self.stale |= fate.stale;
        }
        self.ended && !ended && self.acknowledged < ticks
    }

    /// The node answers; what is wrong with that.
    pub(crate) fn answer(&mut self, node: usize, step: &Step, ticks: Option<u8>) -> Option<Fault> {
        for (read, question) in step.read.iter().zip(&mut self.questions) {
            if let Some(read) = read
                && let Some((_, sessions)) = question.take_if(|(asked, _)| *asked == node as u8)
                && *read < sessions
            {
                return Some(Fault::StaleRead);
            }
        }
        let ticks = ticks?;
        for number in (1..4).filter(|number| step.told & 1 << number != 0) {
            let since = std::mem::take(&mut self.received[node][number]).saturating_sub(1);
            if self.ended && since < ticks {
                return Some(Fault::ExpiredEarly);
            }
            self.acknowledged = self.acknowledged.min(since);
        }
        None
    }
}

/// How many entries a quorum has durably accepted under this ballot.
fn decided_under(catalog: &Catalog, nodes: &[Arc<Known>; 3], ballot: Ballot) -> usize {
    let (voters, quorum) = catalog.set_up.voters(ballot);
    let voters = voters.iter().map(|voter| &nodes[voter.0 as usize - 1]);
    let under = voters.filter(|known| known.accepted == ballot);
    let mut ends: Vec<usize> = under.map(|known| known.log.len()).collect();
    ends.sort_unstable_by(|a, b| b.cmp(a));
    ends.get(quorum - 1).copied().unwrap_or(0)
}
