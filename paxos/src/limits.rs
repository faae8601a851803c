//! Every bound of the crate, as a named constant with its unit, and how the bounds relate.

/// Largest encoded message between replicas, bytes. Fits the frame of any sane transport.
pub const MESSAGE_BYTES_MAX: usize = 60 * 1024;

/// Largest payload of one entry, bytes.
pub const PAYLOAD_BYTES_MAX: usize = 48 * 1024;

/// Bytes that an entry takes in a message at most, beside its payload.
pub const ENTRY_OVERHEAD_BYTES: usize = 48;

/// Bytes that a message takes at most, beside its entries.
pub const MESSAGE_OVERHEAD_BYTES: usize = 160;

/// Bytes of entries in one message at most, each counted with [`ENTRY_OVERHEAD_BYTES`].
pub const MESSAGE_ENTRIES_BYTES_MAX: usize = MESSAGE_BYTES_MAX - MESSAGE_OVERHEAD_BYTES;

/// Most entries in one message.
pub const MESSAGE_ENTRIES_MAX: usize = 1024;

/// Most slots that a leader has proposed and not yet seen decided. More is refused as busy.
pub const WINDOW_SLOTS_MAX: u64 = 8 * 1024;

/// Most payload bytes that a leader has proposed and not yet seen decided.
pub const WINDOW_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Most undecided slots that a replica takes in from a peer.
///
/// Above the leader's own window, because leaders that fail one after the other may each add
/// their `NewLeader` to what the one before left open.
pub const OPEN_SLOTS_MAX: u64 = 2 * WINDOW_SLOTS_MAX;

/// Messages with entries that are on their way to one peer, unacknowledged, at most.
pub const INFLIGHT_MESSAGES_MAX: usize = 4;

/// Confirm rounds that are on their way at most. The next begins when one of them has ended.
pub const INFLIGHT_CONFIRMS_MAX: u64 = 2;

/// Bytes of decided entries that are kept in memory for peers that are a little behind.
pub const TAIL_CACHE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Entries that are kept in memory for the same purpose at most.
pub const TAIL_CACHE_ENTRIES_MAX: usize = 64 * 1024;

/// Most entries of one [`Output::Apply`](crate::Output::Apply).
pub const APPLY_ENTRIES_MAX: usize = 1024;

/// Bytes of a snapshot in one message.
pub const CHUNK_BYTES_MAX: usize = 56 * 1024;

/// Bytes of a snapshot that came and are not stored yet at most.
pub const CHUNKS_UNSTORED_MAX: u64 = 8 * CHUNK_BYTES_MAX as u64;

/// How many entries a node may lack that is to become a member.
pub const LEARNER_LAG_MAX: u64 = WINDOW_SLOTS_MAX;

/// Nodes without a vote that a replica keeps account of.
pub const LEARNERS_MAX: usize = 8;

/// Entries before a snapshot that are kept for peers that are a little behind.
pub const TAIL_SLOTS_MAX: u64 = 16 * 1024;

/// Entries that a leader keeps for a follower that is heard but slow.
pub const LOG_SLOTS_MAX: u64 = 256 * 1024;

/// Damaged slots that are being repaired at once.
pub const REPAIRS_MAX: usize = 64;

/// Longest [`Membership::context`](crate::Membership), bytes.
pub const MEMBERSHIP_CONTEXT_BYTES_MAX: usize = 4 * 1024;

/// Most members of a cell.
pub const MEMBERS_MAX: usize = 9;

/// The bounds that a simulation may tighten, to reach them with little work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// See [`MESSAGE_ENTRIES_BYTES_MAX`]. One entry is sent in any case.
    pub message_entries_bytes: usize,
    /// See [`WINDOW_SLOTS_MAX`].
    pub window_slots: u64,
    /// See [`TAIL_CACHE_ENTRIES_MAX`].
    pub tail_cache_entries: usize,
    /// See [`TAIL_SLOTS_MAX`].
    pub tail_slots: u64,
    /// See [`LOG_SLOTS_MAX`].
    pub log_slots: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            message_entries_bytes: MESSAGE_ENTRIES_BYTES_MAX,
            window_slots: WINDOW_SLOTS_MAX,
            tail_cache_entries: TAIL_CACHE_ENTRIES_MAX,
            tail_slots: TAIL_SLOTS_MAX,
            log_slots: LOG_SLOTS_MAX,
        }
    }
}

const _: () = assert!(PAYLOAD_BYTES_MAX + ENTRY_OVERHEAD_BYTES <= MESSAGE_ENTRIES_BYTES_MAX);
const _: () = assert!(PAYLOAD_BYTES_MAX <= WINDOW_BYTES_MAX);
const _: () = assert!(CHUNK_BYTES_MAX + MESSAGE_OVERHEAD_BYTES <= MESSAGE_BYTES_MAX);
const _: () = assert!(MEMBERSHIP_CONTEXT_BYTES_MAX + 1024 <= PAYLOAD_BYTES_MAX);
const _: () = assert!(WINDOW_SLOTS_MAX < OPEN_SLOTS_MAX);
const _: () = assert!(INFLIGHT_MESSAGES_MAX > 0 && INFLIGHT_CONFIRMS_MAX > 0);
const _: () = assert!(MESSAGE_ENTRIES_MAX > 0 && APPLY_ENTRIES_MAX > 0);
