//! A service that keeps orders and fences them itself, on axum and redb.
//!
//! ```sh
//! cargo run -p lockd-origin --example orders -- 127.0.0.1:7000 CELL TICKET_KEY
//! ```
//!
//! `CELL` and `TICKET_KEY` are `cell` and one of `ticket_keys` in a `client.toml`.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path as OfPath, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use lockd_origin::{Denied, Fence, FenceError, FenceLayer, Marks, admit};
use lockd_protocol::ticket::Verifier;
use lockd_protocol::types::{LockName, Token};
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition};

const ORDERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("orders");
const MARKS: TableDefinition<'_, &str, u64> = TableDefinition::new("marks");

/// The table of marks in a write transaction. redb runs one of them at a time.
struct RedbMarks<'tx>(Table<'tx, &'static str, u64>);

impl Marks for RedbMarks<'_> {
    type Error = redb::Error;

    fn mark(&mut self, lock: &LockName) -> Result<Option<Token>, redb::Error> {
        Ok(self.0.get(lock.as_str())?.map(|mark| Token(mark.value())))
    }

    fn raise(&mut self, lock: &LockName, to: Token) -> Result<(), redb::Error> {
        self.0.insert(lock.as_str(), to.0)?;
        Ok(())
    }
}

/// Stores an order, if its ticket is current: both in one transaction.
fn write(database: &Database, fence: &Fence, id: &str, order: &[u8]) -> Result<(), Refused> {
    fence.of(&format!("orders/{id}"))?;
    let transaction = database.begin_write().map_err(redb::Error::from)?;
    {
        let marks = transaction.open_table(MARKS).map_err(redb::Error::from)?;
        let mut marks = RedbMarks(marks);
        for ticket in fence.tickets() {
            admit(&mut marks, ticket)?;
        }
        let mut orders = transaction.open_table(ORDERS).map_err(redb::Error::from)?;
        orders.insert(id, order).map_err(redb::Error::from)?;
    }
    transaction.commit().map_err(redb::Error::from)?;
    Ok(())
}

fn read(database: &Database, id: &str) -> Result<Option<Vec<u8>>, redb::Error> {
    let transaction = database.begin_read()?;
    let orders = transaction.open_table(ORDERS)?;
    Ok(orders.get(id)?.map(|order| order.value().to_vec()))
}

/// Why an order was not stored, or cannot be read.
enum Refused {
    Fence(FenceError),
    Denied(Denied<redb::Error>),
}

impl From<FenceError> for Refused {
    fn from(error: FenceError) -> Refused {
        Refused::Fence(error)
    }
}

impl From<Denied<redb::Error>> for Refused {
    fn from(denied: Denied<redb::Error>) -> Refused {
        Refused::Denied(denied)
    }
}

impl From<redb::Error> for Refused {
    fn from(error: redb::Error) -> Refused {
        Refused::Denied(Denied::Failed(error))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Refused::Fence(error) => error.response::<Body>(),
            Refused::Denied(denied) => denied.response::<Body>(),
        }
    }
}

async fn put_order(
    State(database): State<Arc<Database>>,
    OfPath(id): OfPath<String>,
    fence: Option<Extension<Fence>>,
    order: Bytes,
) -> Result<StatusCode, Refused> {
    let Some(Extension(fence)) = fence else {
        let wanted = format!("the lock \"orders/{id}\"");
        return Err(FenceError::NoTicket { wanted }.into());
    };
    // A commit waits for the disk.
    let done = tokio::task::spawn_blocking(move || write(&database, &fence, &id, &order)).await;
    match done {
        Ok(done) => done.map(|()| StatusCode::NO_CONTENT),
        Err(_) => Ok(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

async fn get_order(
    State(database): State<Arc<Database>>,
    OfPath(id): OfPath<String>,
) -> Result<Response, Refused> {
    Ok(match read(&database, &id)? {
        Some(order) => order.into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    })
}

/// The service, with its data in this file.
///
/// # Errors
/// If the file cannot be opened.
pub(crate) fn service(file: &Path, verifier: Verifier) -> Result<Router, redb::Error> {
    let database = Database::create(file)?;
    let transaction = database.begin_write()?;
    transaction.open_table(ORDERS)?;
    transaction.open_table(MARKS)?;
    transaction.commit()?;
    Ok(Router::new()
        .route("/orders/{id}", get(get_order).put(put_order))
        .layer(FenceLayer::optional(verifier))
        .with_state(Arc::new(database)))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, cell, key] = arguments.as_slice() else {
        return Err("usage: orders ADDRESS CELL TICKET_KEY".into());
    };
    let digits = key.as_bytes().chunks(2).map(std::str::from_utf8);
    let key = digits
        .map(|pair| Ok(u8::from_str_radix(pair?, 16)?))
        .collect::<Result<Vec<u8>, Box<dyn std::error::Error>>>()?;
    let cell = cell
        .parse()
        .map_err(|_| "CELL is the `cell` of a client.toml")?;
    let verifier = Verifier::new(cell, [key])?;
    let listener = tokio::net::TcpListener::bind(listen).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, service(Path::new("orders.redb"), verifier)?).await?;
    Ok(())
}
