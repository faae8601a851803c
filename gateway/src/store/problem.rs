//! How the store says no.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, StatusCode};
use lockd_origin::problem::Problem;

use super::engine::StoreError;
use crate::fence::refusal::Refusal;
use crate::problem;

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
        let problem = match self {
            NotDone::Store(StoreError::Refused(reason)) => problem::of(reason),
            NotDone::Store(error) => {
                Problem::plain(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            }
            NotDone::Request(status, detail) => Problem::plain(*status, detail.clone()),
        };
        problem.response()
    }
}
