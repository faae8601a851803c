//! The tower layer: verifies tickets before the service sees a request.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use lockd_protocol::ticket::Verifier;
use tower_layer::Layer;
use tower_service::Service;

use crate::fence::{Fence, FenceError};

/// Puts a [`Fence`] into the extensions of each request that shows tickets, and answers those that
/// show something else itself. Compares no tokens: only the transaction of the write can.
#[derive(Clone, Debug)]
pub struct FenceLayer {
    verifier: Arc<Verifier>,
    is_required: bool,
}

impl FenceLayer {
    /// For routes on which every request has to show a ticket; others get 428.
    #[must_use]
    pub fn required(verifier: Verifier) -> FenceLayer {
        FenceLayer {
            verifier: Arc::new(verifier),
            is_required: true,
        }
    }

    /// For routes that look for themselves whether there is a [`Fence`].
    #[must_use]
    pub fn optional(verifier: Verifier) -> FenceLayer {
        FenceLayer {
            is_required: false,
            ..FenceLayer::required(verifier)
        }
    }

    fn read<B>(&self, request: &Request<B>) -> Result<Option<Fence>, FenceError> {
        match Fence::read(&self.verifier, request.headers())? {
            None if self.is_required => Err(FenceError::NoTicket {
                wanted: "the lock of what it touches".into(),
            }),
            fence => Ok(fence),
        }
    }
}

impl<S> Layer<S> for FenceLayer {
    type Service = FenceService<S>;

    fn layer(&self, inner: S) -> FenceService<S> {
        FenceService {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service behind a [`FenceLayer`].
#[derive(Clone, Debug)]
pub struct FenceService<S> {
    inner: S,
    layer: FenceLayer,
}

impl<S, B, R> Service<Request<B>> for FenceService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: From<Bytes> + Unpin,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Answering<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Answering<S::Future, R> {
        // Nobody but this layer says what was shown.
        request.extensions_mut().remove::<Fence>();
        match self.layer.read(&request) {
            Ok(fence) => {
                if let Some(fence) = fence {
                    request.extensions_mut().insert(fence);
                }
                Answering(Answer::Inner(Box::pin(self.inner.call(request))))
            }
            Err(refused) => Answering(Answer::Refused(Some(refused.response()))),
        }
    }
}

/// The answer of a service behind a [`FenceLayer`], or the layer's own.
pub struct Answering<F, R>(Answer<F, R>);

enum Answer<F, R> {
    Inner(Pin<Box<F>>),
    Refused(Option<Response<R>>),
}

impl<F, R> fmt::Debug for Answering<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answering")
    }
}

impl<F, R, E> Future for Answering<F, R>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Unpin,
{
    type Output = Result<Response<R>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            Answer::Inner(inner) => inner.as_mut().poll(cx),
            Answer::Refused(response) => match response.take() {
                Some(response) => Poll::Ready(Ok(response)),
                None => Poll::Pending,
            },
        }
    }
}
