//! Who votes, and how many votes it takes.
//!
//! A membership holds for one epoch. The next one is named by the epoch's last entry.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::{MEMBERS_MAX, MEMBERSHIP_CONTEXT_BYTES_MAX};
use crate::types::{Epoch, NodeId};

/// The voters of one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Membership {
    /// Counts memberships. 0 if this is not yet one: a node that is to join knows no voters.
    pub epoch: Epoch,
    /// The voters, ascending.
    pub members: Vec<NodeId>,
    /// The highest number that any member ever had. A number is given once, and a new member's is
    /// above this one: so who is below it and no member has been removed.
    pub newest: NodeId,
    /// How many of them it takes.
    pub quorums: Quorums,
    /// What the driver wants everyone to know of them, say addresses. Not looked at.
    pub context: Bytes,
}

/// How many acceptors a leader needs (Howard, Malkhi, Spiegelman: *Flexible Paxos*, 2016).
///
/// Every prepare quorum must share a node with every accept quorum. Two accept quorums need not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Quorums {
    /// Promises that make a leader.
    pub prepare: u8,
    /// Acceptances that decide, and echoes that confirm.
    pub accept: u8,
}

/// Why a membership was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum MembershipError {
    /// There are no members, or too many.
    #[error("members: {count} nodes; a cell has 1 to {MEMBERS_MAX}")]
    Count {
        /// How many were given.
        count: usize,
    },
    /// A member is named twice, or the members are not in order.
    #[error("members: node {node} is named twice, or out of order")]
    Order {
        /// Which.
        node: NodeId,
    },
    /// Node 0 stands for "none" in ballots.
    #[error("members: nodes are numbered from 1")]
    Zero,
    /// A member's number is above the highest one.
    #[error("newest: node {node} is a member and above {newest}, the highest number given")]
    Newest {
        /// The member.
        node: NodeId,
        /// See [`Membership::newest`].
        newest: NodeId,
    },
    /// The quorums do not meet.
    #[error(
        "quorums: {prepare} to prepare and {accept} to accept among {members} nodes need not \
         share a node; their sum must be above {members}, and neither 0 nor above {members}"
    )]
    Apart {
        /// See [`Quorums::prepare`].
        prepare: u8,
        /// See [`Quorums::accept`].
        accept: u8,
        /// How many vote.
        members: usize,
    },
    /// The context is too long.
    #[error("context: {bytes} bytes; at most {MEMBERSHIP_CONTEXT_BYTES_MAX} are allowed")]
    Context {
        /// Its length.
        bytes: usize,
    },
}

impl Quorums {
    /// Majorities.
    #[must_use]
    pub fn majority(members: usize) -> Quorums {
        // Bounded by MEMBERS_MAX wherever it is used.
        let half = u8::try_from(members / 2 + 1).unwrap_or(u8::MAX);
        Quorums {
            prepare: half,
            accept: half,
        }
    }
}

impl Membership {
    /// The first membership of a cell, with majorities.
    ///
    /// # Errors
    ///
    /// If the members are none, too many, or named twice.
    pub fn first(members: impl IntoIterator<Item = NodeId>) -> Result<Membership, MembershipError> {
        let mut members: Vec<NodeId> = members.into_iter().collect();
        members.sort_unstable();
        let membership = Membership {
            epoch: Epoch::FIRST,
            newest: members.last().copied().unwrap_or_default(),
            quorums: Quorums::majority(members.len()),
            members,
            context: Bytes::new(),
        };
        membership.validate()?;
        Ok(membership)
    }

    /// What a node knows that is to join: nothing yet.
    #[must_use]
    pub fn none() -> Membership {
        Membership {
            epoch: Epoch(0),
            members: Vec::new(),
            newest: NodeId(0),
            quorums: Quorums {
                prepare: 0,
                accept: 0,
            },
            context: Bytes::new(),
        }
    }

    /// Whether `node` votes.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.members.contains(&node)
    }

    /// Whether `node` has been a member and is none any more.
    #[must_use]
    pub fn has_removed(&self, node: NodeId) -> bool {
        node <= self.newest && !self.contains(node)
    }

    /// Checks everything that a peer, a disk or a person can get wrong.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn validate(&self) -> Result<(), MembershipError> {
        let count = self.members.len();
        if !(1..=MEMBERS_MAX).contains(&count) {
            return Err(MembershipError::Count { count });
        }
        if let Some(pair) = self.members.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(MembershipError::Order { node: pair[1] });
        }
        if self.members[0] == NodeId(0) {
            return Err(MembershipError::Zero);
        }
        let highest = self.members[count - 1];
        if self.newest < highest {
            return Err(MembershipError::Newest {
                node: highest,
                newest: self.newest,
            });
        }
        let Quorums { prepare, accept } = self.quorums;
        let size = |quorum: u8| (1..=count).contains(&usize::from(quorum));
        let meet = usize::from(prepare) + usize::from(accept) > count;
        if !(size(prepare) && size(accept) && meet) {
            return Err(MembershipError::Apart {
                prepare,
                accept,
                members: count,
            });
        }
        if self.context.len() > MEMBERSHIP_CONTEXT_BYTES_MAX {
            return Err(MembershipError::Context {
                bytes: self.context.len(),
            });
        }
        Ok(())
    }

    /// As the payload of a stop entry, or a record on disk.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let encoded = postcard::to_allocvec(self);
        encoded
            .expect("data made of numbers, bytes and sequences has an encoding")
            .into()
    }

    /// The membership that `bytes` hold, if they hold one and nothing else. It may be
    /// [`Membership::none`]; otherwise it is valid.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Membership> {
        let (membership, rest) = postcard::take_from_bytes::<Membership>(bytes).ok()?;
        let known = membership == Membership::none() || membership.validate().is_ok();
        (rest.is_empty() && known).then_some(membership)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership(prepare: u8, accept: u8, members: u64) -> Membership {
        Membership {
            quorums: Quorums { prepare, accept },
            ..Membership::first((1..=members).map(NodeId)).unwrap()
        }
    }

    #[test]
    fn quorums_that_need_not_share_a_node_are_refused() {
        for members in 1..=MEMBERS_MAX as u8 {
            for prepare in 0..=members + 1 {
                for accept in 0..=members + 1 {
                    let meet = prepare + accept > members;
                    let sized = (1..=members).contains(&prepare) && (1..=members).contains(&accept);
                    let valid = membership(prepare, accept, u64::from(members)).validate();
                    assert_eq!(
                        valid.is_ok(),
                        meet && sized,
                        "{prepare}+{accept} of {members}"
                    );
                }
            }
        }
    }

    #[test]
    fn members_are_some_named_once_and_from_1() {
        assert_eq!(
            Membership::first([]),
            Err(MembershipError::Count { count: 0 })
        );
        assert!(matches!(
            Membership::first([NodeId(1), NodeId(1)]),
            Err(MembershipError::Order { node: NodeId(1) })
        ));
        assert_eq!(
            Membership::first([NodeId(0), NodeId(1)]),
            Err(MembershipError::Zero)
        );
        let many = (1..=MEMBERS_MAX as u64 + 1).map(NodeId);
        assert!(matches!(
            Membership::first(many),
            Err(MembershipError::Count { .. })
        ));
    }

    #[test]
    fn a_majority_is_more_than_half() {
        let sizes = (1..=5).map(|members| Quorums::majority(members).accept);
        assert_eq!(sizes.collect::<Vec<u8>>(), [1, 2, 2, 3, 3]);
        assert_eq!(Quorums::majority(4).prepare, 3);
    }

    #[test]
    fn who_had_a_number_and_is_no_member_has_been_removed() {
        let later = Membership {
            members: [1, 3].map(NodeId).to_vec(),
            newest: NodeId(4),
            ..membership(2, 2, 2)
        };
        assert_eq!(later.validate(), Ok(()));
        let removed = (1..=5).filter(|node| later.has_removed(NodeId(*node)));
        assert_eq!(removed.collect::<Vec<u64>>(), [2, 4]);
        assert!(later.contains(NodeId(3)) && !later.contains(NodeId(2)));
    }

    #[test]
    fn the_highest_number_given_is_at_least_a_members() {
        let newest = |newest| Membership {
            newest: NodeId(newest),
            ..membership(2, 2, 3)
        };
        assert_eq!(newest(3).validate(), Ok(()));
        assert_eq!(newest(9).validate(), Ok(()));
        let (node, below) = (NodeId(3), NodeId(2));
        let refused = MembershipError::Newest {
            node,
            newest: below,
        };
        assert_eq!(newest(2).validate(), Err(refused));
    }

    #[test]
    fn a_context_is_no_longer_than_its_limit() {
        let with = |bytes| Membership {
            context: Bytes::from(vec![0; bytes]),
            ..membership(2, 2, 3)
        };
        let bytes = MEMBERSHIP_CONTEXT_BYTES_MAX;
        assert_eq!(with(bytes).validate(), Ok(()));
        let bytes = bytes + 1;
        assert_eq!(
            with(bytes).validate(),
            Err(MembershipError::Context { bytes })
        );
    }

    #[test]
    fn a_membership_survives_its_encoding_and_nothing_else_is_decoded() {
        let three = Membership {
            context: Bytes::from_static(b"where they are"),
            ..membership(2, 2, 3)
        };
        let encoded = three.encode();
        assert_eq!(Membership::decode(&encoded), Some(three));
        for end in 0..encoded.len() {
            assert_eq!(Membership::decode(&encoded[..end]), None);
        }
        let none = Membership::none();
        assert_eq!(Membership::decode(&none.encode()), Some(none));
        let apart = membership(1, 1, 3);
        assert_eq!(Membership::decode(&apart.encode()), None);
    }
}
