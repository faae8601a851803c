//! The relay of one session: both directions at once, through fixed buffers, until either side
//! ends. Where the client shows a ticket it stops, waits until the session is idle, has it
//! admitted, and only then goes on reading. In transaction mode it also stops where a transaction
//! may begin, until it is known whether one does, and tells the server what the session carries.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::from_client::{Form, FromClient, Refused, Shown, Stop, Untold, Why};
use super::from_server::FromServer;
use super::idle::{Idle, Transaction};
use super::messages::{self, Severity};
use super::session::Session;
use super::telling::Telling;
use crate::fence::refusal::Refusal;
use crate::net::legs::{Allowed, End, Legs, Passage as _};
use crate::net::stream::Stream;

/// Both legs and what is between them.
pub(super) struct Relay {
    legs: Legs,
    from_client: FromClient,
    from_server: FromServer,
    idle: Idle,
    telling: Telling,
    session: Session,
}

impl Relay {
    pub(super) fn new(
        client: Stream,
        server: Stream,
        client_ahead: &[u8],
        server_ahead: &[u8],
        session: Session,
    ) -> Relay {
        let mut telling = Telling::default();
        telling.carry(session.told());
        Relay {
            legs: Legs::new(client, server),
            from_client: FromClient::new(client_ahead),
            from_server: FromServer::new(server_ahead),
            idle: Idle::default(),
            telling,
            session,
        }
    }

    /// Relays until the end, tells the client if it is owed a word, and cleans up.
    pub(super) async fn run(mut self) -> End {
        let end = self.relay().await;
        let told = match &end {
            End::Server | End::ServerBroke(_) if !self.legs.client_ended() => self.farewell().await,
            End::Server => self.last_answers().await,
            _ => Ok(()),
        };
        if let Err(error) = told {
            tracing::debug!(%error, "the client did not take the last word");
        }
        self.legs.close().await;
        self.session.end();
        end
    }

    async fn relay(&mut self) -> End {
        loop {
            self.scan_client();
            if let Err(error) = self.scan_server() {
                return End::ServerBroke(error);
            }
            if self.telling.sync_due() && self.from_client.is_between_messages() {
                self.telling.synced();
                if let Err(end) = self.legs.tell_server(&messages::message(b'S', b"")).await {
                    return end;
                }
            }
            if self.from_client.stopped().is_some() {
                match self.handle_stop().await {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(end) => return end,
                }
            }
            let waits_for_client =
                !matches!(self.from_client.stopped(), None | Some(Stop::Tell(_)));
            if self.legs.client_ended() && waits_for_client {
                return End::Client;
            }
            if let Err(end) = poll_fn(|cx| self.poll_move(cx)).await {
                return end;
            }
        }
    }

    fn scan_client(&mut self) {
        let carried = self.session.carried();
        self.from_client
            .scan(&mut self.idle, carried, &self.telling);
    }

    fn scan_server(&mut self) -> io::Result<()> {
        self.from_server
            .scan(&mut self.idle, &mut self.telling)
            .map_err(io::Error::other)
    }

    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        // A pooler has no more answers for somebody who says that he has said his last.
        let owed = self.session.tells() && self.idle.is_unit_boundary() && !self.idle.is_idle();
        let allowed = Allowed {
            hear_client: self.idle.has_room(),
            end_server: self.from_client.stopped().is_none() && !owed,
        };
        let (up, down) = (&mut self.from_client, &mut self.from_server);
        self.legs.poll_move(cx, up, down, allowed)
    }

    /// `true`: handled, scan on. `false`: not yet, the server has to answer first.
    async fn handle_stop(&mut self) -> Result<bool, End> {
        match self.from_client.stopped() {
            None => Ok(false),
            Some(Stop::Violation(reason)) => {
                let reason = reason.clone();
                self.legs
                    .tell_client(&messages::error(
                        Severity::Fatal,
                        "08P01",
                        &reason,
                        None,
                        None,
                    ))
                    .await?;
                Err(End::Told(reason))
            }
            Some(Stop::Refuse(Refused { why, form, total })) => {
                let (why, form, total) = (*why, form.clone(), *total);
                self.replace(total, &form, &refusal_text(why)).await?;
                Ok(true)
            }
            Some(&Stop::Tell(untold)) => self.tell(untold).await,
            Some(Stop::Show(shown)) => {
                if !self.idle.is_unit_boundary() {
                    let reason = if self.idle.is_countable() {
                        "something else comes before it in its unit"
                    } else {
                        "what this session has under way cannot be counted any more"
                    };
                    return self.refuse_shown(Refusal::Misplaced(reason)).await;
                }
                if let Form::Parse(name) = &shown.form
                    && !self.from_client.can_remember(name)
                {
                    let reason = "too many prepared statements of this session hold tickets";
                    return self.refuse_shown(Refusal::Misplaced(reason)).await;
                }
                // What the server has said must be with the client before our own answer is.
                if !self.idle.is_idle() || !self.from_server.buffer.filled().is_empty() {
                    return Ok(false);
                }
                if self.idle.transaction() != Transaction::None {
                    let reason = "a transaction is open";
                    return self.refuse_shown(Refusal::Misplaced(reason)).await;
                }
                let tickets = shown.tickets.clone();
                let shown = self.session.show(&tickets).await;
                self.telling.carry(self.session.told());
                match shown {
                    Ok(()) => self.admitted().await,
                    Err(refusal) => self.refuse_shown(refusal).await,
                }
            }
        }
    }

    /// A unit begins: tells the server in front of it what the session carries, if its transaction
    /// does not know yet, in one write with what is there of the unit.
    async fn tell(&mut self, untold: Untold) -> Result<bool, End> {
        if !self.idle.is_idle() {
            return Ok(false);
        }
        let Untold {
            kind,
            total,
            manner,
        } = untold;
        let transaction = self.idle.transaction();
        let front = self.telling.put_in_front(transaction, manner, kind);
        self.from_client.let_through(total, kind, &mut self.idle);
        self.scan_client();
        if let Some(mut bytes) = front {
            // More at once, and a server that answers before it has read all could wait for us.
            let cleared = self.from_client.cleared();
            let along = cleared.len().min(TOLD_ALONG_BYTES);
            bytes.extend_from_slice(cleared.get(..along).unwrap_or_default());
            self.legs.tell_server(&bytes).await?;
            self.from_client.sent(along);
        }
        Ok(true)
    }

    /// The session carries what it has shown: answer, or let the server see it too.
    async fn admitted(&mut self) -> Result<bool, End> {
        let Some(Stop::Show(Shown {
            tickets,
            form,
            total,
        })) = self.from_client.stopped()
        else {
            return Ok(false);
        };
        let (tickets, form, total) = (tickets.clone(), form.clone(), *total);
        match form {
            Form::Query => {
                self.from_client.take_out(total);
                self.legs.tell_client(&messages::set_done()).await?;
            }
            Form::Parse(name) => {
                self.from_client.remember(&name, &tickets);
                if self.session.tells() {
                    // A pooler's server is not the session's own, and is not to keep the ticket.
                    self.replace(total, &Form::Parse(name), NOTHING_SHOWN)
                        .await?;
                } else {
                    self.from_client.let_through(total, b'P', &mut self.idle);
                }
            }
            Form::Bind(_) => self.from_client.let_through(total, b'B', &mut self.idle),
        }
        Ok(true)
    }

    async fn refuse_shown(&mut self, refusal: Refusal) -> Result<bool, End> {
        tracing::info!(%refusal, "a ticket was refused");
        let Some(Stop::Show(Shown { form, total, .. })) = self.from_client.stopped() else {
            return Ok(false);
        };
        let (form, total) = (form.clone(), *total);
        let settled = self.idle.is_idle() && self.idle.transaction() == Transaction::None;
        if self.session.is_unsettled() {
            self.legs
                .tell_client(&messages::refusal(Severity::Fatal, &refusal))
                .await?;
            return Err(End::Told(refusal.to_string()));
        }
        match form {
            Form::Query if settled && self.from_server.buffer.filled().is_empty() => {
                self.from_client.take_out(total);
                let mut answer = messages::refusal(Severity::Error, &refusal);
                answer.extend_from_slice(&messages::ready());
                self.legs.tell_client(&answer).await?;
            }
            Form::Query | Form::Parse(_) => {
                let text = messages::raising(
                    refusal.code(),
                    &refusal.to_string(),
                    refusal.detail().as_deref(),
                    refusal.hint(),
                );
                self.replace(total, &form, &text).await?;
            }
            // A Bind cannot be made to raise anything; going on would be under other tickets.
            Form::Bind(_) => {
                self.legs
                    .tell_client(&messages::refusal(Severity::Fatal, &refusal))
                    .await?;
                return Err(End::Told(refusal.to_string()));
            }
        }
        Ok(true)
    }

    /// Sends the server another statement in place of the message at the front.
    async fn replace(&mut self, total: usize, form: &Form, text: &str) -> Result<(), End> {
        let (message, kind) = match form {
            Form::Query => (messages::query(text), b'Q'),
            Form::Parse(name) | Form::Bind(name) => (messages::parse(name, text), b'P'),
        };
        self.from_client.take_out(total);
        self.idle.sent(kind);
        self.legs.tell_server(&message).await
    }

    /// The server has ended as it was told to: what it has still said goes to the client.
    async fn last_answers(&mut self) -> io::Result<()> {
        self.scan_server()?;
        self.legs
            .client
            .write_all(self.from_server.cleared())
            .await?;
        self.legs.client.flush().await
    }

    async fn last_words(&mut self) -> io::Result<()> {
        loop {
            // A length that cannot be ends what can be understood, not what can be passed on.
            if self.scan_server().is_err() {
                return Ok(());
            }
            let sent = self.legs.client.write(self.from_server.cleared()).await?;
            self.from_server.sent(sent);
            match self.legs.server.read(self.from_server.buffer.room()).await {
                Ok(0) | Err(_) => return Ok(()),
                Ok(read) => self.from_server.buffer.advance(read),
            }
        }
    }

    /// Passes on what the server said last; if that was no error, says that it is gone.
    async fn farewell(&mut self) -> io::Result<()> {
        // A server that ends a session says why and closes; our own write may have noticed first.
        let rest = tokio::time::timeout(LAST_WORDS_WAIT, self.last_words()).await;
        rest.unwrap_or(Ok(()))?;
        self.scan_server()?;
        self.legs
            .client
            .write_all(self.from_server.cleared())
            .await?;
        if !self.from_server.said_error() && !self.from_server.is_within_message() {
            let text = "the PostgreSQL server closed the connection";
            let hint = "Whether the last transaction was committed is not known. Connect again.";
            let error = messages::error(Severity::Fatal, "08006", text, None, Some(hint));
            self.legs.client.write_all(&error).await?;
        }
        self.legs.client.flush().await
    }
}

/// How much of a unit goes to the server in one write with what it is told.
const TOLD_ALONG_BYTES: usize = 8 * 1024;

/// What a server gets to see, in place of the ticket, of a prepared statement that shows one.
const NOTHING_SHOWN: &str = "set fence.ticket to default";

/// How long the last words of a server are waited for, once its connection is broken.
const LAST_WORDS_WAIT: Duration = Duration::from_secs(2);

fn refusal_text(why: Why) -> String {
    match why {
        Why::Misplaced => {
            let refusal = Refusal::Misplaced("not in this form");
            messages::raising(refusal.code(), &refusal.to_string(), None, refusal.hint())
        }
        Why::Prepared => messages::raising(
            "0A000",
            "prepared transactions are refused on a database under guard",
            Some("A prepared transaction outlives the session whose ticket covers it."),
            "Commit in one phase.",
        ),
    }
}
