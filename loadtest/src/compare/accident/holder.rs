//! A holder: a process of its own, so that it can really be paused and cut off. It takes a lock,
//! reads the row, and writes it one higher, each when it is told to, one line of JSON at a time.
//!
//! It writes without looking whether it still holds the lock, since between looking and writing
//! anything can happen. What it would have seen, it tells when it is asked.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::row::{Place, Refusal, Row};
use super::system::Way;
use crate::compare::peer::Peer;
use crate::driver::etcd::EtcdDriver;
use crate::driver::lockd::{LockdDriver, LockdOptions};
use crate::driver::mariadb::{self, MariadbDriver};
use crate::driver::postgres::{self, PostgresDriver};
use crate::driver::redis::{self, RedisDriver};
use crate::driver::redlock::RedlockDriver;
use crate::driver::zookeeper::{self, ZookeeperDriver};
use crate::driver::{Driver, Guard, Start, Trouble};
use crate::process::input_lines;

/// The hidden subcommand that runs a holder.
pub const HOLDER_COMMAND: &str = "__holder";

/// Options of the hidden subcommand.
#[derive(Clone, Debug, clap::Args)]
pub struct HolderArgs {
    /// How it takes its lock.
    #[arg(long, value_enum)]
    pub peer: Peer,
    /// How it reaches its row.
    #[arg(long, value_enum)]
    pub way: Way,
    /// The lock it takes.
    #[arg(long)]
    pub lock: String,
    /// TTL of its session or its lock.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub ttl: Duration,
}

/// What a holder is told to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Connect to the lock service and to the row. The first order. Not arguments of the process,
    /// since there can be passwords in them.
    Connect {
        /// The lock service.
        urls: Vec<String>,
        /// The row.
        place: Place,
    },
    /// Take the lock, waiting as long as it takes.
    Acquire,
    /// Read the row.
    Read,
    /// Look whether the lock is held.
    Look,
    /// Write the row one higher than it was read, without looking.
    Write,
    /// Give the lock back.
    Release,
}

/// What a holder tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is connected.
    Ready,
    /// It has the lock.
    Granted,
    /// It has read this.
    Read {
        /// The counter.
        value: i64,
    },
    /// It looked.
    Looked {
        /// Whether its client library says that the lock is held.
        held: bool,
    },
    /// The write was accepted.
    Written,
    /// The write was refused.
    Refused {
        /// A code of the database's or the gateway's.
        code: String,
        /// In its words.
        message: String,
    },
    /// The lock was given back, or was not held any more.
    Released,
    /// The order could not be carried out.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Runs a holder until its orders end.
///
/// # Errors
/// What it could not connect to, or did not understand.
pub async fn run(arguments: &HolderArgs) -> Result<(), String> {
    let mut orders = input_lines();
    let first = orders.recv().await.ok_or("there was no order")?;
    let Order::Connect { urls, place } = understand(&first)? else {
        return Err("it is not connected".to_owned());
    };
    let row = Row::connect(&place).await;
    let row = row.map_err(|error| format!("cannot connect to the row: {error}"))?;
    let first = urls.first().map_or("", String::as_str);
    let ttl = arguments.ttl;
    if arguments.way == Way::SameConnection {
        return serve(Inside::new(row, arguments), orders).await;
    }
    match arguments.peer {
        Peer::Lockd => {
            let options = LockdOptions {
                clients: 1,
                connections: 1,
                ttl,
                tickets: arguments.way == Way::Gateway,
            };
            let drivers = LockdDriver::connect_all(Path::new(first), options).await;
            apart(drivers.map_err(Trouble::new), row, arguments, orders).await
        }
        Peer::Etcd => {
            let drivers = EtcdDriver::connect_all(&urls, Start::First, 1, ttl).await;
            apart(drivers, row, arguments, orders).await
        }
        Peer::ZookeeperHerd | Peer::ZookeeperCurator => {
            let scheme = match arguments.peer {
                Peer::ZookeeperHerd => zookeeper::Scheme::Herd,
                _ => zookeeper::Scheme::Curator,
            };
            let drivers = ZookeeperDriver::connect_all(&urls, Start::Spread, scheme, 1, ttl);
            apart(drivers.await, row, arguments, orders).await
        }
        Peer::Redlock => {
            let drivers = RedlockDriver::connect_all(&urls, 1, ttl).await;
            apart(drivers, row, arguments, orders).await
        }
        Peer::PostgresAdvisory | Peer::PostgresForUpdate => {
            let scheme = postgres::Scheme::Advisory;
            let drivers = PostgresDriver::connect_all(first, scheme, 1).await;
            apart(drivers, row, arguments, orders).await
        }
        Peer::MariadbGetLock | Peer::MariadbInsert | Peer::MariadbForUpdate => {
            let scheme = match arguments.peer {
                Peer::MariadbGetLock => mariadb::Scheme::GetLock,
                Peer::MariadbInsert => mariadb::Scheme::Insert,
                _ => mariadb::Scheme::ForUpdate,
            };
            let drivers = MariadbDriver::connect_all(first, scheme, 1).await;
            apart(drivers, row, arguments, orders).await
        }
        _ => {
            let scheme = match arguments.peer {
                Peer::RedisSetnxExpire => redis::Scheme::SetnxExpire,
                Peer::RedisGetset => redis::Scheme::Getset,
                Peer::Liar => redis::Scheme::Liar,
                _ => redis::Scheme::SetNxPx,
            };
            let drivers = RedisDriver::connect_all(first, scheme, 1, ttl).await;
            apart(drivers, row, arguments, orders).await
        }
    }
}

async fn apart<D: Driver>(
    drivers: Result<Vec<D>, Trouble>,
    row: Row,
    arguments: &HolderArgs,
    orders: tokio::sync::mpsc::Receiver<String>,
) -> Result<(), String> {
    let drivers = drivers.map_err(|trouble| trouble.to_string())?;
    let driver = drivers.into_iter().next().ok_or("there is no client")?;
    let apart = Apart {
        driver,
        guard: None,
        lock: arguments.lock.clone(),
        row,
    };
    serve(apart, orders).await
}

async fn serve<H: Holder>(
    mut holder: H,
    mut orders: tokio::sync::mpsc::Receiver<String>,
) -> Result<(), String> {
    say(&Answer::Ready)?;
    let mut read = 0;
    while let Some(order) = orders.recv().await {
        let answer = match understand(&order)? {
            Order::Connect { .. } => Err("it is connected already".to_owned()),
            Order::Acquire => holder.acquire().await.map(|()| Answer::Granted),
            Order::Read => match holder.read().await {
                Ok(value) => {
                    read = value;
                    Ok(Answer::Read { value })
                }
                Err(refusal) => Err(refusal.to_string()),
            },
            Order::Look => Ok(Answer::Looked {
                held: holder.looks_held(),
            }),
            Order::Write => Ok(match holder.write(read + 1).await {
                Ok(()) => Answer::Written,
                Err(Refusal { code, message }) => Answer::Refused { code, message },
            }),
            Order::Release => holder.release().await.map(|()| Answer::Released),
        };
        say(&answer.unwrap_or_else(|reason| Answer::Failed { reason }))?;
    }
    Ok(())
}

fn understand(line: &str) -> Result<Order, String> {
    serde_json::from_str(line).map_err(|error| error.to_string())
}

fn say(answer: &Answer) -> Result<(), String> {
    let line = serde_json::to_string(answer).map_err(|error| error.to_string())?;
    let mut out = std::io::stdout().lock();
    let said = writeln!(out, "{line}").and_then(|()| out.flush());
    said.map_err(|error| error.to_string())
}

/// What an application does with a lock and a row.
trait Holder {
    async fn acquire(&mut self) -> Result<(), String>;
    /// Whether its client library says that the lock is held.
    fn looks_held(&self) -> bool;
    async fn read(&mut self) -> Result<i64, Refusal>;
    async fn write(&mut self, value: i64) -> Result<(), Refusal>;
    async fn release(&mut self) -> Result<(), String>;
}

/// The lock and the row are apart.
struct Apart<D: Driver> {
    driver: D,
    guard: Option<D::Guard>,
    lock: String,
    row: Row,
}

impl<D: Driver> Holder for Apart<D> {
    async fn acquire(&mut self) -> Result<(), String> {
        let acquired = self.driver.acquire(&self.lock).await;
        let guard = acquired.map_err(|trouble| trouble.to_string())?;
        if let Some(ticket) = guard.ticket() {
            // A ticket has no quotes: it is base64url.
            let show = format!("SET fence.ticket = '{ticket}'");
            self.row.run(&show).await.map_err(|e| e.to_string())?;
        }
        self.guard = Some(guard);
        Ok(())
    }

    fn looks_held(&self) -> bool {
        let guard = self.guard.as_ref();
        guard.is_some_and(|guard| !guard.valid_for().is_zero())
    }

    async fn read(&mut self) -> Result<i64, Refusal> {
        self.row.reconnect().await?;
        self.row.read(false).await
    }

    async fn write(&mut self, value: i64) -> Result<(), Refusal> {
        self.row.reconnect().await?;
        self.row.write(value).await
    }

    async fn release(&mut self) -> Result<(), String> {
        match self.guard.take() {
            Some(guard) => match self.driver.release(guard).await {
                Ok(_) => Ok(()),
                Err(trouble) => Err(trouble.to_string()),
            },
            None => Err("it never had the lock".to_owned()),
        }
    }
}

/// The lock is held by the connection that writes the row.
struct Inside {
    row: Row,
    lock: String,
    /// The lock is the row's own, for the length of a transaction; else it is an advisory lock.
    locks_row: bool,
}

impl Inside {
    fn new(row: Row, arguments: &HolderArgs) -> Inside {
        Inside {
            row,
            lock: arguments.lock.clone(),
            locks_row: arguments.peer == Peer::PostgresForUpdate,
        }
    }
}

impl Holder for Inside {
    async fn acquire(&mut self) -> Result<(), String> {
        let acquired = if self.locks_row {
            match self.row.run("BEGIN").await {
                Ok(()) => self.row.read(true).await.map(|_| ()),
                Err(refusal) => Err(refusal),
            }
        } else {
            let lock = "SELECT pg_advisory_lock(hashtextextended($1, 0))";
            self.row.ask(lock, &self.lock).await
        };
        acquired.map_err(|refusal| refusal.to_string())
    }

    /// Nothing tells a holder but that its statements fail.
    fn looks_held(&self) -> bool {
        true
    }

    async fn read(&mut self) -> Result<i64, Refusal> {
        self.row.read(false).await
    }

    async fn write(&mut self, value: i64) -> Result<(), Refusal> {
        self.row.write(value).await?;
        match self.locks_row {
            // It takes effect, and gives the lock back, with its transaction.
            true => self.row.run("COMMIT").await,
            false => Ok(()),
        }
    }

    async fn release(&mut self) -> Result<(), String> {
        if self.locks_row {
            return Ok(());
        }
        let unlock = "SELECT pg_advisory_unlock(hashtextextended($1, 0))";
        let released = self.row.ask(unlock, &self.lock).await;
        released.map_err(|refusal| refusal.to_string())
    }
}
