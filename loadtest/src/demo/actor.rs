//! A client of the demo: a process of its own, so that it can really be paused. It does what it
//! is told, one line of JSON at a time, and tells what came of it.
//!
//! It is an ordinary, slightly careless application: it looks whether it holds the lock, and then
//! writes. Between the two anything can happen.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use lockd_client::{Client, GuardState, LockGuard, Wait};
use serde::{Deserialize, Serialize};

use super::target::{Target, TargetError, Writer};
use crate::process::input_lines;

/// The hidden subcommand that runs an actor.
pub const ACTOR_COMMAND: &str = "__actor";

/// Options of the hidden subcommand.
#[derive(Clone, Debug, clap::Args)]
pub struct ActorArgs {
    /// How the session is labelled.
    #[arg(long)]
    pub label: String,
    /// `client.toml` of the cell.
    #[arg(long)]
    pub config: PathBuf,
    /// The lock to take.
    #[arg(long)]
    pub lock: String,
    /// TTL of the session.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub ttl: Duration,
}

/// What an actor is told to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Connect to the data and to the cell. The first order.
    Connect {
        /// Where the data is. Not an argument of the process, since it has a password in it.
        target: Target,
    },
    /// Take the lock, waiting as long as it takes.
    Acquire,
    /// Look whether the lock is held.
    Look,
    /// Write, without looking.
    Write {
        /// What to write.
        value: String,
    },
    /// Give the lock back.
    Release,
}

/// What an actor tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is connected to the cell and to the gateway.
    Ready,
    /// It has the lock.
    Granted {
        /// Under this token.
        token: u64,
    },
    /// It looked.
    Looked {
        /// Whether its SDK says that the lock is held.
        held: bool,
        /// For how much longer, or why not.
        detail: String,
    },
    /// The write was accepted.
    Accepted,
    /// The write was refused.
    Refused {
        /// `FN001` and so on.
        code: String,
        /// In the words of the gateway or the database.
        message: String,
    },
    /// The lock was given back.
    Released,
    /// The order could not be carried out.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Runs an actor until its orders end.
///
/// # Errors
/// What it could not connect to, or did not understand.
pub async fn run(arguments: &ActorArgs) -> Result<(), String> {
    let mut orders = input_lines();
    let mut actor = None;
    while let Some(order) = orders.recv().await {
        let order = serde_json::from_str(&order).map_err(|error| error.to_string())?;
        let answer = match (order, &mut actor) {
            (Order::Connect { target }, None) => {
                actor = Some(Actor::start(arguments, &target).await?);
                Ok(Answer::Ready)
            }
            (order, Some(actor)) => actor.carry_out(order).await,
            (_, None) => Err("it is not connected".to_owned()),
        };
        say(&answer.unwrap_or_else(|reason| Answer::Failed { reason }))?;
    }
    Ok(())
}

fn say(answer: &Answer) -> Result<(), String> {
    let line = serde_json::to_string(answer).map_err(|error| error.to_string())?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|error| error.to_string())
}

struct Actor {
    client: Client,
    lock: String,
    guard: Option<LockGuard>,
    writer: Writer,
}

impl Actor {
    async fn start(arguments: &ActorArgs, target: &Target) -> Result<Actor, String> {
        let writer = Writer::connect(target).await;
        let client = Client::builder()
            .config_file(&arguments.config)
            .map_err(|error| error.to_string())?
            .ttl(arguments.ttl)
            .description(&arguments.label)
            .connect()
            .await;
        Ok(Actor {
            client: client.map_err(|error| error.to_string())?,
            lock: arguments.lock.clone(),
            guard: None,
            writer: writer.map_err(|error| error.to_string())?,
        })
    }

    async fn carry_out(&mut self, order: Order) -> Result<Answer, String> {
        match order {
            Order::Connect { .. } => Err("it is connected already".to_owned()),
            Order::Acquire => self.acquire().await,
            Order::Look => self.look(),
            Order::Write { value } => self.write(&value).await,
            Order::Release => self.release().await,
        }
    }

    async fn acquire(&mut self) -> Result<Answer, String> {
        let lock = self.client.lock(&self.lock).wait(Wait::Forever);
        let guard = lock.acquire().await.map_err(|error| error.to_string())?;
        let token = guard.token().0;
        self.guard = Some(guard);
        Ok(Answer::Granted { token })
    }

    fn look(&self) -> Result<Answer, String> {
        let guard = self.guard.as_ref().ok_or("it never had the lock")?;
        Ok(match guard.state() {
            GuardState::Lost { reason } => Answer::Looked {
                held: false,
                detail: reason.to_string(),
            },
            _ => Answer::Looked {
                held: true,
                detail: format!("for {:.2} s at least", guard.remaining().as_secs_f64()),
            },
        })
    }

    async fn write(&mut self, value: &str) -> Result<Answer, String> {
        let guard = self.guard.as_ref().ok_or("it never had the lock")?;
        let ticket = guard.ticket().ok_or("the grant came without a ticket")?;
        match self.writer.write(ticket.as_str(), value).await {
            Ok(()) => Ok(Answer::Accepted),
            Err(TargetError::Refused { code, message }) => Ok(Answer::Refused { code, message }),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn release(&mut self) -> Result<Answer, String> {
        let guard = self.guard.take().ok_or("it never had the lock")?;
        match guard.release().await {
            Ok(_) => Ok(Answer::Released),
            Err(error) => Err(error.to_string()),
        }
    }
}
