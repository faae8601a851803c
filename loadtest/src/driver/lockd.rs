//! lockd by its own SDK: one session for each client, several of which may share a connection.

use std::path::Path;
use std::time::Duration;

use lockd_client::{
    AcquireError, Background, Client, ConnectError, LockGuard, ReleaseOutcome, Wait,
};

use super::{Driver, Guard, Released, Trouble, Want};

/// How long a request may stay unanswered. Longer than any failover: a client that gave up early
/// would hide how long one takes.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A client of lockd.
pub struct LockdDriver {
    client: Client,
    tickets: bool,
    ttl: Duration,
}

/// How the clients of a run connect.
#[derive(Clone, Copy, Debug)]
pub struct LockdOptions {
    /// Sessions.
    pub clients: usize,
    /// Connections that carry them.
    pub connections: usize,
    /// TTL of the sessions.
    pub ttl: Duration,
    /// Whether grants are to come with their tickets.
    pub tickets: bool,
}

impl LockdDriver {
    /// Opens all sessions of a run, spread evenly over its connections.
    ///
    /// # Errors
    /// [`ConnectError`] of the first that failed.
    pub async fn connect_all(
        config: &Path,
        options: LockdOptions,
    ) -> Result<Vec<LockdDriver>, ConnectError> {
        let mut clients: Vec<Client> = Vec::with_capacity(options.clients);
        for index in 0..options.clients {
            let client = match clients.get(index % options.connections) {
                Some(first) if index >= options.connections => {
                    first.session().ttl(options.ttl).open().await?
                }
                _ => connect(config, options.ttl).await?,
            };
            clients.push(client);
        }
        let driver = |client| LockdDriver {
            client,
            tickets: options.tickets,
            ttl: options.ttl,
        };
        Ok(clients.into_iter().map(driver).collect())
    }
}

impl LockdDriver {
    /// A session that was lost stays lost: the client goes on with a new one.
    async fn reopen(&mut self) {
        // Failing leaves the lost session, and the next attempt comes here again.
        if let Ok(client) = self.client.session().ttl(self.ttl).open().await {
            self.client = client;
        }
    }
}

async fn connect(config: &Path, ttl: Duration) -> Result<Client, ConnectError> {
    Client::builder()
        .config_file(config)?
        .ttl(ttl)
        .request_timeout(REQUEST_TIMEOUT)
        // Nothing here blocks the runtime, and threads beside it would be part of the figures.
        .background(Background::CallersRuntime)
        .description("loadtest")
        .connect()
        .await
}

impl Driver for LockdDriver {
    type Guard = LockGuard;

    async fn acquire(&mut self, lock: &str) -> Result<LockGuard, Trouble> {
        self.take(Want::Exclusive(lock)).await
    }

    async fn take(&mut self, want: Want<'_>) -> Result<LockGuard, Trouble> {
        let client = &self.client;
        let lock = match want {
            Want::Exclusive(lock) => client.lock(lock),
            Want::Shared(lock) => client.rw_lock(lock).read(),
            Want::Permit { lock, of } => client.semaphore(lock, of).acquire(),
            Want::All(locks) => client.all_of(locks),
        };
        let lock = lock.wait(Wait::Forever);
        let lock = if self.tickets {
            lock
        } else {
            lock.without_ticket()
        };
        let result = lock.acquire().await;
        if let Err(AcquireError::SessionLost(_)) = result {
            self.reopen().await;
        }
        result.map_err(Trouble::new)
    }

    async fn release(&mut self, guard: LockGuard) -> Result<Released, Trouble> {
        match guard.release().await.map_err(Trouble::new)? {
            ReleaseOutcome::Released => Ok(Released::Yes),
            ReleaseOutcome::NotHeld => Ok(Released::NotHeld),
        }
    }

    async fn close(self) {
        // The cell frees everything of a session that does not say good-bye, only later.
        let _ = self.client.close().await;
    }
}

impl Guard for LockGuard {
    fn token(&self) -> Option<u64> {
        Some(LockGuard::token(self).0)
    }

    fn token_of(&self, lock: usize) -> Option<u64> {
        self.locks().get(lock).map(|held| held.token.0)
    }

    fn slot(&self) -> usize {
        LockGuard::slot(self) as usize
    }

    fn valid_for(&self) -> Duration {
        self.remaining()
    }

    fn ticket(&self) -> Option<String> {
        LockGuard::ticket(self).map(|ticket| ticket.as_str().to_owned())
    }
}
