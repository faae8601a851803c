//! A frame: one batch as it lies in a segment. Encoding it, and taking it apart.
//!
//! The module documentation of the store has the layout.

use bytes::Bytes;

use crate::limits::PAYLOAD_BYTES_MAX;
use crate::membership::Membership;
use crate::store::FORMAT_VERSION;
use crate::store::fields::{Fields, put_ballot};
use crate::store::limits::{BASE_BYTES_MAX, FRAME_BYTES_MAX};
use crate::store::scramble::Scramble;
use crate::types::{Ballot, Entry, EntryKind, Incarnation, Slot, SnapshotMeta};

/// What a disk writes whole or not at all, bytes.
pub(super) const SECTOR_BYTES: usize = 512;

/// A header or a footer, bytes.
pub(super) const HEADER_BYTES: usize = 128;

/// Before the payload of an entry, bytes.
pub(super) const ENTRY_HEAD_BYTES: usize = 29;

const HEADER_MAGIC: [u8; 4] = *b"PXFH";
const FOOTER_MAGIC: [u8; 4] = *b"PXFF";
const CRC_BYTES: usize = 4;

/// The numbers that an acceptor must not forget, as they are after a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) promised: Ballot,
    pub(super) accepted: Ballot,
    pub(super) decided: Slot,
    /// Where the log begins. What is before is not needed any more.
    pub(super) first: Slot,
    /// Where the log ends.
    pub(super) end: Slot,
    /// The sequence number of the frame with the newest base.
    pub(super) base: u64,
}

/// What rarely changes and is too long for every header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) membership: Membership,
    pub(super) snapshot: Option<SnapshotMeta>,
}

/// What the header of a frame says, and its footer says again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) incarnation: Incarnation,
    /// Counts the frames of a store from 1, without a gap.
    pub(super) sequence: u64,
    /// Where the frame begins in its segment.
    pub(super) offset: u64,
    /// Bytes between header and padding.
    pub(super) body_bytes: u32,
    /// Entries in it.
    pub(super) count: u32,
    /// Length of the base record, 0 if there is none.
    pub(super) base_bytes: u32,
    /// The slot of the first entry.
    pub(super) first_entry: Slot,
    pub(super) numbers: Numbers,
}

/// Where an entry's record lies in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordAt {
    /// From the beginning of the frame.
    pub(super) offset: usize,
    pub(super) bytes: usize,
    /// The entry's checksum, if what is there is the entry.
    pub(super) crc: Option<u32>,
}

/// A frame taken apart.
#[derive(Debug)]
pub(super) struct Parts {
    /// The base record, if there is one and either copy of it is right.
    pub(super) base: Option<Base>,
    /// As many as the header says.
    pub(super) records: Vec<RecordAt>,
    /// Something is damaged, be it of consequence or not.
    pub(super) damaged: bool,
}

impl Header {
    /// The whole frame, bytes.
    pub(super) fn frame_bytes(&self) -> usize {
        (2 * HEADER_BYTES + self.body_bytes as usize).next_multiple_of(SECTOR_BYTES)
    }

    pub(super) fn encode_header(&self) -> Vec<u8> {
        self.encode(HEADER_MAGIC)
    }

    pub(super) fn encode_footer(&self) -> Vec<u8> {
        self.encode(FOOTER_MAGIC)
    }

    /// The header that these bytes begin with.
    pub(super) fn decode_header(bytes: &[u8]) -> Option<Header> {
        Header::decode(HEADER_MAGIC, bytes)
    }

    /// The footer that these bytes end with.
    pub(super) fn decode_footer(bytes: &[u8]) -> Option<Header> {
        let (_, footer) = bytes.split_last_chunk::<HEADER_BYTES>()?;
        Header::decode(FOOTER_MAGIC, footer)
    }

    fn encode(&self, magic: [u8; 4]) -> Vec<u8> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend(magic);
        header.extend([0; CRC_BYTES]);
        header.extend([FORMAT_VERSION, 0, 0, 0]);
        header.extend(self.incarnation.0.to_le_bytes());
        header.extend(self.sequence.to_le_bytes());
        header.extend(self.offset.to_le_bytes());
        header.extend(self.body_bytes.to_le_bytes());
        header.extend(self.count.to_le_bytes());
        header.extend(self.base_bytes.to_le_bytes());
        header.extend(self.first_entry.0.to_le_bytes());
        put_ballot(&mut header, self.numbers.promised);
        put_ballot(&mut header, self.numbers.accepted);
        header.extend(self.numbers.decided.0.to_le_bytes());
        header.extend(self.numbers.first.0.to_le_bytes());
        header.extend(self.numbers.end.0.to_le_bytes());
        header.extend(self.numbers.base.to_le_bytes());
        let crc = crc32c::crc32c(&header[8..]);
        header[4..8].copy_from_slice(&crc.to_le_bytes());
        header
    }

    fn decode(expected: [u8; 4], bytes: &[u8]) -> Option<Header> {
        let mut fields = Fields(bytes.get(..HEADER_BYTES)?);
        let magic = fields.array()?;
        let crc = fields.u32()?;
        if magic != expected || crc != crc32c::crc32c(fields.0) {
            return None;
        }
        let [version, ..] = fields.array::<4>()?;
        let header = Header {
            incarnation: Incarnation(fields.u64()?),
            sequence: fields.u64()?,
            offset: fields.u64()?,
            body_bytes: fields.u32()?,
            count: fields.u32()?,
            base_bytes: fields.u32()?,
            first_entry: fields.slot()?,
            numbers: Numbers {
                promised: fields.ballot()?,
                accepted: fields.ballot()?,
                decided: fields.slot()?,
                first: fields.slot()?,
                end: fields.slot()?,
                base: fields.u64()?,
            },
        };
        let entries_at_least = (ENTRY_HEAD_BYTES as u64 + 4) * u64::from(header.count);
        let fits = header.frame_bytes() <= FRAME_BYTES_MAX
            && u64::from(header.base_bytes) * 2 + entries_at_least <= header.body_bytes.into()
            && header.base_bytes as usize <= BASE_BYTES_MAX;
        (version == FORMAT_VERSION && fits).then_some(header)
    }

    /// Where the table of the records' lengths begins in the frame; it ends the entries.
    fn table_at(&self) -> usize {
        let behind = match self.count {
            0 => 0,
            count => 4 * count as usize + CRC_BYTES,
        };
        HEADER_BYTES + (self.body_bytes - self.base_bytes) as usize - behind
    }
}

impl Base {
    /// The last slot that the snapshot holds.
    pub(super) fn covered(&self) -> Slot {
        self.snapshot.as_ref().map_or(Slot::NONE, |meta| meta.slot)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut record = vec![0; CRC_BYTES];
        let encoded = postcard::to_allocvec(&(&self.membership, &self.snapshot));
        record.extend(encoded.expect("data made of numbers, bytes and sequences has an encoding"));
        let crc = crc32c::crc32c(&record[CRC_BYTES..]);
        record[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
        record
    }

    fn decode(record: &[u8]) -> Option<Base> {
        let (crc, encoded) = record.split_first_chunk::<CRC_BYTES>()?;
        if crc32c::crc32c(encoded) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (membership, snapshot) = postcard::from_bytes(encoded).ok()?;
        Some(Base {
            membership,
            snapshot,
        })
    }
}

/// Puts a frame together in `into`. The header's lengths are set here; where each entry's record
/// lies is given back.
pub(super) fn encode(
    into: &mut Vec<u8>,
    header: &mut Header,
    scramble: Scramble,
    base: Option<&Base>,
    entries: &[Entry],
) -> Vec<RecordAt> {
    into.clear();
    into.resize(HEADER_BYTES, 0);
    let base = base.map(Base::encode).unwrap_or_default();
    into.extend(&base);
    let mut records = Vec::with_capacity(entries.len());
    for entry in entries {
        let offset = into.len();
        into.extend((entry.payload.len() as u32).to_le_bytes());
        into.push(entry.kind.tag());
        put_ballot(into, entry.origin);
        into.extend(entry.crc.to_le_bytes());
        into.extend_from_slice(&entry.payload);
        records.push(RecordAt {
            offset,
            bytes: into.len() - offset,
            crc: Some(entry.crc),
        });
    }
    if !records.is_empty() {
        let table = into.len();
        for record in &records {
            into.extend((record.bytes as u32).to_le_bytes());
        }
        let crc = crc32c::crc32c(&into[table..]);
        into.extend(crc.to_le_bytes());
    }
    into.extend(&base);
    header.body_bytes = (into.len() - HEADER_BYTES) as u32;
    header.base_bytes = base.len() as u32;
    header.count = entries.len() as u32;
    header.first_entry = entries.first().map_or(Slot::NONE, |entry| entry.slot);
    into.resize(header.frame_bytes() - HEADER_BYTES, 0);
    scramble.apply(
        header.offset + HEADER_BYTES as u64,
        &mut into[HEADER_BYTES..],
    );
    into.extend(header.encode_footer());
    into[..HEADER_BYTES].copy_from_slice(&header.encode_header());
    records
}

/// How long a frame of these entries would be, without a base, bytes.
pub(super) fn bytes_of(entries: &[Entry]) -> usize {
    let record = |entry: &Entry| ENTRY_HEAD_BYTES + entry.payload.len() + 4;
    2 * HEADER_BYTES + entries.iter().map(record).sum::<usize>()
}

/// Takes apart a frame of which `header` is known. `frame` is unscrambled in place; it may be
/// shorter than it should be.
pub(super) fn take_apart(header: &Header, scramble: Scramble, frame: &mut [u8]) -> Parts {
    let whole = header.frame_bytes();
    let mut damaged = frame.len() < whole
        || Header::decode_header(frame) != Some(*header)
        || Header::decode_footer(frame) != Some(*header);
    let body_end = frame.len().min(whole - HEADER_BYTES);
    if let Some(body) = frame.get_mut(HEADER_BYTES..body_end) {
        scramble.apply(header.offset + HEADER_BYTES as u64, body);
    }
    let base_bytes = header.base_bytes as usize;
    let mut base = None;
    if base_bytes > 0 {
        let second = HEADER_BYTES + header.body_bytes as usize - base_bytes;
        for at in [HEADER_BYTES, second] {
            let copy = frame.get(at..at + base_bytes).and_then(Base::decode);
            damaged |= copy.is_none();
            base = base.or(copy);
        }
    }
    let (records, tables_right) = records(header, frame);
    damaged |= !tables_right || records.iter().any(|record| record.crc.is_none());
    let padding = HEADER_BYTES + header.body_bytes as usize..whole - HEADER_BYTES;
    damaged |= frame
        .get(padding)
        .is_none_or(|padding| padding.iter().any(|byte| *byte != 0));
    Parts {
        base,
        records,
        damaged,
    }
}

/// The records of a frame's entries, and whether both ways to find them agree.
///
/// The table has all lengths, and each record has its own: one of the two is enough.
fn records(header: &Header, frame: &[u8]) -> (Vec<RecordAt>, bool) {
    let count = header.count as usize;
    let table_at = header.table_at();
    let table = match count {
        0 => Some(&[][..]),
        _ => table(frame.get(table_at..), count),
    };
    let mut inline_right = true;
    let mut records = Vec::with_capacity(count);
    let mut offset = HEADER_BYTES + header.base_bytes as usize;
    for index in 0..count {
        let slot = Slot(header.first_entry.0.saturating_add(index as u64));
        let own = frame.get(offset..).and_then(|rest| Fields(rest).u32());
        let own = own.map(|payload| (payload as usize).saturating_add(ENTRY_HEAD_BYTES));
        let listed = table.and_then(|table| Fields(table.get(4 * index..)?).u32());
        let listed = listed.map(|bytes| bytes as usize);
        inline_right &= table.is_none() || own == listed;
        let bytes = listed.or(own).unwrap_or(0);
        let end = offset.saturating_add(bytes);
        let record = frame.get(offset..end).filter(|_| end <= table_at);
        let entry = record.and_then(|record| decode_entry(slot, record));
        let lost = record.is_none();
        records.push(RecordAt {
            offset: if lost { 0 } else { offset },
            bytes: if lost { 0 } else { bytes },
            crc: entry.map(|entry| entry.crc),
        });
        offset = if lost { usize::MAX } else { end };
    }
    (records, table.is_some() && inline_right)
}

/// The table at the beginning of these bytes, if it is right.
fn table(bytes: Option<&[u8]>, count: usize) -> Option<&[u8]> {
    let mut fields = Fields(bytes?);
    let table = fields.bytes(4 * count)?;
    (fields.u32()? == crc32c::crc32c(table)).then_some(table)
}

/// The entry of a slot, if this is its record and sound.
pub(super) fn decode_entry(slot: Slot, record: &[u8]) -> Option<Entry> {
    let mut fields = Fields(record);
    // The length is the reader's business: it found the record.
    fields.u32()?;
    let kind = EntryKind::from_tag(fields.u8()?)?;
    let origin = fields.ballot()?;
    let crc = fields.u32()?;
    if fields.0.len() > PAYLOAD_BYTES_MAX {
        return None;
    }
    let entry = Entry {
        slot,
        origin,
        kind,
        payload: Bytes::copy_from_slice(fields.0),
        crc,
    };
    entry.is_intact().then_some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Epoch, NodeId};

    fn ballot(round: u64) -> Ballot {
        Ballot {
            epoch: Epoch(1),
            round,
            node: NodeId(2),
        }
    }

    fn header() -> Header {
        Header {
            incarnation: Incarnation(9),
            sequence: 3,
            offset: 1024,
            body_bytes: 0,
            count: 0,
            base_bytes: 0,
            first_entry: Slot::NONE,
            numbers: Numbers {
                promised: ballot(4),
                accepted: ballot(3),
                decided: Slot(5),
                first: Slot(2),
                end: Slot(8),
                base: 1,
            },
        }
    }

    fn frame(header: &mut Header) -> Vec<u8> {
        let base = Base {
            membership: Membership::first([NodeId(1)]).unwrap(),
            snapshot: None,
        };
        let payload = |byte| Bytes::from(vec![byte; 7]);
        let entries = [
            Entry::new(Slot(7), ballot(3), EntryKind::Command, payload(0)),
            Entry::new(Slot(8), ballot(3), EntryKind::NewLeader, Bytes::new()),
        ];
        let mut frame = Vec::new();
        encode(&mut frame, header, Scramble::new(9), Some(&base), &entries);
        frame
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_frame_on_disk_stays_as_it_is() {
        let mut header = header();
        let mut frame = frame(&mut header);
        assert_eq!(frame.len(), 512);
        assert_eq!(
            hex(&frame[..128]),
            "50584648b470a3ce0200000009000000000000000300000000000000000400000000000065000000\
             020000000c0000000700000000000000010000000400000000000000020000000000000001000000\
             03000000000000000200000000000000050000000000000002000000000000000800000000000000\
             0100000000000000"
        );
        assert_eq!(
            hex(&frame[388..512]),
            hex(&frame[4..128]),
            "but for the magic"
        );
        Scramble::new(9).apply(1024 + 128, &mut frame[128..384]);
        let body = 128 + header.body_bytes as usize;
        assert_eq!(
            hex(&frame[128..body]),
            "16df32020101010101010000070000000201000000030000000000000002000000000000004f2e1d\
             4f000000000000000000000001010000000300000000000000020000000000000095d16550240000\
             001d000000ee1c721916df32020101010101010000"
        );
        assert!(frame[body..384].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_flipped_bit_is_noticed_and_harms_one_part_only() {
        let mut header = header();
        let whole = frame(&mut header);
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            let found = Header::decode_header(&flipped).or(Header::decode_footer(&flipped));
            assert_eq!(found, Some(header), "byte {at}");
            let parts = take_apart(&header, Scramble::new(9), &mut flipped);
            assert!(parts.damaged, "byte {at}");
            assert!(parts.base.is_some(), "byte {at}");
            let lost = parts.records.iter().filter(|record| record.crc.is_none());
            assert!(lost.count() <= 1, "byte {at}");
        }
    }

    #[test]
    fn a_header_whose_lengths_contradict_each_other_is_none() {
        let changes: [fn(&mut Header); 4] = [
            |header| header.count = 3,
            |header| header.base_bytes = 60,
            |header| header.body_bytes = u32::MAX,
            |header| header.count = u32::MAX,
        ];
        for change in changes {
            let mut header = header();
            frame(&mut header);
            assert_eq!(Header::decode_header(&header.encode_header()), Some(header));
            change(&mut header);
            assert_eq!(Header::decode_header(&header.encode_header()), None);
        }
    }
}
