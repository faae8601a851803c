//! A PostgreSQL server of one's own for tests and demonstrations: a fresh cluster in a temporary
//! directory, on a loopback port, ended when the value is dropped. Not for data that matters.

use std::fs;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is different from a plain cluster.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Lines of `postgresql.conf`.
    pub settings: Vec<String>,
    /// Lines of `pg_hba.conf`, before the one that trusts everybody on loopback.
    pub access: Vec<String>,
    /// Files for the data directory, readable by the server alone: certificates and keys.
    pub files: Vec<(String, Vec<u8>)>,
    /// Whether commits survive a crash of the machine. Tests do without.
    pub durable: bool,
}

/// A running server. The superuser is `postgres`, who needs no password.
#[derive(Debug)]
pub struct PrivateServer {
    dir: TempDir,
    binaries: PathBuf,
    user: Option<(u32, u32)>,
    port: u16,
    child: Option<Child>,
}

/// A server that did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no PostgreSQL on this machine.
    #[error("no PostgreSQL server is installed: run `apt-get install postgresql`")]
    NotInstalled,
    /// The process is root, PostgreSQL refuses to be, and there is nobody else to be.
    #[error("PostgreSQL does not run as root, and there is no user postgres or nobody")]
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
    #[error("cannot start a private PostgreSQL server: {0}")]
    Io(#[from] io::Error),
}

impl PrivateServer {
    /// Makes a cluster and starts its server.
    ///
    /// # Errors
    /// [`StartError`] says what to install or what went wrong.
    pub fn start(options: &Options) -> Result<PrivateServer, StartError> {
        let binaries = find_binaries().ok_or(StartError::NotInstalled)?;
        let dir = tempfile::Builder::new()
            .prefix("lockd-postgres-")
            .tempdir()?;
        let user = if is_root()? {
            let user = other_user()?.ok_or(StartError::NoUser)?;
            chown(dir.path(), Some(user.0), Some(user.1))?;
            Some(user)
        } else {
            None
        };
        let mut server = PrivateServer {
            dir,
            binaries,
            user,
            port: 0,
            child: None,
        };
        server.make_cluster(options)?;
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

    /// A URL for a role and a database.
    #[must_use]
    pub fn url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/{database}", self.port)
    }

    /// Where the server's programs are (`psql`, `pgbench`).
    #[must_use]
    pub fn binaries(&self) -> &Path {
        &self.binaries
    }

    /// Stops the server as a crash would: at once and without a checkpoint.
    ///
    /// # Errors
    /// If it does not end.
    pub fn crash(&mut self) -> Result<(), StartError> {
        self.end(rustix::process::Signal::QUIT)
    }

    /// Stops the server in order, ending its sessions.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(&mut self) -> Result<(), StartError> {
        self.end(rustix::process::Signal::INT)
    }

    /// Starts the server after it was stopped, on the same port and data.
    ///
    /// # Errors
    /// [`StartError`] with the server's log.
    pub fn run(&mut self) -> Result<(), StartError> {
        let log = fs::File::create(self.log())?;
        let child = self
            .program("postgres")
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string()])
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        let begun = Instant::now();
        while !self.says_ready() {
            let ended = match &mut self.child {
                Some(child) => child.try_wait()?.is_some(),
                None => true,
            };
            if ended || begun.elapsed() > PATIENCE {
                let output = fs::read_to_string(self.log()).unwrap_or_default();
                self.end(rustix::process::Signal::QUIT)?;
                return Err(StartError::Program {
                    program: "postgres",
                    output,
                });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn make_cluster(&self, options: &Options) -> Result<(), StartError> {
        let output = self
            .program("initdb")
            .arg("-D")
            .arg(self.data())
            .args([
                "-A",
                "trust",
                "-U",
                "postgres",
                "-E",
                "UTF8",
                "--no-locale",
                "--no-sync",
            ])
            .output()?;
        if !output.status.success() {
            let output = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(StartError::Program {
                program: "initdb",
                output,
            });
        }
        let mut settings = fs::OpenOptions::new()
            .append(true)
            .open(self.data().join("postgresql.conf"))?;
        let directory = self.dir.path().display();
        writeln!(settings, "listen_addresses = '127.0.0.1'")?;
        writeln!(settings, "unix_socket_directories = '{directory}'")?;
        writeln!(settings, "max_connections = 150\nlogging_collector = off")?;
        writeln!(
            settings,
            "fsync = {}",
            if options.durable { "on" } else { "off" }
        )?;
        for line in &options.settings {
            writeln!(settings, "{line}")?;
        }
        for (name, content) in &options.files {
            let file = self.data().join(name);
            fs::write(&file, content)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
            if let Some((user, group)) = self.user {
                chown(&file, Some(user), Some(group))?;
            }
        }
        let access = options.access.join("\n");
        let everybody = "host all all 127.0.0.1/32 trust\nlocal all all trust\n";
        fs::write(
            self.data().join("pg_hba.conf"),
            format!("{access}\n{everybody}"),
        )?;
        Ok(())
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

    /// The last line of the server's lock file is its state.
    fn says_ready(&self) -> bool {
        let file = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let own = self.child.as_ref().map(|child| child.id().to_string());
        file.lines().next() == own.as_deref()
            && file
                .lines()
                .nth(7)
                .is_some_and(|state| state.trim() == "ready")
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.binaries.join(name));
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
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

/// The newest version among Debian's places, or whatever is in the path.
fn find_binaries() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let newest = versions
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse::<u32>().ok()?,
                entry.path(),
            ))
        })
        .map(|(version, path)| (version, path.join("bin")))
        .filter(|(_, bin)| bin.join("postgres").exists())
        .max();
    newest.map(|(_, bin)| bin).or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .find(|dir| dir.join("postgres").exists() && dir.join("initdb").exists())
    })
}

pub(crate) fn is_root() -> io::Result<bool> {
    Ok(rustix::process::geteuid().is_root())
}

/// User and group of `postgres`, or else of `nobody`.
fn other_user() -> io::Result<Option<(u32, u32)>> {
    match user_and_group("postgres")? {
        None => user_and_group("nobody"),
        user => Ok(user),
    }
}

/// The numbers of a user and of its group, if there is such a user.
pub(crate) fn user_and_group(wanted: &str) -> io::Result<Option<(u32, u32)>> {
    let users = fs::read_to_string("/etc/passwd")?;
    Ok(users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let (user, group) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        (name == wanted).then_some((user, group))
    }))
}
