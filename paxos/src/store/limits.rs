//! Every bound of the store, and how they relate.

use crate::limits::{MEMBERSHIP_CONTEXT_BYTES_MAX, WINDOW_BYTES_MAX};

/// A segment is followed by the next one when it has this length, bytes.
pub(super) const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

/// So many zeros are written behind a frame at once, so that the next ones need not make the file
/// longer: then the file system has nothing to do but to write them, in half the time.
pub(super) const ZEROS_BYTES: u64 = 256 * 1024;

/// Larger frames than this, bytes, gain nothing by that.
pub(super) const FRAME_BYTES_WITH_ZEROS_MAX: usize = 32 * 1024;

/// Largest frame, bytes; far more than a leader's window.
pub(super) const FRAME_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Longer files, bytes, are none of the store's, and not read into memory.
pub(super) const SEGMENT_FILE_BYTES_MAX: u64 = SEGMENT_BYTES + FRAME_BYTES_MAX as u64;

/// Longest base record, bytes: two memberships and some numbers.
pub(super) const BASE_BYTES_MAX: usize = 2 * MEMBERSHIP_CONTEXT_BYTES_MAX + 1024;

/// Slots without a place that are kept account of one by one, between such that have one.
pub(super) const GAP_SLOTS_MAX: u64 = 64 * 1024;

/// Most damaged places that are told one by one.
pub(super) const DAMAGES_MAX: usize = 1000;

/// Entries that lie this close together, bytes, are read at once.
pub(super) const READ_GAP_BYTES_MAX: u64 = 4096;

/// Most bytes of several entries that are read at once.
pub(super) const READ_BYTES_MAX: u64 = 1024 * 1024;

/// A snapshot is synced after so many blocks of 64 KiB, so that no sync has much to do: the log's
/// own syncs wait for what the disk is busy with.
pub(super) const UNSYNCED_BLOCKS_MAX: u32 = 16;

const _: () = assert!(FRAME_BYTES_MAX >= 4 * WINDOW_BYTES_MAX);
// Places in a segment are numbers of 32 bits.
const _: () = assert!(SEGMENT_FILE_BYTES_MAX <= u32::MAX as u64);
const _: () = assert!(FRAME_BYTES_WITH_ZEROS_MAX as u64 * 8 <= ZEROS_BYTES);
const _: () = assert!(ZEROS_BYTES <= SEGMENT_BYTES && BASE_BYTES_MAX < FRAME_BYTES_MAX / 8);
