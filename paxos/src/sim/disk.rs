//! A simulated disk: a log store in memory that survives crashes of its node.
//!
//! A batch that has not been reported done may be lost by a crash, or be there all the same;
//! never a part of it, which is what the real store's transactions give.

use std::cell::RefCell;
use std::convert::Infallible;

use crate::log::size;
use crate::store::LogStore;
use crate::types::{Ballot, Entry, NodeId, Recovered, Slot, WriteBatch};

/// What is durable.
#[derive(Debug)]
pub(crate) struct Disk(RefCell<Content>);

#[derive(Debug)]
struct Content {
    members: Vec<NodeId>,
    promised: Ballot,
    accepted: Ballot,
    decided: Slot,
    log: Vec<Entry>,
}

impl Disk {
    pub(crate) fn new(members: Vec<NodeId>) -> Disk {
        Disk(RefCell::new(Content {
            members,
            promised: Ballot::NONE,
            accepted: Ballot::NONE,
            decided: Slot::NONE,
            log: Vec::new(),
        }))
    }

    pub(crate) fn promised(&self) -> Ballot {
        self.0.borrow().promised
    }

    pub(crate) fn accepted(&self) -> Ballot {
        self.0.borrow().accepted
    }

    pub(crate) fn end(&self) -> Slot {
        Slot(self.0.borrow().log.len() as u64)
    }

    pub(crate) fn entry(&self, slot: Slot) -> Option<Entry> {
        let index = usize::try_from(slot.0.checked_sub(1)?).ok()?;
        self.0.borrow().log.get(index).cloned()
    }
}

impl LogStore for Disk {
    type Error = Infallible;

    fn load(&self) -> Result<Recovered, Infallible> {
        let content = self.0.borrow();
        Ok(Recovered {
            members: content.members.clone(),
            promised: content.promised,
            accepted: content.accepted,
            decided: content.decided,
            entries: content.log[content.decided.0 as usize..].to_vec(),
            ..Recovered::fresh(Vec::new())
        })
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), Infallible> {
        let mut content = self.0.borrow_mut();
        content.promised = batch.promised.unwrap_or(content.promised);
        content.accepted = batch.accepted.unwrap_or(content.accepted);
        content.decided = batch.decided;
        if let Some(from) = batch.truncate_from {
            content.log.truncate(from.0 as usize - 1);
        }
        for entry in &batch.entries {
            assert_eq!(
                entry.slot.0,
                content.log.len() as u64 + 1,
                "a write continues the log"
            );
            content.log.push(entry.clone());
        }
        assert!(
            batch.decided.0 <= content.log.len() as u64,
            "what is decided is in the log"
        );
        Ok(())
    }

    fn read(&self, first: Slot, last: Slot, bytes_max: usize) -> Result<Vec<Entry>, Infallible> {
        let content = self.0.borrow();
        let last = (last.0 as usize).min(content.log.len());
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in &content.log[first.0 as usize - 1..last] {
            bytes += size(entry);
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }
}
