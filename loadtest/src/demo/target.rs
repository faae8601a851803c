//! The data of the demo behind the gateway, as an application sees it: one record, that one
//! writes and reads.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_postgres::NoTls;

/// Table of the demo in PostgreSQL.
pub const TABLE: &str = "public.orders";

/// Key of the demo's row in PostgreSQL.
pub const ROW: i64 = 42;

/// Rows that there are, by the numbers from 1.
pub const ROWS: i64 = 100;

/// Longest problem document that is read, bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How long the data may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Where the record is, and how to get there through the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// In the embedded store.
    Store {
        /// The gateway.
        address: SocketAddr,
        /// The key.
        key: String,
    },
    /// In PostgreSQL.
    Postgres {
        /// Connection string of the application, by way of the gateway.
        application: String,
    },
}

/// Why something was not written or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The gateway or the database refused.
    #[error("{code}: {message}")]
    Refused {
        /// `FN001` and so on.
        code: String,
        /// In the words of whoever refused.
        message: String,
    },
    /// There was no proper answer.
    #[error("the data cannot be reached: {0}")]
    Broken(String),
}

/// A connection through the gateway.
pub enum Writer {
    /// To the embedded store.
    Store {
        /// The connection.
        sender: SendRequest<Full<Bytes>>,
        /// The key.
        key: String,
    },
    /// To PostgreSQL.
    Postgres(tokio_postgres::Client),
}

impl Writer {
    /// Connects.
    ///
    /// # Errors
    /// [`TargetError`].
    pub async fn connect(target: &Target) -> Result<Writer, TargetError> {
        match target {
            Target::Store { address, key } => {
                let stream = TcpStream::connect(address).await.map_err(broken)?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
                // An error of the connection shows in the requests.
                tokio::spawn(async move { drop(connection.await) });
                Ok(Writer::Store {
                    sender,
                    key: key.clone(),
                })
            }
            Target::Postgres { application } => {
                let connected = tokio_postgres::connect(application, NoTls).await;
                let (client, connection) = connected.map_err(sql_error)?;
                tokio::spawn(async move { drop(connection.await) });
                Ok(Writer::Postgres(client))
            }
        }
    }

    /// Writes the record under a ticket.
    ///
    /// # Errors
    /// [`TargetError::Refused`] by the fence, most likely.
    pub async fn write(&mut self, ticket: &str, value: &str) -> Result<(), TargetError> {
        let write = async {
            match self {
                Writer::Store { sender, key } => {
                    let request = Request::put(format!("/kv/{key}"))
                        .header("host", "gateway")
                        .header("fencing-token", ticket)
                        .body(Full::from(value.to_owned()))
                        .map_err(broken)?;
                    let (status, body) = exchange(sender, request).await?;
                    accepted(status, &body)
                }
                Writer::Postgres(client) => write_row(client, ticket, value).await,
            }
        };
        within(write).await
    }

    /// Reads the record; no ticket is needed.
    ///
    /// # Errors
    /// [`TargetError`].
    pub async fn read(&mut self) -> Result<String, TargetError> {
        let read = async {
            match self {
                Writer::Store { sender, key } => {
                    let request = Request::get(format!("/kv/{key}"))
                        .header("host", "gateway")
                        .body(Full::default())
                        .map_err(broken)?;
                    let (status, body) = exchange(sender, request).await?;
                    accepted(status, &body)?;
                    Ok(String::from_utf8_lossy(&body).into_owned())
                }
                Writer::Postgres(client) => read_row(client).await,
            }
        };
        within(read).await
    }
}

async fn within<T>(answer: impl Future<Output = Result<T, TargetError>>) -> Result<T, TargetError> {
    let late = |_| TargetError::Broken(format!("no answer in {} s", ANSWER_TIMEOUT.as_secs()));
    tokio::time::timeout(ANSWER_TIMEOUT, answer)
        .await
        .map_err(late)?
}

async fn exchange(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), TargetError> {
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    let body = body.collect().await.map_err(broken)?.to_bytes();
    Ok((status, body))
}

/// Reads a problem document, if the answer is one.
fn accepted(status: StatusCode, body: &[u8]) -> Result<(), TargetError> {
    if status.is_success() {
        return Ok(());
    }
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let field = |name: &str| problem[name].as_str().map(str::to_owned);
    Err(match field("code") {
        Some(code) => TargetError::Refused {
            code,
            message: field("detail").unwrap_or_default(),
        },
        None => TargetError::Broken(format!("HTTP {status}")),
    })
}

async fn write_row(
    client: &tokio_postgres::Client,
    ticket: &str,
    value: &str,
) -> Result<(), TargetError> {
    // A ticket has no quotes: it is base64url.
    let show = format!("SET fence.ticket = '{ticket}'");
    client.batch_execute(&show).await.map_err(sql_error)?;
    let update = format!("UPDATE {TABLE} SET state = $1 WHERE id = $2");
    let updated = client.execute(&update, &[&value, &ROW]).await;
    match updated.map_err(sql_error)? {
        1 => Ok(()),
        rows => Err(TargetError::Broken(format!("{rows} rows were updated"))),
    }
}

async fn read_row(client: &tokio_postgres::Client) -> Result<String, TargetError> {
    let select = format!("SELECT state FROM {TABLE} WHERE id = $1");
    let row = client.query_one(&select, &[&ROW]).await;
    row.and_then(|row| row.try_get(0)).map_err(sql_error)
}

fn sql_error(error: tokio_postgres::Error) -> TargetError {
    match error.as_db_error() {
        Some(refusal) => TargetError::Refused {
            code: refusal.code().code().to_owned(),
            message: refusal.message().to_owned(),
        },
        None => broken(error),
    }
}

fn broken(error: impl std::fmt::Display) -> TargetError {
    TargetError::Broken(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_the_store_has_its_code_and_words() {
        let body = br#"{"title":"Stale ticket","code":"FN001","detail":"stale: shown 1"}"#;
        assert_eq!(
            accepted(StatusCode::PRECONDITION_FAILED, body),
            Err(TargetError::Refused {
                code: "FN001".into(),
                message: "stale: shown 1".into()
            })
        );
        assert_eq!(accepted(StatusCode::NO_CONTENT, b""), Ok(()));
        let broken = accepted(StatusCode::BAD_GATEWAY, b"<html>");
        assert!(matches!(broken, Err(TargetError::Broken(_))));
    }

    #[test]
    fn a_target_survives_its_way_through_a_command_line() {
        let target = Target::Store {
            address: SocketAddr::from(([127, 0, 0, 1], 80)),
            key: "orders/42".into(),
        };
        let text = serde_json::to_string(&target).unwrap();
        let back: Target = serde_json::from_str(&text).unwrap();
        assert!(matches!(back, Target::Store { key, .. } if key == "orders/42"));
    }
}
