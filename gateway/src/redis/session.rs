//! What one client's connection carries: its registration. Shows tickets to the fence; relays
//! nothing.

use std::sync::Arc;

use super::Gateway;
use super::acl::REGISTRATION;
use super::admin::{Registering, Registration};
use super::resp;
use crate::admission;
use crate::fence::refusal::Refusal;
use crate::tickets;

/// The fence's side of a connection.
pub(super) struct Session {
    gateway: Arc<Gateway>,
    /// The last registration that the connection was logged in as.
    current: Option<Registration>,
    /// Whether it carries its tickets still.
    carries: bool,
    /// A registration that the connection has to be logged in as next.
    next: Option<Registration>,
    /// One of the tickets carried has gone stale. It stays so.
    stale: Option<Refusal>,
    /// Tickets could not be taken away: nobody knows what this connection may still write.
    unsettled: bool,
}

/// How many guard rules are named in one refusal.
const RULES_NAMED: usize = 4;

impl Session {
    pub(super) fn new(gateway: Arc<Gateway>) -> Session {
        Session {
            gateway,
            current: None,
            carries: false,
            next: None,
            stale: None,
            unsettled: false,
        }
    }

    /// Whether the connection has to end, because its tickets could not be taken away.
    pub(super) fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    /// Takes tickets in place of those carried so far, for a connection that the server knows by
    /// this number and as this user. The connection has to be idle, and nothing of it may be
    /// forwarded before it has sent what this returns, and [`Session::admitted`] was told that
    /// the server took it. If the tickets are refused, the connection carries none.
    pub(super) async fn show(
        &mut self,
        text: &str,
        connection: u64,
        user: &str,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let set = match tickets::read(&self.gateway.verifier, text) {
            Ok(set) => set,
            Err(refusal) => {
                self.give_back().await?;
                return Err(refusal);
            }
        };
        if set.is_empty() {
            return self.give_back().await.map(|()| None);
        }
        let app = match &self.current {
            Some(current) if current.name == user => current.app.clone(),
            _ if user.starts_with(REGISTRATION) || self.gateway.admin.user(user).is_none() => {
                let reason = "log in as a user that the gateway is configured for";
                self.give_back().await?;
                return Err(Refusal::Misplaced(reason));
            }
            _ => user.to_owned(),
        };
        let random = || format!("{:032x}", rand::random::<u128>());
        let new = Registration {
            name: format!("{REGISTRATION}{app}:{connection}:{}", random()),
            password: format!("{}{}", random(), random()),
            app,
            set,
        };
        let gateway = &self.gateway;
        let fence = Registering {
            admin: &gateway.admin,
            new: &new,
            earlier: self.current.as_ref(),
        };
        let (cell, timeout) = (gateway.cell.as_ref(), gateway.admission_timeout);
        let admitted = admission::admit(&fence, cell, (), &new.set, 0, timeout).await;
        let auth = resp::command(&["AUTH", &new.name, &new.password]);
        match admitted {
            Ok(()) => {
                self.next = Some(new);
                Ok(Some(auth))
            }
            Err(refusal) => {
                // It may have been made all the same, if the server's answer was lost.
                self.forget(new);
                self.give_back().await?;
                Err(refusal)
            }
        }
    }

    /// Whether the server took the login as the new registration. If it did not, a newer holder
    /// was faster, or the connection is not on the server where the registration was made.
    pub(super) async fn admitted(&mut self, taken: bool) -> Result<(), Refusal> {
        let Some(next) = self.next.take() else {
            return Ok(());
        };
        self.carries = taken;
        self.stale = None;
        if taken {
            if let Some(earlier) = self.current.replace(next) {
                self.forget(earlier);
            }
            return Ok(());
        }
        let stale = self.gateway.admin.stale(&next.set).await;
        self.forget(next);
        if let Ok(Some(stale)) = stale {
            return Err(stale);
        }
        Err(Refusal::Unavailable(
            "this connection is not on the server that the gateway's own connection reaches \
             (a failover, or an address of several servers); connect again"
                .into(),
        ))
    }

    /// Gives back what is carried.
    pub(super) async fn give_back(&mut self) -> Result<(), Refusal> {
        let Some(current) = self.current.as_ref().filter(|_| self.carries) else {
            return Ok(());
        };
        let stripped = self.gateway.admin.strip(current).await;
        self.unsettled = stripped.is_err();
        self.carries = stripped.is_err();
        stripped.map_err(|error| Refusal::Unavailable(error.to_string()))
    }

    /// Why does the server refuse a key?
    pub(super) async fn why_denied(&mut self) -> Refusal {
        if let Some(current) = self.current.as_ref().filter(|_| self.carries) {
            if let Some(stale) = &self.stale {
                return stale.clone();
            }
            match self.gateway.admin.stale(&current.set).await {
                Ok(Some(stale)) => {
                    self.stale = Some(stale.clone());
                    return stale;
                }
                Ok(None) => {}
                Err(error) => return Refusal::Unavailable(error.to_string()),
            }
        }
        let guards = &self.gateway.guards;
        let named: Vec<&str> = guards
            .iter()
            .take(RULES_NAMED)
            .map(String::as_str)
            .collect();
        let more = if guards.len() > named.len() {
            "; ..."
        } else {
            ""
        };
        Refusal::NoTicket {
            resource: "this key".into(),
            wanted: format!("a lock that covers it ({}{more})", named.join("; ")),
        }
    }

    /// The client's connection has ended: what is registered for it may go.
    pub(super) fn end(mut self) {
        for registration in [self.current.take(), self.next.take()]
            .into_iter()
            .flatten()
        {
            self.forget(registration);
        }
    }

    fn forget(&self, registration: Registration) {
        let gateway = Arc::clone(&self.gateway);
        tokio::spawn(async move {
            if let Err(error) = gateway.admin.forget(&registration).await {
                // Nothing depends on it: leftovers are swept up later.
                tracing::debug!(%error, "an ended registration stays for now");
            }
        });
    }
}
