//! The control socket: how `gateway fences` and `gateway settle` reach a gateway that runs. What
//! they ask for is in its memory and nowhere else. One line of JSON there, one back; whoever may
//! open the socket's file may ask.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lockd_protocol::types::LockName;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::lanes::Lanes;
use crate::limits::{CONTROL_LINE_BYTES_MAX, CONTROL_TIMEOUT, FENCES_LISTED_MAX};

/// A socket that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the control socket {}: {reason}", .path.display())]
pub struct ControlError {
    path: PathBuf,
    reason: String,
}

/// What can be asked of a gateway that runs.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// The lanes.
    Fences,
    /// Nothing in doubt will take effect any more: of this lock, or at all.
    Settle(Option<String>),
}

/// What it says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// The lanes, in order of lock.
    Fences(Vec<Lane>),
    /// How many doubts have ended.
    Settled(usize),
    /// It is not the active gateway, and knows nothing.
    Standby,
    /// It cannot do that.
    Wrong(String),
}

/// The order of one lock's requests.
#[derive(Debug, Serialize, Deserialize)]
pub struct Lane {
    /// The lock.
    pub lock: String,
    /// The highest token admitted.
    pub token: String,
    /// Writes that are not finally answered.
    pub unanswered: u32,
    /// Tokens under which a write's outcome is unknown.
    pub doubts: usize,
}

/// A socket that is listened on; its file goes with it.
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    pub(super) fn bind(path: &Path) -> Result<Socket, ControlError> {
        let failed = |error: io::Error| ControlError {
            path: path.to_path_buf(),
            reason: error.to_string(),
        };
        // What a killed gateway left; a live one answers.
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(failed(io::ErrorKind::AddrInUse.into()));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        let only_owner = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(path, only_owner).map_err(failed)?;
        Ok(Socket {
            listener,
            path: path.to_path_buf(),
        })
    }

    /// Answers, one after the other, until the future is dropped.
    pub(super) async fn serve(&self, lanes: &Arc<Lanes>) {
        loop {
            let served = match self.listener.accept().await {
                Ok((stream, _)) => {
                    let answered = tokio::time::timeout(CONTROL_TIMEOUT, answer(stream, lanes));
                    answered
                        .await
                        .unwrap_or(Err(io::ErrorKind::TimedOut.into()))
                }
                Err(error) => {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    Err(error)
                }
            };
            if let Err(error) = served {
                tracing::debug!(%error, "a conversation on the control socket failed");
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // If it stays, the next gateway finds nobody behind it.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer(stream: UnixStream, lanes: &Lanes) -> io::Result<()> {
    let (from, mut to) = stream.into_split();
    let mut line = String::new();
    let mut limited = BufReader::new(from.take(CONTROL_LINE_BYTES_MAX as u64));
    limited.read_line(&mut line).await?;
    let reply = match serde_json::from_str(&line) {
        Ok(question) => reply(question, lanes),
        Err(error) => Reply::Wrong(error.to_string()),
    };
    let mut text = serde_json::to_vec(&reply)?;
    text.push(b'\n');
    to.write_all(&text).await
}

fn reply(question: Question, lanes: &Lanes) -> Reply {
    match question {
        Question::Fences => lanes
            .list(FENCES_LISTED_MAX)
            .map_or(Reply::Standby, |lanes| {
                let lane = |lane: super::lanes::LaneState| Lane {
                    lock: lane.lock,
                    token: lane.mark.to_string(),
                    unanswered: lane.unanswered,
                    doubts: lane.doubts,
                };
                Reply::Fences(lanes.into_iter().map(lane).collect())
            }),
        Question::Settle(lock) => {
            let lock = match lock.as_deref().map(LockName::new).transpose() {
                Ok(lock) => lock,
                Err(error) => return Reply::Wrong(error.to_string()),
            };
            let Some(ended) = lanes.settle(lock.as_ref()) else {
                return Reply::Standby;
            };
            let of = lock.map_or_else(|| "all locks".to_owned(), |lock| lock.to_string());
            tracing::warn!(
                ended,
                of,
                "an operator vouches that nothing in doubt is under way"
            );
            Reply::Settled(ended)
        }
    }
}

/// Asks the gateway behind a socket.
///
/// # Errors
/// [`ControlError`] if there is none, or it does not answer.
pub async fn ask(path: &Path, question: &Question) -> Result<Reply, ControlError> {
    let failed = |reason: String| ControlError {
        path: path.to_path_buf(),
        reason,
    };
    let asked = async {
        let mut stream = UnixStream::connect(path).await?;
        let mut text = serde_json::to_vec(question)?;
        text.push(b'\n');
        stream.write_all(&text).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, io::Error>(serde_json::from_slice(&answer)?)
    };
    match tokio::time::timeout(CONTROL_TIMEOUT, asked).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) => Err(failed(format!("{error} (does the gateway run?)"))),
        Err(_) => Err(failed("the gateway does not answer".into())),
    }
}
