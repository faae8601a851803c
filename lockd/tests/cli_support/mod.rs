//! Cells and `lockd` commands as real processes, each ended by its id.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// Nothing in these tests should take longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The `lockd` program with these arguments.
pub(crate) fn lockd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockd"));
    command.args(arguments).env_remove("LOCKD_CONFIG");
    command.stdin(Stdio::null());
    command
}

/// A process that does not outlive its test.
pub(crate) struct Process(Child);

impl Process {
    /// Starts it, with its output to be read.
    pub(crate) fn start(mut command: Command) -> Process {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Process(command.spawn().expect("starts"))
    }

    pub(crate) fn pid(&self) -> Pid {
        pid(self.0.id())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the process is there");
    }

    /// The next line on stdout.
    pub(crate) fn line(&mut self) -> String {
        let out = self.0.stdout.as_mut().expect("piped");
        let mut line = String::new();
        // One byte at a time, so that nothing of later lines is swallowed.
        let read = BufReader::with_capacity(1, out).read_line(&mut line);
        assert_ne!(read.expect("readable"), 0, "there is no further line");
        line.trim_end().to_owned()
    }

    /// Writes to its stdin, which was piped.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let stdin = self.0.stdin.as_mut().expect("piped");
        stdin.write_all(bytes).expect("it reads");
    }

    /// Closes its stdin, if that was piped, and waits for its end.
    pub(crate) fn wait(mut self) -> Output {
        drop(self.0.stdin.take());
        self.wait_open()
    }

    /// Waits for its end.
    pub(crate) fn wait_open(self) -> Output {
        let mut child = self;
        let out = child.0.stdout.take().map(read_in_background);
        let err = child.0.stderr.take().map(read_in_background);
        let until = Instant::now() + PATIENCE;
        let status = loop {
            match child.0.try_wait().expect("our child") {
                Some(status) => break status,
                None if Instant::now() > until => panic!("the process does not end"),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let read = |reader: Option<std::thread::JoinHandle<Vec<u8>>>| {
            reader.map_or_else(Vec::new, |reader| reader.join().expect("no panic"))
        };
        Output {
            status,
            stdout: read(out),
            stderr: read(err),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn read_in_background(
    mut from: impl std::io::Read + Send + 'static,
) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        from.read_to_end(&mut all).expect("readable");
        all
    })
}

/// What a finished command said.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn of(output: Output) -> Said {
        let code = output.status.code().expect("not ended by a signal");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Said {
            code,
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    /// Asserts that it failed with this code and one line on stderr, which it gives.
    pub(crate) fn one_line(&self, code: i32) -> &str {
        assert_eq!(self.code, code, "{}", self.err);
        assert_eq!(self.err.lines().count(), 1, "{}", self.err);
        let line = self.err.lines().next().unwrap_or("");
        assert!(line.starts_with("lockd: "), "{line}");
        line
    }
}

/// A `lockd dev` of its own.
pub(crate) struct Cell {
    pub(crate) process: Process,
    pub(crate) config: PathBuf,
    pub(crate) _dir: tempfile::TempDir,
}

impl Cell {
    pub(crate) fn start() -> Cell {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("cell");
        let mut command = lockd(&["dev", "--dir"]);
        command.arg(&root).env("RUST_LOG", "off");
        let mut process = Process::start(command);
        while process.line() != "ready" {}
        Cell {
            process,
            config: root.join("client/client.toml"),
            _dir: dir,
        }
    }

    /// A `lockd` command that talks to this cell.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        with_config(&self.config, arguments)
    }

    /// The same, to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        Said::of(Process::start(self.command(arguments)).wait())
    }

    /// The same with the operator's identity.
    pub(crate) fn operate(&self, arguments: &[&str]) -> Said {
        let root = self.config.parent().and_then(Path::parent);
        let config = root
            .expect("the cell's directory")
            .join("operator/client.toml");
        Said::of(Process::start(with_config(&config, arguments)).wait())
    }

    /// Starts a `lockd lock` whose command prints a line once it runs, and waits for that.
    pub(crate) fn lock(&self, flags: &[&str], script: &str) -> Process {
        let script = format!("echo running; {script}");
        let command = ["--", "sh", "-c", &script];
        let all: Vec<&str> = ["lock"]
            .iter()
            .chain(flags)
            .chain(&command)
            .copied()
            .collect();
        let mut process = Process::start(self.command(&all));
        assert_eq!(process.line(), "running");
        process
    }

    /// Waits until so many wait for the lock.
    pub(crate) fn wait_for_waiters(&self, name: &str, waiters: usize) {
        wait_until("the queue is as expected", || {
            let who = self.run(&["who", name, "--json"]);
            let json: serde_json::Value = serde_json::from_str(&who.out).unwrap_or_default();
            json["waiters"]
                .as_array()
                .is_some_and(|all| all.len() == waiters)
        });
    }
}

pub(crate) fn with_config(config: &Path, arguments: &[&str]) -> Command {
    let mut command = lockd(arguments);
    command.env("LOCKD_CONFIG", config);
    command
}

/// Whether the process is there.
pub(crate) fn is_alive(pid: Pid) -> bool {
    test_kill_process(pid).is_ok()
}

pub(crate) fn pid(id: impl TryInto<i32>) -> Pid {
    let id = id.try_into().ok().and_then(Pid::from_raw);
    id.expect("a process id")
}

/// Waits for something that other processes bring about.
pub(crate) fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < until, "{what}: never happened");
        std::thread::sleep(Duration::from_millis(20));
    }
}
