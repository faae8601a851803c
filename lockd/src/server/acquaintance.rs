//! Whether a node is who it says it is: its cell, its disk, its start.
//!
//! Its certificate says which number it has. That it remembers what it promised under that number
//! is another matter: the cell's membership names the disk that each member joined with, and who
//! has met a later start of a node does not take an earlier one for it.

use std::collections::BTreeMap;

use lockd_protocol::NodeId;
use lockd_protocol::limits::PEER_PROTOCOL_VERSION;
use lockd_protocol::peer::PeerHello;
use quinn::VarInt;

use super::core::members::Members;
use super::transport;

/// Why a node is not spoken with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// What the connection is closed with.
    pub(super) code: VarInt,
    /// For both sides' logs.
    pub(super) reason: String,
}

/// The nodes that were met since this one started, by their newest start.
#[derive(Debug, Default)]
pub(super) struct Acquaintances(BTreeMap<NodeId, PeerHello>);

impl Acquaintances {
    /// Whether to speak with the node that said `hello` and whose certificate names `certified`;
    /// and then, whether it has been started again since it was met last.
    pub(super) fn admit(
        &mut self,
        own: &PeerHello,
        members: &Members,
        certified: NodeId,
        hello: &PeerHello,
    ) -> Result<bool, Refusal> {
        if hello.version != PEER_PROTOCOL_VERSION {
            let reason = format!(
                "the node speaks version {} of the peer protocol, this one speaks \
                 {PEER_PROTOCOL_VERSION}: update the older of the two",
                hello.version
            );
            return Err(refusal(transport::CLOSE_BAD_BYTES, reason));
        }
        if hello.cell != own.cell {
            let reason = format!(
                "node {} is of cell {}, this is {}",
                certified, hello.cell, own.cell
            );
            return Err(refusal(transport::CLOSE_OTHER_CELL, reason));
        }
        if hello.node != certified {
            let reason = format!(
                "node {} has the certificate of node {certified}",
                hello.node
            );
            return Err(refusal(transport::CLOSE_WRONG_ROLE, reason));
        }
        if hello.node == own.node && hello.boot != own.boot {
            let reason = format!("another process runs as node {} already", own.node);
            return Err(refusal(transport::CLOSE_OTHER_DISK, reason));
        }
        let known = members.get(&certified).map(|member| member.incarnation);
        let met = self.0.get(&certified);
        let known = known.or(met.map(|met| met.incarnation));
        if known.is_some_and(|known| known != hello.incarnation) {
            let reason = format!("the cell knows node {certified} with another disk");
            return Err(refusal(transport::CLOSE_OTHER_DISK, reason));
        }
        let same = |met: &PeerHello| met.incarnation == hello.incarnation;
        if let Some(met) = met.filter(|met| same(met) && met.boot != hello.boot)
            && hello.starts <= met.starts
        {
            let reason = format!(
                "start {} of node {certified} comes after its start {}: its data directory was \
                 copied or set back",
                hello.starts, met.starts
            );
            return Err(refusal(transport::CLOSE_OTHER_DISK, reason));
        }
        let old = self.0.insert(certified, *hello);
        Ok(old.is_some_and(|old| old.boot != hello.boot))
    }
}

fn refusal(code: VarInt, reason: String) -> Refusal {
    Refusal { code, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::core::members::Member;
    use lockd_protocol::CellId;

    fn hello(node: u64, incarnation: u64, starts: u64, boot: u64) -> PeerHello {
        PeerHello {
            version: PEER_PROTOCOL_VERSION,
            cell: CellId([1; 16]),
            node: NodeId(node),
            incarnation,
            starts,
            boot,
        }
    }

    fn members() -> Members {
        let address = "127.0.0.1:1".to_owned();
        let member = Member {
            address,
            incarnation: 20,
        };
        [(NodeId(2), member)].into()
    }

    fn admit(met: &mut Acquaintances, hello: PeerHello) -> Result<bool, VarInt> {
        let own = super::tests::hello(1, 10, 5, 100);
        let admitted = met.admit(&own, &members(), NodeId(2), &hello);
        admitted.map_err(|refusal| refusal.code)
    }

    #[test]
    fn a_node_that_starts_again_is_known_and_an_earlier_start_of_it_is_not() {
        let mut met = Acquaintances::default();
        assert_eq!(admit(&mut met, hello(2, 20, 7, 1)), Ok(false));
        assert_eq!(
            admit(&mut met, hello(2, 20, 7, 1)),
            Ok(false),
            "a second stream"
        );
        assert_eq!(admit(&mut met, hello(2, 20, 8, 2)), Ok(true), "again");
        let other_disk = Err(transport::CLOSE_OTHER_DISK);
        assert_eq!(
            admit(&mut met, hello(2, 20, 7, 1)),
            other_disk,
            "the old one"
        );
        assert_eq!(admit(&mut met, hello(2, 20, 8, 3)), other_disk, "a copy");
    }

    #[test]
    fn a_member_with_another_disk_or_another_cell_is_refused() {
        let mut met = Acquaintances::default();
        let other_disk = Err(transport::CLOSE_OTHER_DISK);
        assert_eq!(admit(&mut met, hello(2, 21, 9, 1)), other_disk);
        let mut other = hello(2, 20, 1, 1);
        other.cell = CellId([2; 16]);
        assert_eq!(admit(&mut met, other), Err(transport::CLOSE_OTHER_CELL));
        let mut newer = hello(2, 20, 1, 1);
        newer.version += 1;
        assert_eq!(admit(&mut met, newer), Err(transport::CLOSE_BAD_BYTES));
        let wrong = hello(3, 20, 1, 1);
        assert_eq!(admit(&mut met, wrong), Err(transport::CLOSE_WRONG_ROLE));
    }

    #[test]
    fn a_node_that_is_no_member_is_known_by_the_disk_it_came_with_first() {
        let own = hello(1, 10, 5, 100);
        let mut met = Acquaintances::default();
        let mut admit = |hello| met.admit(&own, &members(), NodeId(4), &hello);
        assert_eq!(admit(hello(4, 40, 1, 1)), Ok(false));
        assert!(admit(hello(4, 41, 9, 2)).is_err());
        let mut met = Acquaintances::default();
        let twin = met.admit(&own, &members(), NodeId(1), &hello(1, 10, 6, 101));
        assert!(twin.is_err_and(|refusal| refusal.reason.contains("another process")));
    }
}
