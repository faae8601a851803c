//! Redlock: a lock is held by whoever has set its key in most of five Redis servers, which know
//! nothing of each other.

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Script};

use super::redis::{compare_and_delete, connect, set_nx_px};
use super::{Driver, Guard, Released, Trouble, polling, random_owner};
use crate::keeper::REDLOCK_INSTANCES;

/// Instances that have to agree.
const QUORUM: usize = REDLOCK_INSTANCES / 2 + 1;

/// The part of the TTL by which clocks may differ, as its description has it, in hundredths ...
const DRIFT_PERCENT: u32 = 1;

/// ... and what it adds to that.
const DRIFT_MORE: Duration = Duration::from_millis(2);

/// A client with a connection of its own to each instance.
pub struct RedlockDriver {
    instances: [MultiplexedConnection; REDLOCK_INSTANCES],
    ttl: Duration,
    release: Script,
}

/// A lock that is held.
pub struct RedlockGuard {
    key: String,
    owner: String,
    until: Instant,
}

impl RedlockDriver {
    /// So many clients of the servers at `urls`, whose locks end after `ttl`.
    ///
    /// # Errors
    /// [`Trouble`], if there are not five URLs, or of the first that cannot connect.
    pub async fn connect_all(
        urls: &[String],
        clients: usize,
        ttl: Duration,
    ) -> Result<Vec<RedlockDriver>, Trouble> {
        let mut drivers = Vec::new();
        for _ in 0..clients {
            let mut instances = Vec::new();
            for url in urls {
                instances.push(connect(url).await?);
            }
            let found = instances.len();
            let instances = instances.try_into().map_err(|_| {
                Trouble::new(format!(
                    "Redlock runs over {REDLOCK_INSTANCES} servers, and has {found}: give \
                     --endpoint redlock=URL {REDLOCK_INSTANCES} times"
                ))
            })?;
            let release = compare_and_delete();
            drivers.push(RedlockDriver {
                instances,
                ttl,
                release,
            });
        }
        Ok(drivers)
    }

    /// Asks all instances at once. Returns how many granted the lock, and the first trouble.
    async fn ask(&mut self, key: &str, owner: &str) -> (usize, Option<Trouble>) {
        let ttl = self.ttl;
        let [a, b, c, d, e] = &mut self.instances;
        let (a, b, c, d, e) = tokio::join!(
            set_nx_px(a, key, owner, ttl),
            set_nx_px(b, key, owner, ttl),
            set_nx_px(c, key, owner, ttl),
            set_nx_px(d, key, owner, ttl),
            set_nx_px(e, key, owner, ttl)
        );
        count([a, b, c, d, e])
    }

    /// Gives the lock back at all instances at once. Returns how many had it, and the first
    /// trouble.
    async fn give_back(&mut self, key: &str, owner: &str) -> (usize, Option<Trouble>) {
        let mut release = self.release.key(key);
        let release = &*release.arg(owner);
        let [a, b, c, d, e] = &mut self.instances;
        let (a, b, c, d, e) = tokio::join!(
            release.invoke_async(a),
            release.invoke_async(b),
            release.invoke_async(c),
            release.invoke_async(d),
            release.invoke_async(e)
        );
        count([a, b, c, d, e])
    }
}

impl Driver for RedlockDriver {
    type Guard = RedlockGuard;

    async fn acquire(&mut self, lock: &str) -> Result<RedlockGuard, Trouble> {
        loop {
            let owner = random_owner();
            let drift = self.ttl * DRIFT_PERCENT / 100 + DRIFT_MORE;
            let until = Instant::now() + self.ttl.saturating_sub(drift);
            let (granted, trouble) = self.ask(lock, &owner).await;
            if granted >= QUORUM && Instant::now() < until {
                let key = lock.to_owned();
                return Ok(RedlockGuard { key, owner, until });
            }
            // Also where it was not granted: the answer may have been lost.
            self.give_back(lock, &owner).await;
            match trouble {
                Some(trouble) => return Err(trouble),
                None => polling::pause().await,
            }
        }
    }

    async fn release(&mut self, guard: RedlockGuard) -> Result<Released, Trouble> {
        match self.give_back(&guard.key, &guard.owner).await {
            (had, _) if had >= QUORUM => Ok(Released::Yes),
            (_, Some(trouble)) => Err(trouble),
            (_, None) => Ok(Released::NotHeld),
        }
    }

    async fn close(self) {}
}

impl Guard for RedlockGuard {
    fn token(&self) -> Option<u64> {
        None
    }

    fn valid_for(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

fn count(answers: [RedisResult<bool>; REDLOCK_INSTANCES]) -> (usize, Option<Trouble>) {
    let mut trouble = None;
    let mut yes = 0;
    for answer in answers {
        match answer {
            Ok(true) => yes += 1,
            Ok(false) => {}
            Err(error) => trouble = trouble.or(Some(Trouble::new(error))),
        }
    }
    (yes, trouble)
}
