//! One session's admission in the terms of PostgreSQL: which function of the fence does which step.
//! Knows SQL values; decides nothing.
//!
//! What is registered is the session's backend, or, in transaction mode, where a session has none
//! of its own, the epoch that its tickets belong to; then the answer says what to tell each of the
//! session's transactions.

use std::sync::OnceLock;
use std::time::Duration;

use lockd_protocol::types::{LockName, Token};
use tokio_postgres::Row;

use super::admin::{Admin, AdminError, Backend, Call, get};
use crate::admission::Fence;
use crate::fence::admission::{Admitted, Era};
use crate::fence::set::{Shown, TicketSet};
use crate::limits::{DRAIN_LOCK_TIMEOUT, EVICT_WAIT};

/// The admission of one session.
pub(super) struct Admitting<'a> {
    admin: &'a Admin,
    /// Which of the gateway's own connections does it. For a backend always the same one, so that
    /// nothing overtakes.
    link: i32,
    backend: Option<Backend>,
    told: OnceLock<String>,
}

impl<'a> Admitting<'a> {
    /// Registers a backend.
    pub(super) fn backend(admin: &'a Admin, backend: Backend) -> Admitting<'a> {
        Admitting {
            admin,
            link: backend.pid,
            backend: Some(backend),
            told: OnceLock::new(),
        }
    }

    /// Registers the epochs of these tickets. Nothing is done for a session that could be
    /// overtaken: any connection will do.
    pub(super) fn epoch(admin: &'a Admin, set: &TicketSet) -> Admitting<'a> {
        let first = set.tickets().first().map_or(0, |ticket| ticket.token.0);
        Admitting {
            admin,
            link: i32::try_from(first & 0xffff).unwrap_or(0),
            backend: None,
            told: OnceLock::new(),
        }
    }

    /// What to tell each transaction of the session, once it is admitted. Empty: nothing.
    pub(super) fn told(self) -> String {
        self.told.into_inner().unwrap_or_default()
    }

    fn answer(&self, row: &Row) -> Result<Admitted, AdminError> {
        let shown = || -> Result<Shown, AdminError> {
            let lock = get::<&str>(row, 1)?;
            let lock = LockName::new(lock).map_err(|e| AdminError::Server(e.to_string()))?;
            Ok(Shown {
                lock,
                token: token(get(row, 2)?),
            })
        };
        match get::<&str>(row, 0)? {
            "ok" => {
                if let Some(told) = get::<Option<String>>(row, 5)? {
                    // Admitted twice is told twice the same.
                    let _ = self.told.set(told);
                }
                Ok(Admitted::Done)
            }
            "busy" => Ok(Admitted::Busy),
            "unseeded" => Ok(Admitted::Unseeded),
            "gone" => Ok(Admitted::Gone),
            "unknown" => Ok(Admitted::Unknown(Era(get(row, 4)?), shown()?)),
            "stale" => {
                let Shown { lock, token: shown } = shown()?;
                Ok(Admitted::Stale {
                    lock,
                    shown,
                    needed: token(get(row, 3)?),
                })
            }
            other => Err(AdminError::Server(format!("fence.admit answers {other:?}"))),
        }
    }
}

impl Fence for Admitting<'_> {
    type Session = ();
    type Error = AdminError;

    async fn admit(
        &self,
        (): (),
        set: &TicketSet,
        registration: i64,
    ) -> Result<Admitted, AdminError> {
        let (locks, tokens) = columns(set);
        let wait = millis(DRAIN_LOCK_TIMEOUT);
        let pid = self.backend.map(|backend| backend.pid);
        let started = self.backend.map(|backend| backend.started);
        let port = self.backend.map(|backend| backend.port);
        let row = self
            .admin
            .row(
                self.link,
                Call::Admit,
                &[&locks, &tokens, &pid, &started, &port, &registration, &wait],
            )
            .await?;
        self.answer(&row)
    }

    async fn evict(&self, (): (), set: &TicketSet) -> Result<i32, AdminError> {
        let (locks, tokens) = columns(set);
        let pid = self.backend.map(|backend| backend.pid);
        let wait = millis(EVICT_WAIT);
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&locks, &tokens, &pid, &wait];
        get(
            &self.admin.row(self.link, Call::Evict, &parameters).await?,
            0,
        )
    }

    async fn begin_era(&self, (): ()) -> Result<Era, AdminError> {
        let row = self.admin.row(self.link, Call::BeginEra, &[]).await?;
        Ok(Era(get(&row, 0)?))
    }

    async fn set_horizon(&self, (): (), era: Era, horizon: Token) -> Result<(), AdminError> {
        let horizon = signed(horizon);
        self.admin
            .row(self.link, Call::SetHorizon, &[&era.0, &horizon])
            .await
            .map(drop)
    }

    async fn seed(&self, (): (), era: Era, shown: &Shown) -> Result<(), AdminError> {
        let (lock, token) = (shown.lock.as_str(), signed(shown.token));
        self.admin
            .row(self.link, Call::Seed, &[&era.0, &lock, &token])
            .await
            .map(drop)
    }
}

fn columns(set: &TicketSet) -> (Vec<&str>, Vec<i64>) {
    set.tickets()
        .iter()
        .map(|ticket| (ticket.lock.as_str(), signed(ticket.token)))
        .unzip()
}

/// Tokens stay below 2^63, which is checked where tickets are verified.
pub(super) fn signed(token: Token) -> i64 {
    i64::try_from(token.0).unwrap_or(i64::MAX)
}

fn token(number: i64) -> Token {
    Token(u64::try_from(number).unwrap_or(0))
}

fn millis(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
}
