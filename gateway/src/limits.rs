//! Every bound of the gateway, as a named constant with its unit.

use std::time::Duration;

/// Most tickets that one session may carry at once.
pub const TICKETS_PER_SESSION_MAX: usize = 16;

/// Most guard rules in one configuration.
pub const GUARD_RULES_MAX: usize = 1000;

/// Most client connections served at once; further ones wait in the listener's queue.
pub const CONNECTIONS_DEFAULT: usize = 2000;

/// How long a client may take from connecting to the end of its login, unless configured.
pub const HANDSHAKE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// How long an upstream may take to accept a connection.
pub const UPSTREAM_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes buffered per direction of a relayed connection.
pub const RELAY_BUFFER_BYTES: usize = 32 * 1024;

/// How much of a statement's text is looked at, bytes. A longer one cannot show a ticket.
pub const STATEMENT_LOOK_BYTES: usize = 16 * 1024;

/// Longest start-up packet of a PostgreSQL client, bytes (the server's own limit).
pub const STARTUP_PACKET_BYTES_MAX: usize = 10_000;

/// Longest message relayed whole during a login, bytes.
pub const LOGIN_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Longest cancel request, bytes: protocol 3.2 allows a key of 256 bytes.
pub const CANCEL_REQUEST_BYTES_MAX: usize = 12 + 256;

/// Most messages that a session may have sent and the server not yet answered. A session that is
/// further ahead is not read from until the server has caught up.
pub const UNANSWERED_MESSAGES_MAX: usize = 64 * 1024;

/// Most prepared statements of one session that may hold a ticket. All of them are remembered,
/// because each execution shows its ticket again.
pub const TICKET_STATEMENTS_MAX: usize = 256;

/// How long one admission waits for writers in flight before it ends them.
pub const DRAIN_LOCK_TIMEOUT: Duration = Duration::from_millis(200);

/// How long one round of ending writers waits until the server says that they are gone.
pub const EVICT_WAIT: Duration = Duration::from_millis(1000);

/// How long an admission may take in all before it is given up as not available.
pub const ADMISSION_TIMEOUT_DEFAULT: Duration = Duration::from_secs(15);

/// How long one call on an admin connection may take.
pub const ADMIN_CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Most times that one admission turns to the cell before it is given up as not available.
pub const CELL_ROUNDS_MAX: u32 = 40;

/// Admin connections per gateway, unless configured.
pub const ADMIN_CONNECTIONS_DEFAULT: usize = 4;

/// Longest key of the embedded store, bytes of UTF-8.
pub const KEY_BYTES_MAX: usize = 512;

/// Longest value of the embedded store, bytes.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;

/// How long an HTTP client may take to send its headers.
pub const HTTP_HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an HTTP client may take to send a request's body.
pub const HTTP_BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of headers that an HTTP client may send: room for the longest header of tickets.
pub const HTTP_BUFFER_BYTES: usize = 32 * 1024;

/// Most headers in one HTTP request.
pub const HTTP_HEADERS_MAX: usize = 64;

/// Most writes of the embedded store that share one transaction.
pub const STORE_BATCH_MAX: usize = 256;

/// Most bytes of values that share one transaction.
pub const STORE_BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Most writes that wait for the store's writer; further ones wait in their connections.
pub const STORE_QUEUE_MAX: usize = 1024;

/// Most marks in one answer that lists fences.
pub const FENCES_LISTED_MAX: usize = 10_000;

const _: () = assert!(STATEMENT_LOOK_BYTES + 1024 < RELAY_BUFFER_BYTES);
const _: () = assert!(
    TICKETS_PER_SESSION_MAX * (lockd_protocol::limits::TICKET_TEXT_BYTES_MAX + 1) + 64
        < STATEMENT_LOOK_BYTES
);
const _: () = assert!(
    TICKETS_PER_SESSION_MAX * (lockd_protocol::limits::TICKET_TEXT_BYTES_MAX + 1)
        < HTTP_BUFFER_BYTES
);
const _: () = assert!(VALUE_BYTES_MAX < STORE_BATCH_BYTES_MAX);
