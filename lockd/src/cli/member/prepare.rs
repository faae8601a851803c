//! `lockd member prepare`: the directory of a node that is to join; and `adopt-data`, after one
//! was moved.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use lockd_client::ClientConfig;
use lockd_client::protocol::NodeId;
use lockd_client::protocol::client::Status;
use paxos::store::FileStore;

use super::PATIENCE;
use crate::cli::exit::Failure;
use crate::cli::status::ask_leader;
use crate::cli::{init, output, run_async};
use crate::init::{PrepareOptions, prepare};
use crate::server::config::{MemberConfig, NodeConfig};

/// Makes the directory of a node that is to join the cell
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The directory that `lockd init` made, with the authority's key in it
    dir: PathBuf,
    /// Where the node will be; a free port of this machine if not given
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
}

/// Makes a node's data valid where it is now, after its directory was moved as a whole
///
/// Only if the original is gone for good: two nodes with the same data would break the cell's
/// promises, and so would data from a backup.
#[derive(Debug, clap::Args)]
pub(super) struct AdoptArgs {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let path = args.dir.join("operator/client.toml");
    let config = ClientConfig::load(&path).map_err(Failure::usage)?;
    let address = match &args.address {
        Some(address) => init::resolve(address)?,
        None => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
    };
    // Which numbers have been given, and where the cell is, only the cell knows.
    let status = run_async(ask_leader(&config, PATIENCE))?;
    let node = next_number(&status, args);
    let options = PrepareOptions {
        cell: config.cell,
        node,
        address,
        members: members(&status),
    };
    let (path, address) = prepare(&args.dir, &options).map_err(Failure::usage)?;
    output::print(&format!(
        "node {node}\nstart it:      lockd serve --config {}\nlet it vote:   lockd member add \
         {node} --address {address}\n",
        path.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// A number that no member had, and for which no directory was made here.
fn next_number(status: &Status, args: &Args) -> NodeId {
    let mut next = status.newest.0 + 1;
    while args.dir.join(format!("node-{next}")).exists() {
        next += 1;
    }
    NodeId(next)
}

fn members(status: &Status) -> Vec<MemberConfig> {
    let members = status.members.iter();
    let parsed = members.filter_map(|(id, address)| {
        let address = address.parse().ok()?;
        Some(MemberConfig { id: id.0, address })
    });
    parsed.collect()
}

pub(super) fn adopt(args: &AdoptArgs) -> Result<ExitCode, Failure> {
    let config = NodeConfig::load(&args.config).map_err(Failure::usage)?;
    FileStore::adopt(&config.data).map_err(Failure::other)?;
    Ok(ExitCode::SUCCESS)
}
