//! Who the members of the cell are and where, and how an operator changes that.

use std::collections::BTreeMap;

use bytes::Bytes;
use lockd_protocol::NodeId;
use lockd_protocol::client::{Answer, MemberChange, NodeFrame, ReconfigureRefusal};
use paxos::{Membership, Quorums, ReconfigureError, Time};
use serde::{Deserialize, Serialize};

use super::Core;
use super::clients::ConnectionId;
use crate::limits::{REACHABLE_WITHIN, SEEN_NODES_MAX};

/// What a membership says of a member beside its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Where it is, for nodes and clients alike: `host:port`.
    pub address: String,
    /// Its disk: see [`lockd_protocol::peer::PeerHello::incarnation`].
    pub incarnation: u64,
}

/// The members by number.
pub type Members = BTreeMap<NodeId, Member>;

/// The members as a membership's context.
#[must_use]
pub fn encode_members(members: &Members) -> Bytes {
    let encoded = postcard::to_stdvec(members);
    encoded
        .expect("data made of numbers and texts has an encoding")
        .into()
}

/// The members that a membership's context tells of. None if it is not of this program's making.
#[must_use]
pub fn decode_members(membership: &Membership) -> Members {
    postcard::from_bytes(&membership.context).unwrap_or_default()
}

/// What an operator asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) epoch: u32,
    pub(super) change: MemberChange,
    pub(super) quorums: Option<(u8, u8)>,
    pub(super) force: bool,
}

impl Core {
    /// A node introduced itself. Who is to join has to have been seen.
    pub fn peer_seen(&mut self, node: NodeId, incarnation: u64) {
        let member = self.membership.contains(paxos::NodeId(node.0));
        if !member && (self.seen.len() < SEEN_NODES_MAX || self.seen.contains_key(&node)) {
            self.seen.insert(node, incarnation);
        }
    }

    /// The membership that this node knows.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The members of it.
    #[must_use]
    pub fn members(&self) -> &Members {
        &self.members
    }

    pub(super) fn membership_changed(&mut self, membership: Membership) {
        self.members = decode_members(&membership);
        self.seen
            .retain(|node, _| !membership.contains(paxos::NodeId(node.0)));
        tracing::info!(
            node = %self.settings.node,
            epoch = %membership.epoch,
            members = ?membership.members.iter().map(|id| id.0).collect::<Vec<_>>(),
            "the membership"
        );
        self.membership = membership;
        for id in self.clients.ids() {
            self.tell_members(id);
        }
    }

    pub(super) fn tell_members(&mut self, connection: ConnectionId) {
        let members = self.addresses();
        if self.clients.is_welcomed(connection) && !members.is_empty() {
            let epoch = self.membership.epoch.0;
            let frame = NodeFrame::Members { epoch, members };
            self.clients.send(connection, &frame);
        }
    }

    pub(super) fn addresses(&self) -> Vec<(NodeId, String)> {
        let members = self.members.iter();
        members
            .map(|(id, member)| (*id, member.address.clone()))
            .collect()
    }

    /// Begins a change of the membership, or says why not.
    pub(super) fn reconfigure(&mut self, now: Time, wanted: Wanted) -> Answer {
        match self.try_reconfigure(now, wanted) {
            Ok(()) => Answer::Reconfiguring,
            Err(refusal) => Answer::NotReconfigured(refusal),
        }
    }

    fn try_reconfigure(&mut self, now: Time, wanted: Wanted) -> Result<(), ReconfigureRefusal> {
        let epoch = self.membership.epoch.0;
        if wanted.epoch != epoch {
            return Err(ReconfigureRefusal::OtherEpoch { epoch });
        }
        let next = self.next_members(&wanted.change)?;
        let quorums = wanted
            .quorums
            .map(|(prepare, accept)| Quorums { prepare, accept });
        let count = next.len();
        let keeps = quorums.is_none() && count == self.membership.members.len();
        let quorums = match quorums {
            _ if keeps => self.membership.quorums,
            Some(quorums) => quorums,
            None => Quorums::majority(count),
        };
        if !wanted.force {
            self.check_reachable(&next, quorums)?;
        }
        let ids = next.keys().map(|id| paxos::NodeId(id.0)).collect();
        let context = encode_members(&next);
        let begun = self.replica.reconfigure(now, ids, Some(quorums), context);
        begun.map(drop).map_err(refusal)
    }

    fn next_members(&self, change: &MemberChange) -> Result<Members, ReconfigureRefusal> {
        let mut next = self.members.clone();
        let (old, new) = match change {
            MemberChange::Add { node, address } => (None, Some((*node, address))),
            MemberChange::Remove { node } => (Some(*node), None),
            MemberChange::Replace { old, new, address } => (Some(*old), Some((*new, address))),
            _ => {
                let message = "this node does not know that change: update it".to_owned();
                return Err(ReconfigureRefusal::Invalid(message));
            }
        };
        if let Some(node) = old
            && next.remove(&node).is_none()
        {
            return Err(ReconfigureRefusal::Unknown { node });
        }
        if let Some((node, address)) = new {
            let newest = NodeId(self.membership.newest.0);
            if node <= newest {
                return Err(ReconfigureRefusal::NumberUsed { node, newest });
            }
            if address.parse::<std::net::SocketAddr>().is_err() {
                let message = format!("address {address:?}: an IP address and a port are needed");
                return Err(ReconfigureRefusal::Invalid(message));
            }
            let seen = self.seen.get(&node).copied();
            let incarnation = seen.ok_or(ReconfigureRefusal::NotSeen { node })?;
            let address = address.clone();
            next.insert(
                node,
                Member {
                    address,
                    incarnation,
                },
            );
        }
        Ok(next)
    }

    /// Refuses a membership in which the cell would stand still as things are.
    fn check_reachable(&self, next: &Members, quorums: Quorums) -> Result<(), ReconfigureRefusal> {
        let status = self.replica.status();
        let within = REACHABLE_WITHIN.as_micros() as u64;
        let heard = status
            .peers
            .iter()
            .filter(|peer| peer.silent_micros <= within);
        let learning = status.learners.iter().map(|(node, _)| NodeId(node.0));
        let mut reachable: Vec<NodeId> = heard.map(|peer| NodeId(peer.node.0)).collect();
        reachable.extend(learning);
        reachable.push(self.settings.node);
        let reachable = next.keys().filter(|id| reachable.contains(id)).count();
        let needed = usize::from(quorums.prepare.max(quorums.accept));
        if reachable >= needed {
            return Ok(());
        }
        Err(ReconfigureRefusal::WouldStandStill {
            reachable: reachable as u32,
            needed: needed as u32,
        })
    }
}

fn refusal(error: ReconfigureError) -> ReconfigureRefusal {
    match error {
        ReconfigureError::NotLeader(_) | ReconfigureError::Stopping => {
            ReconfigureRefusal::InProgress
        }
        ReconfigureError::NumberUsed { node, newest } => ReconfigureRefusal::NumberUsed {
            node: NodeId(node.0),
            newest: NodeId(newest.0),
        },
        ReconfigureError::NotCaughtUp {
            node,
            durable,
            decided,
        } => ReconfigureRefusal::NotCaughtUp {
            node: NodeId(node.0),
            durable: durable.0,
            decided: decided.0,
        },
        other => ReconfigureRefusal::Invalid(other.to_string()),
    }
}
