//! The log store on `redb`: one transaction and one sync per batch.
//!
//! Two tables in one file. `meta` has two records, the owner (written once) and the state (an
//! acceptor's numbers); `log` maps slots to entries. What is read is checked, always.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use thiserror::Error;

use crate::log;
use crate::store::LogStore;
use crate::store::record::{FORMAT_VERSION, Owner, RecordError, State, decode_entry, encode_entry};
use crate::types::{CellId, Entry, Epoch, Identity, NodeId, Recovered, Slot, WriteBatch};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const OWNER: &str = "owner";
const STATE: &str = "state";

/// Memory that the database may use for pages, bytes.
const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// A log store in one file.
#[derive(Debug)]
pub struct RedbStore {
    database: Database,
    owner: Owner,
}

/// Why the store could not do it. Whatever follows a failed write is unknown, so the process must
/// end after one.
#[derive(Debug, Error)]
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
    /// There is a file where a store was to be created.
    #[error("{}: exists already; a store is created once only", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The creation of the store was interrupted.
    #[error("{}: was never finished; remove it and initialise the node again", path.display())]
    Unfinished {
        /// The file.
        path: PathBuf,
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
    /// A record other than an entry is damaged.
    #[error("the store's {what} is damaged; replace this node")]
    Damaged {
        /// Which record.
        what: &'static str,
    },
    /// An entry is damaged.
    #[error("the entry of slot {slot} is damaged; replace this node")]
    DamagedEntry {
        /// Where.
        slot: Slot,
    },
    /// An entry that must be there is not.
    #[error("the entry of slot {slot} is missing; replace this node")]
    MissingEntry {
        /// Where.
        slot: Slot,
    },
    /// A batch does not continue what the store holds: a mistake of the program.
    #[error("a write begins with slot {first}, but the log ends with {end}")]
    NotContiguous {
        /// Where the batch begins.
        first: Slot,
        /// Where the log ends.
        end: Slot,
    },
    /// The file system failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The database failed.
    #[error("the store's database: {0}")]
    Database(Box<redb::Error>),
}

impl RedbStore {
    /// Creates the store of a new node, once in its life.
    ///
    /// # Errors
    ///
    /// If the file exists or cannot be written.
    pub fn create(
        path: &Path,
        identity: Identity,
        members: &[NodeId],
    ) -> Result<RedbStore, StoreError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path);
        let file = file.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => StoreError::Exists { path: path.into() },
            _ => StoreError::Io {
                path: path.into(),
                source,
            },
        })?;
        let database = redb::Builder::new()
            .set_cache_size(CACHE_BYTES)
            .create_file(file)?;
        let owner = Owner {
            identity,
            epoch: Epoch::FIRST,
            members: members.to_vec(),
        };
        let transaction = database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert(OWNER, owner.encode().as_slice())?;
            meta.insert(STATE, State::default().encode().as_slice())?;
            transaction.open_table(LOG)?;
        }
        transaction.commit()?;
        sync_directory(path)?;
        Ok(RedbStore { database, owner })
    }

    /// Opens the store of `node` in `cell`.
    ///
    /// # Errors
    ///
    /// If there is none, or it is another's, of another version, damaged, or in use.
    pub fn open(path: &Path, cell: CellId, node: NodeId) -> Result<RedbStore, StoreError> {
        match path.try_exists() {
            Ok(true) => {}
            Ok(false) => return Err(StoreError::Missing { path: path.into() }),
            Err(source) => {
                return Err(StoreError::Io {
                    path: path.into(),
                    source,
                });
            }
        }
        let database = redb::Builder::new()
            .set_cache_size(CACHE_BYTES)
            .open(path)?;
        let owner = read_owner(&database, path)?;
        let found = owner.identity;
        if found.cell != cell {
            return Err(StoreError::WrongCell {
                found: found.cell,
                expected: cell,
            });
        }
        if found.node != node {
            return Err(StoreError::WrongNode {
                found: found.node,
                expected: node,
            });
        }
        Ok(RedbStore { database, owner })
    }

    /// Whom the store belongs to.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.owner.identity
    }
}

impl LogStore for RedbStore {
    type Error = StoreError;

    fn load(&self) -> Result<Recovered, StoreError> {
        let transaction = self.database.begin_read()?;
        let state = read_state(&transaction.open_table(META)?)?;
        let log = transaction.open_table(LOG)?;
        let end = last_slot(&log)?;
        if end < state.decided {
            return Err(StoreError::MissingEntry { slot: end.next() });
        }
        let entries = read_range(&log, state.decided.next(), end, usize::MAX)?;
        Ok(Recovered {
            epoch: self.owner.epoch,
            members: self.owner.members.clone(),
            promised: state.promised,
            accepted: state.accepted,
            decided: state.decided,
            entries,
        })
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), StoreError> {
        // Immediate durability is the database's default for a transaction: commit syncs.
        let transaction = self.database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            let old = read_state(&meta)?;
            let state = State {
                promised: batch.promised.unwrap_or(old.promised),
                accepted: batch.accepted.unwrap_or(old.accepted),
                decided: batch.decided,
            };
            if state != old {
                meta.insert(STATE, state.encode().as_slice())?;
            }
            let mut log = transaction.open_table(LOG)?;
            if let Some(from) = batch.truncate_from {
                log.retain_in(from.0.., |_, _| false)?;
            }
            append(&mut log, &batch.entries)?;
        }
        transaction.commit()?;
        Ok(())
    }

    fn read(&self, first: Slot, last: Slot, bytes_max: usize) -> Result<Vec<Entry>, StoreError> {
        let log = self.database.begin_read()?.open_table(LOG)?;
        read_range(&log, first, last, bytes_max)
    }
}

fn append(log: &mut redb::Table<'_, u64, &[u8]>, entries: &[Entry]) -> Result<(), StoreError> {
    let Some(first) = entries.first() else {
        return Ok(());
    };
    let mut end = last_slot(log)?;
    let mut record = Vec::new();
    for entry in entries {
        if entry.slot != end.next() {
            return Err(StoreError::NotContiguous {
                first: first.slot,
                end,
            });
        }
        end = entry.slot;
        encode_entry(entry, &mut record);
        log.insert(entry.slot.0, record.as_slice())?;
    }
    Ok(())
}

fn last_slot(log: &impl ReadableTable<u64, &'static [u8]>) -> Result<Slot, StoreError> {
    Ok(log
        .last()?
        .map_or(Slot::NONE, |(slot, _)| Slot(slot.value())))
}

fn read_range(
    log: &impl ReadableTable<u64, &'static [u8]>,
    first: Slot,
    last: Slot,
    bytes_max: usize,
) -> Result<Vec<Entry>, StoreError> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    let mut expected = first;
    for record in log.range(first.0..=last.0)? {
        let (slot, record) = record?;
        let slot = Slot(slot.value());
        if slot != expected {
            return Err(StoreError::MissingEntry { slot: expected });
        }
        expected = slot.next();
        let entry = decode_entry(slot, record.value()).map_err(|error| match error {
            RecordError::Version(found) => StoreError::WrongVersion { found },
            RecordError::Damaged => StoreError::DamagedEntry { slot },
        })?;
        bytes += log::size(&entry);
        if bytes > bytes_max && !entries.is_empty() {
            break;
        }
        entries.push(entry);
    }
    if entries.is_empty() && first <= last {
        return Err(StoreError::MissingEntry { slot: first });
    }
    Ok(entries)
}

fn read_state(meta: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<State, StoreError> {
    let record = meta
        .get(STATE)?
        .ok_or(StoreError::Damaged { what: STATE })?;
    State::decode(record.value()).map_err(|error| unreadable(&error, STATE))
}

fn read_owner(database: &Database, path: &Path) -> Result<Owner, StoreError> {
    let unfinished = || StoreError::Unfinished { path: path.into() };
    let meta = match database.begin_read()?.open_table(META) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Err(unfinished()),
        meta => meta?,
    };
    let record = meta.get(OWNER)?.ok_or_else(unfinished)?;
    Owner::decode(record.value()).map_err(|error| unreadable(&error, OWNER))
}

fn unreadable(error: &RecordError, what: &'static str) -> StoreError {
    match error {
        RecordError::Version(found) => StoreError::WrongVersion { found: *found },
        RecordError::Damaged => StoreError::Damaged { what },
    }
}

/// A new file is durable only when its directory is.
fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = parent.unwrap_or(Path::new("."));
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|source| StoreError::Io {
        path: directory.into(),
        source,
    })
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> StoreError {
        StoreError::Database(Box::new(error.into()))
    }
}

#[cfg(test)]
#[path = "redb/tests.rs"]
mod tests;
