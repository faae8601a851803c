//! The relay of one connection: both directions at once, through fixed buffers, until either side
//! ends. Where the client shows a ticket it stops, waits until the server has answered all that
//! came before, has the ticket admitted, and only then goes on.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::from_client::FromClient;
use super::from_server::{Awaited, FromServer, Stop};
use super::resp::{self, Value};
use super::session::Session;
use crate::fence::refusal::Refusal;
use crate::limits::ECHO_PATIENCE;
use crate::net::legs::{Allowed, End, Legs, Passage as _};
use crate::net::stream::Stream;

/// Both legs and what is between them.
pub(super) struct Relay {
    legs: Legs,
    from_client: FromClient,
    from_server: FromServer,
    session: Session,
}

impl Relay {
    pub(super) fn new(client: Stream, server: Stream, session: Session) -> Relay {
        Relay {
            legs: Legs::new(client, server),
            from_client: FromClient::new(),
            from_server: FromServer::new(),
            session,
        }
    }

    /// Relays until the end, and cleans up.
    pub(super) async fn run(mut self) -> End {
        let end = self.relay().await;
        if matches!(end, End::Server | End::ServerBroke(_)) {
            // The client may be gone as well.
            let _ = tokio::time::timeout(LAST_WORDS_WAIT, self.last_words()).await;
        }
        self.legs.close().await;
        self.session.end();
        end
    }

    async fn relay(&mut self) -> End {
        loop {
            let went = match self.from_client.stopped() {
                Some(_) => self.show().await,
                None => self.advance().await,
            };
            if let Err(end) = went {
                return end;
            }
        }
    }

    /// One step that is nothing special: moves bytes, or puts a refusal into better words.
    async fn advance(&mut self) -> Result<(), End> {
        self.from_client.scan();
        self.from_server.scan();
        match self.from_server.stopped() {
            Some(Stop::Denied | Stop::NotTaken) => self.reword().await,
            // Nobody waits for these any more.
            Some(_) => {
                self.from_server.take_out();
                Ok(())
            }
            None if self.from_client.stopped().is_some() => Ok(()),
            None => poll_fn(|cx| self.poll_move(cx)).await,
        }
    }

    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let allowed = Allowed {
            hear_client: true,
            end_server: self.from_client.is_empty(),
        };
        let (up, down) = (&mut self.from_client, &mut self.from_server);
        let before = self.legs.client_ended();
        let went = self.legs.poll_move(cx, up, down, allowed);
        if self.legs.client_ended() && !before {
            self.from_client.end();
        }
        went
    }

    /// The client shows tickets, and all before that is with the server.
    async fn show(&mut self) -> Result<(), End> {
        let Some(tickets) = self.from_client.stopped().map(|show| show.tickets.clone()) else {
            return Ok(());
        };
        let unfit = self.from_client.in_multi() || self.from_client.is_muted();
        if unfit || self.from_server.is_blind() {
            self.give_back().await?;
            self.from_client.take_out();
            // The server refuses it in its place among the replies, and so undoes a transaction.
            return self.legs.tell_server(&resp::command(&["FENCE"])).await;
        }
        if !self.becomes_idle().await? {
            self.give_back().await?;
            self.from_client.take_out();
            return Ok(());
        }
        let connection = self.ask(&resp::command(&["CLIENT", "ID"])).await?;
        let user = self.ask(&resp::command(&["ACL", "WHOAMI"])).await?;
        let admitted = match (&connection, user.text()) {
            (Value::Number(connection), Some(user)) => {
                let connection = u64::try_from(*connection).unwrap_or(0);
                self.session.show(&tickets, connection, user).await
            }
            _ => {
                self.give_back().await?;
                Err(Refusal::Misplaced(
                    "this user may not ask the server who it is",
                ))
            }
        };
        let settled = match admitted {
            Ok(None) => Ok(()),
            Ok(Some(auth)) => {
                let taken = self.ask(&auth).await? == Value::Text(b"OK".to_vec());
                self.session.admitted(taken).await
            }
            Err(refusal) => Err(refusal),
        };
        self.from_client.take_out();
        match settled {
            Ok(()) => self.legs.tell_client(b"+OK\r\n").await,
            Err(refusal) => {
                tracing::info!(%refusal, "a ticket was refused");
                self.legs.tell_client(&refused(&refusal)).await?;
                self.end_if_unsettled()
            }
        }
    }

    /// Waits until the server has answered everything sent so far. `false`: it did, but refused
    /// to say so, and that refusal has gone to the client: it is not logged in, or subscribes.
    async fn becomes_idle(&mut self) -> Result<bool, End> {
        let text = format!("{:032x}", rand::random::<u128>());
        self.from_server.wait_for(Awaited::Echo(text.clone()));
        self.legs
            .tell_server(&resp::command(&["ECHO", &text]))
            .await?;
        let first = tokio::time::timeout(ECHO_PATIENCE, self.awaited()).await;
        let (stop, twice) = match first {
            Ok(stop) => (stop?, false),
            Err(_) => {
                // No state of a connection keeps the server from not knowing a command.
                let unknown = format!("FENCE-{text}");
                self.legs.tell_server(&resp::command(&[&unknown])).await?;
                (self.awaited().await?, true)
            }
        };
        if stop != Stop::Echoed {
            return Ok(false);
        }
        if twice {
            self.from_server.wait_for(Awaited::Echo(text));
            self.awaited().await?;
        }
        Ok(true)
    }

    /// Sends a command of the gateway's own on this connection, which is idle.
    async fn ask(&mut self, command: &[u8]) -> Result<Value, End> {
        self.from_server.wait_for(Awaited::Next);
        self.legs.tell_server(command).await?;
        match self.awaited().await? {
            Stop::Reply(value) => Ok(value),
            _ => Err(End::ServerBroke(io::Error::other(
                "replies cannot be told apart",
            ))),
        }
    }

    /// What is waited for, as soon as it is there. May be given up at any point.
    async fn awaited(&mut self) -> Result<Stop, End> {
        loop {
            self.from_server.scan();
            match self.from_server.stopped() {
                Some(Stop::Denied | Stop::NotTaken) => self.reword().await?,
                Some(_) => {
                    if let Some(stop) = self.from_server.take_out() {
                        return Ok(stop);
                    }
                }
                None if self.from_server.is_blind() => {
                    let error = io::Error::other("the server's replies cannot be understood");
                    return Err(End::ServerBroke(error));
                }
                None if self.legs.client_ended() => return Err(End::Client),
                None => poll_fn(|cx| self.poll_move(cx)).await?,
            }
        }
    }

    /// Says in the fence's words what the server has refused.
    async fn reword(&mut self) -> Result<(), End> {
        let refusal = match self.from_server.stopped() {
            Some(Stop::Denied) => self.session.why_denied().await,
            _ => Refusal::Misplaced(
                "send FENCE TICKET <ticket>.. outside MULTI, with replies switched on",
            ),
        };
        // Taken out first: this may be given up while the client does not read.
        self.from_server.replace(&refused(&refusal));
        Ok(())
    }

    async fn give_back(&mut self) -> Result<(), End> {
        // A refusal is told where the ticket is answered; what matters is whether it was done.
        let _ = self.session.give_back().await;
        self.end_if_unsettled()
    }

    fn end_if_unsettled(&self) -> Result<(), End> {
        if self.session.is_unsettled() {
            return Err(End::Told("its tickets could not be taken away".into()));
        }
        Ok(())
    }

    /// The server has ended: what it has still said goes to the client. Our own write may have
    /// noticed before its last words were read.
    async fn last_words(&mut self) -> io::Result<()> {
        loop {
            self.from_server.scan();
            if matches!(
                self.from_server.stopped(),
                Some(Stop::Denied | Stop::NotTaken)
            ) {
                let _ = self.reword().await;
            }
            let cleared = self.from_server.cleared();
            if !cleared.is_empty() {
                let sent = self.legs.client.write(cleared).await?;
                self.from_server.sent(sent);
                continue;
            }
            match self.legs.server.read(self.from_server.buffer.room()).await {
                Ok(0) | Err(_) => break,
                Ok(read) => self.from_server.buffer.advance(read),
            }
        }
        self.legs
            .client
            .write_all(self.from_server.buffer.filled())
            .await?;
        self.legs.client.flush().await
    }
}

/// A refusal as an error of the protocol. Its first word is the same for all, so that clients can
/// tell them from the server's own; its second is the code.
fn refused(refusal: &Refusal) -> Vec<u8> {
    resp::line('-', &format!("FENCED {} {refusal}", refusal.code()))
}

/// How long a client may take to read the last words of a server that is gone.
const LAST_WORDS_WAIT: Duration = Duration::from_secs(2);
