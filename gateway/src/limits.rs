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

/// How long one round of waiting for writers in flight lasts in MariaDB, seconds.
pub const EVICT_WAIT_SECONDS: u32 = 5;

/// How long to wait between two looks at who is in the way of a round of waiting.
pub const EVICT_PAUSE: Duration = Duration::from_millis(20);

/// The oldest MariaDB whose behaviour the fence was tried on.
pub const MARIADB_VERSION_MIN: (u32, u32) = (10, 11);

/// Longest packet of a MariaDB login, bytes.
pub const MYSQL_LOGIN_PACKET_BYTES_MAX: usize = 64 * 1024;

/// Longest answer to a statement that shows tickets or resets a session, bytes.
pub const MYSQL_SHORT_ANSWER_BYTES_MAX: usize = 16 * 1024;

/// How long an admission may take in all before it is given up as not available.
pub const ADMISSION_TIMEOUT_DEFAULT: Duration = Duration::from_secs(15);

/// How long one call on an admin connection may take.
pub const ADMIN_CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Most times that one admission turns to the cell before it is given up as not available.
pub const CELL_ROUNDS_MAX: u32 = 40;

/// Longest reply that the gateway reads for itself from a Redis server, bytes.
pub const ADMIN_REPLY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How deep such a reply may nest.
pub const ADMIN_REPLY_DEPTH_MAX: u32 = 8;

/// Most connections that may carry tickets of one lock at once, in a Redis server.
pub const REGISTRATIONS_PER_LOCK_MAX: usize = 4096;

/// Admissions after which registrations left behind by other gateways are looked for again.
pub const SWEEP_AFTER_ADMISSIONS: u32 = 1000;

/// How much of one line from a Redis server is looked at, bytes. Refusals are shorter.
pub const REPLY_LOOK_BYTES: usize = 1024;

/// How much of one command to a Redis server is looked at, bytes: room for a set of tickets.
pub const COMMAND_LOOK_BYTES: usize = 16 * 1024;

/// How long the echo that tells an idle connection is waited for before a second one is sent,
/// which every connection answers, whatever state it is in.
pub const ECHO_PATIENCE: Duration = Duration::from_millis(500);

/// Admin connections per gateway, unless configured.
pub const ADMIN_CONNECTIONS_DEFAULT: usize = 4;

/// Most epochs that are closed at once because their locks were granted anew.
pub const EAGER_CLOSES_MAX: usize = 8;

/// How long after the lock service could not be followed it is tried again.
pub const EAGER_RETRY: Duration = Duration::from_secs(1);

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

/// Most locks that the order of an HTTP upstream remembers. Idle ones beyond are forgotten, and the
/// cell is asked for them when they come again.
pub const LANES_MAX: usize = 100_000;

/// Longest path of a request to an HTTP upstream that rules are matched with, bytes as sent.
pub const PATH_BYTES_MAX: usize = 8 * 1024;

/// How long a protected write may take from being sent to the end of its answer, unless configured.
pub const ANSWER_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

/// Pieces of an answer that wait for a client which does not read.
pub const ANSWER_PIECES_AHEAD: usize = 16;

/// TTL of the session under which a gateway is the active one. After it was killed, another one
/// follows this much later at most, and then waits for the settle time.
pub const ACTIVE_TTL: Duration = Duration::from_secs(5);

/// How long to wait before the lock of the active gateway is asked for again after an error.
pub const ACTIVE_PAUSE: Duration = Duration::from_secs(1);

/// When a client may try again that came while another gateway is active, seconds.
pub const STANDBY_RETRY_SECONDS: u64 = 2;

/// Longest line on a control socket, bytes.
pub const CONTROL_LINE_BYTES_MAX: usize = 64 * 1024;

/// How long one conversation on a control socket may take.
pub const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);

/// Most marks in one answer that lists fences.
pub const FENCES_LISTED_MAX: usize = 10_000;

const _: () = assert!(STATEMENT_LOOK_BYTES + 1024 < RELAY_BUFFER_BYTES);
const _: () = assert!(COMMAND_LOOK_BYTES + 1024 < RELAY_BUFFER_BYTES);
const _: () = assert!(REPLY_LOOK_BYTES < RELAY_BUFFER_BYTES);
const _: () = assert!(
    TICKETS_PER_SESSION_MAX * (lockd_protocol::limits::TICKET_TEXT_BYTES_MAX + 16) + 64
        < COMMAND_LOOK_BYTES
);
const _: () = assert!(
    TICKETS_PER_SESSION_MAX * (lockd_protocol::limits::TICKET_TEXT_BYTES_MAX + 1) + 64
        < STATEMENT_LOOK_BYTES
);
const _: () = assert!(
    TICKETS_PER_SESSION_MAX * (lockd_protocol::limits::TICKET_TEXT_BYTES_MAX + 1)
        < HTTP_BUFFER_BYTES
);
// What a transaction is told: a pass of 36 characters, a token, and the lock's name in hexadecimal.
const _: () = assert!(
    TICKETS_PER_SESSION_MAX * (2 * lockd_protocol::limits::LOCK_NAME_BYTES_MAX + 60)
        < RELAY_BUFFER_BYTES
);
const _: () = assert!(VALUE_BYTES_MAX < STORE_BATCH_BYTES_MAX);
