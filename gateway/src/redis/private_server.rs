//! A Redis server of one's own for tests and demonstrations: on a loopback port, with its data in
//! a temporary directory, ended when the value is dropped. Not for data that matters.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running server. Everybody may do everything there until the fence is installed.
#[derive(Debug)]
pub struct PrivateServer {
    dir: TempDir,
    port: u16,
    settings: Vec<String>,
    child: Option<Child>,
}

/// A server that did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no Redis on this machine.
    #[error("no Redis server is installed: run `apt-get install redis-server`")]
    NotInstalled,
    /// The program failed.
    #[error("redis-server failed: {0}")]
    Program(String),
    /// The machine failed.
    #[error("cannot start a private Redis server: {0}")]
    Io(#[from] io::Error),
}

impl PrivateServer {
    /// Starts a server with these further words of its command line, such as `--appendonly yes`.
    ///
    /// # Errors
    /// [`StartError`] says what to install or what went wrong.
    pub fn start(settings: &[&str]) -> Result<PrivateServer, StartError> {
        let mut server = PrivateServer {
            dir: tempfile::Builder::new().prefix("lockd-redis-").tempdir()?,
            port: 0,
            settings: settings.iter().map(|&word| word.to_owned()).collect(),
            child: None,
        };
        // The port was free a moment ago; somebody else may have taken it since.
        for attempt in 1.. {
            server.port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            match server.run() {
                Ok(()) => break,
                Err(StartError::NotInstalled) => return Err(StartError::NotInstalled),
                Err(error) if attempt == 5 => return Err(error),
                Err(_) => {}
            }
        }
        Ok(server)
    }

    /// Port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its data.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.dir.path()
    }

    /// Its process, if it runs.
    #[must_use]
    pub fn process(&self) -> Option<rustix::process::Pid> {
        self.child.as_ref().map(rustix::process::Pid::from_child)
    }

    /// Stops the server as a crash would.
    ///
    /// # Errors
    /// If it does not end.
    pub fn crash(&mut self) -> Result<(), StartError> {
        self.end(rustix::process::Signal::KILL)
    }

    /// Stops the server in order.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(&mut self) -> Result<(), StartError> {
        self.end(rustix::process::Signal::TERM)
    }

    /// Starts the server after it was stopped, on the same port and data.
    ///
    /// # Errors
    /// [`StartError`] with what it printed.
    pub fn run(&mut self) -> Result<(), StartError> {
        let program = find_program().ok_or(StartError::NotInstalled)?;
        let log = self.dir.path().join("log");
        let child = Command::new(program)
            .current_dir(self.dir.path())
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--save", "", "--logfile", "log", "--daemonize", "no"])
            .args(&self.settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.child = Some(child);
        let begun = Instant::now();
        loop {
            let answers = self.answers();
            let ended = match &mut self.child {
                Some(child) => child.try_wait()?.is_some(),
                None => true,
            };
            if answers && !ended {
                return Ok(());
            }
            if ended || begun.elapsed() > PATIENCE {
                let output = std::fs::read_to_string(&log).unwrap_or_default();
                self.crash()?;
                return Err(StartError::Program(output));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// It is up once it answers, even if that is a refusal; while it loads its data it says so.
    fn answers(&self) -> bool {
        let asked = || -> io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"GET lockd:is-it-up\r\n")?;
            let mut line = String::new();
            BufReader::new(stream).take(200).read_line(&mut line)?;
            Ok(line)
        };
        asked().is_ok_and(|line| !line.is_empty() && !line.starts_with("-LOADING"))
    }

    fn end(&mut self, signal: rustix::process::Signal) -> Result<(), StartError> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        if child.try_wait()?.is_none() {
            // Its own process id, which nobody else can have while it is not waited for.
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, signal).map_err(io::Error::from)?;
        }
        child.wait()?;
        Ok(())
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        if let Err(error) = self.crash() {
            tracing::warn!(%error, "a private server may still be running");
        }
    }
}

fn find_program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join("redis-server"))
        .find(|program| program.is_file())
}
