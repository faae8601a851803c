//! What a request has shown, and the comparison of its tokens with the marks.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use lockd_protocol::ticket::Verifier;
use lockd_protocol::types::{LockName, Mode, Token};

use crate::problem::{Kind, Problem};
use crate::{TICKET_HEADER, TICKETS_MAX};

/// A verified ticket: who held which lock is proven, whether the token is still current is not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shown {
    /// The lock.
    pub lock: LockName,
    /// Token of the grant.
    pub token: Token,
}

/// The tickets of one request, verified: an extension of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence(Arc<[Shown]>);

/// Why a request is refused by what it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FenceError {
    /// `FN002`: no ticket of the lock that covers what is to be written.
    NoTicket {
        /// Which lock has to be held, in words.
        wanted: String,
    },
    /// `FN003`: not a ticket of this cell, or not one that admits writes.
    BadTicket(String),
    /// `FN005`: more than one header.
    Misplaced,
    /// `FN001`: a newer holder has been admitted.
    Stale {
        /// The lock whose ticket is stale.
        lock: LockName,
        /// Token of the ticket.
        shown: Token,
        /// Lowest token that would be taken.
        needed: Token,
    },
}

impl fmt::Display for FenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FenceError::NoTicket { wanted } => {
                write!(f, "this needs a ticket of {wanted}, and none was shown")
            }
            FenceError::BadTicket(reason) => write!(f, "bad ticket: {reason}"),
            FenceError::Misplaced => f.write_str("there are two headers Fencing-Token"),
            FenceError::Stale {
                lock,
                shown,
                needed,
            } => write!(
                f,
                "stale ticket: lock {lock:?} was shown with token {shown}, the fence needs \
                 {needed} or higher"
            ),
        }
    }
}

impl Error for FenceError {}

impl FenceError {
    /// The document that says so to a client.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let detail = self.to_string();
        match self {
            FenceError::NoTicket { .. } => Problem::fence(Kind::NoTicket, detail)
                .hint("Acquire the lock and show its ticket in the header Fencing-Token."),
            FenceError::BadTicket(_) => Problem::fence(Kind::BadTicket, detail)
                .hint("Show the ticket exactly as the lock service issued it."),
            FenceError::Misplaced => Problem::fence(Kind::Misplaced, detail)
                .hint("Send one header, several tickets with spaces between them."),
            FenceError::Stale {
                lock,
                shown,
                needed,
            } => Problem::fence(Kind::Stale, detail)
                .tokens(lock, *shown, Some(*needed))
                .hint(
                    "Stop: somebody else holds the lock now. Acquire it again; do not repeat the \
                     write as it is.",
                ),
        }
    }

    /// The answer that says so to a client.
    #[must_use]
    pub fn response<B: From<Bytes>>(&self) -> Response<B> {
        self.problem().response()
    }
}

impl Fence {
    /// Verifies what the headers of a request show. None if they show nothing.
    ///
    /// # Errors
    /// [`FenceError`] if it is not exactly one header of genuine tickets that admit writes, each of
    /// another lock.
    pub fn read(verifier: &Verifier, headers: &HeaderMap) -> Result<Option<Fence>, FenceError> {
        let mut values = headers.get_all(TICKET_HEADER).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(FenceError::Misplaced);
        }
        let bad = |reason: &dyn fmt::Display| FenceError::BadTicket(reason.to_string());
        let text = value.to_str().map_err(|_| bad(&"it is not ASCII"))?;
        if text.split_ascii_whitespace().nth(TICKETS_MAX).is_some() {
            return Err(bad(&format_args!("at most {TICKETS_MAX} are allowed")));
        }
        let mut shown = Vec::new();
        for text in text.split_ascii_whitespace() {
            let ticket = verifier.verify(text).map_err(|error| bad(&error))?;
            // A permit's ticket names a fence of its own.
            if !matches!(ticket.mode, Mode::Exclusive | Mode::Permit { .. }) {
                let lock = ticket.lock;
                return Err(bad(&format_args!(
                    "lock {lock:?} is not held exclusively, and only that admits writes"
                )));
            }
            shown.push(Shown {
                lock: ticket.lock,
                token: ticket.token,
            });
        }
        shown.sort_unstable();
        shown.dedup();
        for (lower, higher) in shown.iter().zip(shown.iter().skip(1)) {
            if lower.lock == higher.lock {
                return Err(FenceError::Stale {
                    lock: lower.lock.clone(),
                    shown: lower.token,
                    needed: higher.token,
                });
            }
        }
        Ok((!shown.is_empty()).then(|| Fence(shown.into())))
    }

    /// All tickets, in order of lock. Every one has to be admitted, not only the one that covers
    /// what is written: who has lost one of its locks is not to go on under the others.
    #[must_use]
    pub fn tickets(&self) -> &[Shown] {
        &self.0
    }

    /// The ticket of this lock.
    ///
    /// # Errors
    /// [`FenceError::NoTicket`] if there is none.
    pub fn of(&self, lock: &str) -> Result<&Shown, FenceError> {
        let mut tickets = self.0.iter();
        let found = tickets.find(|shown| shown.lock.as_str() == lock);
        found.ok_or_else(|| FenceError::NoTicket {
            wanted: format!("the lock {lock:?}"),
        })
    }
}

/// The marks, the highest token admitted of each lock, within one transaction of the database that
/// has the data. Two transactions that touch the mark of one lock must not run side by side.
pub trait Marks {
    /// Why the database did not do it.
    type Error;

    /// The highest token admitted, read so that no other transaction changes it before this one
    /// ends.
    ///
    /// # Errors
    /// As the database says.
    fn mark(&mut self, lock: &LockName) -> Result<Option<Token>, Self::Error>;

    /// Makes this the highest token admitted.
    ///
    /// # Errors
    /// As the database says.
    fn raise(&mut self, lock: &LockName, to: Token) -> Result<(), Self::Error>;
}

/// Why a ticket was not admitted. The transaction has to be given up.
#[derive(Debug)]
pub enum Denied<E> {
    /// A newer holder has been admitted.
    Stale(FenceError),
    /// The database failed.
    Failed(E),
}

impl<E> From<E> for Denied<E> {
    fn from(error: E) -> Denied<E> {
        Denied::Failed(error)
    }
}

impl<E: fmt::Display> Denied<E> {
    /// The answer that says so to a client: 412, or 503 if the database failed.
    #[must_use]
    pub fn response<B: From<Bytes>>(&self) -> Response<B> {
        match self {
            Denied::Stale(error) => error.response(),
            Denied::Failed(error) => {
                Problem::plain(StatusCode::SERVICE_UNAVAILABLE, error.to_string()).response()
            }
        }
    }
}

/// Compares a token with the mark of its lock, and raises the mark, in the transaction of the write
/// that the ticket is shown for. If it says yes and the transaction commits, no lower token of this
/// lock is admitted any more.
///
/// # Errors
/// [`Denied`]. Nothing may be committed then.
pub fn admit<M: Marks>(transaction: &mut M, shown: &Shown) -> Result<(), Denied<M::Error>> {
    match transaction.mark(&shown.lock)? {
        Some(needed) if shown.token < needed => Err(Denied::Stale(FenceError::Stale {
            lock: shown.lock.clone(),
            shown: shown.token,
            needed,
        })),
        Some(mark) if shown.token == mark => Ok(()),
        _ => Ok(transaction.raise(&shown.lock, shown.token)?),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use http::HeaderValue;
    use lockd_protocol::ticket::Signer;
    use lockd_protocol::types::{CellId, SessionId};

    use super::*;

    fn signer() -> Signer {
        Signer::from_seed(CellId([3; 16]), &[1; 32]).unwrap()
    }

    fn ticket(lock: &str, token: u64, mode: Mode) -> String {
        let lock = LockName::new(lock).unwrap();
        signer()
            .sign(&lock, Token(token), mode, SessionId(1))
            .to_string()
    }

    fn read(values: &[&str]) -> Result<Option<Fence>, FenceError> {
        let verifier = Verifier::new(CellId([3; 16]), [signer().public_key()]).unwrap();
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TICKET_HEADER, HeaderValue::from_str(value).unwrap());
        }
        Fence::read(&verifier, &headers)
    }

    #[test]
    fn one_header_of_genuine_exclusive_tickets_is_a_fence() {
        let (a, b) = (
            ticket("a", 1, Mode::Exclusive),
            ticket("b", 2, Mode::Exclusive),
        );
        let fence = read(&[&format!(" {b}  {a}")]).unwrap().unwrap();
        assert_eq!(fence.tickets().len(), 2);
        assert_eq!(fence.of("b").unwrap().token, Token(2));
        let missing = fence.of("c").unwrap_err().response::<Bytes>();
        assert_eq!(missing.status(), 428);
        let permit = ticket("p#3", 1, Mode::Permit { of: 4 });
        assert!(read(&[&permit]).unwrap().is_some());
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[" "]), Ok(None));
    }

    #[test]
    fn anything_else_is_refused_with_its_code() {
        let a = ticket("a", 1, Mode::Exclusive);
        let newer = ticket("a", 2, Mode::Exclusive);
        let status = |values: &[&str]| {
            let response = read(values).unwrap_err().response::<Bytes>();
            (
                response.status().as_u16(),
                String::from_utf8(response.body().to_vec()).unwrap(),
            )
        };
        for (values, code, word) in [
            (&[a.as_str(), &a][..], 400, "FN005"),
            (&["lk1.x"], 403, "FN003"),
            (
                &[&ticket("a", 1, Mode::Shared)],
                403,
                "not held exclusively",
            ),
            (
                &[&[a.as_str(), &newer].join(" ")],
                412,
                "\"token_needed\":\"2\"",
            ),
            (&[&"x ".repeat(TICKETS_MAX + 1)], 403, "at most 16"),
        ] {
            let (status, body) = status(values);
            assert!(status == code && body.contains(word), "{status} {body}");
        }
    }

    struct Map(BTreeMap<String, Token>);

    impl Marks for Map {
        type Error = Infallible;

        fn mark(&mut self, lock: &LockName) -> Result<Option<Token>, Infallible> {
            Ok(self.0.get(lock.as_str()).copied())
        }

        fn raise(&mut self, lock: &LockName, to: Token) -> Result<(), Infallible> {
            self.0.insert(lock.as_str().to_owned(), to);
            Ok(())
        }
    }

    #[test]
    fn a_mark_only_rises_and_refuses_what_is_below() {
        let mut marks = Map(BTreeMap::new());
        let mut admitted = |token| {
            let lock = LockName::new("a").unwrap();
            let token = Token(token);
            admit(&mut marks, &Shown { lock, token }).is_ok()
        };
        assert!(admitted(5) && admitted(5) && admitted(7));
        assert!(!admitted(6) && !admitted(5) && admitted(7));
    }
}
