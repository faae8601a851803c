//! A node votes in an epoch only if a decided stop entry began it, if it has the state up to that
//! entry durably, and if it is a member. One that was removed neither votes nor leads.
//!
//! (Lamport, Malkhi, Zhou, *Reconfiguring a State Machine*, 2010, section 3; that the state must
//! be there first is from the same, section 4.)

use std::collections::BTreeMap;

use crate::membership::Membership;
use crate::message::{Body, Standing};
use crate::sim::coverage::{Check, Coverage};
use crate::sim::invariants::Violation;
use crate::sim::shadow::Shadow;
use crate::types::{Ballot, Entry, EntryKind, Epoch, NodeId, Slot};

/// The epochs that were begun.
#[derive(Debug, Default)]
pub struct Epochs {
    /// By epoch: who votes, and the last slot before it.
    known: BTreeMap<Epoch, (Membership, Slot)>,
}

impl Epochs {
    /// The first epoch.
    pub(crate) fn found(&mut self, membership: Membership) {
        self.known
            .insert(membership.epoch, (membership, Slot::NONE));
    }

    /// The newest epoch that was begun.
    pub(crate) fn newest(&self) -> &Membership {
        let newest = self.known.last_key_value();
        &newest.expect("a cell has a first epoch").1.0
    }

    /// Who votes in an epoch.
    pub(crate) fn members(&self, epoch: Epoch) -> Option<&Membership> {
        self.known.get(&epoch).map(|(membership, _)| membership)
    }

    /// An entry was decided.
    pub(crate) fn on_decided(&mut self, entry: &Entry) {
        if entry.kind == EntryKind::Stop
            && let Some(next) = Membership::decode(&entry.payload)
        {
            self.known.insert(next.epoch, (next, entry.slot));
        }
    }

    /// A replica says that it goes by another membership now.
    pub(crate) fn on_entered(
        &self,
        node: NodeId,
        membership: &Membership,
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        coverage.check(Check::Epochs);
        if self.members(membership.epoch) != Some(membership) {
            let detail = format!("node {node} enters {membership:?}, which nobody decided");
            return Err(Violation::of(Check::Epochs, detail));
        }
        Ok(())
    }

    /// A node says something that others count on.
    pub(crate) fn on_send(
        &self,
        node: NodeId,
        body: &Body,
        disk: &Shadow,
        coverage: &mut Coverage,
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
        coverage.check(Check::Members);
        self.check_member(node, ballot)?;
        let began = self
            .known
            .get(&ballot.epoch)
            .map_or(Slot::NONE, |known| known.1);
        if began > Slot::NONE {
            coverage.check(Check::Epochs);
        }
        if disk.end().max(disk.covered()) < began || disk.membership().epoch < ballot.epoch {
            let (end, epoch) = (disk.end(), disk.membership().epoch);
            let detail = format!(
                "node {node} votes for {ballot}; its disk has slot {end} of {began}, epoch {epoch}"
            );
            return Err(Violation::of(Check::Epochs, detail));
        }
        Ok(())
    }

    /// A node votes or leads under this ballot.
    pub(crate) fn check_member(&self, node: NodeId, ballot: Ballot) -> Result<(), Violation> {
        let members = self.members(ballot.epoch);
        if members.is_some_and(|members| members.contains(node)) {
            return Ok(());
        }
        let detail = format!("node {node} votes or leads under {ballot}, and is no member");
        Err(Violation::of(Check::Members, detail))
    }
}
