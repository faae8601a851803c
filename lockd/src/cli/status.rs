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
    let nodes = run_async(async { Ok(ask_all(&config).await) })?;
    match args.json {
        true => output::print_json(&Value::Array(nodes.iter().map(to_json).collect()))?,
        false => output::print(&to_table(&nodes))?,
    }
    verdict(nodes)
}

async fn ask_all(config: &ClientConfig) -> Vec<Node> {
    let mut asking = JoinSet::new();
    for (at, address) in config.nodes.iter().cloned().enumerate() {
        let config = config.clone();
        asking.spawn(async move {
            let status = probe(&config, &address, PATIENCE).await;
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
        "NODE", "ADDRESS", "ROLE", "ROUND", "DECIDED", "APPLIED", "SESSIONS", "LOCKS", "UPTIME",
        "VERSION",
    ]);
    for node in nodes {
        let address = node.address.clone();
        match &node.status {
            Ok(status) => table.row([
                status.node.to_string(),
                address,
                role(status).to_owned(),
                status.round.to_string(),
                status.decided.to_string(),
                status.applied.to_string(),
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
            "round": status.round,
            "decided": status.decided,
            "applied": status.applied,
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
        (false, Some(_)) => "follower",
        (false, None) => "no leader",
    }
}

fn uptime(status: &Status) -> String {
    humantime::format_duration(Duration::from_secs(status.uptime.0 / 1000)).to_string()
}
