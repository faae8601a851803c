//! An nginx of one's own with WebDAV, for tests and demonstrations: on a loopback port, with its
//! files in a temporary directory, ended when the value is dropped. Not for data that matters.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running server. Everybody may read and write every file.
#[derive(Debug)]
pub struct PrivateServer {
    dir: TempDir,
    port: u16,
    child: Option<Child>,
}

/// A server that did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no nginx on this machine.
    #[error("nginx is not installed: run `apt-get install nginx`")]
    NotInstalled,
    /// The program failed.
    #[error("nginx failed: {0}")]
    Program(String),
    /// The machine failed.
    #[error("cannot start a private nginx: {0}")]
    Io(#[from] io::Error),
}

impl PrivateServer {
    /// Starts a server.
    ///
    /// # Errors
    /// [`StartError`] says what to install or what went wrong.
    pub fn start() -> Result<PrivateServer, StartError> {
        let mut server = PrivateServer {
            dir: tempfile::Builder::new().prefix("lockd-nginx-").tempdir()?,
            port: 0,
            child: None,
        };
        std::fs::create_dir(server.files())?;
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

    /// Where its files are.
    #[must_use]
    pub fn files(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    /// Its process, if it runs.
    #[must_use]
    pub fn process(&self) -> Option<rustix::process::Pid> {
        self.child.as_ref().map(rustix::process::Pid::from_child)
    }

    /// Starts the server after it was stopped, on the same port and files.
    ///
    /// # Errors
    /// [`StartError`] with what it printed.
    pub fn run(&mut self) -> Result<(), StartError> {
        let program = find_program().ok_or(StartError::NotInstalled)?;
        let settings = self.dir.path().join("nginx.conf");
        std::fs::write(&settings, self.settings())?;
        let log = self.dir.path().join("error.log");
        let child = Command::new(program)
            .arg("-p")
            .arg(self.dir.path())
            .arg("-c")
            .arg(&settings)
            .arg("-e")
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.child = Some(child);
        let begun = Instant::now();
        loop {
            let ended = match &mut self.child {
                Some(child) => child.try_wait()?.is_some(),
                None => true,
            };
            if !ended && self.answers() {
                return Ok(());
            }
            if ended || begun.elapsed() > PATIENCE {
                let output = std::fs::read_to_string(&log).unwrap_or_default();
                self.stop()?;
                return Err(StartError::Program(output));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the server as a crash would.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(&mut self) -> io::Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        // Its own process, which has no others: there is no master.
        child.kill()?;
        child.wait().map(drop)
    }

    /// One process in the foreground, which keeps everything below its directory.
    fn settings(&self) -> String {
        format!(
            "daemon off; master_process off; pid nginx.pid; error_log error.log;\n\
             events {{ worker_connections 512; }}\n\
             http {{\n\
               access_log off; client_body_temp_path body; proxy_temp_path proxy;\n\
               fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
               server {{\n\
                 listen 127.0.0.1:{}; root {}; client_max_body_size 0;\n\
                 location / {{\n\
                   dav_methods PUT DELETE MKCOL COPY MOVE; create_full_put_path on;\n\
                 }}\n\
               }}\n\
             }}\n",
            self.port,
            self.files().display()
        )
    }

    fn answers(&self) -> bool {
        let asked = || -> io::Result<bool> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"OPTIONS / HTTP/1.0\r\n\r\n")?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer)?;
            Ok(&answer == b"HTTP/")
        };
        asked().unwrap_or(false)
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::warn!(%error, "a private server may still be running");
        }
    }
}

fn find_program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path);
    // Servers are there, where a user's PATH may not lead.
    directories
        .chain([Path::new("/usr/sbin").to_path_buf()])
        .map(|dir| dir.join("nginx"))
        .find(|program| program.is_file())
}
