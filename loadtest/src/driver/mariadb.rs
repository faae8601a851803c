//! Locks in a MariaDB (or MySQL) server, by the recipes that people use. None gives its holder a
//! number that rises.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts, OptsBuilder, Statement};

use super::{Driver, Guard, Released, Trouble, WHILE_CONNECTED, polling, random_owner};

/// The database that holds the rows that are locked.
const DATABASE: &str = "lockd_loadtest";

/// A row of that name is there already.
const DUPLICATE: u16 = 1062;

/// The server has undone the statement to end a deadlock. Inserts and deletes of one row can meet
/// in one; the remedy is to run the statement again.
const DEADLOCK: u16 = 1213;

/// How long `GET_LOCK` waits, seconds: longer than any run.
const GET_LOCK_TIMEOUT_S: u32 = 3600;

/// How a lock is taken and given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `GET_LOCK` and `RELEASE_LOCK`: the server queues those who wait, and the lock lasts as long
    /// as the connection.
    GetLock,
    /// A row whose key is the lock's name: whoever can insert it holds the lock, and deletes it to
    /// give it back. Clients poll; the row of one that died stays.
    Insert,
    /// `SELECT ... FOR UPDATE` of a row, in a transaction that stays open while the lock is held.
    ForUpdate,
}

/// A client with a connection of its own.
pub struct MariadbDriver {
    connection: Conn,
    scheme: Scheme,
    acquire: Statement,
    release: Option<Statement>,
    /// The lock whose row is known to be there.
    has_row: Option<String>,
}

/// A lock that is held.
pub struct MariadbGuard {
    name: String,
    owner: String,
}

impl MariadbDriver {
    /// So many clients of the server at `url`. Makes a database for their rows there.
    ///
    /// # Errors
    /// [`Trouble`] of the first that cannot connect, or may not do what it has to.
    pub async fn connect_all(
        url: &str,
        scheme: Scheme,
        clients: usize,
    ) -> Result<Vec<MariadbDriver>, Trouble> {
        let mut drivers = Vec::new();
        for _ in 0..clients {
            let connection = connect(url).await?;
            let driver = MariadbDriver::prepare(connection, scheme).await;
            drivers.push(driver.map_err(Trouble::new)?);
        }
        Ok(drivers)
    }

    async fn prepare(mut connection: Conn, scheme: Scheme) -> Result<MariadbDriver, Error> {
        make_tables(&mut connection).await?;
        let (acquire, release) = match scheme {
            Scheme::GetLock => (
                format!("SELECT GET_LOCK(?, {GET_LOCK_TIMEOUT_S})"),
                Some("SELECT RELEASE_LOCK(?)".to_owned()),
            ),
            Scheme::Insert => (
                format!("INSERT INTO {DATABASE}.held VALUES (?, ?)"),
                Some(format!(
                    "DELETE FROM {DATABASE}.held WHERE name = ? AND owner = ?"
                )),
            ),
            Scheme::ForUpdate => (
                format!("SELECT 1 FROM {DATABASE}.locks WHERE name = ? FOR UPDATE"),
                None,
            ),
        };
        let acquire = connection.prep(acquire).await?;
        let release = match release {
            Some(release) => Some(connection.prep(release).await?),
            None => None,
        };
        Ok(MariadbDriver {
            connection,
            scheme,
            acquire,
            release,
            has_row: None,
        })
    }

    async fn get_lock(&mut self, name: &str) -> Result<(), Trouble> {
        let answer = self.connection.exec_first(&self.acquire, (name,)).await;
        // 1: granted. 0: it took too long. NULL: the server could not.
        match answer.map_err(Trouble::new)? {
            Some(Some(1)) => Ok(()),
            other => Err(Trouble::new(format!("GET_LOCK answered {other:?}"))),
        }
    }

    async fn insert(&mut self, name: &str, owner: &str) -> Result<(), Trouble> {
        loop {
            let inserted = self.connection.exec_drop(&self.acquire, (name, owner));
            match inserted.await {
                Ok(()) => return Ok(()),
                Err(error) if is(&error, DUPLICATE) || is(&error, DEADLOCK) => {}
                Err(error) => return Err(Trouble::new(error)),
            }
            polling::pause().await;
        }
    }

    async fn delete(&mut self, name: &str, owner: &str) -> Result<bool, Error> {
        let Some(release) = &self.release else {
            return Ok(false);
        };
        loop {
            let deleted = self.connection.exec_drop(release, (name, owner));
            match deleted.await {
                Ok(()) => return Ok(self.connection.affected_rows() == 1),
                Err(error) if is(&error, DEADLOCK) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Locks the name's row in a transaction.
    async fn lock_row(&mut self, name: &str) -> Result<(), Error> {
        if self.has_row.as_deref() != Some(name) {
            let insert = format!("INSERT IGNORE INTO {DATABASE}.locks VALUES (?)");
            self.connection.exec_drop(insert, (name,)).await?;
            self.has_row = Some(name.to_owned());
        }
        self.connection.query_drop("START TRANSACTION").await?;
        let locked = self.connection.exec_drop(&self.acquire, (name,)).await;
        if locked.is_err() {
            self.connection.query_drop("ROLLBACK").await?;
        }
        locked
    }

    async fn release_lock(&mut self, name: &str) -> Result<bool, Error> {
        let Some(release) = &self.release else {
            return Ok(false);
        };
        let answer = self.connection.exec_first(release, (name,)).await?;
        // 1: released. 0: another holds it. NULL: nobody does.
        Ok(answer == Some(Some(1)))
    }
}

/// Removes what the drivers have made at a server.
///
/// # Errors
/// [`Trouble`], if something was left behind.
pub async fn clean(url: &str) -> Result<(), Trouble> {
    let mut connection = connect(url).await?;
    let drop = format!("DROP DATABASE IF EXISTS {DATABASE}");
    connection.query_drop(drop).await.map_err(Trouble::new)?;
    connection.disconnect().await.map_err(Trouble::new)
}

impl Driver for MariadbDriver {
    type Guard = MariadbGuard;

    async fn acquire(&mut self, lock: &str) -> Result<MariadbGuard, Trouble> {
        let guard = MariadbGuard {
            name: lock.to_owned(),
            owner: random_owner(),
        };
        match self.scheme {
            Scheme::GetLock => self.get_lock(lock).await?,
            Scheme::Insert => self.insert(lock, &guard.owner).await?,
            Scheme::ForUpdate => self.lock_row(lock).await.map_err(Trouble::new)?,
        }
        Ok(guard)
    }

    async fn release(&mut self, guard: MariadbGuard) -> Result<Released, Trouble> {
        let was_held = match self.scheme {
            Scheme::GetLock => self.release_lock(&guard.name).await,
            Scheme::Insert => self.delete(&guard.name, &guard.owner).await,
            Scheme::ForUpdate => self.connection.query_drop("COMMIT").await.map(|()| true),
        };
        match was_held.map_err(Trouble::new)? {
            true => Ok(Released::Yes),
            false => Ok(Released::NotHeld),
        }
    }

    async fn close(self) {
        // The server frees everything of a connection that does not say good-bye, too.
        let _ = self.connection.disconnect().await;
    }
}

impl Guard for MariadbGuard {
    fn token(&self) -> Option<u64> {
        None
    }

    fn valid_for(&self) -> Duration {
        WHILE_CONNECTED
    }
}

async fn connect(url: &str) -> Result<Conn, Trouble> {
    let failed = |why: String| Trouble::new(format!("cannot connect: {why}"));
    let server = Opts::from_url(url).map_err(|error| failed(error.to_string()))?;
    // Over TCP as every other driver, not over the server's Unix socket.
    let opts = OptsBuilder::from_opts(server).prefer_socket(false);
    Conn::new(opts)
        .await
        .map_err(|error| failed(error.to_string()))
}

async fn make_tables(connection: &mut Conn) -> Result<(), Error> {
    for statement in [
        format!("CREATE DATABASE IF NOT EXISTS {DATABASE}"),
        format!(
            "CREATE TABLE IF NOT EXISTS {DATABASE}.locks (name varchar(200) PRIMARY KEY) \
             ENGINE = InnoDB"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {DATABASE}.held (name varchar(200) PRIMARY KEY, \
             owner varchar(40) NOT NULL) ENGINE = InnoDB"
        ),
    ] {
        connection.query_drop(statement).await?;
    }
    Ok(())
}

fn is(error: &Error, code: u16) -> bool {
    matches!(error, Error::Server(error) if error.code == code)
}
