//! Clusters of other projects' servers, three nodes each: private ones on loopback with their data
//! in a temporary directory, whose nodes can be killed, paused and started again one by one.
//! Dropping a cluster ends it. Not for data that matters.

pub mod etcd;
pub mod zookeeper;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

/// Nodes of a cluster.
pub const NODES: usize = 3;

/// How long a cluster may take until all of its nodes serve.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is looked whether they do.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How long a node may take to say whether it serves.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest such answer that is read, bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Most of a log that is shown in a message, bytes.
const LOG_TAIL_BYTES: usize = 2000;

/// How often a cluster is made with other ports, if somebody has taken one of them meanwhile.
const ATTEMPTS: u32 = 5;

/// Ports are taken from below those that the kernel gives to outgoing connections: a node that is
/// started again must find its own still free.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// How long the nodes wait for each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Timeouts {
    /// As the servers come.
    #[default]
    Default,
    /// As near as their settings permit to those of lockd, which takes a leader that was silent for
    /// half a second to be gone.
    LikeLockd,
}

/// A cluster that runs.
pub struct Cluster {
    nodes: Vec<Node>,
    urls: Vec<String>,
    _directory: TempDir,
}

/// A node: how it is started, and its process if it runs.
struct Node {
    start: Start,
    child: Option<Child>,
}

/// How a node is started, the first time and again.
struct Start {
    program: PathBuf,
    arguments: Vec<OsString>,
    log: PathBuf,
    /// Where it serves clients, ...
    address: SocketAddr,
    /// ... what it is asked there, ...
    question: &'static str,
    /// ... and what is in its answer once it serves.
    answer: &'static str,
}

/// A cluster that did not start, or a node that did not do as it should.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The programs are missing.
    #[error("no {what} is installed: run `apt-get install {package}`")]
    NotInstalled {
        /// Which.
        what: &'static str,
        /// The package that has them.
        package: &'static str,
    },
    /// A node does not serve.
    #[error("a node does not serve within {} s; its log says:\n{log}", PATIENCE.as_secs())]
    TooSlow {
        /// The end of what it wrote.
        log: String,
    },
    /// A node ended by itself.
    #[error("a node ended; its log says:\n{log}")]
    Ended {
        /// The end of what it wrote.
        log: String,
    },
    /// There is no such node.
    #[error("there is no node {0} that this can be done to")]
    NoNode(usize),
    /// The machine failed.
    #[error("cannot start a private cluster: {0}")]
    Io(#[from] io::Error),
}

impl Cluster {
    /// Makes a cluster by `make`, which is given a directory and free ports, and tells for each
    /// node how it is started; then starts it, and waits until it is whole.
    fn start(
        ports: usize,
        make: impl Fn(&Path, &[u16]) -> io::Result<Vec<(Start, String)>>,
    ) -> Result<Cluster, ClusterError> {
        let mut attempt = 1;
        loop {
            let directory = tempfile::Builder::new()
                .prefix("lockd-cluster-")
                .tempdir()?;
            let made = make(directory.path(), &free_ports(ports)?)?;
            let (starts, urls): (Vec<Start>, Vec<String>) = made.into_iter().unzip();
            let node = |start| Node { start, child: None };
            let mut cluster = Cluster {
                nodes: starts.into_iter().map(node).collect(),
                urls,
                _directory: directory,
            };
            match cluster.start_all() {
                Ok(()) => return Ok(cluster),
                // A port was free a moment ago; somebody else may have taken it since.
                Err(ClusterError::Ended { .. }) if attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn start_all(&mut self) -> Result<(), ClusterError> {
        for node in 0..self.nodes.len() {
            self.run(node)?;
        }
        let begun = Instant::now();
        for node in &mut self.nodes {
            node.wait_until_it_serves(begun)?;
        }
        Ok(())
    }

    /// Where clients find its nodes, in order.
    #[must_use]
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Starts a node, on the data it left behind. Does not wait until it serves.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn run(&mut self, node: usize) -> Result<(), ClusterError> {
        let node = self.node(node)?;
        node.kill();
        let start = &node.start;
        let log = || File::options().create(true).append(true).open(&start.log);
        let child = Command::new(&start.program)
            .args(&start.arguments)
            .stdin(Stdio::null())
            .stdout(log()?)
            .stderr(log()?)
            .spawn()?;
        node.child = Some(child);
        Ok(())
    }

    /// Kills a node as a power cut would.
    ///
    /// # Errors
    /// [`ClusterError::NoNode`].
    pub fn kill(&mut self, node: usize) -> Result<(), ClusterError> {
        self.node(node)?.kill();
        Ok(())
    }

    /// Stops a node in its tracks.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn pause(&mut self, node: usize) -> Result<(), ClusterError> {
        self.signal(node, Signal::STOP)
    }

    /// Lets a paused node go on.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn resume(&mut self, node: usize) -> Result<(), ClusterError> {
        self.signal(node, Signal::CONT)
    }

    fn signal(&mut self, number: usize, signal: Signal) -> Result<(), ClusterError> {
        let node = self.node(number)?;
        let child = node.child.as_ref().ok_or(ClusterError::NoNode(number))?;
        // The child has not been waited for, so its pid cannot have passed to another process.
        let sent = rustix::process::kill_process(Pid::from_child(child), signal);
        Ok(sent.map_err(io::Error::from)?)
    }

    fn node(&mut self, node: usize) -> Result<&mut Node, ClusterError> {
        self.nodes.get_mut(node).ok_or(ClusterError::NoNode(node))
    }
}

impl Node {
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Failing means that it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn wait_until_it_serves(&mut self, begun: Instant) -> Result<(), ClusterError> {
        while !self.start.serves() {
            let log = || self.start.log_tail();
            let running = match &mut self.child {
                Some(child) => child.try_wait()?.is_none(),
                None => false,
            };
            if !running {
                return Err(ClusterError::Ended { log: log() });
            }
            if begun.elapsed() > PATIENCE {
                return Err(ClusterError::TooSlow { log: log() });
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Start {
    fn serves(&self) -> bool {
        let asked = || -> io::Result<Vec<u8>> {
            let mut stream = TcpStream::connect_timeout(&self.address, ANSWER_TIMEOUT)?;
            stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            stream.write_all(self.question.as_bytes())?;
            let mut answer = Vec::new();
            // What has come before an error counts.
            let _ = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer);
            Ok(answer)
        };
        asked().is_ok_and(|answer| String::from_utf8_lossy(&answer).contains(self.answer))
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let tail = &log[log.len().saturating_sub(LOG_TAIL_BYTES)..];
        String::from_utf8_lossy(tail).trim().to_owned()
    }
}

/// So many ports of the loopback interface that are free at the moment.
fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let mut held = Vec::new();
    while held.len() < count {
        let port = rand::random_range(PORTS);
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => held.push((port, listener)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Ok(held.into_iter().map(|(port, _)| port).collect())
}

/// The program of this name on the `PATH`.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut places = std::env::split_paths(&path).map(|place| place.join(program));
    places.find(|file| file.is_file())
}
