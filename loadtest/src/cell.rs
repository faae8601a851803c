//! A cell of our own: three nodes as three processes on this machine, for as long as we need it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lockd::init::{CellLayout, InitError, InitOptions, init};
use lockd_client::{Client, ClientConfig, probe};
use lockd_protocol::NodeId;

use crate::process::{Process, ProcessError};

/// The hidden subcommand that runs a node.
pub const NODE_COMMAND: &str = "__node";

/// How long a new or restarted cell may take until it serves.
const START_GRACE: Duration = Duration::from_secs(15);

/// How long a node may take to say how it is.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Entries by which nodes that are well may differ at any time.
const NEARLY: u64 = 1000;

/// A cell whose nodes are child processes. Dropping it kills them.
pub struct OwnCell {
    program: PathBuf,
    directory: PathBuf,
    environment: Vec<(String, String)>,
    layout: CellLayout,
    nodes: Vec<Option<Process>>,
}

/// What is not ordinary about a cell.
#[derive(Clone, Debug, Default)]
pub struct CellOptions {
    /// Added to the environment of its nodes.
    pub environment: Vec<(String, String)>,
    /// For each node the address by which everybody knows it, where somebody forwards to it, and
    /// the one at which it listens. If there are none, it listens where it is known.
    pub behind: Vec<(SocketAddr, SocketAddr)>,
}

/// Why there is no cell.
#[derive(Debug, thiserror::Error)]
pub enum CellError {
    /// Its files could not be made.
    #[error("cannot make a cell: {0}")]
    Init(#[from] InitError),
    /// A node did not run.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It does not answer.
    #[error("the cell elected no leader within {} s: {reason}", START_GRACE.as_secs())]
    NoLeader {
        /// What the last attempt met.
        reason: String,
    },
}

impl OwnCell {
    /// Makes a cell in `directory` (new or empty) and starts its nodes by running `program`,
    /// which is this program, with [`NODE_COMMAND`].
    ///
    /// # Errors
    /// [`CellError`].
    pub fn start(program: &Path, directory: &Path) -> Result<OwnCell, CellError> {
        OwnCell::start_in(program, directory, &CellOptions::default())
    }

    /// The same with nodes that are not quite ordinary.
    ///
    /// # Errors
    /// [`CellError`].
    pub fn start_in(
        program: &Path,
        directory: &Path,
        options: &CellOptions,
    ) -> Result<OwnCell, CellError> {
        let directory = directory.join("cell");
        let layout = match options.behind.as_slice() {
            [] => init(&directory, &InitOptions::default())?,
            behind => init_behind(&directory, behind)?,
        };
        let nodes = layout.nodes.iter().map(|_| None).collect();
        let mut cell = OwnCell {
            program: program.to_owned(),
            directory,
            environment: options.environment.clone(),
            layout,
            nodes,
        };
        for index in 0..cell.nodes.len() {
            cell.start_node(index)?;
        }
        Ok(cell)
    }

    /// Path of `client.toml` for clients.
    #[must_use]
    pub fn client_config(&self) -> &Path {
        &self.layout.clients[0]
    }

    /// Path of `client.toml` for the gateway.
    #[must_use]
    pub fn gateway_config(&self) -> &Path {
        &self.layout.clients[1]
    }

    /// Where the nodes keep their data.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Process ids of the nodes that run.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().flatten().map(Process::pid).collect()
    }

    /// Kills a node as a power cut would.
    pub fn kill(&mut self, node: NodeId) {
        // Dropping kills.
        if let Some(slot) = self.slot(node) {
            *slot = None;
        }
    }

    /// Stops a node in its tracks.
    ///
    /// # Errors
    /// [`CellError::Process`].
    pub fn pause(&mut self, node: NodeId) -> Result<(), CellError> {
        match self.slot(node) {
            Some(Some(node)) => Ok(node.pause()?),
            _ => Ok(()),
        }
    }

    /// Lets a paused node go on.
    ///
    /// # Errors
    /// [`CellError::Process`].
    pub fn resume(&mut self, node: NodeId) -> Result<(), CellError> {
        match self.slot(node) {
            Some(Some(node)) => Ok(node.resume()?),
            _ => Ok(()),
        }
    }

    /// Kills all nodes.
    pub fn kill_all(&mut self) {
        self.nodes.iter_mut().for_each(|node| *node = None);
    }

    /// Starts the nodes that do not run, on the data they left behind.
    ///
    /// # Errors
    /// [`CellError::Process`].
    pub fn restart(&mut self) -> Result<(), CellError> {
        for index in 0..self.nodes.len() {
            if self.nodes[index].is_none() {
                self.start_node(index)?;
            }
        }
        Ok(())
    }

    /// Fails if a node that should run has ended.
    ///
    /// # Errors
    /// [`CellError::Process`] with the end of its log.
    pub fn check(&mut self) -> Result<(), CellError> {
        let mut nodes = self.nodes.iter_mut().flatten();
        Ok(nodes.try_for_each(Process::check)?)
    }

    /// Waits until the cell has a leader, and tells which node it is.
    ///
    /// # Errors
    /// [`CellError`], if a node ends or it takes too long.
    pub async fn leader(&mut self) -> Result<NodeId, CellError> {
        let start = Instant::now();
        loop {
            self.check()?;
            let reason = match leader_of(self.client_config()).await {
                Ok(leader) => return Ok(leader),
                Err(reason) => reason,
            };
            if start.elapsed() > START_GRACE {
                return Err(CellError::NoLeader { reason });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether all nodes answer, name the same leader, and have applied nearly the same.
    pub async fn is_whole(&self) -> bool {
        let Ok(config) = ClientConfig::load(self.client_config()) else {
            return false;
        };
        let mut leaders = Vec::new();
        let mut applied = Vec::new();
        for address in &config.nodes {
            let Ok(status) = probe(&config, address, ANSWER_WITHIN).await else {
                return false;
            };
            leaders.push(status.leader);
            applied.push(status.applied);
        }
        leaders.dedup();
        let (least, most) = (applied.iter().min(), applied.iter().max());
        let close = most
            .zip(least)
            .is_some_and(|(most, least)| most - least < NEARLY);
        close && matches!(leaders.as_slice(), [Some(_)])
    }

    /// Stops the nodes in good order.
    pub fn stop(mut self) {
        self.nodes.iter_mut().flatten().for_each(Process::stop);
    }

    fn slot(&mut self, node: NodeId) -> Option<&mut Option<Process>> {
        let index = usize::try_from(node.0).ok()?.checked_sub(1)?;
        self.nodes.get_mut(index)
    }

    fn start_node(&mut self, index: usize) -> Result<(), CellError> {
        let name = format!("node {}", index + 1);
        let log = self.directory.join(format!("node-{}.log", index + 1));
        let config = self.layout.nodes[index].as_os_str();
        let arguments = [NODE_COMMAND.as_ref(), "--config".as_ref(), config];
        self.nodes[index] = Some(Process::start_in(
            &name,
            &self.program,
            &arguments,
            &self.environment,
            &log,
        )?);
        Ok(())
    }
}

/// Makes a cell whose nodes listen elsewhere than where they are known.
fn init_behind(
    directory: &Path,
    behind: &[(SocketAddr, SocketAddr)],
) -> Result<CellLayout, CellError> {
    let options = InitOptions {
        addresses: behind.iter().map(|(known, _)| *known).collect(),
        ..InitOptions::default()
    };
    let layout = init(directory, &options)?;
    for (path, (known, own)) in layout.nodes.iter().zip(behind) {
        let failed = |source| {
            CellError::Init(InitError::Write {
                path: path.clone(),
                source,
            })
        };
        let text = std::fs::read_to_string(path).map_err(failed)?;
        // The file names the node's own address once, among the members'.
        let text = text.replace(&known.to_string(), &own.to_string());
        std::fs::write(path, text).map_err(failed)?;
    }
    Ok(layout)
}

async fn leader_of(config: &Path) -> Result<NodeId, String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let builder = Client::builder()
        .config_file(config)
        .map_err(|e| text(&e))?;
    let client = builder.without_session().connect().await;
    let status = client.map_err(|e| text(&e))?.status().await;
    let leader = status.map_err(|e| text(&e))?.leader;
    leader.ok_or_else(|| "the node that was asked knows no leader".to_owned())
}
