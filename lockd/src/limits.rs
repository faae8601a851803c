//! Every bound of the server, as a named constant with its unit.

use std::time::Duration;

use lockd_protocol::limits::FRAME_BYTES_MAX;

/// Most sessions of a cell. One more is refused as busy.
pub const SESSIONS_MAX: usize = 1 << 20;

/// Most sessions that one question looks at, however few of them have the labels asked for.
pub const SESSIONS_SCANNED_MAX: usize = 16 * 1024;

/// Encoded commands that may wait for the log, bytes; those of one connection may take half of
/// what is still free. More are refused as busy.
pub const PENDING_COMMANDS_BYTES_MAX: usize = 16 << 20;

/// Bytes of commands that a connection may have in the next entry before it has to take turns.
pub const ENTRY_SHARE_BYTES: usize = 8 * 1024;

/// Linearizable questions that may wait for their confirmation. More are refused as busy.
pub const PENDING_QUERIES_MAX: usize = 64 * 1024;

/// The same for one connection, and how many of all are answered in one turn of the loop.
pub const PENDING_QUERIES_PER_CONNECTION_MAX: usize = 1024;
/// See [`PENDING_QUERIES_PER_CONNECTION_MAX`].
pub const QUERIES_PER_TURN_MAX: usize = 16;

/// Notes that a leader keeps of when tokens and places in queues were given out.
pub const AGE_NOTES_MAX: usize = 4096;

/// Waits that are looked at, at most, before an acquisition that would have to wait is believed to
/// close no circle.
pub const DEADLOCK_STEPS_MAX: usize = 10_000;

/// Renewals that may wait for their confirmation. More are dropped; clients repeat them.
pub const PENDING_RENEWALS_MAX: usize = 1 << 20;

/// Renewals of one connection that may wait for their confirmation: so many, and so many more for
/// each of its sessions. More are dropped; clients repeat them.
pub const RENEWALS_PER_CONNECTION_MAX: usize = 1024;
/// Renewals of one session that may wait for their confirmation.
pub const RENEWALS_PER_SESSION_MAX: usize = 4;

/// How long a connection is not read from after something that it asked was refused because there
/// is too much of it: whoever floods costs little.
pub const PRESSED_PAUSE: Duration = Duration::from_millis(20);

/// So much longer for each so many things that were refused at once.
pub const PRESSED_PART: u32 = 64;

/// Longest such pause: what renews sessions is behind the rest on the same connection.
pub const PRESSED_PAUSE_MAX: Duration = Duration::from_millis(200);

/// Frames of one connection after which others are read from.
pub const FRAMES_PER_TURN_MAX: u32 = 256;

/// Bytes that may wait to be written to one client. A client that does not read is cut off.
pub const CLIENT_OUTBOX_BYTES_MAX: usize = 8 << 20;

/// Bytes that may wait to be written to one peer. What does not fit is lost, as on any network.
pub const PEER_OUTBOX_BYTES_MAX: usize = 16 << 20;

/// Changes of who holds what that a node remembers, for watches that are behind.
pub const HISTORY_EVENTS_MAX: usize = 32 * 1024;

/// Bytes of them, with their names and metadata.
pub const HISTORY_BYTES_MAX: usize = 16 << 20;

/// Most watches of a node. One more is refused as busy.
pub const WATCHES_MAX: usize = 1 << 18;

/// Bytes that may wait to be written to a client before its watches wait too. What they miss
/// meanwhile they are told later, as long as the node remembers it.
pub const WATCH_OUTBOX_BYTES_MAX: usize = 64 << 10;

/// Remembered changes that are looked at in one turn, at most, for watches that are behind.
pub const WATCH_SCANS_PER_TURN_MAX: usize = 32 * 1024;

/// What watches are told in one turn, at most: changes, or pages of a listing.
pub const WATCH_TOLD_PER_TURN_MAX: usize = 4096;

/// Pages of listings in one turn, at most.
pub const WATCH_PAGES_PER_TURN_MAX: usize = 16;

/// Locks that are looked at, at most, for one page of a listing of holders.
pub const LISTED_LOCKS_PER_PAGE_MAX: usize = 1024;

/// Most client connections of a node.
pub const CLIENT_CONNECTIONS_MAX: usize = 16 * 1024;

/// A session is not expired before its deadline has been over for this long: what arrived in
/// time is then certain to have been read.
pub const EXPIRY_GRACE: Duration = Duration::from_millis(50);

/// A gap between two turns of the node's loop beyond which it gives every session its full TTL
/// again: it did not listen, so it must not judge.
pub const STALL: Duration = Duration::from_millis(250);

/// Most expiries proposed in one turn, so that a mass expiry does not starve renewals.
pub const EXPIRIES_PER_TURN_MAX: usize = 1024;

/// A session that is not heard is noted as silent in the log each time that so small a part of its
/// TTL has passed: leaderships that last as long as that bring its end nearer.
pub const SILENCE_PART: u32 = 8;

/// Entries of the log since the last snapshot after which another one is made, if they are longer
/// than that one.
pub const COMPACT_ENTRIES_MIN: u64 = 64 * 1024;

/// Bytes of the log since the last snapshot after which another one is made, if they are longer
/// than that one.
pub const COMPACT_BYTES_MIN: u64 = 16 << 20;

/// Pause before a snapshot that could not be made is tried again.
pub const COMPACT_RETRY: Duration = Duration::from_secs(10);

/// Sessions and locks up to which a node compares its own state with what its disk says.
pub const COMPARED_ITEMS_MAX: usize = 4096;

/// Bytes that the making of a snapshot reads or writes in one step.
pub const COMPACT_STEP_BYTES: usize = 128 * 1024;

/// Pause after each step of the making of a snapshot, for everything else that the machine does.
pub const COMPACT_PAUSE: Duration = Duration::from_millis(1);

/// How long a node that ends waits for each of its threads, which its disk may hold up.
pub const WORKER_END_MAX: Duration = Duration::from_secs(3);

/// Pause between two passes of a scrub over a node's store, unless it is configured otherwise.
pub const SCRUB_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Shortest and longest such pause that may be configured.
pub const SCRUB_EVERY_MIN: Duration = Duration::from_secs(1);
/// See [`SCRUB_EVERY_MIN`].
pub const SCRUB_EVERY_MAX: Duration = Duration::from_secs(31 * 24 * 3600);

/// Longest pause behind a pass that found damage: the next one shows whether all is right again.
pub const SCRUB_AGAIN: Duration = Duration::from_secs(60);

/// Most bytes that a scrub reads in a second, unless the configuration says otherwise.
pub const SCRUB_BYTES_PER_SECOND: u64 = 4 << 20;

/// Fewest bytes in a second that may be configured.
pub const SCRUB_BYTES_PER_SECOND_MIN: u64 = 64 << 10;

/// Bytes that a scrub reads in one step.
pub const SCRUB_STEP_BYTES: usize = 128 * 1024;

/// A node that was heard this short a while ago counts as reachable: several heartbeats.
pub const REACHABLE_WITHIN: Duration = Duration::from_millis(500);

/// Most nodes that a configuration may name.
pub const CONFIGURED_MEMBERS_MAX: usize = 16;

/// Nodes without a vote whose introductions a node remembers.
pub const SEEN_NODES_MAX: usize = 64;

/// How long a handshake, and the first frame after it, may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection without any packet for this long is dead.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often an otherwise silent connection between nodes is probed.
pub const PEER_KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Pause before a lost connection to a peer is dialled again.
pub const PEER_REDIAL: Duration = Duration::from_millis(100);

/// The same for a peer that turned out to be of another cell, so that neither log is flooded.
pub const FOREIGN_REDIAL: Duration = Duration::from_secs(5);

const _: () = assert!(FRAME_BYTES_MAX < PEER_OUTBOX_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX < CLIENT_OUTBOX_BYTES_MAX);
const _: () = assert!(WATCH_OUTBOX_BYTES_MAX + FRAME_BYTES_MAX < CLIENT_OUTBOX_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX < HISTORY_BYTES_MAX);
