//! The relay of one session: both directions at once, through fixed buffers, until either side
//! ends. Where the client shows a ticket, resets its session or changes its account, the server's
//! answer is held until the gateway has done its part.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::dialog::{Dialog, Held, Special};
use super::login::LoggedIn;
use super::messages;
use super::response::IN_TRANSACTION;
use super::session::{Session, Unwelcome};
use crate::fence::refusal::Refusal;
use crate::net::stream::{Stream, poll_read, written};

/// How a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
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

/// Both legs and what is between them.
pub(super) struct Relay {
    client: Stream,
    server: Stream,
    dialog: Dialog,
    session: Session,
    /// The client says no more; what it has said still goes to the server, and the server's
    /// answers to the client.
    client_ended: bool,
    /// The server has been told so.
    server_told: bool,
    /// Bytes have been written that a TLS stream may still hold.
    flush_client: bool,
    flush_server: bool,
}

impl Relay {
    pub(super) fn new(login: LoggedIn, session: Session) -> Relay {
        let ahead = [login.done, login.server_ahead].concat();
        Relay {
            client: login.client,
            server: login.server,
            dialog: Dialog::new(login.dialect, &login.client_ahead, &ahead),
            session,
            client_ended: false,
            server_told: false,
            flush_client: false,
            flush_server: false,
        }
    }

    /// Relays until the end, tells the client if it is owed a word, and cleans up.
    pub(super) async fn run(mut self) -> End {
        let end = self.relay().await;
        if matches!(end, End::Server | End::ServerBroke(_))
            && let Err(error) = self.last_words().await
        {
            tracing::debug!(%error, "the client did not take the last words");
        }
        // Errors change nothing any more: both connections end here.
        let _ = self.client.shutdown().await;
        let _ = self.server.shutdown().await;
        self.session.end();
        end
    }

    async fn relay(&mut self) -> End {
        loop {
            if let Err(violation) = self.dialog.scan() {
                return End::ServerBroke(io::Error::other(violation));
            }
            if let Some((refused, sequence)) = self.dialog.refused() {
                let answer = messages::refused(sequence, refused);
                if let Err(end) = self.tell(&answer).await {
                    return end;
                }
                continue;
            }
            if let Some((held, special)) = self.dialog.held() {
                let special = special.clone();
                if let Err(end) = self.settle(held, special).await {
                    return end;
                }
                continue;
            }
            if let Err(end) = poll_fn(|cx| self.poll_move(cx)).await {
                return end;
            }
        }
    }

    /// Moves bytes in whichever of the four directions can move now. Pending if none can.
    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let mut moved = false;
        let Dialog {
            from_client,
            from_server,
            ..
        } = &mut self.dialog;
        while !from_client.cleared().is_empty() {
            let server = Pin::new(&mut self.server);
            let Poll::Ready(sent) = server.poll_write(cx, from_client.cleared()) else {
                break;
            };
            from_client.sent(written(sent).map_err(End::ServerBroke)?);
            (moved, self.flush_server) = (true, true);
        }
        while !from_server.cleared().is_empty() {
            let client = Pin::new(&mut self.client);
            let Poll::Ready(sent) = client.poll_write(cx, from_server.cleared()) else {
                break;
            };
            from_server.sent(written(sent).map_err(End::ClientBroke)?);
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
        if from_server.buffer.has_room() {
            let read = poll_read(&mut self.server, cx, &mut from_server.buffer);
            match read.map_err(End::ServerBroke)? {
                Poll::Ready(0) => return Poll::Ready(Err(End::Server)),
                Poll::Ready(_) => moved = true,
                Poll::Pending => {}
            }
        }
        if !self.client_ended && from_client.buffer.has_room() {
            let read = poll_read(&mut self.client, cx, &mut from_client.buffer);
            match read.map_err(End::ClientBroke)? {
                Poll::Ready(count) => (moved, self.client_ended) = (true, count == 0),
                Poll::Pending => {}
            }
        }
        if self.client_ended && !moved {
            // A server answers what it was asked and then sees the end; nothing more is coming.
            let all_sent = self.dialog.from_client.cleared().is_empty() && !self.flush_server;
            if all_sent && !self.dialog.is_answering() && !self.server_told {
                let shut = Pin::new(&mut self.server).poll_shutdown(cx);
                if let Poll::Ready(shut) = shut {
                    shut.map_err(End::ServerBroke)?;
                    (moved, self.server_told) = (true, true);
                }
            }
            if self.dialog.is_within_client_packet() {
                return Poll::Ready(Err(End::Client));
            }
        }
        if moved {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    /// Does the gateway's part of a command that the server has done, and lets its answer go.
    async fn settle(&mut self, held: Held, special: Special) -> Result<(), End> {
        let Some(status) = held.done else {
            self.dialog.settle(true);
            return Ok(());
        };
        let outcome = match special {
            Special::Show(_) if status & IN_TRANSACTION != 0 => {
                Err(Refusal::Misplaced("a transaction is open"))
            }
            Special::Show(tickets) => self.session.show(&tickets).await,
            Special::Reset => self.session.give_back().await,
            Special::ChangeUser => return self.changed_user(held).await,
        };
        let Err(refusal) = outcome else {
            self.dialog.settle(true);
            return Ok(());
        };
        tracing::info!(%refusal, "a ticket was refused");
        self.dialog.settle(false);
        self.tell(&messages::refusal(held.sequence, &refusal))
            .await?;
        if self.session.is_unsettled() {
            return Err(End::Told(refusal.to_string()));
        }
        Ok(())
    }

    /// Another account goes on without tickets, and has to be one that may.
    async fn changed_user(&mut self, held: Held) -> Result<(), End> {
        let given = self.session.give_back().await;
        let welcome = match given {
            Ok(()) => self.session.identify().await,
            Err(refusal) => Err(Unwelcome::Refusal(refusal)),
        };
        let Err(unwelcome) = welcome else {
            self.dialog.settle(true);
            return Ok(());
        };
        self.dialog.settle(false);
        let (answer, reason) = messages::unwelcome(held.sequence, &unwelcome);
        self.tell(&answer).await?;
        Err(End::Told(reason))
    }

    async fn tell(&mut self, message: &[u8]) -> Result<(), End> {
        self.client
            .write_all(message)
            .await
            .map_err(End::ClientBroke)?;
        self.client.flush().await.map_err(End::ClientBroke)
    }

    /// Passes on what the server said last, as far as it can be understood.
    async fn last_words(&mut self) -> io::Result<()> {
        // A packet that cannot be understood ends what is passed on.
        let _ = self.dialog.scan();
        self.client
            .write_all(self.dialog.from_server.cleared())
            .await?;
        self.client.flush().await
    }
}
