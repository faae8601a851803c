//! One value is decided for each slot, and every command that is decided was proposed, once.
//!
//! (Lamport, *Paxos Made Simple*, 2001, section 2.1: nontriviality and consistency.) Decided means
//! here: a quorum of disks has held it under one ballot, or a replica has applied it; so a
//! contradiction is found before anybody has applied the second value.

use std::fmt;

use crate::limits::MEMBERS_MAX;
use crate::membership::Membership;
use crate::sim::coverage::{Check, Coverage};
use crate::sim::invariants::{PerNode, Violation, epochs::Epochs};
use crate::sim::network::NODES_MAX;
use crate::sim::shadow::Shadow;
use crate::types::{Ballot, Entry, EntryKind, NodeId, Slot};

/// What has been decided.
#[derive(Debug, Default)]
pub struct OneValue {
    decided: Vec<Entry>,
    /// The logs of all ballots, the newest last.
    logs: Vec<BallotLog>,
    /// What each node's disk had promised when it was last written to.
    promised: PerNode<Ballot>,
    /// For each command proposed, the slot for which it was decided.
    proposed: Vec<Option<Slot>>,
    highest: Ballot,
}

/// How far the log of one ballot has come.
#[derive(Debug)]
struct BallotLog {
    ballot: Ballot,
    /// How far each node's disk has held it.
    ends: [Slot; NODES_MAX],
    /// How far it has been counted as decided.
    counted: Slot,
}

impl BallotLog {
    fn new(ballot: Ballot) -> BallotLog {
        BallotLog {
            ballot,
            ends: [Slot::NONE; NODES_MAX],
            counted: Slot::NONE,
        }
    }

    /// What an accept quorum has held.
    fn held_by(&self, members: &Membership) -> Slot {
        let mut ends = [Slot::NONE; MEMBERS_MAX];
        for (end, member) in ends.iter_mut().zip(&members.members) {
            *end = self.ends[member.0 as usize];
        }
        ends.sort_unstable();
        ends[MEMBERS_MAX - usize::from(members.quorums.accept)]
    }
}

impl OneValue {
    /// How many slots are decided.
    pub(crate) fn count(&self) -> u64 {
        self.decided.len() as u64
    }

    /// The entry decided for a slot.
    pub(crate) fn get(&self, slot: Slot) -> Option<&Entry> {
        self.decided
            .get(usize::try_from(slot.0.checked_sub(1)?).ok()?)
    }

    /// The highest ballot under which anything was decided.
    pub(crate) fn highest_ballot(&self) -> Ballot {
        self.highest
    }

    /// The number of the command that is proposed next.
    pub(crate) fn next_command(&self) -> u64 {
        self.proposed.len() as u64
    }

    /// It has been proposed.
    pub(crate) fn proposed(&mut self) {
        self.proposed.push(None);
    }

    /// A disk changed: perhaps a quorum holds more of its ballot's log now.
    pub(crate) fn on_disk(
        &mut self,
        node: NodeId,
        disk: &Shadow,
        epochs: &mut Epochs,
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        let ballot = disk.accepted();
        if ballot.round == 0 {
            return Ok(());
        }
        let Some(members) = epochs.members(ballot.epoch) else {
            let detail = format!("node {node} holds a log of {ballot}, which nobody began");
            return Err(Violation::of(Check::Epochs, detail));
        };
        let before = std::mem::replace(self.promised.of(node), disk.promised());
        let log = self.log_of(ballot);
        let end = &mut log.ends[node.0 as usize];
        if before <= ballot {
            *end = held_under(ballot, disk, *end);
        }
        // What a quorum holds, this disk may not hold all of: the rest is counted later.
        let own = (*end).min(disk.end());
        let decided = log.held_by(members).min(own);
        if decided <= log.counted {
            return Ok(());
        }
        let from = std::mem::replace(&mut log.counted, decided);
        self.highest = self.highest.max(ballot);
        // What is not in the log is in a snapshot, which is checked for itself.
        for slot in (from.0 + 1).max(disk.first().0)..=decided.0 {
            let Some(entry) = disk.entry(Slot(slot)) else {
                // The disk has lost it since.
                continue;
            };
            coverage.check(Check::OneValue);
            match self.get(entry.slot) {
                Some(known) => agree(known, entry, &"a quorum of disks")?,
                None => self.decide(entry.clone(), &"a quorum of disks", epochs, coverage)?,
            }
        }
        Ok(())
    }

    /// A replica applied an entry. Unless only outcomes count, a quorum of disks must hold it.
    pub(crate) fn on_apply(
        &mut self,
        node: NodeId,
        entry: Entry,
        outcomes_only: bool,
        epochs: &mut Epochs,
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        coverage.check(Check::AppliedIsDecided);
        match self.get(entry.slot) {
            Some(known) => agree(known, &entry, &node),
            None if outcomes_only => self.decide(entry, &node, epochs, coverage),
            None => {
                let detail =
                    format!("node {node} applies {entry:?}, which no quorum of disks holds");
                Err(Violation::of(Check::AppliedIsDecided, detail))
            }
        }
    }

    fn log_of(&mut self, ballot: Ballot) -> &mut BallotLog {
        let known = self.logs.iter().rposition(|log| log.ballot == ballot);
        let index = known.unwrap_or_else(|| {
            self.logs.push(BallotLog::new(ballot));
            self.logs.len() - 1
        });
        &mut self.logs[index]
    }

    fn decide(
        &mut self,
        entry: Entry,
        by: &dyn fmt::Display,
        epochs: &mut Epochs,
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        if entry.slot.0 != self.count() + 1 {
            let next = self.count() + 1;
            let detail = format!("{by} has {entry:?} before slot {next} is decided");
            return Err(Violation::of(Check::OneValue, detail));
        }
        if entry.kind == EntryKind::Command {
            coverage.check(Check::Proposed);
            self.check_proposed(&entry)?;
        }
        epochs.on_decided(&entry);
        self.decided.push(entry);
        Ok(())
    }

    fn check_proposed(&mut self, entry: &Entry) -> Result<(), Violation> {
        let number = entry.payload.first_chunk::<8>();
        let number = number.map(|bytes| u64::from_le_bytes(*bytes));
        let proposed = number.and_then(|number| self.proposed.get_mut(number as usize));
        match proposed {
            Some(slot @ None) => {
                *slot = Some(entry.slot);
                Ok(())
            }
            Some(Some(other)) => {
                let detail = format!("{entry:?} was decided for slot {other} already");
                Err(Violation::of(Check::Proposed, detail))
            }
            None => {
                let detail = format!("{entry:?} was proposed by nobody");
                Err(Violation::of(Check::Proposed, detail))
            }
        }
    }
}

/// How far a disk holds the log of its accepted ballot, of which it was known to hold `known`.
///
/// A follower goes on learning what is decided under a later ballot before its log comes under
/// that; once it has promised the later one, nothing more of its log was accepted under this.
fn held_under(ballot: Ballot, disk: &Shadow, known: Slot) -> Slot {
    let mut end = disk.end();
    while end > known && disk.origin(end).is_some_and(|origin| origin > ballot) {
        end = end.previous();
    }
    end.max(known)
}

/// Two entries of the same slot, both of them decided, are the same.
fn agree(known: &Entry, entry: &Entry, by: &dyn fmt::Display) -> Result<(), Violation> {
    if known == entry {
        return Ok(());
    }
    let detail = format!("{by} has {entry:?}, but decided is {known:?}");
    Err(Violation::of(Check::OneValue, detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Epoch, PersistId, WriteBatch};
    use bytes::Bytes;

    fn ballot(round: u64) -> Ballot {
        Ballot {
            epoch: Epoch(1),
            round,
            node: NodeId(1),
        }
    }

    fn log(slots: std::ops::RangeInclusive<u64>, round: u64) -> Vec<Entry> {
        let entry = |slot| {
            let payload = Bytes::from(round.to_le_bytes().to_vec());
            Entry::new(Slot(slot), ballot(round), EntryKind::Command, payload)
        };
        slots.map(entry).collect()
    }

    fn write(disk: &mut Shadow, promised: u64, accepted: u64, entries: Vec<Entry>) {
        disk.write(&WriteBatch {
            id: PersistId(1),
            promised: Some(ballot(promised)),
            accepted: Some(ballot(accepted)),
            membership: None,
            snapshot: None,
            restart: false,
            keep_from: Slot(1),
            truncate_from: None,
            entries,
            decided: Slot::NONE,
        });
    }

    #[test]
    fn what_a_follower_learns_of_a_later_ballot_was_not_accepted_under_an_earlier_one() {
        let membership = Membership::first((1..=3).map(NodeId)).unwrap();
        let mut disk = Shadow::new(membership);
        write(&mut disk, 1, 1, log(1..=4, 1));
        assert_eq!(held_under(ballot(1), &disk, Slot(2)), Slot(4));
        write(&mut disk, 1, 1, log(5..=9, 2));
        assert_eq!(held_under(ballot(1), &disk, Slot(4)), Slot(4));
        assert_eq!(held_under(ballot(2), &disk, Slot(4)), Slot(9));
    }
}
