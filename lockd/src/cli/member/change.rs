//! `lockd member add`, `remove` and `replace`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use lockd_client::protocol::NodeId;
use lockd_client::protocol::client::{MemberChange, ReconfigureRefusal, Status};
use lockd_client::{Client, ClientConfig, QueryError, ReconfigureError};

use super::PATIENCE;
use crate::cli::config::ConfigArgs;
use crate::cli::exit::{self, Failure};
use crate::cli::status::ask_leader;
use crate::cli::{init, output, run_async};

/// Pause before the cell is asked again.
const AGAIN: Duration = Duration::from_millis(200);

/// Lets a node vote that has been prepared and started, once it has caught up
#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    /// The node's number, as `lockd member prepare` gave it
    id: u64,
    /// Where the others and clients reach it
    #[arg(long, value_name = "HOST:PORT")]
    address: String,
    #[command(flatten)]
    common: CommonArgs,
}

/// Removes a node from the cell for good
#[derive(Debug, clap::Args)]
pub(super) struct RemoveArgs {
    /// The node's number
    id: u64,
    #[command(flatten)]
    common: CommonArgs,
}

/// Puts a node in the place of another one, in one step
#[derive(Debug, clap::Args)]
pub(super) struct ReplaceArgs {
    /// The number of the node that leaves
    old: u64,
    /// The number of the node that joins
    #[arg(long, value_name = "NEW")]
    with: u64,
    /// Where the others and clients reach the new one
    #[arg(long, value_name = "HOST:PORT")]
    address: String,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, clap::Args)]
struct CommonArgs {
    /// How long to wait for it
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    timeout: Duration,
    /// How many nodes it will take to elect a leader, with --accept-quorum; majorities if not given
    #[arg(long, value_name = "N", requires = "accept_quorum")]
    prepare_quorum: Option<u8>,
    /// How many nodes it will take to decide
    #[arg(long, value_name = "N", requires = "prepare_quorum")]
    accept_quorum: Option<u8>,
    /// Also if too few of the members that remain can be reached for the cell to go on
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}

pub(super) fn add(args: &AddArgs) -> Result<ExitCode, Failure> {
    let node = NodeId(args.id);
    let address = init::resolve(&args.address)?.to_string();
    run(&args.common, &MemberChange::Add { node, address })
}

pub(super) fn remove(args: &RemoveArgs) -> Result<ExitCode, Failure> {
    let node = NodeId(args.id);
    run(&args.common, &MemberChange::Remove { node })
}

pub(super) fn replace(args: &ReplaceArgs) -> Result<ExitCode, Failure> {
    let (old, new) = (NodeId(args.old), NodeId(args.with));
    let address = init::resolve(&args.address)?.to_string();
    run(&args.common, &MemberChange::Replace { old, new, address })
}

fn run(args: &CommonArgs, change: &MemberChange) -> Result<ExitCode, Failure> {
    let config = args.config.load()?;
    run_async(async {
        let work = perform(args, &config, change);
        match tokio::time::timeout(args.timeout, work).await {
            Ok(result) => result,
            Err(_) => Err(Failure::new(
                exit::UNREACHABLE,
                "the change has not come about in time; look at `lockd member ls`",
            )),
        }
    })
    .map(|()| ExitCode::SUCCESS)
}

/// Asks for the change until it has come about.
async fn perform(
    args: &CommonArgs,
    config: &ClientConfig,
    change: &MemberChange,
) -> Result<(), Failure> {
    let client = args.config.observer().await?;
    let mut progress = Progress::default();
    let mut asked = false;
    loop {
        let status = ask_leader(config, PATIENCE).await?;
        if asked && is_done(&status, change) {
            return output::print(&format!("done: the cell is in epoch {}\n", status.epoch));
        }
        match ask(&client, args, status.epoch, change).await {
            Ok(()) => {
                asked = true;
                progress.say("the membership is being changed");
            }
            Err(ReconfigureError::Refused(refusal)) => match refusal {
                ReconfigureRefusal::NotCaughtUp { .. }
                | ReconfigureRefusal::NotSeen { .. }
                | ReconfigureRefusal::OtherEpoch { .. }
                | ReconfigureRefusal::InProgress => progress.say(&refusal.to_string()),
                // It may be this very change that made it so.
                _ if asked && is_done(&ask_leader(config, PATIENCE).await?, change) => {}
                refusal => return Err(Failure::new(exit::REFUSED, refusal)),
            },
            Err(ReconfigureError::Query(QueryError::Unavailable { .. })) => asked = true,
            Err(error) => return Err(Failure::other(error)),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn ask(
    client: &Client,
    args: &CommonArgs,
    epoch: u32,
    change: &MemberChange,
) -> Result<(), ReconfigureError> {
    let quorums = args.prepare_quorum.zip(args.accept_quorum);
    client
        .reconfigure(epoch, change.clone(), quorums, args.force)
        .await
}

fn is_done(status: &Status, change: &MemberChange) -> bool {
    let member = |node: &NodeId| status.members.iter().any(|(id, _)| id == node);
    match change {
        MemberChange::Add { node, .. } => member(node),
        MemberChange::Remove { node } => !member(node),
        MemberChange::Replace { old, new, .. } => member(new) && !member(old),
        _ => false,
    }
}

/// What is said to the person who waits: each thing once, and nothing twice a second.
#[derive(Default)]
struct Progress {
    last: Option<(Instant, String)>,
}

impl Progress {
    fn say(&mut self, text: &str) {
        let now = Instant::now();
        let recent = Duration::from_secs(1);
        let said = |(at, said): &(Instant, String)| said == text || now - *at < recent;
        if !self.last.as_ref().is_some_and(said) {
            eprintln!("lockd: {text}");
            self.last = Some((now, text.to_owned()));
        }
    }
}
