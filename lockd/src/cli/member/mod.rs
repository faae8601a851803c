//! `lockd member`: who votes in the cell, and how that is changed.
//!
//! * `change`: add, remove, replace.
//! * `prepare`: the directory of a new node.

mod change;
mod prepare;

use std::process::ExitCode;
use std::time::Duration;

use lockd_client::protocol::NodeId;
use lockd_client::protocol::client::Status;
use serde_json::{Value, json};

use super::config::ConfigArgs;
use super::exit::Failure;
use super::output::{self, Table};
use super::run_async;
use super::status::ask_leader;

/// How long a node gets to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Shows and changes who the members of the cell are
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Prepare(prepare::Args),
    Add(change::AddArgs),
    Remove(change::RemoveArgs),
    Replace(change::ReplaceArgs),
    Ls(LsArgs),
    AdoptData(prepare::AdoptArgs),
}

/// Shows the members, and nodes that are to join
#[derive(Debug, clap::Args)]
struct LsArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> Result<ExitCode, Failure> {
    match args.command {
        Command::Prepare(args) => prepare::run(&args),
        Command::Add(args) => change::add(&args),
        Command::Remove(args) => change::remove(&args),
        Command::Replace(args) => change::replace(&args),
        Command::Ls(args) => ls(&args),
        Command::AdoptData(args) => prepare::adopt(&args),
    }
}

fn ls(args: &LsArgs) -> Result<ExitCode, Failure> {
    let config = args.config.load()?;
    let status = run_async(ask_leader(&config, PATIENCE))?;
    let rows = rows(&status);
    match args.json {
        true => output::print_json(&to_json(&status, &rows))?,
        false => output::print(&to_table(&status, &rows))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A node in the listing.
struct Row {
    node: NodeId,
    address: String,
    role: &'static str,
    /// `None`: only the leader knows.
    durable: Option<u64>,
    /// Since when the leader has not heard it, milliseconds.
    silent: Option<u64>,
}

fn rows(status: &Status) -> Vec<Row> {
    let member = |(node, address): &(NodeId, String)| {
        let other = status.others.iter().find(|other| other.node == *node);
        let own = (status.leading && status.node == *node).then_some(status.log_end);
        Row {
            node: *node,
            address: address.clone(),
            role: if status.leader == Some(*node) {
                "leader"
            } else {
                "voter"
            },
            durable: own.or(other.map(|other| other.durable)),
            silent: other.and_then(|other| other.silent).map(|silent| silent.0),
        }
    };
    let learners = status.others.iter().filter(|other| !other.votes);
    let learners = learners.map(|other| Row {
        node: other.node,
        address: String::new(),
        role: "learner",
        durable: Some(other.durable),
        silent: None,
    });
    status.members.iter().map(member).chain(learners).collect()
}

fn to_table(status: &Status, rows: &[Row]) -> String {
    let mut table = Table::new(["NODE", "ADDRESS", "ROLE", "DURABLE", "LAG"]);
    for row in rows {
        let lag = |durable| status.decided.saturating_sub(durable).to_string();
        table.row([
            row.node.to_string(),
            row.address.clone(),
            row.role.to_owned(),
            row.durable.map_or("?".to_owned(), |slot| slot.to_string()),
            row.durable.map_or("?".to_owned(), lag),
        ]);
    }
    let (prepare, accept) = status.quorums;
    let epoch = status.epoch;
    format!(
        "epoch {epoch}, quorums: {prepare} to prepare, {accept} to accept\n{}",
        table.render()
    )
}

fn to_json(status: &Status, rows: &[Row]) -> Value {
    let nodes = rows.iter().map(|row| {
        json!({
            "node": row.node.0,
            "address": row.address,
            "role": row.role,
            "durable": row.durable,
            "silent_ms": row.silent,
            "lag": row.durable.map(|durable| status.decided.saturating_sub(durable)),
        })
    });
    json!({
        "epoch": status.epoch,
        "newest": status.newest.0,
        "prepare_quorum": status.quorums.0,
        "accept_quorum": status.quorums.1,
        "decided": status.decided,
        "nodes": nodes.collect::<Vec<_>>(),
    })
}
