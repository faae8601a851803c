//! One connection of the gateway's own: logs in, sends commands together, reads their replies in
//! order. Knows nothing of the fence.
//!
//! A connection on which anything went wrong is dropped, never used again: its next reply could
//! be another command's.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::resp::{self, Malformed, Value};
use super::upstream::{DialError, Target};
use crate::limits::{ADMIN_CALL_TIMEOUT, ADMIN_REPLY_BYTES_MAX};
use crate::net::stream::Stream;

/// Why a call was not done, or is not known to have been done.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No connection to the server.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The gateway's user may not log in or not do what the fence needs.
    #[error("the gateway's user may not use the fence ({0}); run `gateway install`")]
    NotInstalled(String),
    /// The server refused something else.
    #[error("the server says: {0}")]
    Server(String),
    /// The connection broke, or what came was not a reply.
    #[error("the connection to the server broke: {0}")]
    Broken(String),
    /// No answer in time.
    #[error("the server did not answer within {} s", ADMIN_CALL_TIMEOUT.as_secs())]
    Timeout,
}

impl From<std::io::Error> for LinkError {
    fn from(error: std::io::Error) -> LinkError {
        LinkError::Broken(error.to_string())
    }
}

impl From<Malformed> for LinkError {
    fn from(error: Malformed) -> LinkError {
        LinkError::Broken(error.to_string())
    }
}

/// A connection that is logged in.
pub(super) struct Link {
    stream: Stream,
    received: Vec<u8>,
    /// Names the server's process.
    pub(super) run_id: String,
    /// The server's version, as it writes it.
    pub(super) version: String,
}

/// Commands to be sent together.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    count: usize,
}

impl Batch {
    pub(super) fn add<A: AsRef<[u8]>>(&mut self, arguments: &[A]) {
        resp::encode(&mut self.bytes, arguments);
        self.count += 1;
    }

    /// The same between MULTI and EXEC.
    pub(super) fn as_transaction(&self) -> Batch {
        let mut whole = Batch::default();
        whole.add(&["MULTI"]);
        whole.bytes.extend_from_slice(&self.bytes);
        whole.count += self.count;
        whole.add(&["EXEC"]);
        whole
    }
}

impl Link {
    /// Connects and logs in.
    pub(super) async fn connect(
        target: &Target,
        user: &str,
        password: Option<&str>,
    ) -> Result<Link, LinkError> {
        let mut link = Link {
            stream: target.dial().await?,
            received: Vec::new(),
            run_id: String::new(),
            version: String::new(),
        };
        let mut batch = Batch::default();
        if let Some(password) = password {
            batch.add(&["AUTH", user, password]);
        }
        batch.add(&["CLIENT", "SETNAME", "lockd-gateway"]);
        batch.add(&["INFO", "server"]);
        let replies = link.send(&batch).await?;
        for reply in &replies {
            refused(reply)?;
        }
        let info = replies.last().and_then(Value::text).unwrap_or_default();
        link.run_id = field(info, "run_id").unwrap_or_default().to_owned();
        link.version = field(info, "redis_version").unwrap_or_default().to_owned();
        if link.run_id.is_empty() {
            return Err(Malformed.into());
        }
        Ok(link)
    }

    /// Sends commands and reads as many replies; errors among them are for the caller.
    pub(super) async fn send(&mut self, batch: &Batch) -> Result<Vec<Value>, LinkError> {
        self.stream.write_all(&batch.bytes).await?;
        self.stream.flush().await?;
        let mut replies = Vec::with_capacity(batch.count.min(1024));
        while replies.len() < batch.count {
            match resp::parse(&self.received)? {
                Some((value, used)) => {
                    self.received.drain(..used);
                    replies.push(value);
                }
                None => self.receive().await?,
            }
        }
        Ok(replies)
    }

    async fn receive(&mut self) -> Result<(), LinkError> {
        if self.received.len() > ADMIN_REPLY_BYTES_MAX {
            return Err(Malformed.into());
        }
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err(LinkError::Broken("the server closed it".into())),
            _ => Ok(()),
        }
    }

    /// Sends one command; its reply, unless that is an error.
    pub(super) async fn ask(&mut self, arguments: &[&str]) -> Result<Value, LinkError> {
        let mut batch = Batch::default();
        batch.add(arguments);
        let mut replies = self.send(&batch).await?;
        let reply = replies.pop().ok_or(Malformed)?;
        refused(&reply)?;
        Ok(reply)
    }
}

/// An error reply as an error.
pub(super) fn refused(reply: &Value) -> Result<(), LinkError> {
    match reply {
        Value::Error(text) => Err(
            match text.split_ascii_whitespace().next().unwrap_or_default() {
                "NOPERM" | "WRONGPASS" | "NOAUTH" => LinkError::NotInstalled(text.clone()),
                _ => LinkError::Server(text.clone()),
            },
        ),
        _ => Ok(()),
    }
}

/// A line of INFO's answer.
pub(super) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = info.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}
