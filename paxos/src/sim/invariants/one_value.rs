//! One value is decided for each slot, and every command that is decided was proposed, once.
//!
//! (Lamport, *Paxos Made Simple*, 2001, section 2.1: nontriviality and consistency.) Decided means
//! here: a quorum of disks has held it under one ballot, or a replica has applied it; so a
//! contradiction is found before anybody has applied the second value.

use std::collections::BTreeMap;

use crate::sim::disk::Disk;
use crate::sim::invariants::Violation;
use crate::types::{Ballot, Entry, EntryKind, NodeId, Slot};

const NAME: &str = "one value is decided for each slot";

/// What has been decided.
#[derive(Debug, Default)]
pub struct OneValue {
    decided: Vec<Entry>,
    /// How far each node's disk has held the log of each ballot.
    held: BTreeMap<Ballot, BTreeMap<NodeId, Slot>>,
    /// How far the log of each ballot has been counted as decided.
    counted: BTreeMap<Ballot, Slot>,
    proposed: Vec<Option<Slot>>,
    highest: Ballot,
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

    /// A payload for a new command.
    pub(crate) fn new_command(&mut self) -> u64 {
        self.proposed.push(None);
        self.proposed.len() as u64 - 1
    }

    /// A disk changed: perhaps a quorum holds more of its ballot's log now.
    pub(crate) fn on_disk(
        &mut self,
        node: NodeId,
        disk: &Disk,
        members: usize,
    ) -> Result<(), Violation> {
        let ballot = disk.accepted();
        let held = self.held.entry(ballot).or_default();
        let end = held.entry(node).or_default();
        *end = disk.end().max(*end);
        let mut ends: Vec<Slot> = held.values().copied().collect();
        ends.sort_unstable();
        let quorum = members / 2 + 1;
        if ends.len() < quorum || ballot == Ballot::NONE {
            return Ok(());
        }
        self.highest = self.highest.max(ballot);
        // What a quorum holds, this disk may not hold all of: the rest is counted later.
        let decided = ends[ends.len() - quorum].min(disk.end());
        let from = self.counted.get(&ballot).copied().unwrap_or_default();
        for slot in from.0 + 1..=decided.0 {
            let entry = disk.entry(Slot(slot)).expect("it is on this disk");
            self.decide(&entry, || {
                format!("the disks of a quorum, under ballot {ballot},")
            })?;
        }
        self.counted.insert(ballot, decided.max(from));
        Ok(())
    }

    /// A replica applied an entry. Unless only outcomes count, a quorum of disks must hold it.
    pub(crate) fn on_apply(
        &mut self,
        node: NodeId,
        entry: &Entry,
        outcomes_only: bool,
    ) -> Result<(), Violation> {
        if !outcomes_only && self.get(entry.slot).is_none() {
            let detail = format!("node {node} applies {entry:?}, which no quorum of disks holds");
            return Err(Violation::new("what is applied is decided", detail));
        }
        self.decide(entry, || format!("node {node}, which applied it,"))
    }

    fn decide(&mut self, entry: &Entry, by: impl Fn() -> String) -> Result<(), Violation> {
        if let Some(known) = self.get(entry.slot) {
            if known == entry {
                return Ok(());
            }
            let detail = format!("{} has {entry:?}, but decided is {known:?}", by());
            return Err(Violation::new(NAME, detail));
        }
        if entry.slot.0 != self.count() + 1 {
            let detail = format!("{} has {entry:?} before slot {}", by(), self.count() + 1);
            return Err(Violation::new(NAME, detail));
        }
        self.check_proposed(entry)?;
        self.decided.push(entry.clone());
        Ok(())
    }

    fn check_proposed(&mut self, entry: &Entry) -> Result<(), Violation> {
        if entry.kind == EntryKind::NewLeader {
            return Ok(());
        }
        let number = entry
            .payload
            .first_chunk::<8>()
            .map(|bytes| u64::from_le_bytes(*bytes));
        let proposed = number.and_then(|number| self.proposed.get_mut(number as usize));
        match proposed {
            Some(slot @ None) => {
                *slot = Some(entry.slot);
                Ok(())
            }
            Some(Some(other)) => {
                let detail = format!("{entry:?} was decided for slot {other} already");
                Err(Violation::new("a command is decided once", detail))
            }
            None => {
                let detail = format!("{entry:?} was proposed by nobody");
                Err(Violation::new("what is decided was proposed", detail))
            }
        }
    }
}
