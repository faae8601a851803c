//! Problem documents (RFC 9457): how the store says no.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, StatusCode, header};
use serde::Serialize;

use super::engine::StoreError;
use crate::fence::refusal::Refusal;

/// The document. Tokens are strings: JSON numbers lose digits above 2^53.
#[derive(Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    title: &'a str,
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
}

/// Why a request was not done.
#[derive(Debug)]
pub(super) enum NotDone {
    /// The fence refuses, or the store fails.
    Store(StoreError),
    /// The request itself is wrong.
    Request(StatusCode, String),
}

impl From<StoreError> for NotDone {
    fn from(error: StoreError) -> NotDone {
        NotDone::Store(error)
    }
}

impl From<Refusal> for NotDone {
    fn from(refusal: Refusal) -> NotDone {
        NotDone::Store(StoreError::Refused(refusal))
    }
}

impl NotDone {
    /// The answer to the client.
    pub(super) fn response(&self) -> Response<Full<Bytes>> {
        match self {
            NotDone::Store(StoreError::Refused(reason)) => refusal(reason),
            NotDone::Store(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            NotDone::Request(status, detail) => plain(*status, detail.clone()),
        }
    }
}

/// A refusal of the fence.
fn refusal(refusal: &Refusal) -> Response<Full<Bytes>> {
    let (status, kind, title) = match refusal {
        Refusal::Stale { .. } => (412, "urn:lockd:fence:stale", "Stale ticket"),
        Refusal::NoTicket { .. } => (428, "urn:lockd:fence:no-ticket", "Ticket required"),
        Refusal::BadTicket(_) => (403, "urn:lockd:fence:bad-ticket", "Bad ticket"),
        Refusal::Unavailable(_) => (503, "urn:lockd:fence:unavailable", "Fence not available"),
        Refusal::Misplaced(_) => (400, "urn:lockd:fence:misplaced", "Misplaced ticket"),
    };
    let (lock, shown, needed) = match refusal {
        Refusal::Stale {
            lock,
            shown,
            needed,
        } => (
            Some(lock.to_string()),
            Some(shown.to_string()),
            needed.map(|n| n.to_string()),
        ),
        _ => (None, None, None),
    };
    respond(&Problem {
        kind,
        title,
        status,
        detail: refusal.to_string(),
        code: Some(refusal.code()),
        lock,
        token_shown: shown,
        token_needed: needed,
        hint: Some(refusal.hint()),
    })
}

/// Anything that is not the fence's.
fn plain(status: StatusCode, detail: String) -> Response<Full<Bytes>> {
    respond(&Problem {
        kind: "about:blank",
        title: status.canonical_reason().unwrap_or("Error"),
        status: status.as_u16(),
        detail,
        code: None,
        lock: None,
        token_shown: None,
        token_needed: None,
        hint: None,
    })
}

fn respond(problem: &Problem<'_>) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(problem).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() =
        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/problem+json"),
    );
    response
}
