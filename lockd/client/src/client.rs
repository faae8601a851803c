//! The client: one session, and the ways to use it.

use std::sync::Arc;
use std::time::Duration;

use lockd_protocol::SessionId;
use lockd_protocol::client::Operation;
use tokio::sync::oneshot;

use crate::builder::{ClientBuilder, SessionChoice, new_session};
use crate::error::{BreakError, ConnectError};
use crate::handle::Session;
use crate::lock::NameArg;
use crate::slot::{Broken, Waiter};
use crate::task::Command;

/// A client of a cell, with a session of its own. Cheap to clone; clones share the session.
///
/// The session is renewed in the background for as long as a clone, a guard or a waiting
/// acquisition is left, and closed when the last of them is dropped. If it is lost, its guards
/// are lost for good, and the next acquisition opens another session.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) session: Arc<Session>,
}

impl Client {
    /// Starts the set-up of a client.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::new()
    }

    pub(crate) fn new(session: Session) -> Client {
        Client {
            session: Arc::new(session),
        }
    }

    /// The session that is open now, if one is.
    #[must_use]
    pub fn session_id(&self) -> Option<SessionId> {
        self.session.current.get()
    }

    /// Starts the set-up of another session over the same connection.
    pub fn session(&self) -> SessionBuilder {
        SessionBuilder {
            client: self.clone(),
            choice: SessionChoice::new(),
        }
    }

    /// Takes a lock from whoever holds it. Only operators may.
    ///
    /// By default the holder is told, and the lock moves when it has let go or its lease must
    /// have ended. With `at_once` the lock moves at once, and for the rest of its lease the old
    /// holder may believe that it still holds it: then only the fence protects the data.
    ///
    /// # Errors
    /// [`BreakError`]; its [`kind`](BreakError::kind) says whether the lock may have been broken.
    pub async fn break_lock(
        &self,
        name: impl Into<NameArg>,
        reason: &str,
        at_once: bool,
    ) -> Result<Broken, BreakError> {
        let lock = name.into().0?;
        let (reply, outcome) = oneshot::channel();
        let shared = &self.session.shared;
        let command = Command::Submit {
            slot: self.session.slot(),
            request: shared.next_request(),
            operation: Operation::Break {
                lock,
                reason: reason.to_owned(),
                at_once,
            },
            waiter: Waiter::Break(reply),
        };
        self.session.send(command).map_err(|_| BreakError::Closed)?;
        let within = shared.request_timeout;
        match shared.clock.timeout(within, outcome).await {
            Some(outcome) => outcome.unwrap_or(Err(BreakError::Closed)),
            None => Err(BreakError::Unavailable { within }),
        }
    }

    /// Closes the session and waits until the cell has confirmed it, or for the request timeout.
    /// Everything it holds or waits for ends at once: its guards are lost, and later
    /// acquisitions by clones of this client fail.
    pub async fn close(self) {
        let (reply, closed) = oneshot::channel();
        let command = Command::Close {
            slot: self.session.slot(),
            reply: Some(reply),
        };
        if self.session.send(command).is_ok() {
            let shared = &self.session.shared;
            // A cell that is out of reach ends the session when its lease does.
            let _ = shared.clock.timeout(shared.request_timeout, closed).await;
        }
    }
}

/// Settings of a further session over the connection of a client.
#[derive(Clone, Debug)]
#[must_use = "nothing happens until `open`"]
pub struct SessionBuilder {
    client: Client,
    choice: SessionChoice,
}

impl SessionBuilder {
    /// See [`ClientBuilder::ttl`].
    pub fn ttl(mut self, ttl: Duration) -> SessionBuilder {
        self.choice.ttl = ttl;
        self
    }

    /// See [`ClientBuilder::keepalive`].
    pub fn keepalive(mut self, keepalive: Duration) -> SessionBuilder {
        self.choice.keepalive = Some(keepalive);
        self
    }

    /// See [`ClientBuilder::description`].
    pub fn description(mut self, description: impl Into<String>) -> SessionBuilder {
        self.choice.description = Some(description.into());
        self
    }

    /// See [`ClientBuilder::label`].
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> SessionBuilder {
        self.choice.labels.insert(key.into(), value.into());
        self
    }

    /// Opens the session.
    ///
    /// # Errors
    /// [`ConnectError::Invalid`], [`ConnectError::NoLeader`] or [`ConnectError::Refused`].
    pub async fn open(self) -> Result<Client, ConnectError> {
        let settings = self.choice.settle()?;
        let shared = Arc::clone(&self.client.session.shared);
        new_session(shared, settings, true).await
    }
}
