//! Processes that this program starts: itself, re-executed in another role, so that one build
//! gives nodes, gateway and clients.
//!
//! None of them outlives it, however it ends: a [`Process`] that is dropped is killed by its pid,
//! and each child holds a [`lifeline`] to its parent.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::mpsc;

/// How long a process that was asked to stop may take before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// How long a process that is cleaning up may take before it is killed.
const CLOSE_GRACE: Duration = Duration::from_secs(20);

/// How often a process that was asked for something is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Most of a log that is shown in a message, bytes.
const LOG_TAIL_BYTES: usize = 2000;

/// A child process.
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    output: Option<Lines<BufReader<ChildStdout>>>,
}

/// A process did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It could not be started.
    #[error("cannot start {name}: {source}")]
    Start {
        /// Which.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// It ended by itself.
    #[error("{name} ended ({status}); its log says:\n{log}")]
    Ended {
        /// Which.
        name: String,
        /// How.
        status: ExitStatus,
        /// The end of what it wrote.
        log: String,
    },
    /// It would not do what it was told.
    #[error("{name} did not do what it was told: {answer}")]
    Refused {
        /// Which.
        name: String,
        /// What it said instead.
        answer: String,
    },
    /// A signal could not be sent.
    #[error("cannot send a signal to {name}: {source}")]
    Signal {
        /// To which.
        name: String,
        /// Why not.
        source: rustix::io::Errno,
    },
    /// It did not come to where it should.
    #[error("{name} did not {what} within {} s; its log says:\n{log}", .after.as_secs())]
    TooSlow {
        /// Which.
        name: String,
        /// What it should have done.
        what: &'static str,
        /// How long it had.
        after: Duration,
        /// The end of what it wrote.
        log: String,
    },
}

impl Process {
    /// Starts this program again with other arguments; what it logs goes to `log`.
    ///
    /// The thread that calls this must live as long as the process shall.
    ///
    /// # Errors
    /// [`ProcessError::Start`].
    pub fn start<S: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        arguments: &[S],
        log: &Path,
    ) -> Result<Process, ProcessError> {
        Process::start_in(name, program, arguments, &[], log)
    }

    /// The same with this added to the environment.
    ///
    /// # Errors
    /// [`ProcessError::Start`].
    pub fn start_in<S: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        arguments: &[S],
        environment: &[(String, String)],
        log: &Path,
    ) -> Result<Process, ProcessError> {
        let start = || {
            Command::new(program)
                .args(arguments)
                .envs(environment.iter().cloned())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(File::options().create(true).append(true).open(log)?)
                .spawn()
        };
        let child = start().map_err(|source| ProcessError::Start {
            name: name.to_owned(),
            source,
        })?;
        Ok(Process {
            name: name.to_owned(),
            log: log.to_owned(),
            child,
            output: None,
        })
    }

    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its input and output, to be taken once. It ends when its input is closed.
    ///
    /// # Errors
    /// If there are none any more.
    pub fn take_pipes(&mut self) -> io::Result<(ChildStdin, ChildStdout)> {
        match (self.child.stdin.take(), self.child.stdout.take()) {
            (Some(input), Some(output)) => {
                Ok((ChildStdin::from_std(input)?, ChildStdout::from_std(output)?))
            }
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Fails if it has ended.
    ///
    /// # Errors
    /// [`ProcessError::Ended`] with the end of its log.
    pub fn check(&mut self) -> Result<(), ProcessError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(ProcessError::Ended {
                name: self.name.clone(),
                status,
                log: self.log_tail(),
            }),
            Err(source) => Err(ProcessError::Start {
                name: self.name.clone(),
                source,
            }),
        }
    }

    /// Stops the process in its tracks, and returns when it stands still.
    ///
    /// # Errors
    /// [`ProcessError`], if it is no more or does not stop.
    pub fn pause(&mut self) -> Result<(), ProcessError> {
        self.signal(Signal::STOP)?;
        let start = Instant::now();
        while !is_stopped(self.pid()) {
            self.check()?;
            if start.elapsed() > STOP_GRACE {
                return Err(self.too_slow("stop", STOP_GRACE));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    /// Lets a paused process go on.
    ///
    /// # Errors
    /// [`ProcessError::Signal`].
    pub fn resume(&mut self) -> Result<(), ProcessError> {
        self.signal(Signal::CONT)
    }

    /// Kills the process as a power cut would, and returns when it is gone.
    pub fn kill(&mut self) {
        // Failing means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks the process to stop, and kills it if it does not.
    pub fn stop(&mut self) {
        let asked = self.signal(Signal::TERM).is_ok();
        let start = Instant::now();
        while asked && start.elapsed() < STOP_GRACE && self.check().is_ok() {
            std::thread::sleep(LOOK_INTERVAL);
        }
        self.kill();
    }

    /// Closes the input of the process, which tells it to clean up and end, and kills it if it
    /// does not.
    pub fn close(&mut self) {
        drop(self.child.stdin.take());
        let start = Instant::now();
        while start.elapsed() < CLOSE_GRACE && self.check().is_ok() {
            std::thread::sleep(LOOK_INTERVAL);
        }
        self.kill();
    }

    /// The first line that the process prints.
    ///
    /// # Errors
    /// [`ProcessError`], if it ends or takes too long.
    pub async fn first_line(&mut self, within: Duration) -> Result<String, ProcessError> {
        self.line(within, "start").await
    }

    /// The next line that it prints.
    ///
    /// # Errors
    /// [`ProcessError`], if it ends or takes too long.
    pub async fn next_line(&mut self, within: Duration) -> Result<String, ProcessError> {
        self.line(within, "answer").await
    }

    async fn line(&mut self, within: Duration, what: &'static str) -> Result<String, ProcessError> {
        let too_slow = |process: &Process, after| process.too_slow(what, after);
        if self.output.is_none() {
            let output = self.child.stdout.take().map(ChildStdout::from_std);
            let Some(Ok(output)) = output else {
                return Err(too_slow(self, Duration::ZERO));
            };
            // Kept open: whatever else it prints is not to fail.
            self.output = Some(BufReader::new(output).lines());
        }
        let Some(lines) = &mut self.output else {
            return Err(too_slow(self, Duration::ZERO));
        };
        match tokio::time::timeout(within, lines.next_line()).await {
            Ok(Ok(Some(line))) => Ok(line),
            Err(_) => Err(too_slow(self, within)),
            Ok(_) => Err(self.ended().await),
        }
    }

    /// Sends it a line, for which there is always room.
    ///
    /// # Errors
    /// [`ProcessError::Start`], if it does not listen any more.
    pub fn tell(&mut self, line: &str) -> Result<(), ProcessError> {
        let told = match &mut self.child.stdin {
            Some(input) => input.write_all(format!("{line}\n").as_bytes()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        told.map_err(|source| ProcessError::Start {
            name: self.name.clone(),
            source,
        })
    }

    /// The error of an answer that says no.
    #[must_use]
    pub fn refused(&self, answer: String) -> ProcessError {
        ProcessError::Refused {
            name: self.name.clone(),
            answer,
        }
    }

    /// The error of having ended, for a process that has closed its output.
    async fn ended(&mut self) -> ProcessError {
        let start = Instant::now();
        while start.elapsed() < STOP_GRACE {
            if let Err(error) = self.check() {
                return error;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        self.too_slow("end after it closed its output", STOP_GRACE)
    }

    /// The end of what the process wrote to its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let tail = &log[log.len().saturating_sub(LOG_TAIL_BYTES)..];
        String::from_utf8_lossy(tail).trim().to_owned()
    }

    /// The error of being too slow.
    #[must_use]
    pub fn too_slow(&self, what: &'static str, after: Duration) -> ProcessError {
        ProcessError::TooSlow {
            name: self.name.clone(),
            what,
            after,
            log: self.log_tail(),
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        // The child has not been waited for, so its pid cannot have passed to another process.
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        pid.map_or(Err(rustix::io::Errno::SRCH), |pid| {
            rustix::process::kill_process(pid, signal)
        })
        .map_err(|source| ProcessError::Signal {
            name: self.name.clone(),
            source,
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').map(|(_, fields)| fields.trim_start());
    state.is_some_and(|fields| fields.starts_with('T'))
}

/// Ties this process, started by [`Process::start`], to its parent: it dies with it.
pub fn lifeline() {
    die_with_parent();
    std::thread::spawn(|| {
        // The parent never writes to a process that is tied this way: this ends when it closes.
        let _ = io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
}

/// Has the kernel kill this process when its parent ends, even while it is paused.
pub fn die_with_parent() {
    // Where this fails, the closed input still ends a process that is not paused.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
}

/// Lines of this process's standard input, read beside everything else that it does.
#[must_use]
pub fn input_lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        let lines = io::stdin().lock().lines();
        for line in lines.map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(directory: &Path) -> Process {
        Process::start(
            "cat",
            Path::new("cat"),
            &[] as &[&str],
            &directory.join("log"),
        )
        .unwrap()
    }

    #[test]
    fn a_paused_process_stands_still_until_it_is_resumed() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = sleeper(directory.path());
        process.pause().unwrap();
        assert!(is_stopped(process.pid()));
        process.resume().unwrap();
        process.check().unwrap();
    }

    #[test]
    fn a_dropped_process_is_gone_even_if_it_was_paused() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = sleeper(directory.path());
        process.pause().unwrap();
        let pid = process.pid();
        drop(process);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_process_that_ended_is_reported_with_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let script = ["-c", "echo broken >&2; read x; exit 3"];
        let mut process = Process::start("sh", Path::new("sh"), &script, &log).unwrap();
        process.child.stdin.take();
        let error = loop {
            if let Err(error) = process.check() {
                break error.to_string();
            }
            std::thread::sleep(LOOK_INTERVAL);
        };
        assert!(error.contains("sh ended (exit status: 3)"), "{error}");
        assert!(error.contains("broken"), "{error}");
    }
}
