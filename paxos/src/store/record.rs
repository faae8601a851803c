//! The records of the store, byte by byte: version first, checksum over the rest.

use bytes::Bytes;

use crate::limits::PAYLOAD_BYTES_MAX;
use crate::types::{Ballot, CellId, Entry, EntryKind, Epoch, Identity, Incarnation, NodeId, Slot};

/// Version of every record below. A store of another version is refused.
pub(crate) const FORMAT_VERSION: u8 = 1;

const CRC_BYTES: usize = 4;
const ENTRY_HEAD_BYTES: usize = 1 + 1 + 8 + 8 + CRC_BYTES;

/// Why bytes are no record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RecordError {
    /// The version byte is another.
    Version(u8),
    /// The length, the checksum or a field is wrong.
    Damaged,
}

/// Who owns the store, and the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) identity: Identity,
    pub(crate) epoch: Epoch,
    pub(crate) members: Vec<NodeId>,
}

/// The numbers that an acceptor must not forget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) promised: Ballot,
    pub(crate) accepted: Ballot,
    pub(crate) decided: Slot,
}

impl Owner {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut record = vec![FORMAT_VERSION];
        record.extend(self.identity.cell.0);
        record.extend(self.identity.node.0.to_le_bytes());
        record.extend(self.identity.incarnation.0.to_le_bytes());
        record.extend(self.epoch.0.to_le_bytes());
        for member in &self.members {
            record.extend(member.0.to_le_bytes());
        }
        sealed(record)
    }

    pub(crate) fn decode(record: &[u8]) -> Result<Owner, RecordError> {
        let mut fields = Fields(unsealed(record)?);
        let cell = CellId(fields.take()?);
        let node = NodeId(fields.u64()?);
        let incarnation = Incarnation(fields.u64()?);
        let epoch = Epoch(u32::from_le_bytes(fields.take()?));
        let mut members = Vec::new();
        while !fields.0.is_empty() {
            members.push(NodeId(fields.u64()?));
        }
        Ok(Owner {
            identity: Identity {
                cell,
                node,
                incarnation,
            },
            epoch,
            members,
        })
    }
}

impl State {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut record = vec![FORMAT_VERSION];
        for ballot in [self.promised, self.accepted] {
            record.extend(ballot.round.to_le_bytes());
            record.extend(ballot.node.0.to_le_bytes());
        }
        record.extend(self.decided.0.to_le_bytes());
        sealed(record)
    }

    pub(crate) fn decode(record: &[u8]) -> Result<State, RecordError> {
        let mut fields = Fields(unsealed(record)?);
        let state = State {
            promised: fields.ballot()?,
            accepted: fields.ballot()?,
            decided: Slot(fields.u64()?),
        };
        if fields.0.is_empty() {
            Ok(state)
        } else {
            Err(RecordError::Damaged)
        }
    }
}

/// An entry's record. The slot is its key, and the entry's own checksum covers that too.
pub(crate) fn encode_entry(entry: &Entry, into: &mut Vec<u8>) {
    into.clear();
    into.reserve(ENTRY_HEAD_BYTES + entry.payload.len());
    into.extend([FORMAT_VERSION, entry.kind.tag()]);
    into.extend(entry.origin.round.to_le_bytes());
    into.extend(entry.origin.node.0.to_le_bytes());
    into.extend(entry.crc.to_le_bytes());
    into.extend_from_slice(&entry.payload);
}

/// The entry of a slot, if its record is sound.
pub(crate) fn decode_entry(slot: Slot, record: &[u8]) -> Result<Entry, RecordError> {
    let (&version, rest) = record.split_first().ok_or(RecordError::Damaged)?;
    if version != FORMAT_VERSION {
        return Err(RecordError::Version(version));
    }
    let mut fields = Fields(rest);
    let [tag] = fields.take()?;
    let kind = EntryKind::from_tag(tag).ok_or(RecordError::Damaged)?;
    let origin = fields.ballot()?;
    let crc = u32::from_le_bytes(fields.take()?);
    if fields.0.len() > PAYLOAD_BYTES_MAX {
        return Err(RecordError::Damaged);
    }
    let payload = Bytes::copy_from_slice(fields.0);
    let entry = Entry {
        slot,
        origin,
        kind,
        payload,
        crc,
    };
    if entry.is_intact() {
        Ok(entry)
    } else {
        Err(RecordError::Damaged)
    }
}

fn sealed(mut record: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&record);
    record.extend(crc.to_le_bytes());
    record
}

fn unsealed(record: &[u8]) -> Result<&[u8], RecordError> {
    let &version = record.first().ok_or(RecordError::Damaged)?;
    if version != FORMAT_VERSION {
        return Err(RecordError::Version(version));
    }
    let (body, crc) = record
        .split_last_chunk::<CRC_BYTES>()
        .ok_or(RecordError::Damaged)?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return Err(RecordError::Damaged);
    }
    body.get(1..).ok_or(RecordError::Damaged)
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (field, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(RecordError::Damaged)?;
        self.0 = rest;
        Ok(*field)
    }

    fn u64(&mut self) -> Result<u64, RecordError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    fn ballot(&mut self) -> Result<Ballot, RecordError> {
        Ok(Ballot {
            round: self.u64()?,
            node: NodeId(self.u64()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn ballot(round: u64, node: u64) -> Ballot {
        Ballot {
            round,
            node: NodeId(node),
        }
    }

    fn entry() -> Entry {
        let payload = Bytes::from_static(b"payload");
        Entry::new(Slot(5), ballot(3, 2), EntryKind::Command, payload)
    }

    fn owner() -> Owner {
        Owner {
            identity: Identity {
                cell: CellId([7; 16]),
                node: NodeId(2),
                incarnation: Incarnation(9),
            },
            epoch: Epoch::FIRST,
            members: vec![NodeId(1), NodeId(2), NodeId(3)],
        }
    }

    #[test]
    fn the_records_on_disk_stay_as_they_are() {
        let mut record = Vec::new();
        encode_entry(&entry(), &mut record);
        assert_eq!(
            hex(&record),
            "0102030000000000000002000000000000007000c1b67061796c6f6164"
        );
        let state = State {
            promised: ballot(4, 1),
            accepted: ballot(3, 2),
            decided: Slot(5),
        };
        assert_eq!(
            hex(&state.encode()),
            "01040000000000000001000000000000000300000000000000020000000000000005000000000000003ef84d81"
        );
        assert_eq!(
            hex(&owner().encode()),
            "01070707070707070707070707070707070200000000000000090000000000000001000000010000000000000002000000000000000300000000000000a4b48c7c"
        );
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let mut record = Vec::new();
        encode_entry(&entry(), &mut record);
        assert_eq!(decode_entry(Slot(5), &record), Ok(entry()));
        let state = State {
            promised: ballot(4, 1),
            accepted: ballot(3, 2),
            decided: Slot(5),
        };
        assert_eq!(State::decode(&state.encode()), Ok(state));
        assert_eq!(Owner::decode(&owner().encode()), Ok(owner()));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut entry_record = Vec::new();
        encode_entry(&entry(), &mut entry_record);
        let owner_record = owner().encode();
        let state_record = State::default().encode();
        let flips = |record: &[u8]| -> Vec<Vec<u8>> {
            let flip = |bit: usize| {
                let mut flipped = record.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                flipped
            };
            (0..record.len() * 8).map(flip).collect()
        };
        for flipped in flips(&entry_record) {
            assert!(decode_entry(Slot(5), &flipped).is_err());
        }
        for flipped in flips(&owner_record) {
            assert!(Owner::decode(&flipped).is_err());
        }
        for flipped in flips(&state_record) {
            assert!(State::decode(&flipped).is_err());
        }
    }

    #[test]
    fn an_entry_in_another_slot_than_its_own_is_noticed() {
        let mut record = Vec::new();
        encode_entry(&entry(), &mut record);
        assert_eq!(decode_entry(Slot(6), &record), Err(RecordError::Damaged));
    }

    #[test]
    fn a_record_of_another_version_is_told_from_a_damaged_one() {
        let mut record = owner().encode();
        record[0] = 2;
        assert_eq!(Owner::decode(&record), Err(RecordError::Version(2)));
        assert_eq!(Owner::decode(&[]), Err(RecordError::Damaged));
    }
}
