//! What one client's session carries: its tickets, and by what the database knows it. Shows
//! tickets to the fence; relays nothing.

use std::sync::Arc;

use super::Gateway;
use super::admin::Backend;
use super::admitting::Admitting;
use crate::admission;
use crate::fence::refusal::Refusal;
use crate::fence::set::TicketSet;
use crate::tickets;

/// By what the database knows who writes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Known {
    /// By the backend that serves the session. `None` if the server has not told which one does:
    /// no ticket can be taken then.
    Backend(Option<Backend>),
    /// By what each transaction is told.
    Told,
}

/// The fence's side of a session.
pub(super) struct Session {
    gateway: Arc<Gateway>,
    known: Known,
    /// The tickets carried, as they were shown. Empty: none.
    carried: String,
    /// What each transaction is told. Empty: nothing.
    told: String,
    /// Number of the last registration that was asked for.
    registration: i64,
    /// Tickets could not be taken away: nobody knows what this session may still write under.
    unsettled: bool,
}

impl Session {
    pub(super) fn new(gateway: Arc<Gateway>, known: Known) -> Session {
        Session {
            gateway,
            known,
            carried: String::new(),
            told: String::new(),
            registration: 0,
            unsettled: false,
        }
    }

    /// The tickets carried, as they were shown.
    pub(super) fn carried(&self) -> &str {
        &self.carried
    }

    /// What each of its transactions has to be told. Empty: nothing.
    pub(super) fn told(&self) -> &str {
        &self.told
    }

    /// Whether transactions are told tickets: then the server may be a pooler's, and everybody's.
    pub(super) fn tells(&self) -> bool {
        matches!(self.known, Known::Told)
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
        match self.admit(&set).await {
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

    async fn admit(&mut self, set: &TicketSet) -> Result<(), Refusal> {
        let gateway = Arc::clone(&self.gateway);
        let admitting = match self.known {
            Known::Backend(Some(backend)) => Admitting::backend(&gateway.admin, backend),
            Known::Told => Admitting::epoch(&gateway.admin, set),
            Known::Backend(None) => {
                return Err(Refusal::Unavailable(
                    "the server has not told the number of this session's backend; behind a \
                     pooler the gateway needs postgres.mode = \"transaction\""
                        .into(),
                ));
            }
        };
        self.registration += 1;
        let (cell, timeout) = (gateway.cell.as_ref(), gateway.admission_timeout);
        admission::admit(&admitting, cell, (), set, self.registration, timeout).await?;
        self.told = admitting.told();
        Ok(())
    }

    async fn give_back(&mut self) -> Result<(), Refusal> {
        self.carried.clear();
        self.told.clear();
        let Some(backend) = self.registered() else {
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

    /// The backend, if something may be registered for it. An epoch is nobody's to take away.
    fn registered(&self) -> Option<Backend> {
        match self.known {
            Known::Backend(backend) => backend.filter(|_| self.registration > 0),
            Known::Told => None,
        }
    }

    /// The client's connection has ended: what is registered for it may go.
    pub(super) fn end(self) {
        let Some(backend) = self.registered() else {
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
