//! Leader election: a lock whose holder leads, with metadata that says what others need to know.

use lockd_protocol::client::{Answer, HolderSummary, Query};
use lockd_protocol::ticket::TicketText;
use lockd_protocol::{EventNumber, SessionId, Token};

use crate::client::Client;
use crate::core::{Holders, Update};
use crate::error::{
    AcquireError, LostReason, MetadataError, QueryError, ReleaseError, ReleaseOutcome, WatchError,
};
use crate::guard::LockGuard;
use crate::lock::{LockBuilder, NameArg};
use crate::query::Ask as _;
use crate::watch::Watch;
use crate::{Holder, Metadata};

/// An election: whoever holds the lock of this name leads.
#[derive(Clone, Debug)]
pub struct Election {
    client: Client,
    name: NameArg,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaderInfo {
    /// The leader's session.
    pub session: SessionId,
    /// The fencing token of its term: higher than that of every leader before.
    pub token: Token,
    /// What it proclaims.
    pub value: Vec<u8>,
    /// Which of its proclamations that is; 0 if it proclaimed nothing.
    pub version: EventNumber,
}

impl Client {
    /// The election of this name.
    #[must_use]
    pub fn election(&self, name: impl Into<NameArg>) -> Election {
        Election {
            client: self.clone(),
            name: name.into(),
        }
    }
}

impl Election {
    /// Waits until this client leads. Candidates are served in the order in which they came;
    /// `value`, at most 4 KiB, is proclaimed in the same step. Dropping the future ends the
    /// candidacy.
    ///
    /// # Errors
    /// [`AcquireError`]: it does not lead.
    pub async fn campaign(&self, value: impl AsRef<[u8]>) -> Result<Leadership, AcquireError> {
        let guard = self.candidacy().metadata(value).acquire().await?;
        Ok(Leadership { guard })
    }

    /// The acquisition behind [`Election::campaign`], for whoever wants to wait in another way, or
    /// to set an owner or a delay; [`Leadership::from`] takes its guard.
    pub fn candidacy(&self) -> LockBuilder {
        self.client.lock(self.name.clone())
    }

    /// Who leads, by the cell's own account: whoever is told has not been deposed before the
    /// question was asked.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn leader(&self) -> Result<Option<LeaderInfo>, QueryError> {
        let query = Query::Lock {
            lock: self.name.0.clone()?,
            skip_holders: 0,
            skip_waiters: 0,
            limit: 1,
        };
        match self.client.ask(query).await? {
            Answer::Lock(detail) => {
                let mut holders = detail.into_iter().flat_map(|detail| detail.holders);
                Ok(holders.next().map(LeaderInfo::from))
            }
            Answer::Refused(refusal) => Err(QueryError::Refused(refusal)),
            _ => Err(QueryError::Unexpected),
        }
    }

    /// Follows who leads, from now on.
    pub fn observe(&self) -> Observer {
        Observer {
            watch: self.client.watch(self.name.clone()),
            holders: Holders::default(),
            told: None,
        }
    }
}

/// To be the leader, until this is dropped or lost.
///
/// A leader that is paused past its deadline does not know that it is none any more; so let what
/// it leads look at its [ticket](Leadership::ticket) or its [token](Leadership::token).
#[derive(Debug)]
#[must_use = "a leadership that is dropped ends"]
pub struct Leadership {
    guard: LockGuard,
}

impl Leadership {
    /// The fencing token of this term.
    #[must_use]
    pub fn token(&self) -> Token {
        self.guard.token()
    }

    /// The signed form of it, for gateways.
    #[must_use]
    pub fn ticket(&self) -> Option<&TicketText> {
        self.guard.ticket()
    }

    /// The lock that this is, with its state and its deadline.
    pub fn guard(&self) -> &LockGuard {
        &self.guard
    }

    /// Proclaims something else. Returns its version.
    ///
    /// # Errors
    /// [`MetadataError`].
    pub async fn proclaim(&self, value: impl AsRef<[u8]>) -> Result<EventNumber, MetadataError> {
        self.guard.set_metadata(value).await
    }

    /// Resolves when this client must not act as the leader any more. Cancel-safe.
    pub async fn lost(&self) -> LostReason {
        self.guard.lost().await
    }

    /// Steps down, and waits for the cell to confirm. The next candidate leads.
    ///
    /// # Errors
    /// [`ReleaseError`] if it was over before, or the client is closed.
    pub async fn resign(self) -> Result<ReleaseOutcome, ReleaseError> {
        self.guard.release().await
    }
}

impl From<LockGuard> for Leadership {
    fn from(guard: LockGuard) -> Leadership {
        Leadership { guard }
    }
}

/// Follows who leads. Whoever looks rarely sees only the present leader, but never an earlier one
/// after a later one.
#[derive(Debug)]
pub struct Observer {
    watch: Watch,
    holders: Holders,
    /// What was told last.
    told: Option<Option<LeaderInfo>>,
}

impl Observer {
    /// Who leads at first, and then whenever that, or what the leader proclaims, has changed;
    /// `None` while nobody does. Cancel-safe.
    ///
    /// # Errors
    /// [`WatchError`]: the watch is over.
    pub async fn next(&mut self) -> Result<Option<LeaderInfo>, WatchError> {
        loop {
            let update = self.watch.next().await?;
            self.note(&update);
            while let Some(update) = self.watch.try_next()? {
                self.note(&update);
            }
            let leader = self.holders.iter().next().map(LeaderInfo::from);
            if self.told.as_ref() != Some(&leader) {
                self.told = Some(leader.clone());
                return Ok(leader);
            }
        }
    }

    fn note(&mut self, update: &Update) {
        self.holders.apply(update);
    }
}

fn leader(session: SessionId, token: Token, metadata: Option<&Metadata>) -> LeaderInfo {
    LeaderInfo {
        session,
        token,
        value: metadata.map_or_else(Vec::new, |it| it.value.as_bytes().to_vec()),
        version: metadata.map_or(EventNumber(0), |it| it.version),
    }
}

impl From<&Holder> for LeaderInfo {
    fn from(holder: &Holder) -> LeaderInfo {
        leader(holder.session, holder.token, holder.metadata.as_ref())
    }
}

impl From<HolderSummary> for LeaderInfo {
    fn from(holder: HolderSummary) -> LeaderInfo {
        leader(holder.session, holder.token, holder.metadata.as_ref())
    }
}
