//! From the start-up packet to the server's first ReadyForQuery. Authentication is between the
//! client and the server: its messages are relayed and not understood.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::messages;
use crate::limits::LOGIN_MESSAGE_BYTES_MAX;
use crate::net::stream::Stream;

/// A login that the server has accepted; its ReadyForQuery is not yet with the client.
pub(super) struct LoggedIn {
    /// The number of the server's backend, if it told one.
    pub(super) pid: Option<i32>,
    /// Whether the server says that this is a superuser.
    pub(super) superuser: bool,
    /// What the client has already sent behind its login.
    pub(super) client_ahead: Vec<u8>,
    /// What the server has already sent behind its ReadyForQuery.
    pub(super) server_ahead: Vec<u8>,
}

/// A login that came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoginError {
    /// The server refused; the client has its answer.
    #[error("the server refused the login")]
    Refused,
    #[error("the server's connection broke during the login: {0}")]
    Server(io::Error),
    #[error("the client's connection broke during the login: {0}")]
    Client(io::Error),
    #[error("{0}")]
    Violation(String),
}

/// Relays until the server says ReadyForQuery.
pub(super) async fn relay(
    client: &mut Stream,
    server: &mut Stream,
) -> Result<LoggedIn, LoginError> {
    let (mut from_client, mut from_server) = (Vec::new(), Vec::new());
    let mut login = Login::default();
    loop {
        if login.take_from_server(&mut from_server, client).await? {
            return Ok(LoggedIn {
                pid: login.pid,
                superuser: login.superuser,
                client_ahead: from_client,
                server_ahead: from_server,
            });
        }
        let may_read_client = from_client.len() < LOGIN_MESSAGE_BYTES_MAX;
        tokio::select! {
            read = server.read_buf(&mut from_server) => match read {
                Ok(0) if login.said_error => return Err(LoginError::Refused),
                Ok(0) => return Err(LoginError::Server(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) => return Err(LoginError::Server(error)),
            },
            read = client.read_buf(&mut from_client), if may_read_client => match read {
                Ok(0) => return Err(LoginError::Client(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => take_from_client(&mut from_client, server).await?,
                Err(error) => return Err(LoginError::Client(error)),
            },
        }
    }
}

#[derive(Default)]
struct Login {
    pid: Option<i32>,
    superuser: bool,
    said_error: bool,
}

impl Login {
    /// Passes whole messages on. `true` once the server is ready; that message is kept back.
    async fn take_from_server(
        &mut self,
        bytes: &mut Vec<u8>,
        client: &mut Stream,
    ) -> Result<bool, LoginError> {
        let mut whole = 0;
        let mut ready = None;
        while let Some(rest) = bytes.get(whole..) {
            let Some(header) = header(rest)? else { break };
            let Some(message) = rest.get(..header.total) else {
                break;
            };
            if header.kind == b'Z' {
                ready = Some(header.total);
                break;
            }
            let body = message.get(messages::HEADER_BYTES..).unwrap_or_default();
            match header.kind {
                b'K' => self.pid = body.first_chunk::<4>().copied().map(i32::from_be_bytes),
                b'S' => self.superuser |= body == b"is_superuser\0on\0",
                _ => {}
            }
            self.said_error = header.kind == b'E';
            whole += header.total;
        }
        if let Some(message) = bytes.get(..whole).filter(|message| !message.is_empty()) {
            client
                .write_all(message)
                .await
                .map_err(LoginError::Client)?;
            client.flush().await.map_err(LoginError::Client)?;
        }
        bytes.drain(..whole + ready.unwrap_or(0));
        Ok(ready.is_some())
    }
}

/// Passes whole answers to the server's questions on; anything else waits for the session.
async fn take_from_client(bytes: &mut Vec<u8>, server: &mut Stream) -> Result<(), LoginError> {
    let mut whole = 0;
    while let Some(rest) = bytes.get(whole..) {
        if rest.first() != Some(&b'p') {
            break;
        }
        match header(rest)? {
            Some(header) if header.total <= rest.len() => whole += header.total,
            _ => break,
        }
    }
    if let Some(messages) = bytes.get(..whole).filter(|messages| !messages.is_empty()) {
        server
            .write_all(messages)
            .await
            .map_err(LoginError::Server)?;
        server.flush().await.map_err(LoginError::Server)?;
    }
    bytes.drain(..whole);
    Ok(())
}

fn header(bytes: &[u8]) -> Result<Option<messages::Header>, LoginError> {
    match messages::header(bytes) {
        Ok(Some(header)) if header.total > LOGIN_MESSAGE_BYTES_MAX => Err(LoginError::Violation(
            "a message during the login is too long".into(),
        )),
        Ok(header) => Ok(header),
        Err(error) => Err(LoginError::Violation(error.to_string())),
    }
}
