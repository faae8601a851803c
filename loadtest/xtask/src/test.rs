//! `cargo xtask test`: set-up, then every check and test of the workspace, in the order in which
//! they fail fastest.
//!
//! It says what it runs, so that anyone can run the same by hand.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::{Failure, packages, workspace_root};

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct TestArgs {
    /// Leave out clippy and the tests in documentation.
    #[arg(long)]
    fast: bool,
}

/// The steps: arguments of `cargo`, and whether `--fast` leaves the step out.
const STEPS: &[(&[&str], bool)] = &[
    (&["fmt", "--all", "--check"], false),
    (
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
        true,
    ),
    // Tests start the programs of other packages, so all of them have to be there first.
    (&["build", "--workspace"], false),
    (
        &[
            "test",
            "--workspace",
            "--lib",
            "--bins",
            "--tests",
            "--examples",
        ],
        false,
    ),
    (&["test", "--workspace", "--doc"], true),
];

pub(crate) fn run(arguments: &TestArgs) -> Result<(), Failure> {
    let root = workspace_root();
    let started = Instant::now();
    packages::provide()?;
    for (step, slow) in STEPS {
        if !(arguments.fast && *slow) {
            cargo(&root, step)?;
        }
    }
    println!("xtask: all passed in {} s", started.elapsed().as_secs());
    Ok(())
}

fn cargo(root: &Path, step: &[&str]) -> Result<(), Failure> {
    let shown = format!("cargo {}", step.join(" "));
    println!("xtask: {shown}");
    let started = Instant::now();
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(program)
        .args(step)
        .current_dir(root)
        // Nothing here asks a question, and under CI standard input may be closed.
        .stdin(Stdio::null())
        .status()
        .map_err(|error| Failure(format!("`{shown}` did not start: {error}")))?;
    if !status.success() {
        return Err(Failure(format!("`{shown}` failed ({status})")));
    }
    println!("xtask: {shown}: {} s", started.elapsed().as_secs());
    Ok(())
}
