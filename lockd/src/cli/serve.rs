//! `lockd serve`: runs a node.

use std::path::PathBuf;
use std::process::ExitCode;

use super::exit::{self, Failure};
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
    server::serve(&args.config, ready).map_err(|error| match error {
        ServeError::Config(error) => Failure::usage(error),
        error @ ServeError::Disk(_) => Failure::new(exit::DISK_FAILED, error),
        error => Failure::other(error),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Log lines of nodes go to stderr; `RUST_LOG` chooses which.
pub(super) fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}
