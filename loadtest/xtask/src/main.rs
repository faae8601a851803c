//! Chores of the workspace: `cargo xtask tidy`, `cargo xtask test`, `cargo xtask seeds`.
//!
//! Nothing of the product lives here, and nothing of the product depends on it.

mod packages;
mod plants;
mod seeds;
mod test;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores of the workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Sets up what the tests need, then checks and tests the whole workspace.
    Test(test::TestArgs),
    /// Checks what neither compiler nor formatter does: purity, dependencies, sizes, headers.
    Tidy,
    /// Runs seeds of the consensus simulator, or replays one and tells its story.
    Seeds(seeds::SeedsArgs),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Test(arguments) => test::run(&arguments),
        Command::Tidy => tidy::run(&workspace_root()),
        Command::Seeds(arguments) => seeds::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Why a chore failed, for the person who started it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failure(String);

/// The directory of the root manifest.
fn workspace_root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.ancestors().nth(2).unwrap_or(xtask).to_path_buf()
}
