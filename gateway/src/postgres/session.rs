//! What one client's session carries: its backend, its tickets, its registration. Shows tickets
//! to the fence; relays nothing.

use std::sync::Arc;

use super::Gateway;
use super::admin::Backend;
use crate::admission;
use crate::fence::refusal::Refusal;
use crate::tickets;

/// The fence's side of a session.
pub(super) struct Session {
    gateway: Arc<Gateway>,
    /// `None` if the server has not told who serves this session: no ticket can be taken then.
    backend: Option<Backend>,
    /// The tickets carried, as they were shown. Empty: none.
    carried: String,
    /// Number of the last registration that was asked for.
    registration: i64,
    /// Tickets could not be taken away: nobody knows what this session may still write under.
    unsettled: bool,
}

impl Session {
    pub(super) fn new(gateway: Arc<Gateway>, backend: Option<Backend>) -> Session {
        Session {
            gateway,
            backend,
            carried: String::new(),
            registration: 0,
            unsettled: false,
        }
    }

    /// The tickets carried, as they were shown.
    pub(super) fn carried(&self) -> &str {
        &self.carried
    }

    /// Whether the session has to end, because its tickets could not be taken away.
    pub(super) fn is_unsettled(&self) -> bool {
        self.unsettled
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
        let Some(backend) = self.backend else {
            return Err(Refusal::Unavailable(
                "the server has not told the number of this session's backend (a pooler?)".into(),
            ));
        };
        self.registration += 1;
        let gateway = &self.gateway;
        let admitted = admission::admit(
            &gateway.admin,
            gateway.cell.as_ref(),
            backend,
            &set,
            self.registration,
            gateway.admission_timeout,
        )
        .await;
        match admitted {
            Ok(()) => {
                text.clone_into(&mut self.carried);
                Ok(())
            }
            Err(refusal) => {
                self.give_back().await?;
                Err(refusal)
            }
        }
    }

    async fn give_back(&mut self) -> Result<(), Refusal> {
        self.carried.clear();
        let Some(backend) = self.backend.filter(|_| self.registration > 0) else {
            return Ok(());
        };
        let given = self
            .gateway
            .admin
            .give_back(backend, self.registration)
            .await;
        self.unsettled = given.is_err();
        given.map_err(|error| Refusal::Unavailable(error.to_string()))
    }

    /// The client's connection has ended: what is registered for it may go.
    pub(super) fn end(self) {
        let Some(backend) = self.backend.filter(|_| self.registration > 0) else {
            return;
        };
        tokio::spawn(async move {
            let forgotten = self.gateway.admin.forget(backend, self.registration).await;
            if let Err(error) = forgotten {
                // Nothing depends on it: the next advance of the lock removes them as well.
                tracing::debug!(%error, "the registrations of an ended session stay for now");
            }
        });
    }
}
