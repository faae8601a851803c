//! Asking one node, whoever leads and whether anybody does. Opens no session and follows no
//! redirect.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockd_protocol::client::{
    Answer, ClientFrame, Labels, LockDetail, LockSummary, NodeFrame, Query, SessionSummary, Stale,
    Status,
};
use lockd_protocol::{LockName, SessionId, frame};
use tokio::sync::Mutex;

use crate::config::ClientConfig;
use crate::dial_error::{DialError, classify_gone, classify_write};
use crate::dialer::Dialer;
use crate::error::{ConnectError, QueryError};
use crate::link::{Link, Received};
use crate::lock::NameArg;
use crate::query::{self, Ask, Page};

/// A connection to one node, for questions that it answers from what it has applied.
///
/// An answer may be **stale**: the cell may have gone on without this node. That is what it is for:
/// it needs neither a leader nor a quorum. [`NodeReader::as_of`] says how far the node was.
pub struct NodeReader {
    dialer: Dialer,
    talk: Mutex<Talk>,
    last_question: AtomicU64,
    within: Duration,
}

struct Talk {
    link: Link,
    as_of: Option<Stale>,
}

impl std::fmt::Debug for NodeReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeReader").finish_non_exhaustive()
    }
}

impl NodeReader {
    /// Connects to the node at `address`, which need not be among `config.nodes`. It gets `within`
    /// for this and for each answer.
    ///
    /// # Errors
    /// [`ConnectError`], [`ConnectError::Unreachable`] if it does not answer.
    pub async fn connect(
        config: &ClientConfig,
        address: &str,
        within: Duration,
    ) -> Result<NodeReader, ConnectError> {
        let dialer = Dialer::new(config, within)?;
        let dialled = tokio::time::timeout(within, dialer.dial(address)).await;
        let dialled = dialled.unwrap_or_else(|_| {
            let silent = DialError::Unreachable("no answer".to_owned());
            Err(silent)
        });
        match dialled {
            Ok(link) => Ok(NodeReader::new(dialer, link, within)),
            Err(error) => Err(error.at(address, config.cell, within)),
        }
    }

    /// Connects to the first node of the configuration that answers.
    ///
    /// # Errors
    /// [`ConnectError`], [`ConnectError::Unreachable`] if none does.
    pub async fn connect_any(
        config: &ClientConfig,
        within: Duration,
    ) -> Result<NodeReader, ConnectError> {
        let dialer = Dialer::new(config, within)?;
        let dial = dialer.clone().dial_any(config.nodes.clone());
        let tried = match tokio::time::timeout(within, dial).await {
            Ok(Ok(link)) => return Ok(NodeReader::new(dialer, link, within)),
            Ok(Err(mut errors)) => match errors.lasting(config.cell) {
                Some(lasting) => return Err(lasting),
                None => errors.describe(),
            },
            Err(_) => "no answer from any address".to_owned(),
        };
        Err(ConnectError::Unreachable { within, tried })
    }

    fn new(dialer: Dialer, link: Link, within: Duration) -> NodeReader {
        NodeReader {
            dialer,
            talk: Mutex::new(Talk { link, as_of: None }),
            last_question: AtomicU64::new(0),
            within,
        }
    }

    /// Which node gave the last answer, and how far it was.
    pub async fn as_of(&self) -> Option<Stale> {
        self.talk.lock().await.as_of
    }

    /// How the node is.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn status(&self) -> Result<Status, QueryError> {
        query::status(self).await
    }

    /// See [`Client::locks`](crate::Client::locks).
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn locks(&self, prefix: &str) -> Result<Vec<LockSummary>, QueryError> {
        query::locks(self, prefix).await
    }

    /// See [`Client::locks_page`](crate::Client::locks_page).
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn locks_page(
        &self,
        prefix: &str,
        after: Option<LockName>,
        limit: u32,
    ) -> Result<Page<LockSummary>, QueryError> {
        query::locks_page(self, prefix, after, limit).await
    }

    /// See [`Client::who`](crate::Client::who).
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn who(&self, name: impl Into<NameArg>) -> Result<Option<LockDetail>, QueryError> {
        query::who(self, &name.into().0?).await
    }

    /// See [`Client::who_page`](crate::Client::who_page).
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
        query::who_page(self, &name.into().0?, (skip_holders, skip_waiters), limit).await
    }

    /// See [`Client::sessions_with`](crate::Client::sessions_with).
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn sessions_with(&self, labels: &Labels) -> Result<Vec<SessionSummary>, QueryError> {
        query::sessions(self, labels).await
    }

    /// See [`Client::sessions_page`](crate::Client::sessions_page).
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn sessions_page(
        &self,
        labels: &Labels,
        after: Option<SessionId>,
        limit: u32,
    ) -> Result<Page<SessionSummary>, QueryError> {
        query::sessions_page(self, labels, after, limit).await
    }

    /// Hangs up, and lets the last packets leave.
    pub async fn close(self) {
        self.talk.lock().await.link.close();
        self.dialer.drain().await;
    }
}

impl Ask for NodeReader {
    async fn ask(&self, query: Query) -> Result<Answer, QueryError> {
        let within = self.within;
        let id = self.last_question.fetch_add(1, Ordering::Relaxed) + 1;
        let mut talk = self.talk.lock().await;
        let talk = &mut *talk;
        match tokio::time::timeout(within, ask(&mut talk.link, id, query)).await {
            Ok(Ok((answer, stale))) => {
                talk.as_of = stale;
                Ok(answer)
            }
            Ok(Err(error)) => {
                tracing::debug!(?error, "no answer");
                Err(QueryError::Unavailable { within })
            }
            Err(_) => Err(QueryError::Unavailable { within }),
        }
    }
}

async fn ask(link: &mut Link, id: u64, query: Query) -> Result<(Answer, Option<Stale>), DialError> {
    let stale = true;
    let mut bytes = Vec::new();
    let question = ClientFrame::Query { id, query, stale };
    frame::encode(&question, &mut bytes).map_err(|e| DialError::Rejected(e.to_string()))?;
    let (send, _) = link.split();
    send.write_all(&bytes).await.map_err(classify_write)?;
    loop {
        let frame = link
            .next_frame()
            .map_err(|error| DialError::Version(error.to_string()))?;
        match frame {
            Some(NodeFrame::Answer {
                id: answered,
                answer,
                stale,
            }) if answered == id => return Ok((answer, stale)),
            Some(NodeFrame::Bye { reason }) => return Err(DialError::Rejected(reason)),
            // Who leads, who is a member, and answers that came too late.
            Some(_) => {}
            None => {
                let (_, receiver) = link.split();
                if let Received::Gone(gone) = receiver.receive().await {
                    return Err(classify_gone(gone));
                }
            }
        }
    }
}

/// How the node at `address` is, by its own account. It need not be among `config.nodes`.
///
/// # Errors
/// [`ConnectError`], [`ConnectError::Unreachable`] if there is no answer within `within`.
pub async fn probe(
    config: &ClientConfig,
    address: &str,
    within: Duration,
) -> Result<Status, ConnectError> {
    let probed = tokio::time::timeout(within, async {
        let reader = NodeReader::connect(config, address, within).await?;
        let mut talk = reader.talk.lock().await;
        let asked = ask(&mut talk.link, 1, Query::Status).await;
        drop(talk);
        let at = |error: DialError| error.at(address, config.cell, within);
        let (answer, _) = asked.map_err(at)?;
        reader.close().await;
        match answer {
            Answer::Status(status) => Ok(status),
            _ => Err(at(DialError::Rejected(
                "it does not say how it is".to_owned(),
            ))),
        }
    });
    probed.await.unwrap_or_else(|_| {
        let silent = DialError::Unreachable("no answer".to_owned());
        Err(silent.at(address, config.cell, within))
    })
}
