//! The lock service asked through its own client, which is connected when it is first needed: a
//! gateway starts, and serves what is admitted already, without a cell.

use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use lockd_client::{Client, ClientConfig, LockGuard, Wait};
use lockd_protocol::types::{LockName, Token};
use tokio::sync::OnceCell;

use super::{Answer, Cell, CellError, Hold};
use crate::limits::ACTIVE_TTL;

/// TTL of the session that draws a token. It holds its lock for a moment only.
const DRAW_TTL: Duration = Duration::from_secs(5);

/// A cell, by its client configuration.
pub struct LockdCell {
    config: PathBuf,
    client: OnceCell<Client>,
}

impl LockdCell {
    /// A cell that is not yet connected to.
    #[must_use]
    pub fn new(client_config: PathBuf) -> LockdCell {
        LockdCell {
            config: client_config,
            client: OnceCell::new(),
        }
    }

    /// The client, connected if it can be.
    pub(crate) async fn client(&self) -> Result<&Client, CellError> {
        self.client
            .get_or_try_init(|| async {
                let config = ClientConfig::load(&self.config).map_err(failed)?;
                let builder = Client::builder()
                    .config(config)
                    .description("gateway")
                    .ttl(DRAW_TTL);
                builder.without_session().connect().await.map_err(failed)
            })
            .await
    }
}

impl Cell for LockdCell {
    fn grants<'a>(&'a self, lock: &'a LockName, token: Token) -> Answer<'a, bool> {
        Box::pin(async move {
            let client = self.client().await?;
            if holds(client, lock, token).await? {
                return Ok(true);
            }
            // The fence of a permit has the semaphore's name, and the permit's number behind it.
            let semaphore = lock
                .as_str()
                .rsplit_once('#')
                .map(|(name, _)| LockName::new(name));
            match semaphore {
                Some(Ok(semaphore)) => holds(client, &semaphore, token).await,
                _ => Ok(false),
            }
        })
    }

    /// Takes a lock of its own: its token is above every one granted before.
    fn draw(&self) -> Answer<'_, Token> {
        Box::pin(async move {
            let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let nanos = since_epoch.map_or(0, |time| time.as_nanos());
            let name = format!("lockd/gateway/era/{}-{nanos}", std::process::id());
            let client = self.client().await?;
            let guard = client
                .lock(name)
                .wait(Wait::Try)
                .without_ticket()
                .acquire()
                .await;
            let guard = guard.map_err(failed)?;
            let token = guard.token();
            if let Err(error) = guard.release().await {
                tracing::debug!(%error, "the lock of a drawn token ends with its session");
            }
            Ok(token)
        })
    }

    fn hold<'a>(&'a self, lock: &'a LockName) -> Answer<'a, Box<dyn Hold>> {
        Box::pin(async move {
            let client = self.client().await?;
            let session = client
                .session()
                .ttl(ACTIVE_TTL)
                .description("gateway, active");
            let session = session.open().await.map_err(failed)?;
            let guard = session.lock(lock).without_ticket().acquire().await;
            let hold: Box<dyn Hold> = Box::new(Held {
                guard: guard.map_err(failed)?,
                _session: session,
            });
            Ok(hold)
        })
    }
}

/// A lock, and the session that it is held by.
struct Held {
    guard: LockGuard,
    _session: Client,
}

impl Hold for Held {
    fn token(&self) -> Token {
        self.guard.token()
    }

    fn check(&self) -> Result<(), String> {
        self.guard.check().map_err(|reason| reason.to_string())
    }

    fn lost(&self) -> Pin<Box<dyn Future<Output = String> + Send + '_>> {
        Box::pin(async { self.guard.lost().await.to_string() })
    }
}

fn failed(error: impl std::fmt::Display) -> CellError {
    CellError(error.to_string())
}

async fn holds(client: &Client, lock: &LockName, token: Token) -> Result<bool, CellError> {
    let detail = client.who(lock).await.map_err(failed)?;
    let mut holders = detail.iter().flat_map(|detail| &detail.holders);
    Ok(holders.any(|holder| holder.token == token))
}
