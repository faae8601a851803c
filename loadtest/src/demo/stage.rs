//! The actors, seen from the one who directs them: processes that take orders and answer.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout};

use super::actor::{ACTOR_COMMAND, Answer, Order};
use super::target::Target;
use crate::process::{Process, ProcessError};

/// How long an actor may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(25);

/// An actor's process.
pub struct Player {
    process: Process,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// What every actor of a demo has in common.
pub struct Setting<'a> {
    /// This program.
    pub program: &'a Path,
    /// Where logs go.
    pub directory: &'a Path,
    /// `client.toml` of the cell.
    pub config: &'a Path,
    /// The lock they want.
    pub lock: &'a str,
    /// TTL of their sessions.
    pub ttl: Duration,
    /// What they write.
    pub target: &'a Target,
}

/// An actor did not play its part.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// Its process did not do as it should.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It could not do what it was told.
    #[error("{name} could not do what it was told: {reason}")]
    Failed {
        /// Which.
        name: String,
        /// Why.
        reason: String,
    },
    /// It said something else than what belongs here.
    #[error("{name} answered {answer}, which is out of place here")]
    OutOfPlace {
        /// Which.
        name: String,
        /// What it said.
        answer: String,
    },
}

impl Player {
    /// Starts an actor and waits until it is connected.
    ///
    /// # Errors
    /// [`StageError`].
    pub async fn start(name: &str, setting: &Setting<'_>) -> Result<Player, StageError> {
        let failed = |reason: String| StageError::Failed {
            name: name.to_owned(),
            reason,
        };
        let ttl = format!("{}ms", setting.ttl.as_millis());
        let arguments = [
            ACTOR_COMMAND.as_ref(),
            "--label".as_ref(),
            name.as_ref(),
            "--config".as_ref(),
            setting.config.as_os_str(),
            "--lock".as_ref(),
            setting.lock.as_ref(),
            "--ttl".as_ref(),
            ttl.as_ref(),
        ];
        let log = setting.directory.join(format!("{name}.log"));
        let mut process = Process::start(name, setting.program, &arguments, &log)?;
        let (orders, answers) = process.take_pipes().map_err(|e| failed(e.to_string()))?;
        let mut player = Player {
            process,
            orders,
            answers: BufReader::new(answers).lines(),
        };
        let target = setting.target.clone();
        match player.order(&Order::Connect { target }).await? {
            Answer::Ready => Ok(player),
            other => Err(player.out_of_place(&other)),
        }
    }

    /// Gives an order, without waiting for what comes of it.
    ///
    /// # Errors
    /// [`StageError`], if the actor is gone.
    pub async fn tell(&mut self, order: &Order) -> Result<(), StageError> {
        let told = match serde_json::to_string(order) {
            Ok(line) => self.orders.write_all(format!("{line}\n").as_bytes()).await,
            Err(error) => Err(error.into()),
        };
        told.map_err(|error| self.failed(error.to_string()))
    }

    /// Waits for the answer to the oldest order that has none yet.
    ///
    /// # Errors
    /// [`StageError`], also if the actor failed to carry it out.
    pub async fn hear(&mut self) -> Result<Answer, StageError> {
        let Ok(line) = tokio::time::timeout(ANSWER_TIMEOUT, self.answers.next_line()).await else {
            return Err(self.process.too_slow("answer", ANSWER_TIMEOUT).into());
        };
        let line = line.map_err(|error| self.failed(error.to_string()))?;
        let Some(line) = line else {
            return Err(self.ended());
        };
        match serde_json::from_str(&line) {
            Ok(Answer::Failed { reason }) => Err(self.failed(reason)),
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.failed(format!("it said {line:?} ({error})"))),
        }
    }

    /// Gives an order and waits for its answer.
    ///
    /// # Errors
    /// [`StageError`].
    pub async fn order(&mut self, order: &Order) -> Result<Answer, StageError> {
        self.tell(order).await?;
        self.hear().await
    }

    /// Takes the lock, and tells its token.
    ///
    /// # Errors
    /// [`StageError`].
    pub async fn granted(&mut self) -> Result<u64, StageError> {
        match self.hear().await? {
            Answer::Granted { token } => Ok(token),
            other => Err(self.out_of_place(&other)),
        }
    }

    /// Stops the actor's process where it stands.
    ///
    /// # Errors
    /// [`StageError::Process`].
    pub fn pause(&mut self) -> Result<(), StageError> {
        Ok(self.process.pause()?)
    }

    /// Lets the actor's process go on.
    ///
    /// # Errors
    /// [`StageError::Process`].
    pub fn resume(&mut self) -> Result<(), StageError> {
        Ok(self.process.resume()?)
    }

    /// The error of an answer that does not belong here.
    #[must_use]
    pub fn out_of_place(&self, answer: &Answer) -> StageError {
        StageError::OutOfPlace {
            name: self.process.name().to_owned(),
            answer: format!("{answer:?}"),
        }
    }

    fn failed(&self, reason: String) -> StageError {
        StageError::Failed {
            name: self.process.name().to_owned(),
            reason,
        }
    }

    /// Its output was closed: it has ended or is about to, and its log tells why.
    fn ended(&mut self) -> StageError {
        let log = self.process.log_tail();
        self.failed(format!("it ended; its log says:\n{log}"))
    }
}
