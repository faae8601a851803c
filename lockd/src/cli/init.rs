//! `lockd init`: makes the files of a cell.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::ExitCode;

use paxos::Quorums;

use super::exit::Failure;
use super::output;
use crate::init::{self, InitOptions};

/// Makes a cell: its certificates, its keys, and a directory for each node and client
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to; a new or empty directory
    dir: PathBuf,
    /// How many nodes: 1, 3 or 5, on free ports of this machine
    #[arg(
        long,
        value_name = "N",
        default_value_t = 3,
        conflicts_with = "address"
    )]
    nodes: usize,
    /// Address of each node, in order of their numbers, instead of --nodes
    #[arg(long, value_name = "HOST:PORT")]
    address: Vec<String>,
    /// Further client identities, besides `client` and `gateway`
    #[arg(long, value_name = "NAME")]
    client: Vec<String>,
    /// How many nodes it takes to elect a leader, with --accept-quorum; majorities if not given
    #[arg(long, value_name = "N", requires = "accept_quorum")]
    prepare_quorum: Option<u8>,
    /// How many nodes it takes to decide; the sum of the two must be above the number of nodes
    #[arg(long, value_name = "N", requires = "prepare_quorum")]
    accept_quorum: Option<u8>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let addresses = match args.address.is_empty() {
        true => vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); args.nodes],
        false => args.address.iter().map(resolve).collect::<Result<_, _>>()?,
    };
    let mut clients = InitOptions::default().clients;
    clients.extend(args.client.iter().cloned());
    let quorums = args.prepare_quorum.zip(args.accept_quorum);
    let options = InitOptions {
        addresses,
        clients,
        quorums: quorums.map(|(prepare, accept)| Quorums { prepare, accept }),
    };
    let layout = init::init(&args.dir, &options).map_err(failure)?;
    let mut text = format!("cell {}\n", layout.cell);
    for node in &layout.nodes {
        text.push_str(&format!(
            "start a node:  lockd serve --config {}\n",
            node.display()
        ));
    }
    for client in &layout.clients {
        text.push_str(&format!(
            "use it:        lockd status --config {}\n",
            client.display()
        ));
    }
    text.push_str(&format!(
        "operate it:    lockd member ls --config {}\n",
        layout.operator.display()
    ));
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn resolve(address: &String) -> Result<SocketAddr, Failure> {
    let wrong = |why: String| Failure::usage(format!("--address {address}: {why}"));
    let mut resolved = address
        .to_socket_addrs()
        .map_err(|error| wrong(error.to_string()))?;
    resolved
        .next()
        .ok_or_else(|| wrong("the name has no address".to_owned()))
}

fn failure(error: init::InitError) -> Failure {
    use init::InitError as E;
    match error {
        E::NotEmpty(_) | E::Size(_) | E::ClientName(_) | E::Address(_) | E::Membership(_) => {
            Failure::usage(error)
        }
        error => Failure::other(error),
    }
}
