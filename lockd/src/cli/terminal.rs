//! The terminal of `lockd lock`: while the command runs in the foreground, it belongs to the
//! command's process group, so that Ctrl-C and Ctrl-Z reach the command and it can read.

use std::io::{IsTerminal as _, stdin};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal as NixSignal};
use rustix::process::{Pid, Signal, getpgrp, kill_process_group};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

/// How long the command waits to be given the terminal.
const HAND_OVER: Duration = Duration::from_secs(1);

/// The terminal on stdin.
#[derive(Debug)]
pub(super) struct Terminal(());

impl Terminal {
    /// The terminal on stdin, if it is one.
    ///
    /// From then on this thread is not stopped when it takes the terminal back while it is in
    /// the background (SIGTTOU is blocked).
    pub(super) fn of_stdin() -> Option<Terminal> {
        if !stdin().is_terminal() {
            return None;
        }
        let mut block = SigSet::empty();
        block.add(NixSignal::SIGTTOU);
        block.thread_block().ok()?;
        Some(Terminal(()))
    }

    /// Whether this process group has the terminal.
    pub(super) fn is_ours(&self) -> bool {
        owner() == Some(getpgrp())
    }

    /// Hands the terminal over, if it is ours.
    pub(super) fn give_to(&self, group: Pid) {
        if self.is_ours() {
            // A terminal that has hung up needs no owner.
            let _ = tcsetpgrp(stdin(), group);
        }
    }

    /// Takes the terminal back, if that group has it.
    pub(super) fn take_from(&self, group: Pid) {
        if owner() == Some(group) {
            let _ = tcsetpgrp(stdin(), getpgrp());
        }
    }

    /// Stops this process group, as the terminal would on Ctrl-Z. Returns when it is continued;
    /// at once if there is no shell that could continue it.
    pub(super) fn stop_ourselves(&self) {
        /// Without a shell, the command is not continued more often than this.
        const PAUSE: Duration = Duration::from_millis(100);
        let _ = kill_process_group(getpgrp(), Signal::TSTP);
        std::thread::sleep(PAUSE);
    }

    /// Waits in the command's process until the terminal was handed over.
    pub(super) fn wait_until_ours() {
        let until = Instant::now() + HAND_OVER;
        while owner() != Some(getpgrp()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn owner() -> Option<Pid> {
    tcgetpgrp(stdin()).ok()
}
