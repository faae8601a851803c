//! One request, carried to the server and its answer back. A write that was admitted is carried by
//! a task of its own: a client that goes away does not keep the gateway from learning what became
//! of it. Anything else ends with its client.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt, Either};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::head;
use super::lanes::Lease;
use super::not_done::{Answer, NotDone};
use super::upstream::Target;
use crate::limits::{ANSWER_PIECES_AHEAD, HTTP_BODY_TIMEOUT};

/// A request that may be sent.
pub(super) struct Exchange {
    pub(super) target: Target,
    pub(super) request: Request<Upload>,
    /// Of a write that was admitted.
    pub(super) lease: Option<Lease>,
    /// How long such a write may take, from here to the end of its answer.
    pub(super) answer_timeout: Duration,
    /// Statuses that the operator says are final although they need not be.
    pub(super) final_statuses: Vec<u16>,
}

type Head = oneshot::Sender<Result<Answer, NotDone>>;

impl Exchange {
    /// Sends the request. Returns with the head of the answer.
    pub(super) async fn begin(mut self) -> Result<Answer, NotDone> {
        let Some(lease) = &self.lease else {
            let (response, connection) = self.send().await?;
            let (mut parts, body) = response.into_parts();
            head::clean_answer(&mut parts.headers);
            let body = Direct {
                body,
                _connection: connection,
            };
            return Ok(Response::from_parts(
                parts,
                Either::Right(Either::Left(body)),
            ));
        };
        let ended = lease.ended();
        let (head, answered) = oneshot::channel();
        tokio::spawn(self.run(ended, head));
        match answered.await {
            Ok(answer) => answer,
            Err(_) => Err(NotDone::unknown("the server's answer did not come")),
        }
    }

    /// Whatever is dropped here closes the connection, and leaves the write in doubt if it was
    /// sent.
    async fn run(self, ended: impl Future<Output = ()>, head: Head) {
        let timeout = self.answer_timeout;
        tokio::select! {
            biased;
            () = ended => tracing::warn!("a write under way is given up with the gateway's lock"),
            done = tokio::time::timeout(timeout, self.converse(head)) => {
                if done.is_err() {
                    tracing::warn!(?timeout, "a write was not answered in time");
                }
            }
        }
    }

    async fn converse(mut self, head: Head) {
        match self.send().await {
            Ok((response, _connection)) => {
                if let Err(error) = self.relay(response, head).await {
                    tracing::warn!(%error, "the server's answer broke off");
                }
            }
            // If its client has gone, there is nobody to tell.
            Err(not_done) => drop(head.send(Err(not_done))),
        }
    }

    /// Sends the request on a connection of its own.
    async fn send(&mut self) -> Result<(Response<Incoming>, Connection), NotDone> {
        let not_sent = |error: &dyn std::fmt::Display| NotDone::not_sent(error.to_string());
        let stream = self.target.dial().await.map_err(|error| not_sent(&error))?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| not_sent(&error))?;
        let connection = Connection(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the server ended");
            }
        }));
        let request = std::mem::replace(&mut self.request, Request::new(Upload::none()));
        if let Some(lease) = &mut self.lease {
            lease.sent()?;
        }
        match sender.try_send_request(request).await {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                Err(NotDone::unknown("the server changed the protocol, unasked"))
            }
            Ok(response) => Ok((response, connection)),
            Err(mut error) => {
                let was_kept = error.take_message().is_some();
                let error = error.into_error();
                if !was_kept {
                    return Err(NotDone::unknown(&format!("the connection broke: {error}")));
                }
                // Not one byte of it has left.
                if let Some(lease) = self.lease.take() {
                    lease.finish();
                }
                Err(not_sent(&error))
            }
        }
    }

    /// Hands the answer on, and is there for its end, which alone is final.
    async fn relay(mut self, response: Response<Incoming>, head: Head) -> hyper::Result<()> {
        let status = response.status();
        let (mut parts, mut body) = response.into_parts();
        head::clean_answer(&mut parts.headers);
        let (sender, piped) = Channel::new(ANSWER_PIECES_AHEAD);
        let answer = Response::from_parts(parts, Either::Right(Either::Right(piped)));
        let mut client = head.send(Ok(answer)).is_ok().then_some(sender);
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => self.pass(&mut client, frame).await,
                Err(error) => {
                    if let Some(client) = client {
                        client.abort(std::io::ErrorKind::UnexpectedEof.into());
                    }
                    return Err(error);
                }
            }
        }
        if let Some(lease) = self.lease.take() {
            if is_final(status, &self.final_statuses) {
                lease.finish();
            } else {
                tracing::warn!(%status, "the server's answer does not say that it is done");
            }
        }
        Ok(())
    }

    /// A client that has gone is none.
    async fn pass(&self, client: &mut Option<Piped>, frame: Frame<Bytes>) {
        if let (Some(sender), Ok(data)) = (client.as_mut(), frame.into_data())
            && sender.send_data(data).await.is_err()
        {
            *client = None;
        }
    }
}

type Piped = Sender<Bytes, std::io::Error>;

/// Whether a server that answers so has done, or will never do, what it was asked: not if it has
/// only accepted it, nor if somebody in between has given up waiting for it.
fn is_final(status: StatusCode, also: &[u16]) -> bool {
    let status = status.as_u16();
    !matches!(status, 202 | 502..=504 | 520..=530) || also.contains(&status)
}

/// The task that moves a connection's bytes; dropped, it closes the connection.
struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer's body on its way to the client that asked; dropped with it.
pub(super) struct Direct {
    body: Incoming,
    _connection: Connection,
}

impl Body for Direct {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A client's body on its way to the server: as it comes, without its trailers, and not slower than
/// the time-out for each piece.
pub(super) struct Upload {
    body: Option<Incoming>,
    patience: Option<Pin<Box<Sleep>>>,
}

impl Upload {
    pub(super) fn new(body: Incoming) -> Upload {
        Upload {
            body: Some(body),
            patience: None,
        }
    }

    fn none() -> Upload {
        Upload {
            body: None,
            patience: None,
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        while let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) {
            this.patience = None;
            match frame {
                Some(Ok(frame)) if frame.is_data() => return Poll::Ready(Some(Ok(frame))),
                // Trailers: nobody has looked at them.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(None),
            }
        }
        let sleep = || Box::pin(tokio::time::sleep(HTTP_BODY_TIMEOUT));
        let patience = this.patience.get_or_insert_with(sleep);
        match patience.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err("the client's body does not come".into()))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_leaves_it_open_is_not_final() {
        let is_final =
            |status, also: &[u16]| super::is_final(StatusCode::from_u16(status).unwrap(), also);
        for status in [200, 201, 204, 207, 301, 400, 404, 409, 412, 500, 507] {
            assert!(is_final(status, &[]), "{status}");
        }
        for status in [202, 502, 503, 504, 524] {
            assert!(!is_final(status, &[]), "{status}");
        }
        assert!(is_final(503, &[503]) && !is_final(504, &[503]));
    }
}
