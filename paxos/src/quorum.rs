//! How many of the members make a quorum, and what a quorum has reached.
//!
//! Counts nodes, never messages: who reports twice still counts once.

use crate::membership::Membership;

/// The quorums of a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Quorum {
    members: usize,
    prepare: usize,
    accept: usize,
}

impl Quorum {
    pub(crate) fn of(membership: &Membership) -> Quorum {
        Quorum {
            members: membership.members.len(),
            prepare: membership.quorums.prepare.into(),
            accept: membership.quorums.accept.into(),
        }
    }

    /// Whether so many promises make a leader.
    pub(crate) fn is_prepared_by(self, nodes: usize) -> bool {
        nodes >= self.prepare
    }

    /// Whether so many nodes can decide.
    pub(crate) fn is_accepted_by(self, nodes: usize) -> bool {
        nodes >= self.accept
    }

    /// The planted mistake: quorums that need not meet.
    #[cfg(feature = "sim")]
    pub(crate) fn weaken(&mut self, accept: bool) {
        let quorum = if accept {
            &mut self.accept
        } else {
            &mut self.prepare
        };
        *quorum = (*quorum - 1).max(1);
    }

    /// The highest value that an accept quorum has reached, given one value of every member.
    pub(crate) fn accepted<T: Ord + Copy>(self, mut values: Vec<T>) -> T {
        assert_eq!(values.len(), self.members, "one value of each member");
        values.sort_unstable();
        values[self.members - self.accept]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::Quorums;
    use crate::types::NodeId;

    fn quorum(prepare: u8, accept: u8, members: u64) -> Quorum {
        Quorum::of(&Membership {
            quorums: Quorums { prepare, accept },
            ..Membership::first((1..=members).map(NodeId)).unwrap()
        })
    }

    #[test]
    fn what_a_quorum_has_reached_does_not_depend_on_the_order_of_the_values() {
        let three = quorum(2, 2, 3);
        for values in [[1, 5, 9], [9, 5, 1], [5, 9, 1]] {
            assert_eq!(three.accepted(values.to_vec()), 5);
        }
        assert_eq!(quorum(3, 3, 5).accepted(vec![7, 1, 3, 9, 2]), 3);
        assert_eq!(quorum(1, 1, 1).accepted(vec![4]), 4);
        assert_eq!(quorum(3, 3, 4).accepted(vec![1, 2, 3, 4]), 2);
    }

    #[test]
    fn a_small_accept_quorum_decides_with_fewer_and_a_leader_needs_more() {
        let four = quorum(3, 2, 4);
        assert_eq!(four.accepted(vec![1, 2, 3, 4]), 3);
        assert!(four.is_accepted_by(2) && !four.is_accepted_by(1));
        assert!(four.is_prepared_by(3) && !four.is_prepared_by(2));
    }
}
