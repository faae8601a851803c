//! The relay of one session: both directions at once, through fixed buffers, until either side
//! ends. Where the client shows a ticket, resets its session or changes its account, the server's
//! answer is held until the gateway has done its part.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use tokio::io::AsyncWriteExt;

use super::dialog::{Dialog, Held, Special};
use super::login::LoggedIn;
use super::messages;
use super::response::IN_TRANSACTION;
use super::session::{Session, Unwelcome};
use crate::fence::refusal::Refusal;
use crate::net::legs::{Allowed, End, Legs, Passage as _};

/// Both legs and what is between them.
pub(super) struct Relay {
    legs: Legs,
    dialog: Dialog,
    session: Session,
}

impl Relay {
    pub(super) fn new(login: LoggedIn, session: Session) -> Relay {
        let ahead = [login.done, login.server_ahead].concat();
        Relay {
            legs: Legs::new(login.client, login.server),
            dialog: Dialog::new(login.dialect, &login.client_ahead, &ahead),
            session,
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
        self.legs.close().await;
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
                if let Err(end) = self.legs.tell_client(&answer).await {
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

    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        // A server answers what it was asked and then sees the end; nothing more is coming.
        let allowed = Allowed {
            hear_client: true,
            end_server: !self.dialog.is_answering(),
        };
        let (up, down) = (&mut self.dialog.from_client, &mut self.dialog.from_server);
        let went = self.legs.poll_move(cx, up, down, allowed);
        let nothing_moved = went.is_pending();
        if nothing_moved && self.legs.client_ended() && self.dialog.is_within_client_packet() {
            return Poll::Ready(Err(End::Client));
        }
        went
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
        self.legs
            .tell_client(&messages::refusal(held.sequence, &refusal))
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
        self.legs.tell_client(&answer).await?;
        Err(End::Told(reason))
    }

    /// Passes on what the server said last, as far as it can be understood.
    async fn last_words(&mut self) -> io::Result<()> {
        // A packet that cannot be understood ends what is passed on.
        let _ = self.dialog.scan();
        self.legs
            .client
            .write_all(self.dialog.from_server.cleared())
            .await?;
        self.legs.client.flush().await
    }
}
