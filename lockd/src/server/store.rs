//! Where a node keeps its log.

use std::path::{Path, PathBuf};

use lockd_protocol::{CellId, NodeId};
use paxos::store::RedbStore;
use paxos::{Identity, Incarnation};

fn log_file(data: &Path) -> PathBuf {
    data.join("log.redb")
}

/// Makes a node's empty log in `data`, which must not exist.
///
/// # Errors
/// A message that says what is in the way.
pub(crate) fn create(
    data: &Path,
    cell: CellId,
    node: NodeId,
    incarnation: u64,
    members: impl Iterator<Item = NodeId>,
) -> Result<(), String> {
    std::fs::create_dir(data).map_err(|error| format!("{}: {error}", data.display()))?;
    let identity = Identity {
        cell: paxos::CellId(cell.0),
        node: paxos::NodeId(node.0),
        incarnation: Incarnation(incarnation),
    };
    let members: Vec<_> = members.map(|id| paxos::NodeId(id.0)).collect();
    let file = log_file(data);
    RedbStore::create(&file, identity, &members)
        .map(drop)
        .map_err(|error| format!("{}: {error}", file.display()))
}

/// Opens a node's log.
///
/// # Errors
/// A message that says what is wrong with it.
pub(super) fn open(data: &Path, cell: CellId, node: NodeId) -> Result<RedbStore, String> {
    let file = log_file(data);
    RedbStore::open(&file, paxos::CellId(cell.0), paxos::NodeId(node.0))
        .map_err(|error| format!("{}: {error}", file.display()))
}
