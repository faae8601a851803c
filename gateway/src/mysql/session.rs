//! What one client's session carries: its thread in the server, its tickets, its registration.
//! Shows tickets to the fence; relays nothing.

use std::sync::Arc;

use super::Gateway;
use super::admin::Thread;
use crate::admission;
use crate::fence::refusal::Refusal;
use crate::tickets;

/// The fence's side of a session.
pub(super) struct Session {
    gateway: Arc<Gateway>,
    /// The server's number for the connection.
    connection: u32,
    /// The port from which the gateway has dialled it.
    port: u16,
    /// `None` if the server does not know it under that number: no ticket can be taken then.
    thread: Option<Thread>,
    /// Number of the last registration that was asked for.
    registration: i64,
    /// Something may be registered.
    carries: bool,
    /// Tickets could not be taken away: nobody knows what this session may still write under.
    unsettled: bool,
}

impl Session {
    pub(super) fn new(gateway: Arc<Gateway>, connection: u32, port: u16) -> Session {
        Session {
            gateway,
            connection,
            port,
            thread: None,
            registration: 0,
            carries: false,
            unsettled: false,
        }
    }

    /// Whether the session has to end, because its tickets could not be taken away.
    pub(super) fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    /// Who serves this session, and may its account be served? Checked against what the gateway
    /// knows itself, because a connection of the same number may be another one's on another
    /// server.
    pub(super) async fn identify(&mut self) -> Result<(), Unwelcome> {
        self.thread = None;
        let gateway = Arc::clone(&self.gateway);
        let identity = gateway.admin.identify(u64::from(self.connection)).await;
        let identity = identity
            .map_err(|error| Unwelcome::Refusal(Refusal::Unavailable(error.to_string())))?;
        match identity {
            Some(identity) if identity.superuser && !gateway.allow_superusers => {
                Err(Unwelcome::Superuser)
            }
            Some(identity) if identity.host.ends_with(&format!(":{}", self.port)) => {
                self.thread = Some(identity.thread);
                Ok(())
            }
            _ => {
                tracing::warn!(
                    connection = self.connection,
                    "a session cannot be identified: it is not on the server that the gateway's \
                     own connections reach, or its port is translated on the way"
                );
                Ok(())
            }
        }
    }

    /// Takes tickets in place of those carried so far. The session has to be idle, and nothing
    /// of it may be forwarded before this has returned. If the tickets are refused, the session
    /// carries none: what it would write now, it would not write under those it had before.
    pub(super) async fn show(&mut self, text: &str) -> Result<(), Refusal> {
        let set = match tickets::read(&self.gateway.verifier, text) {
            Ok(set) => set,
            Err(refusal) => {
                self.give_back().await?;
                return Err(refusal);
            }
        };
        if set.is_empty() {
            return self.give_back().await;
        }
        let Some(thread) = self.thread else {
            return Err(Refusal::Unavailable(
                "the server does not know this session under its number (a proxy in between?)"
                    .into(),
            ));
        };
        self.registration += 1;
        self.carries = true;
        let gateway = &self.gateway;
        let admitted = admission::admit(
            &gateway.admin,
            gateway.cell.as_ref(),
            thread,
            &set,
            self.registration,
            gateway.admission_timeout,
        )
        .await;
        if let Err(refusal) = admitted {
            self.give_back().await?;
            return Err(refusal);
        }
        Ok(())
    }

    /// Takes away what the session carries. It has to be idle.
    pub(super) async fn give_back(&mut self) -> Result<(), Refusal> {
        let Some(thread) = self.thread.filter(|_| self.carries) else {
            return Ok(());
        };
        let admin = &self.gateway.admin;
        let given = admin.give_back(thread, self.registration, false).await;
        self.unsettled = given.is_err();
        self.carries = self.unsettled;
        given.map_err(|error| Refusal::Unavailable(error.to_string()))
    }

    /// The client's connection has ended: what is registered for it may go.
    pub(super) fn end(self) {
        let Some(thread) = self.thread.filter(|_| self.carries) else {
            return;
        };
        tokio::spawn(async move {
            let admin = &self.gateway.admin;
            if let Err(error) = admin.give_back(thread, self.registration, true).await {
                // Nothing depends on it: the next advance of the lock removes them as well.
                tracing::debug!(%error, "the registrations of an ended session stay for now");
            }
        });
    }
}

/// Why a session is not served.
pub(super) enum Unwelcome {
    /// Its account could switch the fence off.
    Superuser,
    /// The fence.
    Refusal(Refusal),
}
