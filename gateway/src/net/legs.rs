//! The two legs of a session, and how bytes move between them: the same for every protocol. What
//! may pass, and how far, is the protocol's business: see [`Passage`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::buffer::Buffer;
use super::stream::{Stream, poll_read, written};

/// How a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error("the client closed its connection")]
    Client,
    #[error("the server closed its connection")]
    Server,
    #[error("the client's connection broke: {0}")]
    ClientBroke(io::Error),
    #[error("the server's connection broke: {0}")]
    ServerBroke(io::Error),
    #[error("the client was told to go: {0}")]
    Told(String),
}

/// One direction of a session: what has been read, and how much of it may be written.
pub(crate) trait Passage {
    /// What may be written now.
    fn cleared(&self) -> &[u8];
    /// This much of it has been written.
    fn sent(&mut self, count: usize);
    /// Where to read into.
    fn buffer(&mut self) -> &mut Buffer;
}

/// What a protocol allows just now, beside what the passages say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowed {
    /// More may be read of the client.
    pub(crate) hear_client: bool,
    /// Once the client has ended and all that it said is sent, the server may be told.
    pub(crate) end_server: bool,
}

/// Both legs.
pub(crate) struct Legs {
    pub(crate) client: Stream,
    pub(crate) server: Stream,
    /// The client says no more; what it has said still goes to the server, and the server's
    /// answers to the client.
    client_ended: bool,
    /// The server has been told so.
    server_told: bool,
    /// Bytes have been written that a TLS stream may still hold.
    flush_client: bool,
    flush_server: bool,
}

impl Legs {
    pub(crate) fn new(client: Stream, server: Stream) -> Legs {
        Legs {
            client,
            server,
            client_ended: false,
            server_told: false,
            flush_client: false,
            flush_server: false,
        }
    }

    /// Whether the client says no more.
    pub(crate) fn client_ended(&self) -> bool {
        self.client_ended
    }

    /// Moves bytes in whichever of the four directions can move now. Pending if none can.
    pub(crate) fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        up: &mut impl Passage,
        down: &mut impl Passage,
        allowed: Allowed,
    ) -> Poll<Result<(), End>> {
        let mut moved = false;
        if write(&mut self.server, cx, up).map_err(End::ServerBroke)? {
            (moved, self.flush_server) = (true, true);
        }
        if write(&mut self.client, cx, down).map_err(End::ClientBroke)? {
            (moved, self.flush_client) = (true, true);
        }
        if self.flush_server
            && let Poll::Ready(flushed) = Pin::new(&mut self.server).poll_flush(cx)
        {
            flushed.map_err(End::ServerBroke)?;
            (moved, self.flush_server) = (true, false);
        }
        if self.flush_client
            && let Poll::Ready(flushed) = Pin::new(&mut self.client).poll_flush(cx)
        {
            flushed.map_err(End::ClientBroke)?;
            (moved, self.flush_client) = (true, false);
        }
        let all_sent = up.cleared().is_empty() && !self.flush_server;
        if self.client_ended
            && all_sent
            && allowed.end_server
            && !self.server_told
            && let Poll::Ready(told) = Pin::new(&mut self.server).poll_shutdown(cx)
        {
            told.map_err(End::ServerBroke)?;
            (moved, self.server_told) = (true, true);
        }
        if down.buffer().has_room() {
            let read = poll_read(&mut self.server, cx, down.buffer());
            match read.map_err(End::ServerBroke)? {
                Poll::Ready(0) => return Poll::Ready(Err(End::Server)),
                Poll::Ready(_) => moved = true,
                Poll::Pending => {}
            }
        }
        if allowed.hear_client && !self.client_ended && up.buffer().has_room() {
            let read = poll_read(&mut self.client, cx, up.buffer());
            match read.map_err(End::ClientBroke)? {
                Poll::Ready(count) => (moved, self.client_ended) = (true, count == 0),
                Poll::Pending => {}
            }
        }
        if moved {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    /// Says something of the gateway's own to the client.
    pub(crate) async fn tell_client(&mut self, bytes: &[u8]) -> Result<(), End> {
        let told = async {
            self.client.write_all(bytes).await?;
            self.client.flush().await
        };
        told.await.map_err(End::ClientBroke)
    }

    /// Says something of the gateway's own to the server.
    pub(crate) async fn tell_server(&mut self, bytes: &[u8]) -> Result<(), End> {
        let told = async {
            self.server.write_all(bytes).await?;
            self.server.flush().await
        };
        told.await.map_err(End::ServerBroke)
    }

    /// Ends both connections.
    pub(crate) async fn close(&mut self) {
        // Errors change nothing any more.
        let _ = self.client.shutdown().await;
        let _ = self.server.shutdown().await;
    }
}

/// Writes what is cleared, as far as it is taken now. Whether anything was.
fn write(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    passage: &mut impl Passage,
) -> io::Result<bool> {
    let mut any = false;
    while !passage.cleared().is_empty() {
        let Poll::Ready(sent) = Pin::new(&mut *stream).poll_write(cx, passage.cleared()) else {
            break;
        };
        passage.sent(written(sent)?);
        any = true;
    }
    Ok(any)
}
