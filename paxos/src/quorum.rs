//! How many of the members make a quorum, and what a quorum has reached.
//!
//! Counts nodes, never messages: who reports twice still counts once.

/// Majorities of a cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quorum {
    members: usize,
}

impl Quorum {
    pub(crate) fn of(members: usize) -> Quorum {
        assert!(members > 0, "a cell has members");
        Quorum { members }
    }

    /// How many nodes make a quorum. Any two quorums share a node.
    pub(crate) fn size(self) -> usize {
        self.members / 2 + 1
    }

    pub(crate) fn is_reached_by(self, nodes: usize) -> bool {
        nodes >= self.size()
    }

    /// The highest value that a quorum has reached, given one value of every member.
    pub(crate) fn reached<T: Ord + Copy>(self, mut values: Vec<T>) -> T {
        assert_eq!(values.len(), self.members, "one value of each member");
        values.sort_unstable();
        values[self.members - self.size()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_two_quorums_share_a_node() {
        for members in 1..=crate::limits::MEMBERS_MAX {
            assert!(2 * Quorum::of(members).size() > members);
        }
    }

    #[test]
    fn what_a_quorum_has_reached_does_not_depend_on_the_order_of_the_values() {
        let three = Quorum::of(3);
        for values in [[1, 5, 9], [9, 5, 1], [5, 9, 1]] {
            assert_eq!(three.reached(values.to_vec()), 5);
        }
        assert_eq!(Quorum::of(5).reached(vec![7, 1, 3, 9, 2]), 3);
        assert_eq!(Quorum::of(1).reached(vec![4]), 4);
        assert_eq!(Quorum::of(4).reached(vec![1, 2, 3, 4]), 2);
    }
}
