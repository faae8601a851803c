//! Locks in one Redis server, by the recipes that people use.
//!
//! All of them poll: Redis does not tell a client that a lock has become free. None of them gives
//! its holder a number that rises.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, RedisResult, Script};

use super::{Driver, Guard, Released, Trouble, polling, random_owner};

/// How long a command may stay unanswered.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// Deletes the key if it still has the value that its holder gave it.
const COMPARE_AND_DELETE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

/// One request in so many is granted by [`Scheme::Liar`] without asking whether the lock is free.
const LIE_EVERY: u64 = 10;

/// How a lock is taken and given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `SET key owner NX PX ttl`, and a script that deletes the key if it has that owner.
    SetNxPx,
    /// `SETNX`, then `EXPIRE`, then `DEL`: a client that dies between the first two leaves the lock
    /// held for ever, and a late one deletes the lock of another.
    SetnxExpire,
    /// `SETNX` of the time at which the lock ends, and `GETSET` of a lock whose time has passed:
    /// the recipe of Redis's manual before `SET` could do it. It rests on the clients' clocks.
    Getset,
    /// [`Scheme::SetNxPx`], but now and then it takes the lock from whoever holds it: to prove
    /// that the oracle sees it.
    Liar,
}

/// A client with a connection of its own.
pub struct RedisDriver {
    connection: MultiplexedConnection,
    scheme: Scheme,
    ttl: Duration,
    release: Script,
    requests: u64,
}

/// A lock that is held.
pub struct RedisGuard {
    key: String,
    value: String,
    until: Instant,
}

impl RedisDriver {
    /// So many clients of the server at `url`, whose locks end after `ttl`.
    ///
    /// # Errors
    /// [`Trouble`] of the first that cannot connect.
    pub async fn connect_all(
        url: &str,
        scheme: Scheme,
        clients: usize,
        ttl: Duration,
    ) -> Result<Vec<RedisDriver>, Trouble> {
        let mut drivers = Vec::new();
        for _ in 0..clients {
            drivers.push(RedisDriver {
                connection: connect(url).await?,
                scheme,
                ttl,
                release: compare_and_delete(),
                requests: 0,
            });
        }
        Ok(drivers)
    }

    /// Asks once. Returns what the key was set to, if the lock was granted.
    async fn ask(&mut self, key: &str) -> RedisResult<Option<String>> {
        let connection = &mut self.connection;
        match self.scheme {
            Scheme::SetNxPx => {
                let owner = random_owner();
                let granted = set_nx_px(connection, key, &owner, self.ttl).await?;
                Ok(granted.then_some(owner))
            }
            Scheme::SetnxExpire => setnx_expire(connection, key, self.ttl).await,
            Scheme::Getset => getset(connection, key, self.ttl).await,
            Scheme::Liar => {
                let owner = random_owner();
                let granted = if self.requests.is_multiple_of(LIE_EVERY) {
                    redis::cmd("SET")
                        .arg((key, &owner, "PX", milliseconds(self.ttl)))
                        .query_async(connection)
                        .await?
                } else {
                    set_nx_px(connection, key, &owner, self.ttl).await?
                };
                Ok(granted.then_some(owner))
            }
        }
    }
}

impl Driver for RedisDriver {
    type Guard = RedisGuard;

    async fn acquire(&mut self, lock: &str) -> Result<RedisGuard, Trouble> {
        self.requests += 1;
        loop {
            let until = Instant::now() + self.ttl;
            if let Some(value) = self.ask(lock).await.map_err(Trouble::new)? {
                let key = lock.to_owned();
                return Ok(RedisGuard { key, value, until });
            }
            polling::pause().await;
        }
    }

    async fn release(&mut self, guard: RedisGuard) -> Result<Released, Trouble> {
        let connection = &mut self.connection;
        let deleted: RedisResult<bool> = match self.scheme {
            Scheme::SetNxPx | Scheme::Liar => {
                let mut release = self.release.key(&guard.key);
                release.arg(&guard.value).invoke_async(connection).await
            }
            Scheme::SetnxExpire => delete(connection, &guard.key).await,
            // Whoever is late leaves the lock alone, by its own clock.
            Scheme::Getset if Instant::now() >= guard.until => Ok(false),
            Scheme::Getset => delete(connection, &guard.key).await,
        };
        match deleted.map_err(Trouble::new)? {
            true => Ok(Released::Yes),
            false => Ok(Released::NotHeld),
        }
    }

    async fn close(self) {}
}

impl Guard for RedisGuard {
    fn token(&self) -> Option<u64> {
        None
    }

    fn valid_for(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

/// A connection that waits long for answers, and sends each command at once.
pub(super) async fn connect(url: &str) -> Result<MultiplexedConnection, Trouble> {
    let failed = |error| Trouble::new(format!("cannot connect to {url}: {error}"));
    let at_once = TcpSettings::default().set_nodelay(true);
    let server = url.into_connection_info().map_err(failed)?;
    let client = Client::open(server.set_tcp_settings(at_once)).map_err(failed)?;
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(RESPONSE_TIMEOUT));
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    connecting.await.map_err(failed)
}

/// The script that gives a lock back.
pub(super) fn compare_and_delete() -> Script {
    Script::new(COMPARE_AND_DELETE)
}

/// Sets the key unless it is set. Returns whether it was not.
pub(super) async fn set_nx_px(
    connection: &mut MultiplexedConnection,
    key: &str,
    owner: &str,
    ttl: Duration,
) -> RedisResult<bool> {
    let mut set = redis::cmd("SET");
    set.arg((key, owner, "NX", "PX", milliseconds(ttl)));
    set.query_async(connection).await
}

async fn setnx_expire(
    connection: &mut MultiplexedConnection,
    key: &str,
    ttl: Duration,
) -> RedisResult<Option<String>> {
    let owner = random_owner();
    let mut setnx = redis::cmd("SETNX");
    if !setnx.arg((key, &owner)).query_async(connection).await? {
        return Ok(None);
    }
    // Whole seconds, rounded up: the lock must not end before its holder takes it to.
    let seconds = ttl.as_millis().div_ceil(1000).max(1);
    let mut expire = redis::cmd("EXPIRE");
    let expires: bool = expire
        .arg((key, seconds.to_string()))
        .query_async(connection)
        .await?;
    Ok(expires.then_some(owner))
}

async fn getset(
    connection: &mut MultiplexedConnection,
    key: &str,
    ttl: Duration,
) -> RedisResult<Option<String>> {
    let now = unix_milliseconds();
    let ours = (now + milliseconds(ttl) + 1).to_string();
    let mut setnx = redis::cmd("SETNX");
    if setnx.arg((key, &ours)).query_async(connection).await? {
        return Ok(Some(ours));
    }
    let has_passed = |end: Option<u64>| end.is_some_and(|end| end < now);
    let end: Option<u64> = redis::cmd("GET").arg(key).query_async(connection).await?;
    if !has_passed(end) {
        return Ok(None);
    }
    let mut getset = redis::cmd("GETSET");
    let end = getset.arg((key, &ours)).query_async(connection).await?;
    Ok(has_passed(end).then_some(ours))
}

async fn delete(connection: &mut MultiplexedConnection, key: &str) -> RedisResult<bool> {
    redis::cmd("DEL").arg(key).query_async(connection).await
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn unix_milliseconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    milliseconds(now.unwrap_or_default())
}
