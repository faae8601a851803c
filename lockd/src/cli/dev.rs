//! `lockd dev`: a whole cell in this process.

use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use super::exit::Failure;
use super::{output, run_async, serve};
use crate::dev::DevCell;

/// Runs a cell of three nodes in this process, for development; Ctrl-C ends it
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Keep the cell in this directory, and start it again from there; else it is temporary
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> Result<ExitCode, Failure> {
    serve::log_to_stderr();
    // Caught from the start, so that a temporary cell is removed however early the end comes.
    run_async(async {
        let catch = |kind| signal(kind).map_err(Failure::other);
        let mut interrupt = catch(SignalKind::interrupt())?;
        let mut terminate = catch(SignalKind::terminate())?;
        let cell = DevCell::start(args.dir).map_err(Failure::other)?;
        let config = cell.client_config();
        let config = config.display();
        output::print(&format!(
            "client configuration: {config}\n\
             try:                  lockd lock --config {config} my-lock -- env\n\
             ready\n"
        ))?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        drop(cell);
        Ok(ExitCode::SUCCESS)
    })
}
