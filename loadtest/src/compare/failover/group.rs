//! A cluster whose leader can be taken away and given back.

use std::path::Path;
use std::time::{Duration, Instant};

use lockd_protocol::NodeId;

use super::Loss;
use crate::cell::OwnCell;
use crate::cluster::Timeouts;
use crate::compare::bench::reason;
use crate::compare::peer::{Peer, Service};
use crate::driver::{etcd, zookeeper};
use crate::keeper::{Fate, KeepOptions, Keeper, Kept};

/// How long a cluster may take until all of its nodes are well.
const WHOLE_WITHIN: Duration = Duration::from_secs(120);

/// How often it is looked whether they are.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A cluster that was started here.
pub enum Group {
    /// Of lockd.
    Cell(Box<OwnCell>),
    /// Of another project.
    Kept {
        /// Which.
        kept: Kept,
        /// Its nodes.
        keeper: Box<Keeper>,
    },
}

impl Group {
    /// Starts the cluster of this peer.
    ///
    /// # Errors
    /// Why not, and what to install.
    pub async fn start(
        peer: Peer,
        timeouts: Timeouts,
        clients: u64,
        program: &Path,
        directory: &Path,
    ) -> Result<Group, String> {
        match peer.service() {
            Service::Cell => {
                let cell = OwnCell::start(program, directory);
                let mut cell = cell.map_err(|error| error.to_string())?;
                cell.leader().await.map_err(|error| error.to_string())?;
                Ok(Group::Cell(Box::new(cell)))
            }
            Service::Kept(kept) => {
                let options = KeepOptions {
                    clients,
                    timeouts,
                    ..KeepOptions::default()
                };
                let keeper = Keeper::start(program, directory, kept, &options).await;
                let keeper = keeper.map(Box::new).map_err(reason)?;
                Ok(Group::Kept { kept, keeper })
            }
        }
    }

    /// Where clients find it.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        match self {
            Group::Cell(cell) => vec![cell.client_config().display().to_string()],
            Group::Kept { keeper, .. } => keeper.urls().to_vec(),
        }
    }

    /// Which node leads, from 0, by the cluster's own account.
    ///
    /// # Errors
    /// If none does.
    pub async fn leader(&mut self) -> Result<usize, String> {
        let leader = match self {
            Group::Cell(cell) => {
                let leader = cell.leader().await.map_err(|error| error.to_string())?;
                usize::try_from(leader.0)
                    .ok()
                    .and_then(|id| id.checked_sub(1))
            }
            Group::Kept { kept, keeper } => match kept {
                Kept::Etcd => etcd::leader(keeper.urls()).await,
                _ => zookeeper::leader(keeper.urls()).await,
            },
        };
        leader.ok_or_else(|| "the cluster has no leader".to_owned())
    }

    /// Takes a node away.
    ///
    /// # Errors
    /// If it could not be done.
    pub async fn take_away(&mut self, node: usize, loss: Loss) -> Result<(), String> {
        match (self, loss) {
            (Group::Cell(cell), Loss::Kill) => {
                cell.kill(id(node));
                Ok(())
            }
            (Group::Cell(cell), Loss::Pause) => text(cell.pause(id(node))),
            (Group::Kept { keeper, .. }, Loss::Kill) => text(keeper.order(Fate::Kill, node).await),
            (Group::Kept { keeper, .. }, Loss::Pause) => {
                text(keeper.order(Fate::Pause, node).await)
            }
        }
    }

    /// Gives the node back.
    ///
    /// # Errors
    /// If it could not be done.
    pub async fn give_back(&mut self, node: usize, loss: Loss) -> Result<(), String> {
        match (self, loss) {
            (Group::Cell(cell), Loss::Kill) => text(cell.restart()),
            (Group::Cell(cell), Loss::Pause) => text(cell.resume(id(node))),
            (Group::Kept { keeper, .. }, Loss::Kill) => text(keeper.order(Fate::Run, node).await),
            (Group::Kept { keeper, .. }, Loss::Pause) => {
                text(keeper.order(Fate::Resume, node).await)
            }
        }
    }

    /// Waits until all nodes serve and agree on who leads.
    ///
    /// # Errors
    /// If they do not.
    pub async fn until_whole(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let whole = match self {
                Group::Cell(cell) => cell.is_whole().await,
                Group::Kept { kept, keeper } => match kept {
                    Kept::Etcd => etcd::is_whole(keeper.urls()).await,
                    _ => zookeeper::is_whole(keeper.urls()).await,
                },
            };
            if whole {
                return Ok(());
            }
            if begun.elapsed() > WHOLE_WITHIN {
                let seconds = WHOLE_WITHIN.as_secs();
                return Err(format!("the cluster is not whole again after {seconds} s"));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Ends it.
    pub fn stop(self) {
        if let Group::Cell(cell) = self {
            cell.stop();
        }
    }
}

fn id(node: usize) -> NodeId {
    NodeId(node as u64 + 1)
}

fn text<E: std::fmt::Display>(result: Result<(), E>) -> Result<(), String> {
    result.map_err(|error| error.to_string())
}
