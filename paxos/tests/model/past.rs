//! What must be remembered of the past to judge the present, and the judgement.

use std::sync::Arc;

use paxos::{Ballot, EntryKind, Slot};

use crate::catalog::{Catalog, Known, Step};
use crate::faults::Fault;

/// What no node needs to know, but a judge.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Past {
    /// What was applied anywhere, by slot.
    applied: Vec<u32>,
    /// The highest ballot under which anybody has led.
    highest_leader: Ballot,
    /// The highest promise that each node has spoken of.
    spoken: Vec<Ballot>,
    questions: Vec<Question>,
}

/// A confirm that was asked for and not given yet, and what was true when it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Question {
    ballot: Ballot,
    number: u64,
    applied: Slot,
    highest_leader: Ballot,
}

impl Past {
    pub(crate) fn new(nodes: usize) -> Past {
        Past {
            applied: Vec::new(),
            highest_leader: Ballot::NONE,
            spoken: vec![Ballot::NONE; nodes],
            questions: Vec::new(),
        }
    }

    pub(crate) fn highest_leader(&self) -> Ballot {
        self.highest_leader
    }

    /// Takes note of a step of `node`, and says what is wrong with it.
    pub(crate) fn judge(
        &mut self,
        catalog: &Catalog,
        node: usize,
        step: &Step,
        nodes: &[Arc<Known>],
    ) -> Option<Fault> {
        let known = &nodes[node];
        self.spoken[node] = self.spoken[node].max(step.spoken);
        let lowered = known.promised < self.spoken[node];
        let replayed = step.replayed.as_ref();
        let rewritten = replayed.is_some_and(|replayed| !self.applied.starts_with(replayed));
        let before = known.applied.0 as usize - step.applied.len();
        let contradicts = self.apply(before, &step.applied);
        let stale = self.confirm(known, step);
        self.look_at_leaders(nodes);
        if let Some((ballot, number)) = step.asked {
            self.ask(ballot, number);
        }
        let faults = [
            (rewritten || contradicts, Fault::TwoValues),
            (stale, Fault::StaleConfirm),
            (self.has_ghost(catalog), Fault::Ghost),
            (!self.is_durable(catalog, nodes), Fault::NotDurable),
            (lowered, Fault::PromiseLowered),
        ];
        faults
            .into_iter()
            .find(|(broken, _)| *broken)
            .map(|(_, fault)| fault)
    }

    /// The node applies these entries behind the first `before`; whether they contradict what was
    /// applied in their slots.
    fn apply(&mut self, before: usize, entries: &[u32]) -> bool {
        let mut contradicts = false;
        for (index, entry) in (before..).zip(entries) {
            match self.applied.get(index) {
                Some(applied) => contradicts |= applied != entry,
                None => self.applied.push(*entry),
            }
        }
        contradicts
    }

    /// Whether a confirm is given that must not be.
    fn confirm(&mut self, known: &Known, step: &Step) -> bool {
        let mut stale = false;
        for (ballot, number) in &step.confirmed {
            let answers = |asked: &Question| asked.ballot == *ballot && asked.number <= *number;
            stale |= self
                .questions
                .iter()
                .filter(|asked| answers(asked))
                .any(|asked| known.applied < asked.applied || *ballot < asked.highest_leader);
            self.questions.retain(|asked| !answers(asked));
        }
        stale
    }

    fn ask(&mut self, ballot: Ballot, number: u64) {
        let same = |asked: &Question| asked.ballot == ballot && asked.number == number;
        // Answered by the same round: the later question is the stricter one.
        self.questions.retain(|asked| !same(asked));
        self.questions.push(Question {
            ballot,
            number,
            applied: Slot(self.applied.len() as u64),
            highest_leader: self.highest_leader,
        });
        self.questions
            .sort_unstable_by_key(|asked| (asked.ballot, asked.number));
    }

    fn look_at_leaders(&mut self, nodes: &[Arc<Known>]) {
        let leading = |ballot| {
            nodes
                .iter()
                .any(|known| known.standing.ballot == Some(ballot))
        };
        self.questions.retain(|asked| leading(asked.ballot));
        let leaders = nodes.iter().filter(|known| known.standing.leads);
        let highest = leaders.filter_map(|known| known.standing.ballot).max();
        self.highest_leader = self.highest_leader.max(highest.unwrap_or(Ballot::NONE));
    }

    /// Whether an entry is not of the leadership whose `NewLeader` is the last one before it.
    fn has_ghost(&self, catalog: &Catalog) -> bool {
        let mut leader = Ballot::NONE;
        self.applied.iter().any(|number| {
            let entry = catalog.entry(*number);
            match entry.kind {
                EntryKind::NewLeader => {
                    let older = entry.origin < leader;
                    leader = entry.origin;
                    older
                }
                EntryKind::Command | EntryKind::Stop => entry.origin != leader,
            }
        })
    }

    /// Whether every entry is on the disks of an accept quorum of the membership that decided last.
    fn is_durable(&self, catalog: &Catalog, nodes: &[Arc<Known>]) -> bool {
        let Some(last) = self.applied.last() else {
            return true;
        };
        let epoch = catalog.entry(*last).origin.epoch;
        let Some(membership) = catalog.set_up.membership(epoch) else {
            return false;
        };
        let members = membership.members.iter();
        let disks: Vec<_> = members.map(|id| &nodes[id.0 as usize - 1].log).collect();
        (0..).zip(&self.applied).all(|(index, entry)| {
            let holders = disks.iter().filter(|log| log.get(index) == Some(entry));
            holders.count() >= usize::from(membership.quorums.accept)
        })
    }
}
