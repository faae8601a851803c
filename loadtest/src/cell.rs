//! A cell of our own: three nodes as three processes on this machine, for as long as we need it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lockd::init::{CellLayout, InitError, InitOptions, init};
use lockd_client::Client;
use lockd_protocol::NodeId;

use crate::process::{Process, ProcessError};

/// The hidden subcommand that runs a node.
pub const NODE_COMMAND: &str = "__node";

/// How long a new or restarted cell may take until it serves.
const START_GRACE: Duration = Duration::from_secs(15);

/// A cell whose nodes are child processes. Dropping it kills them.
pub struct OwnCell {
    program: PathBuf,
    directory: PathBuf,
    layout: CellLayout,
    nodes: Vec<Option<Process>>,
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
        let directory = directory.join("cell");
        let layout = init(&directory, &InitOptions::default())?;
        let nodes = layout.nodes.iter().map(|_| None).collect();
        let mut cell = OwnCell {
            program: program.to_owned(),
            directory,
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
        self.nodes[index] = Some(Process::start(&name, &self.program, &arguments, &log)?);
        Ok(())
    }
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
