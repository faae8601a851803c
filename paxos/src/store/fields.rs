//! Little-endian fields of records, taken one after the other. Whoever takes too many gets none.

use crate::types::{Ballot, Epoch, NodeId, Slot};

/// What is left of a record.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(field)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        Some(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn slot(&mut self) -> Option<Slot> {
        self.u64().map(Slot)
    }

    pub(super) fn ballot(&mut self) -> Option<Ballot> {
        Some(Ballot {
            epoch: Epoch(self.u32()?),
            round: self.u64()?,
            node: NodeId(self.u64()?),
        })
    }
}

/// Appends a ballot, 20 bytes.
pub(super) fn put_ballot(into: &mut Vec<u8>, ballot: Ballot) {
    into.extend(ballot.epoch.0.to_le_bytes());
    into.extend(ballot.round.to_le_bytes());
    into.extend(ballot.node.0.to_le_bytes());
}
