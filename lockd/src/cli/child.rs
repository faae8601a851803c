//! Starting the command of `lockd lock`, and signals to and from it.
//!
//! The command has a process group of its own, so that all of it can be ended when the lock is
//! lost, and nothing else. It dies with this process: started as a second `lockd`, it asks the
//! kernel for that, stops until a warden watches over its group, and only then becomes the command.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::task::Poll;

use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, getppid, kill_process, kill_process_group,
    set_parent_process_death_signal, waitpid,
};
use tokio::signal::unix::{self, SignalKind};

use super::exit::{self, Failure};
use super::terminal::Terminal;
use super::warden::Warden;

/// The hidden subcommand that becomes the command.
pub(super) const NAME: &str = "__child";

/// Becomes a command that dies with its parent
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Process id of the parent
    #[arg(long)]
    parent: i32,
    /// Wait until the terminal belongs to this process group
    #[arg(long)]
    terminal: bool,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Becomes the command. Returns only if that fails.
pub(super) fn run(args: &Args) -> Failure {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return Failure::other(format!("the command could not be tied to lockd: {error}"));
    }
    // The parent may have died just before.
    if getppid().map(Pid::as_raw_pid) != Some(args.parent) {
        return Failure::other("lockd died before it could start the command");
    }
    // Until the parent has a warden in this group.
    if let Err(error) = kill_process(getpid(), Signal::STOP) {
        return Failure::other(format!(
            "the command could not wait for its warden: {error}"
        ));
    }
    if args.terminal {
        Terminal::wait_until_ours();
    }
    let Some((program, arguments)) = args.command.split_first() else {
        return Failure::usage("no command is given");
    };
    let error = Command::new(program).args(arguments).exec();
    let code = match error.kind() {
        ErrorKind::NotFound => exit::NOT_FOUND,
        _ => exit::NOT_EXECUTABLE,
    };
    Failure::new(code, format!("{}: {error}", program.to_string_lossy()))
}

/// The running command.
#[derive(Debug)]
pub(super) struct Child {
    group: Pid,
    terminal: Option<Terminal>,
    warden: Option<Warden>,
    /// It ended before it became the command.
    early: Option<ChildState>,
}

/// What became of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChildState {
    /// It runs.
    Running,
    /// It was stopped, such as by Ctrl-Z.
    Stopped,
    /// It has ended; with this exit code of ours.
    Ended(u8),
}

impl Child {
    /// Starts a command.
    pub(super) fn start(
        command: &[OsString],
        environment: &[(&'static str, Option<String>)],
    ) -> Result<Child, Failure> {
        let terminal = Terminal::of_stdin();
        let mut child = Command::new("/proc/self/exe");
        child.arg0("lockd").arg(NAME).arg("--parent");
        child.arg(getpid().as_raw_pid().to_string());
        if terminal.as_ref().is_some_and(Terminal::is_ours) {
            child.arg("--terminal");
        }
        child.arg("--").args(command);
        for (name, value) in environment {
            match value {
                Some(value) => child.env(name, value),
                None => child.env_remove(name),
            };
        }
        child.stdin(Stdio::inherit()).process_group(0);
        let failed = |error| Failure::other(format!("cannot start a process: {error}"));
        let child = child.spawn().map_err(failed)?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let group = group.ok_or_else(|| Failure::other("the process has no id"))?;
        let mut child = Child {
            group,
            terminal,
            warden: None,
            early: None,
        };
        match child.wait_until_stopped()? {
            ChildState::Ended(code) => child.early = Some(ChildState::Ended(code)),
            _ => child.let_go()?,
        }
        Ok(child)
    }

    /// Waits until it is tied to this process, which takes as long as it takes to start one.
    fn wait_until_stopped(&self) -> Result<ChildState, Failure> {
        loop {
            match waitpid(Some(self.group), WaitOptions::UNTRACED) {
                Ok(Some((_, status))) => match state_of(status) {
                    ChildState::Running => {}
                    state => return Ok(state),
                },
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(got_lost(error)),
            }
        }
    }

    /// Lets it become the command, once there is a warden.
    fn let_go(&mut self) -> Result<(), Failure> {
        match Warden::start(self.group) {
            Ok(warden) => self.warden = Some(warden),
            Err(failure) => {
                self.signal(Signal::KILL);
                return Err(failure);
            }
        }
        if let Some(terminal) = &self.terminal {
            terminal.give_to(self.group);
        }
        kill_process(self.group, Signal::CONT).map_err(got_lost)
    }

    /// Looks whether the command has ended or was stopped. Once it has ended, this must not be
    /// called again.
    pub(super) fn look(&self) -> Result<ChildState, Failure> {
        if let Some(state) = self.early {
            return Ok(state);
        }
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
        match waitpid(Some(self.group), options) {
            Ok(None) => Ok(ChildState::Running),
            Ok(Some((_, status))) => Ok(state_of(status)),
            Err(rustix::io::Errno::INTR) => Ok(ChildState::Running),
            Err(error) => Err(got_lost(error)),
        }
    }

    /// Sends a signal to the command and everything it started in its group.
    pub(super) fn signal(&self, signal: Signal) {
        // Fails only if nothing is left of the group.
        let _ = kill_process_group(self.group, signal);
    }

    /// The command was stopped: the same happens to this process, so that the shell sees it.
    /// Returns when this process was continued.
    pub(super) fn stop_with_it(&self) {
        if let Some(terminal) = &self.terminal {
            terminal.take_from(self.group);
            terminal.stop_ourselves();
        }
    }

    /// This process was continued: so is the command.
    pub(super) fn go_on(&self) {
        if let Some(terminal) = &self.terminal {
            terminal.give_to(self.group);
        }
        self.signal(Signal::CONT);
    }

    /// The command has ended: the terminal is ours again, and its warden's work is done.
    pub(super) fn clean_up(&mut self) {
        if let Some(terminal) = &self.terminal {
            terminal.take_from(self.group);
        }
        if let Some(warden) = self.warden.take() {
            warden.dismiss();
        }
    }
}

fn got_lost(error: rustix::io::Errno) -> Failure {
    Failure::other(format!("the command got lost: {error}"))
}

fn state_of(status: WaitStatus) -> ChildState {
    if let Some(code) = status.exit_status() {
        return ChildState::Ended(u8::try_from(code & 0xff).unwrap_or(exit::OTHER));
    }
    match status.terminating_signal() {
        Some(signal) => ChildState::Ended(exit::by_signal(signal)),
        None if status.stopped() => ChildState::Stopped,
        None => ChildState::Running,
    }
}

/// Signals to this process.
#[derive(Debug)]
pub(super) struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    const CAUGHT: [Signal; 8] = [
        Signal::CHILD,
        Signal::CONT,
        Signal::INT,
        Signal::TERM,
        Signal::HUP,
        Signal::QUIT,
        Signal::USR1,
        Signal::USR2,
    ];

    /// Catches them from now on.
    pub(super) fn catch() -> Result<Signals, Failure> {
        let catch = |signal: Signal| {
            let stream = unix::signal(SignalKind::from_raw(signal.as_raw()))?;
            Ok((signal, stream))
        };
        let all: std::io::Result<Vec<_>> = Signals::CAUGHT.into_iter().map(catch).collect();
        all.map(Signals)
            .map_err(|error| Failure::other(format!("cannot catch signals: {error}")))
    }

    /// The next signal. Cancel-safe.
    pub(super) async fn next(&mut self) -> Signal {
        std::future::poll_fn(|context| {
            for (signal, stream) in &mut self.0 {
                if stream.poll_recv(context).is_ready() {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// The next signal that asks this process to end. Cancel-safe.
    pub(super) async fn next_but_child(&mut self) -> Signal {
        loop {
            match self.next().await {
                Signal::CHILD | Signal::CONT => {}
                signal => return signal,
            }
        }
    }
}
