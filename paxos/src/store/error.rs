//! Why the store could not do it.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use crate::store::FORMAT_VERSION;
use crate::types::{CellId, NodeId, Slot};

/// Why the store could not do it.
///
/// After [`StoreError::Io`] or [`StoreError::Full`] from a write it is unknown what reached the
/// disk: the store refuses every later write with the same error, and the process must end.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no store where one was expected.
    #[error(
        "{}: no store here; a node that lost its disk must be replaced by a new node, because an \
         empty one would break the promises of the old one", path.display()
    )]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// There is a store where one was to be created.
    #[error("{}: exists already; a store is created once only", path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// The creation of the store was interrupted.
    #[error("{}: was never finished; remove it and initialise the node again", path.display())]
    Unfinished {
        /// Where.
        path: PathBuf,
    },
    /// Another process has the store open.
    #[error("{}: in use by another process; stop that one first", path.display())]
    InUse {
        /// The data directory.
        path: PathBuf,
    },
    /// The data directory is not where it was created, so it may be an old copy.
    #[error(
        "{}: this data directory was copied or restored from a backup ({what}); a node whose disk \
         went back in time must not vote: replace this node (if the directory was moved as a whole \
         and the original is gone for good, `lockd member adopt-data` makes it valid here)",
        path.display()
    )]
    Copied {
        /// The data directory.
        path: PathBuf,
        /// What is different.
        what: &'static str,
    },
    /// The store belongs to another cell.
    #[error("the store belongs to cell {found}, not {expected}; check the data directory")]
    WrongCell {
        /// Whose it is.
        found: CellId,
        /// Whose it should be.
        expected: CellId,
    },
    /// The store belongs to another node.
    #[error("the store belongs to node {found}, not {expected}; check the data directory")]
    WrongNode {
        /// Whose it is.
        found: NodeId,
        /// Whose it should be.
        expected: NodeId,
    },
    /// The store was written by another version.
    #[error("the store has format {found}; this program reads format {FORMAT_VERSION} only")]
    WrongVersion {
        /// The version met.
        found: u8,
    },
    /// Something that cannot be had from the peers is damaged.
    #[error("the store's {what} is damaged; replace this node")]
    Damaged {
        /// What.
        what: &'static str,
    },
    /// A batch does not continue what the store holds: a mistake of the program.
    #[error("a write begins with slot {first}, but the log ends with {end}")]
    NotContiguous {
        /// Where the batch begins.
        first: Slot,
        /// Where the log ends.
        end: Slot,
    },
    /// A batch contradicts itself or the store: a mistake of the program.
    #[error("a write is inconsistent: {what}")]
    Inconsistent {
        /// The contradiction.
        what: &'static str,
    },
    /// There is no such snapshot, or not all of it is right.
    #[error("{}: {what}", path.display())]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The disk is full.
    #[error(
        "{}: the disk is full, and what the last write left there is unknown, so nothing more is \
         written; free some space and start again", path.display()
    )]
    Full {
        /// The file that was to grow.
        path: PathBuf,
    },
    /// The file system failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What happened.
        source: Arc<io::Error>,
    },
}

impl StoreError {
    /// What a failed operation on `path` means.
    pub(super) fn io(path: PathBuf, source: io::Error) -> StoreError {
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::Full { path },
            _ => StoreError::Io {
                path,
                source: Arc::new(source),
            },
        }
    }
}
