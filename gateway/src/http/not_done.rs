//! Why a request was not done, and how its client is told.

use bytes::Bytes;
use http_body_util::channel::Channel;
use http_body_util::{Either, Full};
use hyper::{Response, StatusCode};
use lockd_origin::problem::Problem;

use super::exchange::Direct;
use crate::fence::refusal::Refusal;
use crate::problem;

/// What clients get: a document of the gateway's, or what the server sends, directly or through the
/// task that carries a write.
pub(super) type Answer = Response<Either<Full<Bytes>, FromServer>>;
type FromServer = Either<Direct, Channel<Bytes, std::io::Error>>;

/// Why a request was not done, or is not known to have been.
#[derive(Debug)]
pub(super) enum NotDone {
    /// The fence refuses. Nothing was sent.
    Refused {
        refusal: Refusal,
        retry_after_seconds: Option<u64>,
    },
    /// The request cannot be taken, or the server's answer is missing.
    Other(StatusCode, String),
}

impl NotDone {
    /// The request could be read in two ways, or lacks something.
    pub(super) fn bad_request(detail: impl Into<String>) -> NotDone {
        NotDone::Other(StatusCode::BAD_REQUEST, detail.into())
    }

    /// The server cannot be reached; nothing was sent.
    pub(super) fn not_sent(detail: impl Into<String>) -> NotDone {
        NotDone::Other(StatusCode::BAD_GATEWAY, detail.into())
    }

    /// The request was sent, and nobody knows what became of it.
    pub(super) fn unknown(detail: &str) -> NotDone {
        let detail = format!("{detail}; whether the request has been done is not known");
        NotDone::Other(StatusCode::GATEWAY_TIMEOUT, detail)
    }

    /// The answer to the client.
    pub(super) fn answer(&self) -> Answer {
        let problem = match self {
            NotDone::Other(status, detail) => Problem::plain(*status, detail.clone()),
            NotDone::Refused {
                refusal,
                retry_after_seconds,
            } => problem::of(refusal).retry_after(*retry_after_seconds),
        };
        problem.response::<Full<Bytes>>().map(Either::Left)
    }
}

impl From<Refusal> for NotDone {
    fn from(refusal: Refusal) -> NotDone {
        NotDone::Refused {
            refusal,
            retry_after_seconds: None,
        }
    }
}
