//! HTTP/1.1 with clients: the limits of every HTTP listener.

use std::convert::Infallible;
use std::error::Error;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::limits::{HTTP_BUFFER_BYTES, HTTP_HEADER_TIMEOUT, HTTP_HEADERS_MAX};

/// Answers the requests of one connection, one after the other, until it ends.
pub(crate) async fn serve<B, F, Answering>(stream: impl AsyncRead + AsyncWrite + Unpin, answer: F)
where
    B: Body + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
    F: Fn(Request<Incoming>) -> Answering,
    Answering: Future<Output = Response<B>>,
{
    let service = service_fn(|request| {
        let answering = answer(request);
        async move { Ok::<_, Infallible>(answering.await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HTTP_HEADER_TIMEOUT)
        .max_headers(HTTP_HEADERS_MAX)
        .max_buf_size(HTTP_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended");
    }
}
