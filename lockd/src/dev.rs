//! A whole cell in this process, for development, demonstrations and tests.
//!
//! Real nodes with real logs and real QUIC on the loopback interface, one thread each; only the
//! separate processes are missing. Nothing here is for production.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::init::{CellLayout, InitError, InitOptions, init};
use crate::server::config::NodeConfig;
use crate::server::{self, ServeError};

/// A running cell of three nodes. It stops when this is dropped.
#[derive(Debug)]
pub struct DevCell {
    layout: CellLayout,
    nodes: Vec<DevNode>,
    /// Removed with its contents at the end, if it was made for this cell.
    _temporary: Option<TempDir>,
}

#[derive(Debug)]
struct DevNode {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

/// Why a cell could not be started.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// It could not be made.
    #[error(transparent)]
    Init(#[from] InitError),
    /// A node did not start.
    #[error("node {node} does not start: {source}")]
    Node {
        /// Which.
        node: usize,
        /// Why not.
        source: ServeError,
    },
    /// No temporary directory or no thread.
    #[error("cannot start a cell: {0}")]
    System(#[from] std::io::Error),
    /// The directory holds something that is not a cell.
    #[error("{0}: there is no cell in this directory; give a new or an empty one")]
    NoCell(PathBuf),
}

impl DevCell {
    /// Starts a cell in `dir`, or in a temporary directory.
    ///
    /// A directory that holds a cell already is started again; one that is new or empty gets a
    /// cell of three nodes on free ports.
    ///
    /// # Errors
    /// [`DevError`] says what is in the way.
    pub fn start(dir: Option<PathBuf>) -> Result<DevCell, DevError> {
        let (dir, temporary) = match dir {
            Some(dir) => (dir, None),
            None => {
                let temporary = tempfile::Builder::new().prefix("lockd-dev-").tempdir()?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let layout = match existing(&dir)? {
            Some(layout) => layout,
            None => init(&dir, &InitOptions::default())?,
        };
        let mut cell = DevCell {
            layout,
            nodes: Vec::new(),
            _temporary: temporary,
        };
        for node in 0..cell.layout.nodes.len() {
            cell.nodes.push(DevNode::stopped());
            cell.start_node(node)?;
        }
        Ok(cell)
    }

    /// The configuration of the client identity `client`.
    #[must_use]
    pub fn client_config(&self) -> PathBuf {
        self.layout.clients.first().cloned().unwrap_or_default()
    }

    /// The configuration of the operator's identity, which may break locks and change the members.
    #[must_use]
    pub fn operator_config(&self) -> PathBuf {
        self.layout.operator.clone()
    }

    /// The configuration of the client identity `gateway`.
    #[must_use]
    pub fn gateway_config(&self) -> PathBuf {
        self.layout.clients.get(1).cloned().unwrap_or_default()
    }

    /// How many nodes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are no nodes, which does not happen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Stops the node at this place (0, 1, 2), if it runs.
    pub fn stop_node(&mut self, node: usize) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.stop();
        }
    }

    /// Starts the node at this place again, if it is stopped.
    ///
    /// # Errors
    /// [`DevError::Node`] says why it does not start.
    pub fn start_node(&mut self, node: usize) -> Result<(), DevError> {
        let (Some(slot), Some(path)) = (self.nodes.get_mut(node), self.layout.nodes.get(node))
        else {
            return Ok(());
        };
        if slot.thread.is_none() {
            *slot = DevNode::start(path.clone(), node)?;
        }
        Ok(())
    }
}

impl Drop for DevCell {
    fn drop(&mut self) {
        // All are told before any is waited for.
        self.nodes
            .iter_mut()
            .for_each(|node| drop(node.stop.take()));
        self.nodes.iter_mut().for_each(DevNode::stop);
    }
}

impl DevNode {
    fn stopped() -> DevNode {
        DevNode {
            stop: None,
            thread: None,
        }
    }

    fn start(path: PathBuf, node: usize) -> Result<DevNode, DevError> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(format!("lockd-node-{}", node + 1))
            .spawn(move || {
                let config = NodeConfig::load(&path)?;
                let shutdown = async {
                    let _ = stopped.await;
                };
                let ready = |address| {
                    let _ = ready.send(address);
                };
                server::run(&config, ready, shutdown)
            })?;
        if is_ready.recv().is_ok() {
            return Ok(DevNode {
                stop: Some(stop),
                thread: Some(thread),
            });
        }
        match thread.join() {
            Ok(Err(source)) => Err(DevError::Node {
                node: node + 1,
                source,
            }),
            _ => Err(DevError::System(std::io::Error::other(
                "a node's thread ended early",
            ))),
        }
    }

    fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && let Ok(Err(error)) = thread.join()
        {
            tracing::error!(%error, "a node ended with an error");
        }
    }
}

/// The cell that `dir` holds, if it holds anything.
fn existing(dir: &Path) -> Result<Option<CellLayout>, DevError> {
    let empty = !dir.exists() || std::fs::read_dir(dir)?.next().is_none();
    if empty {
        return Ok(None);
    }
    let mut nodes = Vec::new();
    for number in 1.. {
        let path = dir.join(format!("node-{number}/node.toml"));
        if !path.exists() {
            break;
        }
        nodes.push(path);
    }
    let first = nodes
        .first()
        .ok_or_else(|| DevError::NoCell(dir.to_owned()))?;
    let config = NodeConfig::load(first).map_err(|error| DevError::Node {
        node: 1,
        source: error.into(),
    })?;
    let clients = ["client", "gateway"]
        .map(|name| dir.join(name).join("client.toml"))
        .to_vec();
    Ok(Some(CellLayout {
        cell: config.cell(),
        nodes,
        clients,
        operator: dir.join("operator/client.toml"),
    }))
}
