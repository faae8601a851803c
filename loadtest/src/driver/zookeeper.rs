//! Locks in ZooKeeper by the two recipes that people use. Both are nodes that end with their
//! session.
//!
//! Their grants have a number that rises: the transaction in which the holder's node was created.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error, SessionState, Stat};

use super::{Driver, Guard, Released, Start, Trouble, random_owner};

/// What all nodes are under.
const ROOT: &str = "/lockd_loadtest";

const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
const EPHEMERAL: CreateOptions<'static> = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
const SEQUENTIAL: CreateOptions<'static> =
    CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());

/// Digits of the number at the end of a sequential node's name, at least.
const SEQUENCE_DIGITS: usize = 10;

/// How long all attempts of one request may take together. Longer than any failover: a client that
/// gave up early would hide how long one takes.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Pause after an attempt that failed, milliseconds, drawn from these bounds.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 10..=50;

/// How long a server may take to say how it is.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// Longest such answer that is read, bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// A library that takes itself to be connected has heard its server within this part of the
/// session's timeout, in fifths.
const SILENCE_FIFTHS: u32 = 2;

/// How a lock is taken and given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Everybody tries to make the same node, and watches it while it is there: all of them wake
    /// when it goes.
    Herd,
    /// Everybody makes a node with the next number; the lowest holds the lock, and each of the
    /// others watches the one before it. This is the mutex of the library Curator.
    Curator,
}

/// A client with a session of its own.
pub struct ZookeeperDriver {
    client: Client,
    cluster: String,
    scheme: Scheme,
    ttl: Duration,
    /// The lock whose directory is known to be there.
    has_directory: Option<String>,
}

/// A lock that is held.
pub struct ZookeeperGuard {
    client: Client,
    path: String,
    created: i64,
    /// Until when the session surely runs.
    until: Instant,
}

impl ZookeeperDriver {
    /// So many clients of the ensemble at these addresses, with sessions of this timeout (or of one
    /// within what the ensemble permits).
    ///
    /// # Errors
    /// [`Trouble`] of the first that cannot connect.
    pub async fn connect_all(
        addresses: &[String],
        start: Start,
        scheme: Scheme,
        clients: usize,
        ttl: Duration,
    ) -> Result<Vec<ZookeeperDriver>, Trouble> {
        if statuses(addresses).await.iter().all(Option::is_none) {
            return Err(Trouble::new(format!(
                "cannot connect: no server of ZooKeeper serves at {}",
                addresses.join(", ")
            )));
        }
        // The library draws the server that it begins with from those that it is given.
        let cluster = match (start, addresses.first()) {
            (Start::First, Some(first)) => first.clone(),
            _ => addresses.join(","),
        };
        let mut drivers = Vec::new();
        for _ in 0..clients {
            drivers.push(ZookeeperDriver {
                client: connect(&cluster, ttl).await?,
                cluster: cluster.clone(),
                scheme,
                ttl,
                has_directory: None,
            });
        }
        Ok(drivers)
    }

    fn guard(&self, path: String, created: i64, asked: Instant) -> ZookeeperGuard {
        ZookeeperGuard {
            path,
            created,
            // The answer said that the session ran, and began to run anew, after it was asked.
            until: asked + self.client.session_timeout(),
            client: self.client.clone(),
        }
    }

    /// Makes the directory in which a lock's nodes are.
    async fn make_directory(&mut self, directory: &str) -> Result<(), Error> {
        if self.has_directory.as_deref() != Some(directory) {
            self.client.mkdir(directory, &PERSISTENT).await?;
            self.has_directory = Some(directory.to_owned());
        }
        Ok(())
    }

    async fn herd(&mut self, lock: &str) -> Result<ZookeeperGuard, Error> {
        self.make_directory(ROOT).await?;
        let path = format!("{ROOT}/{}", node_name(lock));
        loop {
            let asked = Instant::now();
            match self.client.create(&path, b"", &EPHEMERAL).await {
                Ok((stat, _)) => return Ok(self.guard(path, stat.czxid, asked)),
                Err(Error::NodeExists) => {}
                Err(error) => return Err(error),
            }
            let (stat, watcher) = self.client.check_and_watch_stat(&path).await?;
            match stat {
                // An attempt that was not answered has made it.
                Some(stat) if self.is_ours(&stat) => {
                    return Ok(self.guard(path, stat.czxid, asked));
                }
                Some(_) => {
                    watcher.changed().await;
                }
                None => {}
            }
        }
    }

    fn is_ours(&self, stat: &Stat) -> bool {
        stat.ephemeral_owner == self.client.session_id().0
    }

    /// `name` is the same in all attempts of one acquisition, so that the node of an attempt that
    /// was not answered is found again.
    async fn curator(
        &mut self,
        lock: &str,
        attempts: u32,
        name: &str,
    ) -> Result<ZookeeperGuard, Error> {
        let directory = format!("{ROOT}/{}", node_name(lock));
        self.make_directory(&directory).await?;
        let prefix = format!("_c_{name}-lock-");
        let left = match attempts {
            0 => None,
            _ => self.find(&directory, &prefix).await?,
        };
        let (node, created) = match left {
            Some(left) => left,
            None => {
                let path = format!("{directory}/{prefix}");
                let (stat, number) = self.client.create(&path, b"", &SEQUENTIAL).await?;
                (format!("{prefix}{number}"), stat.czxid)
            }
        };
        loop {
            let asked = Instant::now();
            let mut nodes = self.client.list_children(&directory).await?;
            nodes.sort_by(|a, b| sequence(a).cmp(sequence(b)));
            // Without its node, the session is gone too.
            let place = nodes.iter().position(|other| *other == node);
            let place = place.ok_or(Error::SessionExpired)?;
            let Some(before) = place.checked_sub(1).and_then(|place| nodes.get(place)) else {
                return Ok(self.guard(format!("{directory}/{node}"), created, asked));
            };
            let watched = format!("{directory}/{before}");
            match self.client.get_and_watch_data(&watched).await {
                Ok((_, _, watcher)) => {
                    watcher.changed().await;
                }
                Err(Error::NoNode) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The node that begins so, and when it was created.
    async fn find(&self, directory: &str, prefix: &str) -> Result<Option<(String, i64)>, Error> {
        let nodes = self.client.list_children(directory).await?;
        let Some(node) = nodes.into_iter().find(|node| node.starts_with(prefix)) else {
            return Ok(None);
        };
        let stat = self
            .client
            .check_stat(&format!("{directory}/{node}"))
            .await?;
        Ok(stat.map(|stat| (node, stat.czxid)))
    }

    /// Goes on after a failure, with another session if that one is over.
    async fn recover(&mut self, error: Error, begun: Instant) -> Result<(), Trouble> {
        if begun.elapsed() > REQUEST_TIMEOUT {
            return Err(describe(&error));
        }
        if is_over(&error, self.client.state()) {
            // Where that fails, the next attempt comes here again.
            if let Ok(client) = connect(&self.cluster, self.ttl).await {
                self.client = client;
            }
        } else if error == Error::NoNode {
            // Somebody has cleaned up.
            self.has_directory = None;
        } else if !may_pass(&error) {
            return Err(describe(&error));
        }
        pause().await;
        Ok(())
    }
}

impl Driver for ZookeeperDriver {
    type Guard = ZookeeperGuard;

    async fn acquire(&mut self, lock: &str) -> Result<ZookeeperGuard, Trouble> {
        let begun = Instant::now();
        let name = random_owner();
        for attempts in 0.. {
            let acquired = match self.scheme {
                Scheme::Herd => self.herd(lock).await,
                Scheme::Curator => self.curator(lock, attempts, &name).await,
            };
            match acquired {
                Ok(guard) => return Ok(guard),
                Err(error) => self.recover(error, begun).await?,
            }
        }
        Err(Trouble::new("there were too many attempts"))
    }

    async fn release(&mut self, guard: ZookeeperGuard) -> Result<Released, Trouble> {
        let begun = Instant::now();
        for attempts in 0.. {
            match guard.client.delete(&guard.path, None).await {
                Ok(()) => return Ok(Released::Yes),
                // An attempt that was not answered may have deleted it.
                Err(Error::NoNode) if attempts > 0 => return Ok(Released::Yes),
                Err(Error::NoNode) => return Ok(Released::NotHeld),
                Err(error) if is_over(&error, guard.client.state()) => {
                    return Ok(Released::NotHeld);
                }
                Err(error) => self.recover(error, begun).await?,
            }
        }
        Err(Trouble::new("there were too many attempts"))
    }

    async fn close(self) {
        // Dropping the last client closes the session.
        drop(self.client);
    }
}

impl Guard for ZookeeperGuard {
    fn token(&self) -> Option<u64> {
        u64::try_from(self.created).ok()
    }

    fn valid_for(&self) -> Duration {
        let left = self.until.saturating_duration_since(Instant::now());
        match self.client.state() {
            SessionState::SyncConnected => {
                let timeout = self.client.session_timeout();
                left.max(timeout.saturating_sub(timeout * SILENCE_FIFTHS / 5))
            }
            SessionState::Expired | SessionState::Closed => Duration::ZERO,
            _ => left,
        }
    }
}

/// Which of these servers leads; nobody, if none does.
pub async fn leader(addresses: &[String]) -> Option<usize> {
    let statuses = statuses(addresses).await;
    let leads = |status: &Option<String>| {
        let status = status.as_deref().unwrap_or_default();
        status.contains("Mode: leader") || status.contains("Mode: standalone")
    };
    statuses.iter().position(leads)
}

/// Whether all servers serve, one of them as leader.
pub async fn is_whole(addresses: &[String]) -> bool {
    statuses(addresses).await.iter().all(Option::is_some) && leader(addresses).await.is_some()
}

/// What each server answers to `srvr`, of those that serve.
async fn statuses(addresses: &[String]) -> Vec<Option<String>> {
    let mut statuses = Vec::new();
    for address in addresses {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, srvr(address)).await;
        let answer = answer.ok().and_then(Result::ok);
        statuses.push(answer.filter(|answer| answer.contains("Mode: ")));
    }
    statuses
}

/// What a server answers to the one of its words of four letters that it knows as it comes.
async fn srvr(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"srvr").await?;
    let mut answer = String::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_string(&mut answer)
        .await?;
    Ok(answer)
}

/// Removes what the drivers have made at an ensemble.
///
/// # Errors
/// [`Trouble`], if something may be left behind.
pub async fn clean(addresses: &[String]) -> Result<(), Trouble> {
    let client = connect(&addresses.join(","), REQUEST_TIMEOUT).await?;
    // Directories of locks are the only ones, and have no more than one level.
    let failed = |error: Error| describe(&error);
    let locks = match client.list_children(ROOT).await {
        Err(Error::NoNode) => return Ok(()),
        locks => locks.map_err(failed)?,
    };
    for lock in locks {
        let directory = format!("{ROOT}/{lock}");
        for node in client.list_children(&directory).await.map_err(failed)? {
            delete(&client, &format!("{directory}/{node}")).await?;
        }
        delete(&client, &directory).await?;
    }
    delete(&client, ROOT).await
}

async fn delete(client: &Client, path: &str) -> Result<(), Trouble> {
    match client.delete(path, None).await {
        Ok(()) | Err(Error::NoNode) => Ok(()),
        Err(error) => Err(describe(&error)),
    }
}

async fn connect(cluster: &str, ttl: Duration) -> Result<Client, Trouble> {
    let connector = Client::connector().with_session_timeout(ttl);
    let connected = connector.connect(cluster).await;
    connected.map_err(|error| Trouble::new(format!("cannot connect: {error}")))
}

/// Waits a moment, so that an ensemble that is down is not hammered.
async fn pause() {
    let time = Duration::from_millis(rand::random_range(PAUSE_MS));
    tokio::time::sleep(time).await;
}

/// Whether a session that met this error is not to be used any more.
fn is_over(error: &Error, state: SessionState) -> bool {
    let ended = matches!(state, SessionState::Expired | SessionState::Closed);
    let terminal = matches!(
        error,
        Error::SessionExpired | Error::ClientClosed | Error::NoHosts
    );
    ended || terminal
}

/// Whether another attempt, perhaps at another server, may do what this one did not.
fn may_pass(error: &Error) -> bool {
    matches!(
        error,
        Error::ConnectionLoss
            | Error::Timeout
            | Error::SessionMoved
            | Error::Throttled
            | Error::Custom(_)
    )
}

/// A name without slashes, which would lead into other directories.
fn node_name(lock: &str) -> String {
    lock.replace('/', ":")
}

/// The number at the end of a sequential node's name. All have so many digits that it sorts as text
/// for as long as one lock lives here.
fn sequence(node: &str) -> &str {
    let at = node.len().saturating_sub(SEQUENCE_DIGITS);
    node.get(at..).unwrap_or_default()
}

fn describe(error: &Error) -> Trouble {
    Trouble::new(format!("ZooKeeper: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_ordered_by_their_number_and_not_by_whom_they_belong_to() {
        let mut nodes = [
            "_c_b-lock-0000000003",
            "_c_z-lock-0000000001",
            "_c_a-lock-0000000010",
        ];
        nodes.sort_by(|a, b| sequence(a).cmp(sequence(b)));
        let numbers = nodes.map(sequence);
        assert_eq!(numbers, ["0000000001", "0000000003", "0000000010"]);
        assert_eq!(sequence("short"), "short");
    }
}
