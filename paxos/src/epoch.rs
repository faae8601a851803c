//! From one membership to the next: the stop entry, the step over it, and life after a removal.
//!
//! A leader ends its epoch with an entry that names the next one (Lamport, Malkhi, Zhou: *Stoppable
//! Paxos*, 2008). Nothing follows it in its epoch. Who knows it to be decided, and has the log up
//! to it durably, enters the next epoch: it promises that epoch's lowest ballot, which is above all
//! of the old one. So each slot is decided by one membership only.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::core::Core;
use crate::interface::{NotLeader, Output, ReconfigureError};
use crate::membership::{Membership, Quorums};
use crate::message::Body;
use crate::planted::Planted;
use crate::replica::{Replica, State};
use crate::serve;
use crate::types::{Epoch, NodeId, Slot, SnapshotMeta, Time};

/// A node that was removed stays until enough of the others know what it knows. It asks them for
/// more, as any node without a vote does, and whoever knows of its removal answers that.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Removal {
    /// Who of the new members has said that this node is removed.
    known_to: BTreeSet<NodeId>,
    retired: bool,
}

impl Removal {
    pub(crate) fn begin(core: &mut Core, epoch: Epoch) -> Removal {
        core.output(Output::Removed(epoch));
        Removal {
            known_to: BTreeSet::new(),
            retired: false,
        }
    }

    fn retire(&mut self, core: &mut Core) {
        if !std::mem::replace(&mut self.retired, true) {
            core.output(Output::Retired);
        }
    }
}

impl Replica {
    /// Proposes to end the present epoch and to go on with these voters. It has happened when
    /// [`Output::Membership`] says so. `quorums` are majorities if not given.
    ///
    /// # Errors
    ///
    /// If this replica does not lead, another change is on its way, or the next membership would
    /// not do.
    pub fn reconfigure(
        &mut self,
        now: Time,
        mut members: Vec<NodeId>,
        quorums: Option<Quorums>,
        context: Bytes,
    ) -> Result<Slot, ReconfigureError> {
        self.pass_time(now);
        let leader = self.election.leader();
        let State::Leader(state) = &mut self.state else {
            return Err(NotLeader { leader }.into());
        };
        if !state.is_established() {
            return Err(NotLeader { leader: None }.into());
        }
        members.sort_unstable();
        let present = &self.core.membership;
        let highest = members.last().copied().unwrap_or_default();
        let next = Membership {
            epoch: present.epoch.next(),
            quorums: quorums.unwrap_or(Quorums::majority(members.len())),
            newest: present.newest.max(highest),
            members,
            context,
        };
        state.stop(&mut self.core, &next)
    }

    /// Goes over to the next epoch if the present one is over and that is durable here.
    pub(crate) fn change_epoch(&mut self) {
        while let Some((_, next)) = self.core.acceptor.stopped().cloned() {
            let led = match &mut self.state {
                State::Leader(leader) => {
                    leader.farewell(&mut self.core);
                    true
                }
                State::Candidate(_) | State::Follower => false,
            };
            self.enter_epoch(next);
            if led && self.core.can_vote() {
                // It is as far as anyone, and the others wait for somebody.
                self.campaign();
            }
            self.learning.go_on(&mut self.core);
        }
    }

    /// Puts a snapshot, which the driver has ready, in the place of the log.
    pub(crate) fn install(&mut self, meta: SnapshotMeta) {
        // A disk that lost its snapshot may need one from before the present epoch.
        let lost = self.core.acceptor.damaged().is_some();
        if meta.membership.epoch < self.core.epoch() && !lost {
            return;
        }
        self.step_down();
        let membership = meta.membership.clone();
        self.core.apply_decided();
        self.core.acceptor.install_snapshot(meta.clone());
        self.core.output(Output::Install(meta.clone()));
        self.dispense_with_damaged(meta.slot);
        if membership.epoch > self.core.epoch() {
            self.enter_epoch(membership);
        }
        self.learning.go_on(&mut self.core);
    }

    fn enter_epoch(&mut self, next: Membership) {
        let was_member = self.core.is_member();
        self.step_down();
        self.core.acceptor.enter_epoch(&next);
        self.core.set_membership(next.clone());
        self.election.enter_epoch(self.core.now);
        let epoch = next.epoch;
        self.core.output(Output::Membership(next));
        if was_member && !self.core.is_member() {
            self.removal = Some(Removal::begin(&mut self.core, epoch));
        }
    }

    /// The planted mistake: to hear of an epoch is enough to enter it.
    pub(crate) fn enter_planted(&mut self, membership: &Membership) {
        let newer = membership.epoch > self.core.epoch();
        if newer && self.core.plant.has(Planted::EpochWithoutState) {
            self.enter_epoch(membership.clone());
        }
    }

    /// Tells the sender of a message of an earlier epoch that it is behind, or not needed.
    pub(crate) fn answer_outdated(&mut self, from: NodeId) {
        if self.core.membership.contains(from) {
            serve::hint(&mut self.core, from);
        } else if self.core.membership.has_removed(from) {
            self.core.send(from, Body::Removed);
        }
    }

    /// A peer says that this node has been removed.
    pub(crate) fn on_removed(&mut self, from: NodeId, epoch: Epoch) {
        let known = self.core.peers.contains(&from) || self.core.seeds.contains(&from);
        if let Some(removal) = &mut self.removal {
            removal.known_to.insert(from);
            let known_to = &removal.known_to;
            let enough = self
                .core
                .peers
                .iter()
                .filter(|peer| known_to.contains(peer));
            if self.core.quorum.is_accepted_by(enough.count()) {
                removal.retire(&mut self.core);
            }
        } else if known && self.may_have_ended_before(epoch) {
            // It asks how its epoch ended, and then goes as any that knows of its removal.
            self.learning.offered(&mut self.core, from);
        } else if known && epoch > self.core.epoch() {
            // It was away when it happened: nobody waits for what it knows.
            self.step_down();
            let mut removal = Removal::begin(&mut self.core, epoch);
            removal.retire(&mut self.core);
            self.removal = Some(removal);
        }
    }

    /// Whether the end of the present epoch may have been decided by this node, and `epoch` be the
    /// one after it: then perhaps nobody has what was decided but this node and a few who may
    /// lose it.
    ///
    /// Logs have no gaps, so whoever accepted an epoch's end has all that precedes it. A node that
    /// did not accept it is not needed for any of that; nor is one of an epoch before the last,
    /// because a quorum of later voters has accepted more.
    fn may_have_ended_before(&self, epoch: Epoch) -> bool {
        let acceptor = &self.core.acceptor;
        let accepted = acceptor.log().stop().is_some() || acceptor.damaged().is_some();
        self.core.is_member() && epoch == self.core.epoch().next() && accepted
    }
}
