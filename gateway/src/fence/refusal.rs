//! Why the fence refuses something, with its code and its words. Each protocol dresses these in
//! its own form of error; none of them is worth a retry with the same ticket.

use lockd_protocol::ticket::TicketError;
use lockd_protocol::types::{LockName, Token};

/// A refusal of the fence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `FN001`: a newer holder has been admitted, or the cell no longer grants this token.
    #[error("stale ticket: lock {lock:?} was shown with token {shown}, {}", needs(*.needed))]
    Stale {
        /// The lock whose ticket is stale.
        lock: LockName,
        /// Token of the ticket.
        shown: Token,
        /// Lowest token that would be taken, if it is known.
        needed: Option<Token>,
    },
    /// `FN002`: a write that no ticket covers.
    #[error("a write to {resource} needs a ticket of {wanted}, and none was shown")]
    NoTicket {
        /// What was to be written.
        resource: String,
        /// Which lock has to be held, in words.
        wanted: String,
    },
    /// `FN003`: what was shown is not a ticket of this cell, or not one that admits writes.
    #[error("bad ticket: {0}")]
    BadTicket(BadTicket),
    /// `FN004`: the fence cannot decide now. The one refusal that may be gone in a moment.
    #[error("the fence is not available: {0}")]
    Unavailable(String),
    /// `FN005`: a ticket in a place where it cannot be taken.
    #[error("a ticket cannot be shown here: {0}")]
    Misplaced(&'static str),
}

/// What is wrong with a ticket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTicket {
    /// Not genuine.
    #[error(transparent)]
    NotGenuine(#[from] TicketError),
    /// Genuine, but its mode does not admit writes.
    #[error("lock {0:?} is not held exclusively, and only an exclusive grant admits writes")]
    NotExclusive(LockName),
    /// More tickets than a session may carry.
    #[error("{shown} tickets are shown, at most {most} are allowed")]
    TooMany {
        /// How many were shown.
        shown: usize,
        /// How many are allowed.
        most: usize,
    },
}

impl Refusal {
    /// The code: an SQLSTATE, and the `code` of a problem document.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::Stale { .. } => "FN001",
            Refusal::NoTicket { .. } => "FN002",
            Refusal::BadTicket(_) => "FN003",
            Refusal::Unavailable(_) => "FN004",
            Refusal::Misplaced(_) => "FN005",
        }
    }

    /// The same facts for a program: `lock=.. token_shown=.. token_needed=..`.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        match self {
            Refusal::Stale {
                lock,
                shown,
                needed,
            } => {
                let needed = needed.map_or_else(|| "newer".to_owned(), |token| token.to_string());
                Some(format!(
                    "lock={lock} token_shown={shown} token_needed={needed}"
                ))
            }
            _ => None,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Refusal::Stale { .. } => {
                "Stop: somebody else holds the lock now. Acquire it again and show the new ticket; \
                 do not repeat the write as it is."
            }
            Refusal::NoTicket { .. } => {
                "Acquire the lock and show its ticket first, on this same session."
            }
            Refusal::BadTicket(_) => {
                "Show the ticket exactly as the lock service issued it (it begins with lk1.)."
            }
            Refusal::Unavailable(_) => "Nothing was admitted. Try again, or ask the operator.",
            Refusal::Misplaced(_) => {
                "Send SET fence.ticket = '...' alone, outside a transaction, as the first \
                 statement of its unit."
            }
        }
    }
}

fn needs(needed: Option<Token>) -> String {
    match needed {
        Some(token) => format!("the fence needs {token} or higher"),
        None => "which the lock service does not grant any more".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_ticket_is_named_with_lock_token_shown_and_token_needed() {
        let refusal = Refusal::Stale {
            lock: LockName::new("orders/1").unwrap(),
            shown: Token(5),
            needed: Some(Token(7)),
        };
        assert_eq!(refusal.code(), "FN001");
        assert_eq!(
            refusal.to_string(),
            "stale ticket: lock \"orders/1\" was shown with token 5, the fence needs 7 or higher"
        );
        assert_eq!(
            refusal.detail().as_deref(),
            Some("lock=orders/1 token_shown=5 token_needed=7")
        );
    }
}
