//! Asking about the state of the cell.

use lockd_protocol::LockName;
use lockd_protocol::SessionId;
use lockd_protocol::client::{
    Answer, LockDetail, LockSummary, MemberChange, Query, SessionSummary, Status,
};
use lockd_protocol::limits::PAGE_ITEMS_MAX;
use tokio::sync::oneshot;

use crate::client::Client;
use crate::error::{QueryError, ReconfigureError};
use crate::lock::NameArg;
use crate::task::Command;

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The items, in order.
    pub items: Vec<T>,
    /// Whether there are more after these.
    pub more: bool,
}

impl Client {
    /// How the connected node is, by its own account. All other answers are the cell's.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn status(&self) -> Result<Status, QueryError> {
        match self.ask(Query::Status).await? {
            Answer::Status(status) => Ok(status),
            other => Err(unexpected(other)),
        }
    }

    /// Asks the leader for a change of the cell's members, as an operator. `Ok`: it has begun, and
    /// is done when the nodes' [`Status::epoch`] is above `epoch`.
    ///
    /// # Errors
    /// [`ReconfigureError`]: nothing has changed, or, after no answer, it is not known.
    pub async fn reconfigure(
        &self,
        epoch: u32,
        change: MemberChange,
        quorums: Option<(u8, u8)>,
        force: bool,
    ) -> Result<(), ReconfigureError> {
        let query = Query::Reconfigure {
            epoch,
            change,
            quorums,
            force,
        };
        match self.ask(query).await? {
            Answer::Reconfiguring => Ok(()),
            Answer::NotReconfigured(refusal) => Err(ReconfigureError::Refused(refusal)),
            other => Err(unexpected(other).into()),
        }
    }

    /// A page of the locks whose names begin with `prefix`, in order of name, after `after`.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn locks_page(
        &self,
        prefix: &str,
        after: Option<LockName>,
        limit: u32,
    ) -> Result<Page<LockSummary>, QueryError> {
        let query = Query::Locks {
            prefix: prefix.to_owned(),
            after,
            limit,
        };
        match self.ask(query).await? {
            Answer::Locks { locks, more } => Ok(Page { items: locks, more }),
            other => Err(unexpected(other)),
        }
    }

    /// All locks whose names begin with `prefix`, in order of name. Page by page, so that it is
    /// no picture of one instant.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn locks(&self, prefix: &str) -> Result<Vec<LockSummary>, QueryError> {
        let mut all: Vec<LockSummary> = Vec::new();
        loop {
            let after = all.last().map(|last| last.lock.clone());
            let page = self.locks_page(prefix, after, PAGE_ITEMS_MAX).await?;
            let done = !page.more || page.items.is_empty();
            all.extend(page.items);
            if done {
                return Ok(all);
            }
        }
    }

    /// Who holds a lock and who waits for it, in order; `None` if nobody does.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn who(&self, name: impl Into<NameArg>) -> Result<Option<LockDetail>, QueryError> {
        let lock = name.into().0?;
        let Some(mut detail) = self.who_page(&lock, 0, 0).await? else {
            return Ok(None);
        };
        while detail.more_holders || detail.more_waiters {
            let skip = |seen: usize| u32::try_from(seen).unwrap_or(u32::MAX);
            let (holders, waiters) = (skip(detail.holders.len()), skip(detail.waiters.len()));
            let Some(next) = self.who_page(&lock, holders, waiters).await? else {
                break;
            };
            let before = detail.holders.len() + detail.waiters.len();
            detail.holders.extend(next.holders);
            detail.waiters.extend(next.waiters);
            detail.more_holders = next.more_holders;
            detail.more_waiters = next.more_waiters;
            if detail.holders.len() + detail.waiters.len() == before {
                break;
            }
        }
        Ok(Some(detail))
    }

    async fn who_page(
        &self,
        lock: &LockName,
        skip_holders: u32,
        skip_waiters: u32,
    ) -> Result<Option<LockDetail>, QueryError> {
        let query = Query::Lock {
            lock: lock.clone(),
            skip_holders,
            skip_waiters,
            limit: PAGE_ITEMS_MAX,
        };
        match self.ask(query).await? {
            Answer::Lock(detail) => Ok(detail),
            other => Err(unexpected(other)),
        }
    }

    /// A page of the sessions, in order of id, after `after`.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn sessions_page(
        &self,
        after: Option<SessionId>,
        limit: u32,
    ) -> Result<Page<SessionSummary>, QueryError> {
        match self.ask(Query::Sessions { after, limit }).await? {
            Answer::Sessions { sessions, more } => Ok(Page {
                items: sessions,
                more,
            }),
            other => Err(unexpected(other)),
        }
    }

    /// All sessions, in order of id. Page by page, so that it is no picture of one instant.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn sessions(&self) -> Result<Vec<SessionSummary>, QueryError> {
        let mut all: Vec<SessionSummary> = Vec::new();
        loop {
            let after = all.last().map(|last| last.session);
            let page = self.sessions_page(after, PAGE_ITEMS_MAX).await?;
            let done = !page.more || page.items.is_empty();
            all.extend(page.items);
            if done {
                return Ok(all);
            }
        }
    }

    pub(crate) async fn ask(&self, query: Query) -> Result<Answer, QueryError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Query { query, reply };
        self.session.send(command).map_err(|_| QueryError::Closed)?;
        let shared = &self.session.shared;
        let within = shared.request_timeout;
        match shared.clock.timeout(within, answer).await {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(_)) => Err(QueryError::Closed),
            None => Err(QueryError::Unavailable { within }),
        }
    }
}

fn unexpected(answer: Answer) -> QueryError {
    match answer {
        Answer::Refused(refusal) => QueryError::Refused(refusal),
        _ => QueryError::Unexpected,
    }
}
