//! `lockd serve`: runs a node.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use paxos::store::StoreError;

use super::exit::{self, Failure};
use crate::server::core::Fatal;
use crate::server::{self, ServeError};

/// Runs a node of a cell, until SIGTERM or SIGINT
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The node's configuration, as made by `lockd init`
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    log_to_stderr();
    let ready = |address| eprintln!("lockd: listening on {address}");
    match server::serve(&args.config, ready) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Failure::new(code(&error), error)),
    }
}

fn code(error: &ServeError) -> u8 {
    match error {
        ServeError::Config(_) => exit::USAGE,
        ServeError::Disk(StoreError::Full { .. }) | ServeError::Store(StoreError::Full { .. }) => {
            exit::DISK_FULL
        }
        ServeError::Disk(_) => exit::DISK_FAILED,
        ServeError::OtherDisk { .. } | ServeError::OtherCell { .. } => exit::NOT_ITSELF,
        ServeError::Store(
            StoreError::Missing { .. }
            | StoreError::Copied { .. }
            | StoreError::WrongCell { .. }
            | StoreError::WrongNode { .. },
        ) => exit::NOT_ITSELF,
        ServeError::Store(StoreError::Damaged { .. }) => exit::DISK_FAILED,
        ServeError::Fatal(Fatal::Diverged { .. }) => exit::DISK_FAILED,
        ServeError::Fatal(Fatal::Removed { .. }) => exit::REMOVED,
        _ => exit::OTHER,
    }
}

/// Log lines of nodes go to stderr; `RUST_LOG` chooses which.
pub(super) fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
