//! Locks in a PostgreSQL server, by the recipes that people use. The server queues those who wait,
//! and a lock lasts as long as its connection. None gives its holder a number that rises.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error, NoTls, Statement};

use super::{Driver, Guard, Released, Trouble, WHILE_CONNECTED};

/// The schema that holds the rows that are locked.
const SCHEMA: &str = "lockd_loadtest";

/// How a lock is taken and given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `pg_advisory_lock` and `pg_advisory_unlock` of the name's hash.
    Advisory,
    /// `SELECT ... FOR UPDATE` of a row, in a transaction that stays open while the lock is held.
    ForUpdate,
}

/// A client with a connection of its own.
pub struct PostgresDriver {
    client: Client,
    connection: JoinHandle<Result<(), Error>>,
    statements: Statements,
    /// The lock whose row is known to be there.
    has_row: Option<String>,
}

enum Statements {
    Advisory { lock: Statement, unlock: Statement },
    ForUpdate { insert: Statement, lock: Statement },
}

/// A lock that is held.
pub struct PostgresGuard(String);

impl PostgresDriver {
    /// So many clients of the server at `url`. Makes a schema for their rows there.
    ///
    /// # Errors
    /// [`Trouble`] of the first that cannot connect, or may not do what it has to.
    pub async fn connect_all(
        url: &str,
        scheme: Scheme,
        clients: usize,
    ) -> Result<Vec<PostgresDriver>, Trouble> {
        let mut drivers = Vec::new();
        for _ in 0..clients {
            let (client, connection) = connect(url).await?;
            let statements = Statements::prepare(&client, scheme).await;
            drivers.push(PostgresDriver {
                client,
                connection,
                statements: statements.map_err(describe)?,
                has_row: None,
            });
        }
        Ok(drivers)
    }

    /// Locks the name's row in a transaction.
    async fn lock_row(&mut self, name: &str) -> Result<(), Error> {
        let Statements::ForUpdate { insert, lock } = &self.statements else {
            return Ok(());
        };
        if self.has_row.as_deref() != Some(name) {
            self.client.execute(insert, &[&name]).await?;
            self.has_row = Some(name.to_owned());
        }
        self.client.batch_execute("BEGIN").await?;
        let locked = self.client.query_one(lock, &[&name]).await;
        if locked.is_err() {
            self.client.batch_execute("ROLLBACK").await?;
        }
        locked.map(|_| ())
    }
}

impl Statements {
    async fn prepare(client: &Client, scheme: Scheme) -> Result<Statements, Error> {
        match scheme {
            Scheme::Advisory => {
                let lock = "SELECT pg_advisory_lock(hashtextextended($1, 0))";
                let unlock = "SELECT pg_advisory_unlock(hashtextextended($1, 0))";
                Ok(Statements::Advisory {
                    lock: client.prepare(lock).await?,
                    unlock: client.prepare(unlock).await?,
                })
            }
            Scheme::ForUpdate => {
                let make = format!(
                    "SET client_min_messages = warning;
                     CREATE SCHEMA IF NOT EXISTS {SCHEMA};
                     CREATE TABLE IF NOT EXISTS {SCHEMA}.locks (name text PRIMARY KEY)"
                );
                client.batch_execute(&make).await?;
                let insert =
                    format!("INSERT INTO {SCHEMA}.locks VALUES ($1) ON CONFLICT DO NOTHING");
                let lock = format!("SELECT name FROM {SCHEMA}.locks WHERE name = $1 FOR UPDATE");
                Ok(Statements::ForUpdate {
                    insert: client.prepare(&insert).await?,
                    lock: client.prepare(&lock).await?,
                })
            }
        }
    }
}

/// Removes what the drivers have made at a server.
///
/// # Errors
/// [`Trouble`], if something was left behind.
pub async fn clean(url: &str) -> Result<(), Trouble> {
    let (client, _connection) = connect(url).await?;
    let drop = format!("SET client_min_messages = warning; DROP SCHEMA IF EXISTS {SCHEMA} CASCADE");
    client.batch_execute(&drop).await.map_err(describe)
}

impl Driver for PostgresDriver {
    type Guard = PostgresGuard;

    async fn acquire(&mut self, name: &str) -> Result<PostgresGuard, Trouble> {
        let locked = match &self.statements {
            Statements::Advisory { lock, .. } => {
                self.client.execute(lock, &[&name]).await.map(|_| ())
            }
            Statements::ForUpdate { .. } => self.lock_row(name).await,
        };
        locked.map_err(describe)?;
        Ok(PostgresGuard(name.to_owned()))
    }

    async fn release(&mut self, guard: PostgresGuard) -> Result<Released, Trouble> {
        let was_held = match &self.statements {
            Statements::Advisory { unlock, .. } => {
                let row = self.client.query_one(unlock, &[&guard.0]).await;
                row.and_then(|row| row.try_get(0))
            }
            Statements::ForUpdate { .. } => {
                self.client.batch_execute("COMMIT").await.map(|()| true)
            }
        };
        match was_held.map_err(describe)? {
            true => Ok(Released::Yes),
            false => Ok(Released::NotHeld),
        }
    }

    async fn close(self) {
        drop(self.client);
        // However the connection ended, it has ended.
        let _ = self.connection.await;
    }
}

impl Guard for PostgresGuard {
    fn token(&self) -> Option<u64> {
        None
    }

    fn valid_for(&self) -> Duration {
        WHILE_CONNECTED
    }
}

async fn connect(url: &str) -> Result<(Client, JoinHandle<Result<(), Error>>), Trouble> {
    let connected = tokio_postgres::connect(url, NoTls).await;
    let (client, connection) =
        connected.map_err(|error| Trouble::new(format!("cannot connect: {}", describe(error))))?;
    Ok((client, tokio::spawn(connection)))
}

/// The library tells apart what failed and why it did.
fn describe(error: Error) -> Trouble {
    let why = std::error::Error::source(&error).map(|source| format!(": {source}"));
    Trouble::new(format!("{error}{}", why.unwrap_or_default()))
}
