//! The body of a snapshot file: blocks of 64 KiB, each with its checksum.

use std::io;

use crate::store::files::DataFile;
use crate::store::limits::UNSYNCED_BLOCKS_MAX;
use crate::store::snapshot::BODY_AT;
use crate::types::Slot;

/// A block with its checksum, bytes. The last one of a file is shorter.
const BLOCK_BYTES: usize = 64 * 1024;
const CRC_BYTES: usize = 4;
const DATA_BYTES: usize = BLOCK_BYTES - CRC_BYTES;

/// Writes blocks one after the other.
#[derive(Debug)]
pub(super) struct BodyWriter {
    slot: Slot,
    /// The next block's number.
    block: u64,
    /// What is not a whole block yet.
    rest: Vec<u8>,
    bytes: u64,
    crc: u32,
    unsynced: u32,
}

impl BodyWriter {
    pub(super) fn new(slot: Slot) -> BodyWriter {
        BodyWriter {
            slot,
            block: 0,
            rest: Vec::with_capacity(BLOCK_BYTES),
            bytes: 0,
            crc: 0,
            unsynced: 0,
        }
    }

    /// Goes on behind the whole blocks that are right in a file of a snapshot of `bytes` bytes.
    pub(super) fn resume(file: &impl DataFile, slot: Slot, bytes: u64) -> io::Result<BodyWriter> {
        let mut body = BodyWriter::new(slot);
        while body.bytes < bytes {
            let Some(data) = read_block(file, slot, body.block, bytes)? else {
                break;
            };
            if data.len() < DATA_BYTES {
                break;
            }
            body.count(&data);
            body.block += 1;
        }
        file.truncate(block_at(body.block))?;
        Ok(body)
    }

    /// How much was appended so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// CRC-32C of all that was appended.
    pub(super) fn crc(&self) -> u32 {
        self.crc
    }

    pub(super) fn append(&mut self, file: &impl DataFile, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(DATA_BYTES - self.rest.len()));
            self.rest.extend_from_slice(now);
            self.count(now);
            data = later;
            if self.rest.len() == DATA_BYTES {
                self.write_block(file)?;
            }
        }
        Ok(())
    }

    /// Writes what is left. The file is complete then, but not synced.
    pub(super) fn finish(&mut self, file: &impl DataFile) -> io::Result<()> {
        if self.rest.is_empty() {
            return Ok(());
        }
        self.write_block(file)
    }

    fn write_block(&mut self, file: &impl DataFile) -> io::Result<()> {
        let crc = checksum(self.slot, self.block, &self.rest);
        self.rest.extend(crc.to_le_bytes());
        file.write_all_at(block_at(self.block), &self.rest)?;
        self.rest.clear();
        self.block += 1;
        self.unsynced += 1;
        if self.unsynced >= UNSYNCED_BLOCKS_MAX {
            file.sync()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    fn count(&mut self, data: &[u8]) {
        self.bytes += data.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, data);
    }
}

/// The block that holds the byte at `offset` of the state, and where in it that is.
pub(super) fn locate(offset: u64) -> (u64, usize) {
    let data = DATA_BYTES as u64;
    (offset / data, (offset % data) as usize)
}

/// The data of a block of a snapshot of `bytes` bytes, if it is there and right.
pub(super) fn read_block(
    file: &impl DataFile,
    slot: Slot,
    block: u64,
    bytes: u64,
) -> io::Result<Option<Vec<u8>>> {
    let before = block.saturating_mul(DATA_BYTES as u64);
    let length = bytes.saturating_sub(before).min(DATA_BYTES as u64) as usize;
    if length == 0 {
        return Ok(None);
    }
    let mut data = vec![0; length + CRC_BYTES];
    let read = file.read_full_at(block_at(block), &mut data)?;
    let whole = read == data.len();
    let crc = data.split_off(length);
    let right = whole && checksum(slot, block, &data).to_le_bytes() == crc[..];
    Ok(right.then_some(data))
}

/// The length of the file of a complete snapshot of `bytes` bytes.
pub(super) fn file_bytes(bytes: u64) -> u64 {
    let blocks = bytes.div_ceil(DATA_BYTES as u64);
    BODY_AT
        .saturating_add(bytes)
        .saturating_add(blocks * CRC_BYTES as u64)
}

fn block_at(block: u64) -> u64 {
    BODY_AT.saturating_add(block.saturating_mul(BLOCK_BYTES as u64))
}

/// Names the snapshot and the block, so that neither can be taken for another.
fn checksum(slot: Slot, block: u64, data: &[u8]) -> u32 {
    let mut head = [0; 16];
    head[..8].copy_from_slice(&slot.0.to_le_bytes());
    head[8..].copy_from_slice(&block.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&head), data)
}
