//! `lockd lock`: runs a command while holding a lock.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use lockd_client::protocol::LockName;
use lockd_client::{
    Client, ClientBuilder, HeldLock, LockBuilder, LockGuard, Mode, ReleaseError, Wait,
};
use serde_json::{Value, json};

use super::child::{Child, Signals};
use super::config::ConfigArgs;
use super::exit::{self, Failure};
use super::labels::{self, Label};
use super::run_async;
use super::supervise::{Lease, OnLost, Outcome, supervise};
use super::ticket_fd::TicketFd;

/// How long the cell gets to confirm the end.
const FAREWELL: Duration = Duration::from_secs(3);

/// Runs a command while holding a lock, or several
///
/// The command is run without a shell, in a process group of its own, with LOCKD_LOCK,
/// LOCKD_TOKEN, LOCKD_TICKET, LOCKD_SESSION and LOCKD_GRANTS in its environment. What is held is
/// given back when the command has ended.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The lock; of several, all are acquired in one step
    #[arg(required = true, value_name = "NAME")]
    names: Vec<LockName>,
    /// One of the locks is enough: the first that is free
    #[arg(long)]
    any: bool,
    /// Beside others who hold it as shared, and beside nobody else
    #[arg(long)]
    shared: bool,
    /// One permit of a semaphore with so many
    #[arg(long, value_name = "N", conflicts_with = "shared")]
    permits: Option<u32>,
    /// On whose behalf; of owners that wait for each other in a circle, the last is refused
    #[arg(long, value_name = "TEXT")]
    owner: Option<String>,
    /// What others see on the lock as long as it is held: at most 4 KiB
    #[arg(long, value_name = "TEXT")]
    metadata: Option<String>,
    /// Do not wait if the lock is taken
    #[arg(long = "try", conflicts_with = "wait")]
    no_wait: bool,
    /// Wait at most this long, such as 5s or 2m; else until the lock is free
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
    /// A label of the session, for `lockd sessions` and `lockd who`; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = labels::parse)]
    labels: Vec<Label>,
    /// How long the lock outlives this process, should it die or be cut off
    #[arg(long, value_name = "TIME", default_value = "10s",
          value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// What to do to the command when the lock is being lost
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = OnLost::Term)]
    on_lost: OnLost,
    /// How long the command gets between SIGTERM and SIGKILL; else what the lease leaves
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    grace: Option<Duration>,
    /// Write the ticket to this inherited descriptor, and not into the environment
    #[arg(long, value_name = "N")]
    ticket_fd: Option<i32>,
    /// Exit code if the lock is not acquired
    #[arg(long, value_name = "N", default_value_t = exit::NOT_ACQUIRED)]
    conflict_exit_code: u8,
    #[command(flatten)]
    config: ConfigArgs,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Args {
    #[cfg(test)]
    pub(super) fn command(&self) -> &[OsString] {
        &self.command
    }

    fn mode(&self) -> Mode {
        match (self.permits, self.shared) {
            (Some(of), _) => Mode::Permit { of },
            (None, true) => Mode::Shared,
            (None, false) => Mode::Exclusive,
        }
    }

    /// What is to be acquired, in words.
    fn what(&self) -> String {
        let names: Vec<&str> = self.names.iter().map(LockName::as_str).collect();
        names.join(if self.any { " or " } else { " and " })
    }

    fn builder(&self, client: &Client) -> LockBuilder {
        let mode = self.mode();
        let wants = self.names.iter().map(|name| (name, mode));
        let builder = match self.any {
            true => client.any_of(wants),
            false => client.all_of(wants),
        };
        let builder = builder.wait(self.wait());
        let builder = match &self.metadata {
            Some(text) => builder.metadata(text),
            None => builder,
        };
        match &self.owner {
            Some(owner) => builder.owner(owner),
            None => builder,
        }
    }

    fn wait(&self) -> Wait {
        match (self.no_wait, self.wait) {
            (true, _) => Wait::Try,
            (false, Some(limit)) => Wait::For(limit),
            (false, None) => Wait::Forever,
        }
    }
}

pub(super) fn run(args: Args) -> Result<ExitCode, Failure> {
    let ticket_fd = args.ticket_fd.map(TicketFd::claim).transpose()?;
    let lease = Lease::new(args.ttl, args.on_lost, args.grace)?;
    run_async(async {
        let mut signals = Signals::catch()?;
        let client = args.config.client()?.ttl(args.ttl);
        let client = client.description(description(&args.command));
        let add = |client: ClientBuilder, (key, value): &Label| client.label(key, value);
        let connect = args.labels.iter().fold(client, add).connect();
        let client = tokio::select! {
            client = connect => client?,
            signal = signals.next_but_child() => return Ok(interrupted(signal)),
        };
        let result = hold(&args, lease, ticket_fd, &client, &mut signals).await;
        // Whatever happened, the cell should know at once that nobody is here any more.
        let _ = tokio::time::timeout(FAREWELL, client.close()).await;
        result
    })
}

/// Acquires the lock, runs the command, gives the lock back.
async fn hold(
    args: &Args,
    lease: Lease,
    ticket_fd: Option<TicketFd>,
    client: &Client,
    signals: &mut Signals,
) -> Result<ExitCode, Failure> {
    let acquire = args.builder(client).acquire();
    let guard = tokio::select! {
        guard = acquire => guard.map_err(|error| {
            let Failure { code, message } = error.into();
            let code = match code {
                exit::NOT_ACQUIRED => args.conflict_exit_code,
                code => code,
            };
            Failure::new(code, format!("{}: {message}", args.what()))
        })?,
        signal = signals.next_but_child() => return Ok(interrupted(signal)),
    };
    let in_environment = ticket_fd.is_none();
    if let Some(ticket_fd) = ticket_fd {
        ticket_fd.write(&guard.tickets())?;
    }
    let mut child = Child::start(&args.command, &environment(&guard, in_environment))?;
    let outcome = supervise(&mut child, &guard, lease, args.on_lost, signals).await?;
    match outcome {
        Outcome::Ended(code) => {
            give_back(guard).await;
            Ok(ExitCode::from(code))
        }
        Outcome::Lost(why) => {
            let held = held(&guard);
            give_back(guard).await;
            Err(Failure::new(exit::LOST, format!("{held} was lost: {why}")))
        }
    }
}

/// What is held, in words.
pub(super) fn held(guard: &LockGuard) -> String {
    let names: Vec<&str> = guard
        .locks()
        .iter()
        .map(|lock| lock.name.as_str())
        .collect();
    names.join(" and ")
}

async fn give_back(guard: LockGuard) {
    let name = held(&guard);
    let unconfirmed = match tokio::time::timeout(FAREWELL, guard.release()).await {
        Ok(Ok(_) | Err(ReleaseError::SessionLost(_))) => false,
        Ok(Err(_)) | Err(_) => true,
    };
    if unconfirmed {
        eprintln!("lockd: {name}: the cell cannot be reached, the lock is free when its TTL ends");
    }
}

/// What is set in the command's environment, and what is taken out of it: this process may itself
/// be the command of another.
fn environment(guard: &LockGuard, with_tickets: bool) -> Vec<(&'static str, Option<String>)> {
    let tickets = Some(guard.tickets()).filter(|tickets| with_tickets && !tickets.is_empty());
    let grants = guard.locks().iter();
    let grants: Vec<Value> = grants
        .map(|lock| grant_to_json(lock, with_tickets))
        .collect();
    vec![
        ("LOCKD_LOCK", Some(guard.name().to_string())),
        ("LOCKD_TOKEN", Some(guard.token().to_string())),
        ("LOCKD_SESSION", Some(guard.session().to_string())),
        ("LOCKD_TICKET", tickets),
        ("LOCKD_GRANTS", Some(Value::Array(grants).to_string())),
    ]
}

fn grant_to_json(lock: &HeldLock, with_ticket: bool) -> Value {
    let ticket = lock.ticket.as_ref().filter(|_| with_ticket);
    json!({
        "lock": lock.name.as_str(),
        "mode": lock.mode.to_string(),
        "token": lock.token.to_string(),
        "slot": lock.slot,
        "ticket": ticket.map(ToString::to_string),
    })
}

fn description(command: &[OsString]) -> String {
    let command = command.first().map(|c| c.to_string_lossy());
    let command = command.unwrap_or_default();
    let short: String = command
        .chars()
        .filter(|c| !c.is_control())
        .take(50)
        .collect();
    format!("lockd lock: {short}[{}]", std::process::id())
}

fn interrupted(signal: rustix::process::Signal) -> ExitCode {
    ExitCode::from(exit::by_signal(signal.as_raw()))
}
