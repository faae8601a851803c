//! The row that is guarded, as an application sees it: a counter that it reads, and writes one
//! higher.

use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, NoTls};

/// The table of rows that no gateway guards. It is like the demo's, which the gateway does guard.
pub const TABLE: &str = "public.lockd_loadtest_rows";

/// Where a row is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// How the application connects.
    pub connection: String,
    /// The table.
    pub table: String,
    /// The row's key.
    pub id: i64,
}

/// A write did not take effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// The server's code; `closed` if there was no server to say one.
    pub code: String,
    /// In the words of whoever refused.
    pub message: String,
}

/// A connection to a row.
pub struct Row {
    place: Place,
    client: Client,
}

impl Row {
    /// Connects.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn connect(place: &Place) -> Result<Row, Refusal> {
        let (client, connection) = tokio_postgres::connect(&place.connection, NoTls).await?;
        // An error of the connection shows in the statements.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Row {
            place: place.clone(),
            client,
        })
    }

    /// Connects anew if the connection has ended, as a pool does.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn reconnect(&mut self) -> Result<(), Refusal> {
        if self.client.is_closed() {
            *self = Row::connect(&self.place).await?;
        }
        Ok(())
    }

    /// Runs statements that have no parameters.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn run(&self, statements: &str) -> Result<(), Refusal> {
        Ok(self.client.batch_execute(statements).await?)
    }

    /// Asks for something that has this name as its parameter.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn ask(&self, query: &str, name: &str) -> Result<(), Refusal> {
        self.client.execute(query, &[&name]).await?;
        Ok(())
    }

    /// Reads the counter. With `lock`, the row is locked until the transaction ends.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn read(&self, lock: bool) -> Result<i64, Refusal> {
        let Place { table, id, .. } = &self.place;
        let lock = if lock { " FOR UPDATE" } else { "" };
        let query = format!("SELECT state FROM {table} WHERE id = $1{lock}");
        let row = self.client.query_one(&query, &[id]).await?;
        let state: String = row.try_get(0)?;
        // The demo's rows begin with a word.
        Ok(state.parse().unwrap_or_default())
    }

    /// Writes the counter.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn write(&self, value: i64) -> Result<(), Refusal> {
        let Place { table, id, .. } = &self.place;
        let update = format!("UPDATE {table} SET state = $1 WHERE id = $2");
        match self
            .client
            .execute(&update, &[&value.to_string(), id])
            .await?
        {
            1 => Ok(()),
            rows => Err(Refusal {
                code: "rows".to_owned(),
                message: format!("{rows} rows were updated"),
            }),
        }
    }
}

/// Makes the table at the server of this URL, with so many rows.
///
/// # Errors
/// [`Refusal`].
pub async fn make_table(url: &str, rows: u64) -> Result<(), Refusal> {
    let place = Place {
        connection: url.to_owned(),
        table: TABLE.to_owned(),
        id: 0,
    };
    let make = format!(
        "DROP TABLE IF EXISTS {TABLE};
         CREATE TABLE {TABLE} (id bigint PRIMARY KEY, state text NOT NULL);
         INSERT INTO {TABLE} SELECT id, '0' FROM generate_series(1, {rows}) id"
    );
    let quiet = format!("SET client_min_messages = warning; {make}");
    Row::connect(&place).await?.run(&quiet).await
}

impl From<tokio_postgres::Error> for Refusal {
    fn from(error: tokio_postgres::Error) -> Refusal {
        match error.as_db_error() {
            Some(refusal) => Refusal {
                code: refusal.code().code().to_owned(),
                message: refusal.message().to_owned(),
            },
            None => Refusal {
                code: "closed".to_owned(),
                message: error.to_string(),
            },
        }
    }
}
