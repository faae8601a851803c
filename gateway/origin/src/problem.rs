//! How the fence says no over HTTP: problem documents (RFC 9457), the same from the gateway and
//! from an origin.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use lockd_protocol::types::{LockName, Token};
use serde::Serialize;

/// What a refusal of the fence is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `FN001`, 412: a newer holder has been admitted. Not worth a retry.
    Stale,
    /// `FN002`, 428: a write that no ticket covers.
    NoTicket,
    /// `FN003`, 403: not a ticket of this cell, or not one that admits writes.
    BadTicket,
    /// `FN004`, 503: the fence cannot decide now.
    Unavailable,
    /// `FN005`, 400: a ticket in a place where it cannot be taken.
    Misplaced,
}

impl Kind {
    /// Status, code, URN and title.
    const fn facts(self) -> (StatusCode, &'static str, &'static str, &'static str) {
        match self {
            Kind::Stale => (
                StatusCode::PRECONDITION_FAILED,
                "FN001",
                "urn:lockd:fence:stale",
                "Stale ticket",
            ),
            Kind::NoTicket => (
                StatusCode::PRECONDITION_REQUIRED,
                "FN002",
                "urn:lockd:fence:no-ticket",
                "Ticket required",
            ),
            Kind::BadTicket => (
                StatusCode::FORBIDDEN,
                "FN003",
                "urn:lockd:fence:bad-ticket",
                "Bad ticket",
            ),
            Kind::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "FN004",
                "urn:lockd:fence:unavailable",
                "Fence not available",
            ),
            Kind::Misplaced => (
                StatusCode::BAD_REQUEST,
                "FN005",
                "urn:lockd:fence:misplaced",
                "Misplaced ticket",
            ),
        }
    }

    /// The status of the answer.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.facts().0
    }
}

/// The document. Tokens are strings: JSON numbers lose digits above 2^53.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lock: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_shown: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_needed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
    #[serde(skip)]
    retry_after_seconds: Option<u64>,
}

impl Problem {
    /// A refusal of the fence.
    #[must_use]
    pub fn fence(kind: Kind, detail: impl Into<String>) -> Problem {
        let (status, code, urn, title) = kind.facts();
        Problem {
            code: Some(code),
            ..Problem::about(status, urn, title, detail.into())
        }
    }

    /// Anything that is not the fence's.
    #[must_use]
    pub fn plain(status: StatusCode, detail: impl Into<String>) -> Problem {
        let title = status.canonical_reason().unwrap_or("Error");
        Problem::about(status, "about:blank", title, detail.into())
    }

    fn about(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        detail: String,
    ) -> Problem {
        Problem {
            kind,
            title,
            status: status.as_u16(),
            detail,
            code: None,
            lock: None,
            token_shown: None,
            token_needed: None,
            hint: None,
            retry_after_seconds: None,
        }
    }

    /// Which lock was shown with which token, and the lowest that would be taken, if it is known.
    #[must_use]
    pub fn tokens(mut self, lock: &LockName, shown: Token, needed: Option<Token>) -> Problem {
        self.lock = Some(lock.to_string());
        self.token_shown = Some(shown.to_string());
        self.token_needed = needed.map(|token| token.to_string());
        self
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(mut self, hint: &'static str) -> Problem {
        self.hint = Some(hint);
        self
    }

    /// When it may be tried again: the header `Retry-After`.
    #[must_use]
    pub fn retry_after(mut self, seconds: Option<u64>) -> Problem {
        self.retry_after_seconds = seconds;
        self
    }

    /// The answer that carries the document.
    #[must_use]
    pub fn response<B: From<Bytes>>(&self) -> Response<B> {
        let body = serde_json::to_vec(self).unwrap_or_default();
        let mut response = Response::new(B::from(Bytes::from(body)));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
