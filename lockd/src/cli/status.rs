//! `lockd status`: how every node of the cell is, by its own account.

use std::process::ExitCode;
use std::time::Duration;

use lockd_client::protocol::client::Status;
use lockd_client::{ClientConfig, probe};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::config::ConfigArgs;
use super::exit::{self, Failure};
use super::output::{self, Table};
use super::run_async;

/// How long a node gets to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Shows how every node of the cell is
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Do not mind if no node leads: it is enough that one answers
    #[arg(long)]
    stale: bool,
    /// Ask this node only, as host:port
    #[arg(long, value_name = "ADDR", requires = "stale")]
    node: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What one address said.
struct Node {
    address: String,
    status: Result<Status, Failure>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let config = args.config.load()?;
    let nodes = run_async(async {
        Ok(match &args.node {
            Some(address) => ask_all(&config, std::slice::from_ref(address), PATIENCE).await,
            None => survey(&config, PATIENCE).await,
        })
    })?;
    match args.json {
        true => output::print_json(&Value::Array(nodes.iter().map(to_json).collect()))?,
        false => output::print(&to_table(&nodes))?,
    }
    let answered = nodes.iter().any(|node| node.status.is_ok());
    match args.stale && answered {
        true => Ok(ExitCode::SUCCESS),
        false => verdict(nodes),
    }
}

/// What the members of the cell say, whom the configured nodes name; and what the configured ones
/// say, if they answer or nobody does.
async fn survey(config: &ClientConfig, patience: Duration) -> Vec<Node> {
    let mut nodes = ask_all(config, &config.nodes, patience).await;
    let Some(newest) = newest(&nodes) else {
        return nodes;
    };
    let members: Vec<String> = newest.members.iter().map(|(_, a)| a.clone()).collect();
    nodes.retain(|node| node.status.is_ok() || members.contains(&node.address));
    let unasked = |address: &&String| nodes.iter().all(|node| node.address != **address);
    let others: Vec<String> = members.iter().filter(unasked).cloned().collect();
    nodes.extend(ask_all(config, &others, patience).await);
    nodes
}

/// What the leader says, as soon as it does; or else whoever knows the newest membership, once all
/// have been asked.
pub(super) async fn ask_leader(
    config: &ClientConfig,
    patience: Duration,
) -> Result<Status, Failure> {
    let mut asked: Vec<String> = Vec::new();
    let mut next = config.nodes.clone();
    let (mut best, mut failure): (Option<Status>, _) = (None, None);
    while !next.is_empty() {
        let mut asking = JoinSet::new();
        for address in &next {
            let (config, address) = (config.clone(), address.clone());
            asking.spawn(async move { probe(&config, &address, patience).await });
        }
        asked.append(&mut next);
        while let Some(Ok(answer)) = asking.join_next().await {
            match answer {
                Ok(status) if status.leading => return Ok(status),
                Ok(status) if best.as_ref().is_none_or(|best| best.epoch < status.epoch) => {
                    best = Some(status);
                }
                Ok(_) => {}
                Err(error) => failure = Some(Failure::from(error)),
            }
        }
        let members = best.iter().flat_map(|best| &best.members);
        let unasked = members.filter(|(_, address)| !asked.contains(address));
        next = unasked.map(|(_, address)| address.clone()).collect();
    }
    let known = best.filter(|best| !best.members.is_empty());
    known.ok_or_else(|| {
        let nobody = "no node knows the members of the cell";
        failure.unwrap_or_else(|| Failure::new(exit::UNREACHABLE, nobody))
    })
}

/// The status that tells of the newest membership; the leader's, if it does.
fn newest(nodes: &[Node]) -> Option<&Status> {
    let statuses = nodes.iter().filter_map(|node| node.status.as_ref().ok());
    let known = statuses.filter(|status| !status.members.is_empty());
    known.max_by_key(|status| (status.epoch, status.leading))
}

async fn ask_all(config: &ClientConfig, addresses: &[String], patience: Duration) -> Vec<Node> {
    let mut asking = JoinSet::new();
    for (at, address) in addresses.iter().cloned().enumerate() {
        let config = config.clone();
        asking.spawn(async move {
            let status = probe(&config, &address, patience).await;
            let status = status.map_err(Failure::from);
            (at, Node { address, status })
        });
    }
    let mut nodes = asking.join_all().await;
    nodes.sort_by_key(|(at, _)| *at);
    nodes.into_iter().map(|(_, node)| node).collect()
}

/// A cell with a leader is well enough to be used.
fn verdict(nodes: Vec<Node>) -> Result<ExitCode, Failure> {
    let well = |node: &Node| node.status.as_ref().is_ok_and(|status| status.leading);
    if nodes.iter().any(well) {
        return Ok(ExitCode::SUCCESS);
    }
    if nodes.iter().any(|node| node.status.is_ok()) {
        let message = "no node leads: most nodes must be up and connected to each other";
        return Err(Failure::new(exit::UNREACHABLE, message));
    }
    let mut failures = nodes.into_iter().filter_map(|node| node.status.err());
    Err(failures
        .next()
        .unwrap_or_else(|| Failure::usage("the configuration names no nodes")))
}

fn to_table(nodes: &[Node]) -> String {
    let mut table = Table::new([
        "NODE", "ADDRESS", "ROLE", "EPOCH", "ROUND", "DECIDED", "APPLIED", "SNAPSHOT", "LOG",
        "DAMAGED", "REPAIRED", "SESSIONS", "LOCKS", "UPTIME", "VERSION",
    ]);
    for node in nodes {
        let address = node.address.clone();
        match &node.status {
            Ok(status) => table.row([
                status.node.to_string(),
                address,
                role(status).to_owned(),
                status.epoch.to_string(),
                status.round.to_string(),
                status.decided.to_string(),
                status.applied.to_string(),
                status.snapshot.to_string(),
                format!("{}..{}", status.log_first, status.log_end),
                status.damaged.to_string(),
                status.repaired.to_string(),
                status.sessions.to_string(),
                status.locks.to_string(),
                uptime(status),
                status.program.clone(),
            ]),
            Err(failure) => table.row(["?".to_owned(), address, failure.message.clone()]),
        }
    }
    table.render()
}

fn to_json(node: &Node) -> Value {
    match &node.status {
        Ok(status) => json!({
            "address": node.address,
            "node": status.node.0,
            "cell": status.cell.to_string(),
            "role": role(status),
            "leader": status.leader.map(|leader| leader.0),
            "votes": status.votes,
            "epoch": status.epoch,
            "round": status.round,
            "decided": status.decided,
            "applied": status.applied,
            "snapshot": status.snapshot,
            "log_first": status.log_first,
            "log_end": status.log_end,
            "damaged": status.damaged,
            "repaired": status.repaired,
            "sessions": status.sessions,
            "locks": status.locks,
            "last_token": status.last_token.to_string(),
            "uptime_ms": status.uptime.0,
            "version": status.program,
        }),
        Err(failure) => json!({ "address": node.address, "error": failure.message }),
    }
}

fn role(status: &Status) -> &'static str {
    match (status.leading, status.leader) {
        (true, _) => "leader",
        (false, _) if !status.votes => "learner",
        (false, Some(_)) => "follower",
        (false, None) => "no leader",
    }
}

fn uptime(status: &Status) -> String {
    humantime::format_duration(Duration::from_secs(status.uptime.0 / 1000)).to_string()
}
