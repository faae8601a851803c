//! Exit codes of `lockd`, and errors as one line on stderr.
//!
//! `lockd lock` passes the status of its command through, so its own codes keep clear of the
//! small ones that commands use, and of 128+n.

use std::fmt::Display;
use std::process::ExitCode;

use lockd_client::{AcquireError, BreakError, ConnectError, QueryError};

/// Wrong flags, or a configuration that cannot be used.
pub(super) const USAGE: u8 = 2;
/// A node's disk is full. It may be started again when there is room.
pub(super) const DISK_FULL: u8 = 116;
/// A node is not who the others know: another disk, a copy, another cell.
pub(super) const NOT_ITSELF: u8 = 117;
/// A node has been removed from its cell.
pub(super) const REMOVED: u8 = 118;
/// A node's disk failed. It must not be started again as it is.
pub(super) const DISK_FAILED: u8 = 119;
/// The lock was not acquired.
pub(super) const NOT_ACQUIRED: u8 = 120;
/// The lock was lost while the command ran.
pub(super) const LOST: u8 = 121;
/// The cell cannot be reached, or has no leader.
pub(super) const UNREACHABLE: u8 = 122;
/// The cell refused this client.
pub(super) const REFUSED: u8 = 123;
/// Nobody holds the lock.
pub(super) const NOT_HELD: u8 = 124;
/// Anything else.
pub(super) const OTHER: u8 = 125;
/// The command cannot be executed.
pub(super) const NOT_EXECUTABLE: u8 = 126;
/// The command was not found.
pub(super) const NOT_FOUND: u8 = 127;
/// Added to the number of the signal that ended the command, or that interrupted the wait.
const SIGNAL: u8 = 128;

/// The code for a command that was ended by this signal.
pub(super) fn by_signal(signal: i32) -> u8 {
    u8::try_from(signal).map_or(OTHER, |signal| SIGNAL.saturating_add(signal))
}

/// All codes of `lockd` itself.
#[cfg(test)]
pub(super) const ALL: [u8; 14] = [
    0,
    USAGE,
    DISK_FULL,
    NOT_ITSELF,
    REMOVED,
    DISK_FAILED,
    NOT_ACQUIRED,
    LOST,
    UNREACHABLE,
    REFUSED,
    NOT_HELD,
    OTHER,
    NOT_EXECUTABLE,
    NOT_FOUND,
];

/// Shown below `--help`.
pub(super) const HELP: &str = "\
Exit codes:
    0  success; `lock` exits with the status of its command
    2  wrong flags, or a configuration that cannot be used
  116  `serve`: the node's disk is full; make room, then start it again
  117  `serve`: the node is not who the others know (its data was copied, set back or emptied, or
       is another cell's); replace it
  118  `serve`: the node has been removed from its cell, for good
  119  `serve`: the node's disk failed; replace the node, do not start it again
  120  `lock`: not acquired (--try found it taken, --wait was over, or the wait would be a
       deadlock); --conflict-exit-code sets another code
  121  `lock`: the lock was lost while the command ran
  122  the cell cannot be reached, or has no leader
  123  the cell refused this client: certificate, cell id, version or request
  124  `who`, `break`: nobody holds that lock
  125  anything else that went wrong in lockd itself
  126  `lock`: the command cannot be executed
  127  `lock`: the command was not found
128+n  `lock`: the command was ended, or the wait interrupted, by signal n";

/// Why a subcommand ends: an exit code and a line for a person.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: u8,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(code: u8, message: impl Display) -> Failure {
        let message = message.to_string();
        Failure { code, message }
    }

    pub(super) fn other(message: impl Display) -> Failure {
        Failure::new(OTHER, message)
    }

    pub(super) fn usage(message: impl Display) -> Failure {
        Failure::new(USAGE, message)
    }

    /// Prints the line and gives the code.
    pub(super) fn report(self) -> ExitCode {
        if !self.message.is_empty() {
            eprintln!("lockd: {}", self.message.replace('\n', " "));
        }
        ExitCode::from(self.code)
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Failure {
        let code = match &error {
            ConnectError::Invalid { .. } | ConnectError::Config(_) => USAGE,
            ConnectError::Unreachable { .. } | ConnectError::NoLeader { .. } => UNREACHABLE,
            ConnectError::Socket(_) | ConnectError::Thread(_) => OTHER,
            _ => REFUSED,
        };
        Failure::new(code, error)
    }
}

impl From<AcquireError> for Failure {
    fn from(error: AcquireError) -> Failure {
        let code = match &error {
            AcquireError::Name(_) | AcquireError::Metadata(_) | AcquireError::Invalid { .. } => {
                USAGE
            }
            AcquireError::NotAvailable { .. }
            | AcquireError::TimedOut
            | AcquireError::Deadlock(_)
            | AcquireError::Over => NOT_ACQUIRED,
            AcquireError::SessionLost(_) | AcquireError::Unavailable { .. } => UNREACHABLE,
            AcquireError::Refused(_) => REFUSED,
            _ => OTHER,
        };
        Failure::new(code, error)
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Failure {
        let code = match &error {
            QueryError::Name(_) => USAGE,
            QueryError::Refused(_) => REFUSED,
            QueryError::Unavailable { .. } => UNREACHABLE,
            _ => OTHER,
        };
        Failure::new(code, error)
    }
}

impl From<BreakError> for Failure {
    fn from(error: BreakError) -> Failure {
        let code = match &error {
            BreakError::Name(_) => USAGE,
            BreakError::NothingToBreak => NOT_HELD,
            BreakError::Refused(_) => REFUSED,
            BreakError::Unavailable { .. } | BreakError::SessionLost(_) => UNREACHABLE,
            _ => OTHER,
        };
        Failure::new(code, error)
    }
}
