//! The operator of a simulated cell: replaces nodes that are gone, and changes the membership when
//! a fault says so.

use bytes::Bytes;

use crate::interface::ReconfigureError;
use crate::membership::{Membership, Quorums};
use crate::sim::cluster::{Cluster, Event};
use crate::sim::coverage::Branch;
use crate::sim::fault::Fault;
use crate::sim::invariants::Violation;
use crate::sim::network::NODES_MAX;
use crate::sim::node::{Clock, Node};
use crate::sim::shadow::Shadow;
use crate::sim::storage::Storage;
use crate::types::{Epoch, NodeId};

/// Members that a cell has at most here, to keep it quick.
const MEMBERS_MOST: usize = 5;

/// A change of the membership that is wanted.
#[derive(Clone, Debug)]
pub(super) struct Change {
    /// The epoch that it ends.
    from: Epoch,
    members: Vec<NodeId>,
    quorums: Option<Quorums>,
}

impl Cluster {
    pub(super) fn schedule_operator(&mut self) {
        let every = self.plan.timing.heartbeat_micros * 3;
        self.schedule(self.now + every, Event::Operate);
    }

    /// Looks after the cell.
    pub(super) fn operate(&mut self) -> Result<(), Violation> {
        self.schedule_operator();
        let present = self.invariants.epochs.newest().clone();
        self.change.take_if(|change| change.from != present.epoch);
        if self.change.is_none() {
            self.replace_lost(&present)?;
        }
        self.try_change()
    }

    /// Whether no member is lost and no change is wanted.
    pub(super) fn is_settled(&self) -> bool {
        let present = self.invariants.epochs.newest();
        let change = self.change.as_ref();
        let wanted = change.is_some_and(|change| change.from == present.epoch);
        !wanted && !present.members.iter().any(|member| self.is_gone(*member))
    }

    pub(super) fn is_gone(&self, node: NodeId) -> bool {
        self.nodes[node.0 as usize - 1].gone
    }

    /// How many disks of the present members may be damaged or lost at once: one of each prepare
    /// quorum and of each accept quorum must be left, and enough to elect a leader.
    fn disks_to_lose(membership: &Membership) -> usize {
        let count = membership.members.len();
        let (prepare, accept) = (
            usize::from(membership.quorums.prepare),
            usize::from(membership.quorums.accept),
        );
        (count - prepare.max(accept)).min(accept - 1)
    }

    /// Whether one more disk may be damaged, which is this node's.
    pub(super) fn may_damage(&self, node: usize) -> bool {
        let present = self.invariants.epochs.newest();
        let entered = |member: &NodeId| {
            let membership = self.nodes[member.0 as usize - 1].shadow.membership();
            membership.epoch == present.epoch
        };
        if self.nodes[node].gone || !present.members.iter().all(entered) {
            // The voters of the epoch before may still be needed.
            return false;
        }
        if !present.contains(self.nodes[node].id) {
            // Unless it is about to join, nobody counts on it.
            return self.change.is_none();
        }
        let others = present
            .members
            .iter()
            .filter(|member| **member != self.nodes[node].id);
        let doubtful = others.filter(|member| {
            let other = &self.nodes[member.0 as usize - 1];
            other.gone || other.storage.doubtful
        });
        self.change.is_none() && doubtful.count() < Cluster::disks_to_lose(present)
    }

    /// Wants another membership, if the fault can be had now.
    pub(super) fn want_change(&mut self, fault: Fault, node: usize) -> Result<bool, Violation> {
        let present = self.invariants.epochs.newest().clone();
        let doubtful = |member: &NodeId| {
            let node = &self.nodes[member.0 as usize - 1];
            node.gone || node.storage.doubtful
        };
        if self.change.is_some() || present.members.iter().any(doubtful) {
            return Ok(false);
        }
        let id = self.nodes[node].id;
        let count = present.members.len();
        let mut members = present.members.clone();
        match fault {
            Fault::AddMember if count < MEMBERS_MOST => {
                let Some(new) = self.add_node()? else {
                    return Ok(false);
                };
                members.push(new);
            }
            Fault::RemoveMember | Fault::LeaderLeaves if count > 2 && present.contains(id) => {
                members.retain(|member| *member != id);
            }
            Fault::ReplaceMember if present.contains(id) => {
                let Some(new) = self.add_node()? else {
                    return Ok(false);
                };
                members.retain(|member| *member != id);
                members.push(new);
            }
            Fault::ChangeQuorums => {}
            _ => return Ok(false),
        }
        let mut quorums = None;
        if fault == Fault::ChangeQuorums || self.dice.chance(0.3) {
            quorums = Some(self.draw_quorums(members.len()));
        }
        if fault == Fault::ChangeQuorums && quorums == Some(present.quorums) {
            return Ok(false);
        }
        self.change = Some(Change {
            from: present.epoch,
            members,
            quorums,
        });
        Ok(true)
    }

    /// Quorums that meet. What is decided is always on two disks at least, if there are two.
    pub(super) fn draw_quorums(&mut self, members: usize) -> Quorums {
        // Not all of them: who is removed could not be missed while the others learn of it.
        let most = members.saturating_sub(1).max(members.min(2)) as u64;
        let accept = self.dice.between(members.min(2) as u64, most);
        let prepare = members as u64 + 1 - accept;
        Quorums {
            prepare: prepare as u8,
            accept: accept as u8,
        }
    }

    fn replace_lost(&mut self, present: &Membership) -> Result<(), Violation> {
        let mut members = present.members.clone();
        members.retain(|member| !self.is_gone(*member));
        let lost = present.members.len() - members.len();
        if lost == 0 || members.is_empty() {
            return Ok(());
        }
        for _ in 0..lost {
            members.extend(self.add_node()?);
        }
        self.report.coverage.branch(Branch::Replaced);
        self.change = Some(Change {
            from: present.epoch,
            members,
            quorums: None,
        });
        Ok(())
    }

    /// A new node, which knows no more than whom to ask.
    fn add_node(&mut self) -> Result<Option<NodeId>, Violation> {
        if self.nodes.len() + 1 >= NODES_MAX {
            return Ok(None);
        }
        let id = NodeId(self.nodes.len() as u64 + 1);
        self.new_node(id, &Membership::none())?;
        self.start(id.0 as usize - 1)?;
        Ok(Some(id))
    }

    pub(super) fn new_node(
        &mut self,
        id: NodeId,
        membership: &Membership,
    ) -> Result<(), Violation> {
        let rate = self.plan.clock_rate_ppm;
        let clock = Clock {
            since: self.now,
            shown: self.dice.between(0, 1 << 40),
            rate_ppm: self.dice.between(0, 2 * rate) as i64 - rate as i64,
        };
        let storage = Storage::create(id, self.dice.any(), membership);
        let storage = storage.map_err(|error| {
            Violation::new("a store can be created", format!("node {id}: {error}"))
        })?;
        let shadow = Shadow::new(membership.clone());
        self.nodes.push(Node::new(id, shadow, storage, clock));
        Ok(())
    }

    /// Asks whoever leads to make the change.
    fn try_change(&mut self) -> Result<(), Violation> {
        let Some(change) = self.change.clone() else {
            return Ok(());
        };
        if change.members.iter().any(|member| self.is_gone(*member)) {
            self.change = None;
            return Ok(());
        }
        let Some(node) = self.draw_leader() else {
            return Ok(());
        };
        let local = self.nodes[node].clock.local(self.now);
        let Some(replica) = &mut self.nodes[node].replica else {
            return Ok(());
        };
        if replica.status().membership.epoch != change.from {
            return Ok(());
        }
        let begun = replica.reconfigure(local, change.members, change.quorums, Bytes::new());
        let coverage = &mut self.report.coverage;
        match begun {
            Ok(_) => coverage.branch(Branch::StopProposed),
            Err(ReconfigureError::NotCaughtUp { .. }) => coverage.branch(Branch::NotCaughtUp),
            Err(ReconfigureError::Stopping | ReconfigureError::NotLeader(_)) => {}
            Err(_) => self.change = None,
        }
        self.drain(node)
    }
}
