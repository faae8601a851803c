//! What a replica's driver needs of a disk, and the store that provides it.
//!
//! The one place in this crate that does I/O: an append-only log in segments, snapshot files, and
//! an identity file, in one directory that one process has open.
//!
//! # Why a format of our own
//!
//! A log needs no B-tree: an embedded database wrote about nine pages for a batch where one append
//! does, and took half of a node's CPU. And only who knows the layout can tell a write that was
//! cut short by a crash, which nobody was told of, from damage to what was acknowledged; can lose
//! one entry to a flipped bit instead of a table; and can run the very same store in a simulator.
//!
//! # What a disk may do
//!
//! It may lose or tear what was not synced, by sectors of 512 bytes; flip bits, refuse to read
//! sectors, bring an old sector to light or put one in a wrong place. The store then keeps its
//! promises, names the entries that are lost so that peers put them back, or refuses to start and
//! says that the node is to be replaced. A failed write or sync is final: nothing is tried again.
//!
//! What no store can notice by itself is that its very last write never arrived though the disk
//! said so, and a disk that as a whole goes back in time. A copied or restored directory is
//! recognised by the inode of its identity file and the machine's name, a rolled-back image of a
//! whole disk is not. A log that lost its end is recognised if it had that end when the store was
//! last opened, or if a later segment is there.
//!
//! # Files
//!
//! | name | what it holds |
//! |---|---|
//! | `identity` | whose store this is, where, and how often it was opened |
//! | `log-<sequence>.seg` | frames, from the one with this sequence number on |
//! | `snapshot-<slot>.snap` | the state up to a slot |
//! | `snapshot-<slot>.tmp` | a snapshot that is being written |
//! | `snapshot-<slot>-<crc>.part` | a snapshot that is being received |
//! | `lock` | nothing; locked while the store is open |
//!
//! Numbers are little-endian, checksums CRC-32C. A ballot is epoch `u32`, round `u64`, node `u64`.
//!
//! # A frame
//!
//! One batch, appended as one piece and made durable with one sync. It begins at a multiple of 512
//! bytes and has a multiple of 512 bytes:
//!
//! | bytes | what |
//! |---|---|
//! | 128 | header |
//! | b | base record, if there is one |
//! | any | entries |
//! | 4 n + 4 | if there are n > 0 entries: length of each record `u32`, checksum of these lengths |
//! | b | base record again |
//! | any | zeros, so that the footer ends a sector |
//! | 128 | footer: the header again, but for its magic |
//!
//! What is between header and footer is scrambled (XOR with a fixed noise), so that a sector of
//! zeros is one that was never written, whatever the payloads are.
//!
//! Behind the newest frame up to 256 KiB of zeros are written ahead: a write that does not make
//! the file longer takes half the time.
//!
//! | header at | what |
//! |---|---|
//! | 0 | magic `PXFH` (footer: `PXFF`) |
//! | 4 | checksum of the rest |
//! | 8 | format version `u8`, three zeros |
//! | 12 | incarnation of the store `u64` |
//! | 20 | sequence number `u64`: 1, 2, 3 ... without a gap |
//! | 28 | offset of the frame in its segment `u64` |
//! | 36 | length of the body `u32`: from the header to the zeros |
//! | 40 | number of entries `u32` |
//! | 44 | length b of the base record `u32`, or 0 |
//! | 48 | slot of the first entry `u64` |
//! | 56 | promised, a ballot |
//! | 76 | accepted, a ballot |
//! | 96 | decided, a slot |
//! | 104 | first slot of the log |
//! | 112 | last slot of the log |
//! | 120 | sequence number of the frame with the newest base `u64` |
//!
//! So every frame tells the whole state, twice: to find it, the newest is enough.
//!
//! A base record is its checksum `u32` and, in postcard, the membership and the meta of the
//! snapshot that the log goes on from. It is in a frame that changes it and in the first of every
//! segment, so that older segments can be removed.
//!
//! | entry at | what |
//! |---|---|
//! | 0 | length of the payload `u32` |
//! | 4 | kind `u8` |
//! | 5 | origin, a ballot |
//! | 25 | the entry's own checksum `u32`, which covers its slot, too |
//! | 29 | payload |
//!
//! There is no checksum of a frame: every part has its own, and so it is known which is damaged.
//!
//! # Torn or damaged
//!
//! A frame is begun when the one before is durable, a segment likewise. So a bad frame with any
//! good one, or a segment, behind it *was* durable: it is damaged. The last one is torn, and was
//! never acknowledged, if the file is too short for it or one of its sectors is zero; then it is
//! cut off before anything else is written. Otherwise it is damaged as well. Half of every sector
//! is noise at least, so a few flipped bits never make the one look like the other.
//!
//! Damaged entries stay part of the log: the log is not shorter for them. If all of a frame is
//! lost, what it may have replaced is lost as well: everything that was not decided before it.
//! If it was the last one, there is no telling what was promised, and the store refuses to open.
//!
//! On opening, the newest frame is written and synced once more before anyone relies on it: the
//! process that wrote it may have ended before its sync, or because of a failed one.
//!
//! # The identity file
//!
//! Two copies, at 0 and at 4096, of 256 bytes:
//!
//! | at | what |
//! |---|---|
//! | 0 | magic `PXID` |
//! | 4 | checksum of the rest |
//! | 8 | format version `u8`, three zeros |
//! | 12 | cell, 16 bytes |
//! | 28 | node `u64` |
//! | 36 | incarnation `u64` |
//! | 44 | inode of this file `u64` |
//! | 52 | number of starts `u64` |
//! | 60 | frames in the log when it was last opened `u64` |
//! | 68 | length of the machine's name `u8`, the name, zeros |
//!
//! # A snapshot file
//!
//! Two copies of the header, at 0 and at 8192: magic `PXSN`, checksum of the rest, version `u8` and
//! three zeros, length `u32`, the [`SnapshotMeta`](crate::SnapshotMeta) in postcard. From 16384 on
//! the state in blocks of 65,532 bytes, the last one shorter, each followed by a checksum `u32` of
//! the slot `u64`, the block's number `u64` and the bytes.

mod error;
mod fields;
mod file_store;
mod files;
mod frame;
mod identity;
mod index;
mod limits;
mod os_files;
mod reader;
mod recovery;
mod report;
mod restart;
mod scramble;
mod scrub;
mod segment;
mod snapshot;
mod step;
mod writer;

#[cfg(test)]
mod tests;

pub use error::StoreError;
pub use file_store::{FileStore, StoredNumbers};
pub use files::{DataFile, Files};
pub use os_files::OsFiles;
pub use report::{Damage, Report};
pub use scrub::{Scrub, Scrubbed};
pub use snapshot::{IncomingSnapshot, SnapshotReader, SnapshotWriter, Snapshots};

use crate::types::{Entry, Recovered, Slot, WriteBatch};

/// Version of every record on disk. A store of another version is refused. (1 was another layout.)
const FORMAT_VERSION: u8 = 2;

/// A durable log with the few numbers that an acceptor must never forget.
///
/// One thread at a time writes; others may read meanwhile.
pub trait LogStore {
    /// Why an operation failed. After a failed write the process must end: what reached the disk
    /// is unknown, and trying again may seem to succeed without it.
    type Error: std::error::Error + Send + Sync + 'static;

    /// What the store remembers: the state to start a replica with.
    ///
    /// # Errors
    ///
    /// If the store cannot be read, or something is damaged that peers cannot repair.
    fn load(&self) -> Result<Recovered, Self::Error>;

    /// Makes the batch durable, all of it or nothing. On return it is.
    ///
    /// # Errors
    ///
    /// If it could not be made durable, or it may not have been.
    fn write(&self, batch: &WriteBatch) -> Result<(), Self::Error>;

    /// The entries from `first` to `last`, as many of them as fit `bytes_max` bytes (each counted
    /// with [`ENTRY_OVERHEAD_BYTES`](crate::limits::ENTRY_OVERHEAD_BYTES) beside its payload),
    /// but at least one. Fewer only at the end of the log, before a damaged entry, or if the log
    /// does not have `first` any more.
    ///
    /// # Errors
    ///
    /// If the store cannot be read at all.
    fn read(&self, first: Slot, last: Slot, bytes_max: usize) -> Result<Read, Self::Error>;
}

/// Entries that were read. None, and none damaged: the log does not have the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Contiguous from the first that was asked for.
    pub entries: Vec<Entry>,
    /// The slot after them, if it is in the log but damaged.
    pub damaged: Option<Slot>,
}
