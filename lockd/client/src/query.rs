//! Asking about the state of the cell: the questions, and how their pages are put together, for
//! whoever answers them.

use lockd_protocol::LockName;
use lockd_protocol::SessionId;
use lockd_protocol::client::{
    Answer, Labels, LockDetail, LockSummary, MemberChange, Query, SessionSummary, Status,
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

/// Whoever answers questions.
pub(crate) trait Ask {
    /// Asks.
    fn ask(&self, query: Query) -> impl Future<Output = Result<Answer, QueryError>> + Send;
}

impl Ask for Client {
    async fn ask(&self, query: Query) -> Result<Answer, QueryError> {
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

/// See [`Client::status`].
pub(crate) async fn status(cell: &impl Ask) -> Result<Status, QueryError> {
    match cell.ask(Query::Status).await? {
        Answer::Status(status) => Ok(status),
        other => Err(unexpected(other)),
    }
}

/// See [`Client::locks_page`].
pub(crate) async fn locks_page(
    cell: &impl Ask,
    prefix: &str,
    after: Option<LockName>,
    limit: u32,
) -> Result<Page<LockSummary>, QueryError> {
    let query = Query::Locks {
        prefix: prefix.to_owned(),
        after,
        limit,
    };
    match cell.ask(query).await? {
        Answer::Locks { locks, more } => Ok(Page { items: locks, more }),
        other => Err(unexpected(other)),
    }
}

/// See [`Client::locks`].
pub(crate) async fn locks(cell: &impl Ask, prefix: &str) -> Result<Vec<LockSummary>, QueryError> {
    let mut all: Vec<LockSummary> = Vec::new();
    loop {
        let after = all.last().map(|last| last.lock.clone());
        let page = locks_page(cell, prefix, after, PAGE_ITEMS_MAX).await?;
        let done = !page.more || page.items.is_empty();
        all.extend(page.items);
        if done {
            return Ok(all);
        }
    }
}

/// See [`Client::who_page`].
pub(crate) async fn who_page(
    cell: &impl Ask,
    lock: &LockName,
    (skip_holders, skip_waiters): (u32, u32),
    limit: u32,
) -> Result<Option<LockDetail>, QueryError> {
    let query = Query::Lock {
        lock: lock.clone(),
        skip_holders,
        skip_waiters,
        limit,
    };
    match cell.ask(query).await? {
        Answer::Lock(detail) => Ok(detail),
        other => Err(unexpected(other)),
    }
}

/// See [`Client::who`].
pub(crate) async fn who(
    cell: &impl Ask,
    lock: &LockName,
) -> Result<Option<LockDetail>, QueryError> {
    let Some(mut detail) = who_page(cell, lock, (0, 0), PAGE_ITEMS_MAX).await? else {
        return Ok(None);
    };
    while detail.more_holders || detail.more_waiters {
        let seen = |seen: usize| u32::try_from(seen).unwrap_or(u32::MAX);
        let skip = (seen(detail.holders.len()), seen(detail.waiters.len()));
        let Some(next) = who_page(cell, lock, skip, PAGE_ITEMS_MAX).await? else {
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

/// See [`Client::sessions_page`].
pub(crate) async fn sessions_page(
    cell: &impl Ask,
    labels: &Labels,
    mut after: Option<SessionId>,
    limit: u32,
) -> Result<Page<SessionSummary>, QueryError> {
    loop {
        let query = Query::Sessions {
            after,
            labels: labels.clone(),
            limit,
        };
        match cell.ask(query).await? {
            // Of those that it looked at none has the labels.
            Answer::Sessions { sessions, next } if sessions.is_empty() && next > after => {
                after = next;
            }
            Answer::Sessions { sessions, next } => {
                let (items, more) = (sessions, next.is_some());
                return Ok(Page { items, more });
            }
            other => return Err(unexpected(other)),
        }
    }
}

/// See [`Client::sessions`].
pub(crate) async fn sessions(
    cell: &impl Ask,
    labels: &Labels,
) -> Result<Vec<SessionSummary>, QueryError> {
    let mut all: Vec<SessionSummary> = Vec::new();
    loop {
        let after = all.last().map(|last| last.session);
        let page = sessions_page(cell, labels, after, PAGE_ITEMS_MAX).await?;
        let done = !page.more || page.items.is_empty();
        all.extend(page.items);
        if done {
            return Ok(all);
        }
    }
}

impl Client {
    /// How the connected node is, by its own account. All other answers are the cell's.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn status(&self) -> Result<Status, QueryError> {
        status(self).await
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
        locks_page(self, prefix, after, limit).await
    }

    /// All locks whose names begin with `prefix`, in order of name. Page by page, so that it is
    /// no picture of one instant.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn locks(&self, prefix: &str) -> Result<Vec<LockSummary>, QueryError> {
        locks(self, prefix).await
    }

    /// Who holds a lock and who waits for it, in order; `None` if nobody does.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn who(&self, name: impl Into<NameArg>) -> Result<Option<LockDetail>, QueryError> {
        who(self, &name.into().0?).await
    }

    /// At most so many of a lock's holders, and of those who wait for it, after the first ones.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn who_page(
        &self,
        name: impl Into<NameArg>,
        skip_holders: u32,
        skip_waiters: u32,
        limit: u32,
    ) -> Result<Option<LockDetail>, QueryError> {
        who_page(self, &name.into().0?, (skip_holders, skip_waiters), limit).await
    }

    /// A page of the sessions that have all of these labels, in order of id, after `after`.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn sessions_page(
        &self,
        labels: &Labels,
        after: Option<SessionId>,
        limit: u32,
    ) -> Result<Page<SessionSummary>, QueryError> {
        sessions_page(self, labels, after, limit).await
    }

    /// All sessions that have all of these labels, in order of id. Page by page, so that it is no
    /// picture of one instant.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn sessions_with(&self, labels: &Labels) -> Result<Vec<SessionSummary>, QueryError> {
        sessions(self, labels).await
    }

    /// All sessions.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn sessions(&self) -> Result<Vec<SessionSummary>, QueryError> {
        self.sessions_with(&Labels::new()).await
    }
}

fn unexpected(answer: Answer) -> QueryError {
    match answer {
        Answer::Refused(refusal) => QueryError::Refused(refusal),
        _ => QueryError::Unexpected,
    }
}
