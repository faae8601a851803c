//! Where a node keeps its log and its snapshots.

use std::path::Path;
use std::sync::Arc;

use lockd_protocol::{CellId, NodeId};
use paxos::store::{FileStore, LogStore as _, StoreError};
use paxos::{Identity, Incarnation, Membership, Recovered};

use super::ServeError;
use super::core::replay::Replay;
use super::files;

/// Bytes of log entries read at once while a node replays its log.
const REPLAY_BYTES: usize = 4 << 20;

/// Number of the error that a device failed.
const EIO: i32 = rustix::io::Errno::IO.raw_os_error();

/// Makes a node's empty store in `data`, which must not exist.
///
/// # Errors
/// A message that says what is in the way.
pub(crate) fn create(
    data: &Path,
    cell: CellId,
    node: NodeId,
    incarnation: u64,
    membership: &Membership,
) -> Result<(), String> {
    std::fs::create_dir(data).map_err(|error| format!("{}: {error}", data.display()))?;
    let identity = Identity {
        cell: paxos::CellId(cell.0),
        node: paxos::NodeId(node.0),
        incarnation: Incarnation(incarnation),
    };
    let created = FileStore::create(data, identity, membership);
    created.map(drop).map_err(|error| error.to_string())
}

/// Opens a node's store.
///
/// # Errors
/// If it is not this node's, or cannot be used.
pub(super) fn open(data: &Path, cell: CellId, node: NodeId) -> Result<Arc<FileStore>, ServeError> {
    let opened = FileStore::open(data, paxos::CellId(cell.0), paxos::NodeId(node.0));
    let store = opened.map_err(refused)?;
    let report = store.report();
    for damage in &report.damaged {
        let (file, offset, slot) = (damage.file.display(), damage.offset, damage.slot);
        let slot = slot.map(|slot| slot.0);
        tracing::warn!(%file, offset, slot, "damaged; the other nodes have a copy");
    }
    if report.harmless + report.untold > 0 {
        let (harmless, untold) = (report.harmless, report.untold);
        tracing::warn!(harmless, untold, "further damaged places");
    }
    Ok(Arc::new(store))
}

/// A disk that fails while the store is opened is no better than one that fails later.
fn refused(error: StoreError) -> ServeError {
    match &error {
        StoreError::Io { source, .. } if source.raw_os_error() == Some(EIO) => {
            ServeError::Disk(error)
        }
        _ => ServeError::Store(error),
    }
}

/// What a node starts with: what its acceptor knew, and the state that its log makes.
pub(super) fn recover(store: &FileStore) -> Result<(Recovered, Replay), ServeError> {
    let recovered = store.load().map_err(refused)?;
    let mut replay = match &recovered.snapshot {
        None => Replay::default(),
        Some(meta) => {
            let state = files::decode(store, meta)
                .map_err(|error| ServeError::Unreadable(error.to_string()))?;
            Replay::from_snapshot(meta, state)
        }
    };
    while replay.slot < recovered.decided {
        let read = store.read(replay.slot.next(), recovered.decided, REPLAY_BYTES);
        let read = read.map_err(refused)?;
        if read.entries.is_empty() {
            // It could be read when the store was opened, and cannot any more.
            let what = "log";
            return Err(ServeError::Store(StoreError::Damaged { what }));
        }
        for entry in &read.entries {
            replay.apply(entry)?;
        }
    }
    Ok((recovered, replay))
}
