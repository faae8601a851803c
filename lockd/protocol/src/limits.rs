//! Every bound of the protocol, as a named constant with its unit.

/// Version of the client protocol that this crate speaks.
pub const CLIENT_PROTOCOL_VERSION: u16 = 4;

/// Version of what the nodes of a cell say to each other.
pub const PEER_PROTOCOL_VERSION: u16 = 2;

/// TLS application protocol of client connections.
pub const CLIENT_ALPN: &[u8] = b"lockd/1";

/// TLS application protocol of connections between the nodes of a cell.
pub const PEER_ALPN: &[u8] = b"lockd-peer/1";

/// Largest payload of one frame, bytes. Checked before anything is allocated.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;

/// Bytes of the length that precedes a frame's payload.
pub const FRAME_PREFIX_BYTES: usize = 4;

/// Longest lock name, bytes of UTF-8.
pub const LOCK_NAME_BYTES_MAX: usize = 256;

/// Longest free text (a session's description, the reason of a break), bytes of UTF-8.
pub const TEXT_BYTES_MAX: usize = 256;

/// Most labels of a session.
pub const LABELS_MAX: usize = 16;

/// Longest key of a label, bytes.
pub const LABEL_KEY_BYTES_MAX: usize = 63;

/// Longest value of a label, bytes of UTF-8.
pub const LABEL_VALUE_BYTES_MAX: usize = 128;

/// Keys and values of a session's labels together, bytes.
pub const LABELS_BYTES_MAX: usize = 1024;

/// Shortest session TTL, milliseconds.
pub const TTL_MIN_MS: u64 = 500;

/// Longest session TTL, milliseconds (24 hours).
pub const TTL_MAX_MS: u64 = 24 * 60 * 60 * 1000;

/// How far a client may run ahead of its lowest unanswered request, requests.
///
/// The node remembers the answers of this many requests per session, so that a retry gets the
/// first answer. A client that is further ahead is refused.
pub const SESSION_WINDOW: u64 = 1024;

/// Most acquisitions (held or waited for) of one session.
pub const ACQUISITIONS_PER_SESSION_MAX: usize = 1 << 20;

/// Most locks that one acquisition may name.
pub const WANTS_MAX: usize = 64;

/// Most permits of a semaphore.
pub const PERMITS_MAX: u32 = 10_000;

/// Longest name of a semaphore, bytes: its permits' fences are called `name#slot`.
pub const SEMAPHORE_NAME_BYTES_MAX: usize = LOCK_NAME_BYTES_MAX - 8;

/// Most often that an owner may hold one lock at the same time.
pub const REENTRIES_MAX: u32 = 10_000;

/// Longest metadata of a hold, bytes.
pub const METADATA_BYTES_MAX: usize = 4096;

/// Most watches of one connection.
pub const WATCHES_PER_CONNECTION_MAX: usize = 1024;

/// Longest time that a lock may stay closed after the session of its holder expired, ms.
pub const LOCK_DELAY_MAX_MS: u64 = 60_000;

/// Most steps of a circle of waits that are told.
pub const CIRCLE_TOLD_MAX: usize = 32;

/// Most holders that the answer to a break names.
pub const BROKEN_HOLDERS_TOLD_MAX: usize = 1000;

/// Most items in one page of a listing. A page also ends where its frame would be full.
pub const PAGE_ITEMS_MAX: u32 = 1000;

/// Longest printable ticket, bytes.
pub const TICKET_TEXT_BYTES_MAX: usize = 640;

/// Tokens stay below this, so that they fit a database's signed 64-bit integer.
pub const TOKEN_END: u64 = 1 << 63;

/// Bits of a token that count grants; the bits above hold the cell's restore epoch.
pub const TOKEN_COUNTER_BITS: u32 = 48;

/// Assumed bound on how far any two clocks' rates may differ from true time, parts per thousand.
///
/// A client shortens its lease by twice this bound (both clocks may be off).
pub const CLOCK_RATE_BOUND_PER_MILLE: u64 = 10;

const _: () = assert!(
    WANTS_MAX * (LOCK_NAME_BYTES_MAX + 16) + TEXT_BYTES_MAX + METADATA_BYTES_MAX < FRAME_BYTES_MAX
);
const _: () = assert!(METADATA_BYTES_MAX + LOCK_NAME_BYTES_MAX + 1024 < FRAME_BYTES_MAX);
const _: () = assert!(WANTS_MAX * (TICKET_TEXT_BYTES_MAX + 32) < FRAME_BYTES_MAX);
const _: () =
    assert!(CIRCLE_TOLD_MAX * (LOCK_NAME_BYTES_MAX + TEXT_BYTES_MAX + 32) < FRAME_BYTES_MAX);
const _: () = assert!(BROKEN_HOLDERS_TOLD_MAX * 20 < FRAME_BYTES_MAX);
const _: () = assert!(PERMITS_MAX < 10_000_000); // seven digits and the '#' are eight bytes
const _: () = assert!(TTL_MIN_MS < TTL_MAX_MS);
const _: () = assert!(LOCK_NAME_BYTES_MAX + TEXT_BYTES_MAX + 1024 < FRAME_BYTES_MAX);
const _: () = assert!(TOKEN_COUNTER_BITS < 63);
