//! What ends the command's process group if `lockd lock` itself is killed: a process in that group
//! that waits for the end of its parent.
//!
//! The kernel kills the command with its parent, but not what the command has started: a shell's
//! children would go on, and the lock would move while they do.

use std::io::{Read as _, Write as _, stdin};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, Stdio};

use nix::sys::signal::SigSet;
use rustix::process::{Pid, Signal, getpgrp, kill_process_group};

use super::exit::Failure;

/// The hidden subcommand that waits.
pub(super) const NAME: &str = "__warden";

/// Kills a process group when its parent is gone
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The group, which has to be its own
    #[arg(long)]
    group: i32,
}

/// Waits until the parent says that all is well, or is gone.
pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    // It gets what is meant for the command, being of its group. Only SIGKILL ends it.
    SigSet::all().thread_block().map_err(Failure::other)?;
    let mut word = [0];
    if let Ok(1) = stdin().read(&mut word) {
        return Ok(ExitCode::SUCCESS);
    }
    let group = getpgrp();
    if group.as_raw_pid() != args.group {
        return Err(Failure::usage("this subcommand is for `lockd lock` alone"));
    }
    // Itself included.
    kill_process_group(group, Signal::KILL).map_err(Failure::other)?;
    Ok(ExitCode::SUCCESS)
}

/// The process that waits. Dropping it is the end of the group.
#[derive(Debug)]
pub(super) struct Warden(Child);

impl Warden {
    /// Starts it within a group. From then on the group's number stands for no other.
    pub(super) fn start(group: Pid) -> Result<Warden, Failure> {
        let group = group.as_raw_pid();
        let mut warden = Command::new("/proc/self/exe");
        warden.arg0("lockd").args([NAME, "--group"]);
        warden.arg(group.to_string()).process_group(group);
        warden.stdin(Stdio::piped());
        warden.stdout(Stdio::null()).stderr(Stdio::null());
        let failed = |error| Failure::other(format!("cannot start a process: {error}"));
        warden.spawn().map(Warden).map_err(failed)
    }

    /// The command has ended: what is left of its group may stay.
    pub(super) fn dismiss(mut self) {
        if let Some(mut to) = self.0.stdin.take() {
            // Fails if it was killed with its group.
            let _ = to.write_all(b".");
        }
        // Our own child, not waited for before.
        let _ = self.0.wait();
    }
}
