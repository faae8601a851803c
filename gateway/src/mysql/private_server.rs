//! A MariaDB server of one's own for tests and demonstrations: fresh data in a temporary
//! directory, on a loopback port, ended when the value is dropped. Not for data that matters.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::postgres::private_server::{is_root, user_and_group};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is different from a plain server.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Further flags of the server.
    pub flags: Vec<String>,
    /// Files for the server's directory, readable by the server alone: certificates and keys.
    /// In the flags, `{dir}` stands for that directory.
    pub files: Vec<(String, Vec<u8>)>,
}

/// A running server. The administrator is `root`, who needs no password.
#[derive(Debug)]
pub struct PrivateServer {
    dir: TempDir,
    user: Option<(u32, u32)>,
    flags: Vec<String>,
    port: u16,
    child: Option<Child>,
}

/// A server that did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no MariaDB on this machine.
    #[error("no MariaDB server is installed: run `apt-get install mariadb-server`")]
    NotInstalled,
    /// The process is root, and there is nobody else to be.
    #[error("MariaDB does not run as root, and there is no user mysql or nobody")]
    NoUser,
    /// A program failed.
    #[error("{program} failed: {output}")]
    Program {
        /// Which.
        program: &'static str,
        /// What it said.
        output: String,
    },
    /// The machine failed.
    #[error("cannot start a private MariaDB server: {0}")]
    Io(#[from] io::Error),
}

impl PrivateServer {
    /// Makes the data and starts the server.
    ///
    /// # Errors
    /// [`StartError`] says what to install or what went wrong.
    pub fn start(options: &Options) -> Result<PrivateServer, StartError> {
        if find("mariadbd").is_none() || find("mariadb-install-db").is_none() {
            return Err(StartError::NotInstalled);
        }
        let dir = tempfile::Builder::new()
            .prefix("lockd-mariadb-")
            .tempdir()?;
        let user = if is_root()? {
            let user = match user_and_group("mysql")? {
                None => user_and_group("nobody")?,
                user => user,
            };
            Some(user.ok_or(StartError::NoUser)?)
        } else {
            None
        };
        let path = dir.path().display().to_string();
        let mut server = PrivateServer {
            flags: options
                .flags
                .iter()
                .map(|flag| flag.replace("{dir}", &path))
                .collect(),
            dir,
            user,
            port: 0,
            child: None,
        };
        server.own(server.dir.path())?;
        for (name, content) in &options.files {
            let file = server.dir.path().join(name);
            fs::write(&file, content)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
            server.own(&file)?;
        }
        server.make_data()?;
        // The port was free a moment ago; somebody else may have taken it since.
        for attempt in 1.. {
            server.port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            match server.run() {
                Ok(()) => break,
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

    /// A URL for an account and a database.
    #[must_use]
    pub fn url(&self, account: &str, database: &str) -> String {
        format!("mysql://{account}@127.0.0.1:{}/{database}", self.port)
    }

    /// Stops the server as a crash would: at once.
    ///
    /// # Errors
    /// If it does not end.
    pub fn crash(&mut self) -> Result<(), StartError> {
        self.end(Signal::KILL)
    }

    /// Stops the server in order, ending its sessions.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(&mut self) -> Result<(), StartError> {
        self.end(Signal::TERM)
    }

    /// Starts the server after it was stopped, on the same port and data.
    ///
    /// # Errors
    /// [`StartError`] with the server's log.
    pub fn run(&mut self) -> Result<(), StartError> {
        let log = fs::File::create(self.log())?;
        let directory = self.dir.path().display();
        let child = self
            .program("mariadbd")?
            .arg("--no-defaults")
            .arg(format!("--datadir={directory}/data"))
            .arg(format!("--socket={directory}/socket"))
            .arg(format!("--pid-file={directory}/pid"))
            .arg(format!("--tmpdir={directory}"))
            .arg(format!("--port={}", self.port))
            .args([
                "--bind-address=127.0.0.1",
                "--innodb-buffer-pool-size=32M",
                "--innodb-flush-log-at-trx-commit=2",
                "--max-connections=200",
                "--local-infile=1",
            ])
            .args(&self.flags)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        let begun = Instant::now();
        loop {
            let said = fs::read_to_string(self.log()).unwrap_or_default();
            if said.contains("ready for connections") {
                return Ok(());
            }
            let ended = match &mut self.child {
                Some(child) => child.try_wait()?.is_some(),
                None => true,
            };
            if ended || begun.elapsed() > PATIENCE {
                self.end(Signal::KILL)?;
                return Err(StartError::Program {
                    program: "mariadbd",
                    output: said,
                });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn make_data(&self) -> Result<(), StartError> {
        let output = self
            .program("mariadb-install-db")?
            .arg("--no-defaults")
            .arg(format!("--datadir={}/data", self.dir.path().display()))
            .arg(format!("--tmpdir={}", self.dir.path().display()))
            .args([
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--innodb-buffer-pool-size=32M",
            ])
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        Err(StartError::Program {
            program: "mariadb-install-db",
            output: String::from_utf8_lossy(&said).into_owned(),
        })
    }

    fn end(&mut self, signal: Signal) -> Result<(), StartError> {
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

    fn own(&self, path: &Path) -> io::Result<()> {
        match self.user {
            Some((user, group)) => chown(path, Some(user), Some(group)),
            None => Ok(()),
        }
    }

    fn program(&self, name: &str) -> Result<Command, StartError> {
        let mut command = Command::new(find(name).ok_or(StartError::NotInstalled)?);
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        Ok(command)
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        if let Err(error) = self.crash() {
            tracing::warn!(%error, "a private server may still be running");
        }
    }
}

/// A program in the path, or where Debian puts servers.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
