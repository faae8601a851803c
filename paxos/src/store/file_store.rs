//! The log store on files: one frame and one sync per batch.
//!
//! One writer and any number of readers: the writer has its own state and shows the others what
//! it wrote, once that is durable, through the index.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::membership::Membership;
use crate::planted::Plant;
use crate::store::error::StoreError;
use crate::store::files::Files;
use crate::store::identity::{IDENTITY_FILE, Record, is_temporary};
use crate::store::index::{Index, Place};
use crate::store::os_files::OsFiles;
use crate::store::reader;
use crate::store::recovery::recover;
use crate::store::report::Report;
use crate::store::scramble::Scramble;
use crate::store::snapshot::{self, Snapshots};
use crate::store::step::step;
use crate::store::writer::{Writer, Written};
use crate::store::{LogStore, Read, restart, segment};
use crate::types::{Ballot, CellId, Identity, NodeId, Recovered, Slot, SnapshotMeta, WriteBatch};

/// A log store in a directory of files.
#[derive(Debug)]
pub struct FileStore<F: Files = OsFiles> {
    files: F,
    identity: Identity,
    starts: u64,
    scramble: Scramble,
    snapshots: Snapshots<F>,
    report: Report,
    index: RwLock<Index<Arc<F::File>>>,
    writer: Mutex<Writer<F>>,
    /// Nobody else has the directory open.
    _lock: F::Lock,
}

/// The numbers of an acceptor as the store has them durably, for checks and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredNumbers {
    /// Nothing below this ballot may be accepted.
    pub promised: Ballot,
    /// The ballot of the whole log.
    pub accepted: Ballot,
    /// Everything up to here is known to be decided.
    pub decided: Slot,
    /// The first slot of the log.
    pub first: Slot,
    /// The last slot of the log.
    pub end: Slot,
}

impl FileStore<OsFiles> {
    /// Creates the store of a new node in `directory`, once in its life. The directory may exist.
    ///
    /// # Errors
    /// If there is a store, or it cannot be written.
    pub fn create(
        directory: &Path,
        identity: Identity,
        membership: &Membership,
    ) -> Result<FileStore, StoreError> {
        FileStore::create_in(OsFiles::new(directory), identity, membership)
    }

    /// Opens the store of `node` in `cell`.
    ///
    /// # Errors
    /// If there is none, or it is another's, of another version, copied, damaged, or in use.
    pub fn open(directory: &Path, cell: CellId, node: NodeId) -> Result<FileStore, StoreError> {
        FileStore::open_in(OsFiles::new(directory), cell, node)
    }

    /// Takes the place where a store is now for the place where it belongs, so that it can be
    /// opened. Only for someone who knows that it was moved, and that it is the newest: a disk that
    /// went back in time breaks promises that this node made.
    ///
    /// # Errors
    /// If there is no store, or it is in use or cannot be written.
    pub fn adopt(directory: &Path) -> Result<(), StoreError> {
        FileStore::adopt_in(&OsFiles::new(directory))
    }
}

impl<F: Files> FileStore<F> {
    /// As [`FileStore::create`], in any kind of files.
    ///
    /// # Errors
    /// If there is a store, or it cannot be written.
    pub fn create_in(
        files: F,
        identity: Identity,
        membership: &Membership,
    ) -> Result<FileStore<F>, StoreError> {
        let failed = |source| StoreError::io(files.path(""), source);
        files.make_directory().map_err(failed)?;
        let lock = lock(&files)?;
        match presence(&files)? {
            Presence::Whole => {
                let path = files.path("");
                return Err(StoreError::Exists { path });
            }
            Presence::Unfinished => return Err(unfinished(&files)),
            Presence::None => {}
        }
        let writer = Writer::create(&files, identity.incarnation, membership)?;
        let mut index = Index::new();
        index.add_segment(1, Arc::clone(writer.segment()));
        // Last of all, so that a store without it was never finished.
        let record = Record::create(&files, identity)?;
        Ok(FileStore {
            snapshots: Snapshots::new(files.clone()),
            files,
            identity,
            starts: record.starts,
            scramble: Scramble::new(identity.incarnation.0),
            report: Report::default(),
            index: RwLock::new(index),
            writer: Mutex::new(writer),
            _lock: lock,
        })
    }

    /// As [`FileStore::open`], in any kind of files.
    ///
    /// # Errors
    /// If there is none, or it is another's, of another version, copied, damaged, or in use.
    pub fn open_in(files: F, cell: CellId, node: NodeId) -> Result<FileStore<F>, StoreError> {
        FileStore::open_with(files, cell, node, Plant::default())
    }

    /// As [`FileStore::open_in`], with a bug, to show that a test finds it.
    ///
    /// # Errors
    /// As there.
    #[cfg(feature = "sim")]
    pub fn open_planted(
        files: F,
        cell: CellId,
        node: NodeId,
        bug: crate::planted::Planted,
    ) -> Result<FileStore<F>, StoreError> {
        FileStore::open_with(files, cell, node, Plant::new(bug))
    }

    fn open_with(
        files: F,
        cell: CellId,
        node: NodeId,
        plant: Plant,
    ) -> Result<FileStore<F>, StoreError> {
        let (lock, mut record) = open_identity(&files)?;
        let identity = record.identity;
        if identity.cell != cell {
            return Err(StoreError::WrongCell {
                found: identity.cell,
                expected: cell,
            });
        }
        if identity.node != node {
            return Err(StoreError::WrongNode {
                found: identity.node,
                expected: node,
            });
        }
        record.check_place(&files)?;
        let mut recovery = recover(&files, identity.incarnation, record.sequence, plant)?;
        let snapshots = Snapshots::new(files.clone());
        let base_changed = restart::choose_snapshot(&snapshots, &mut recovery)?;
        snapshots.remove_unfinished()?;
        let covered = recovery.base.covered();
        let (mut writer, index, mut report) = Writer::go_on(recovery, identity.incarnation, plant)?;
        if base_changed {
            writer.change_base();
        }
        report.first_lost = index.first_lost(covered);
        report.harmless += u64::from(record.damaged);
        record.count_start(&files, writer.frames())?;
        Ok(FileStore {
            files,
            identity,
            starts: record.starts,
            scramble: Scramble::new(identity.incarnation.0),
            snapshots,
            report,
            index: RwLock::new(index),
            writer: Mutex::new(writer),
            _lock: lock,
        })
    }

    /// As [`FileStore::adopt`], in any kind of files.
    ///
    /// # Errors
    /// If there is no store, or it is in use or cannot be written.
    pub fn adopt_in(files: &F) -> Result<(), StoreError> {
        let (_lock, record) = open_identity(files)?;
        record.adopt(files)
    }

    /// Begins a new segment whenever the present one has this length, if that is less than usual,
    /// so that a test or a simulation has several of them with little work.
    #[must_use]
    pub fn with_segment_bytes(self, bytes: u64) -> FileStore<F> {
        self.writer().set_segment_bytes(bytes);
        self
    }

    /// Whom the store belongs to.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// How often the store was opened in its life, its creation and this time included. Durable,
    /// so no two lives of a node have the same number.
    #[must_use]
    pub fn starts(&self) -> u64 {
        self.starts
    }

    /// What was found wrong when the store was opened.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The snapshots beside the log.
    #[must_use]
    pub fn snapshots(&self) -> &Snapshots<F> {
        &self.snapshots
    }

    /// What is durable.
    #[must_use]
    pub fn numbers(&self) -> StoredNumbers {
        let numbers = *self.writer().numbers();
        StoredNumbers {
            promised: numbers.promised,
            accepted: numbers.accepted,
            decided: numbers.decided,
            first: numbers.first,
            end: numbers.end,
        }
    }

    pub(super) fn snapshot(&self) -> Option<SnapshotMeta> {
        self.writer().base().snapshot.clone()
    }

    pub(super) fn index(&self) -> RwLockReadGuard<'_, Index<Arc<F::File>>> {
        // Nothing that holds it panics half-way through a change.
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index<Arc<F::File>>> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer<F>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows readers what was written, and removes what is needed no more.
    fn show(&self, written: &Written<F>, batch: &WriteBatch) -> Result<(), StoreError> {
        let mut unused = Vec::new();
        {
            let mut index = self.index_mut();
            if let Some((sequence, handle)) = &written.new_segment {
                index.add_segment(*sequence, Arc::clone(handle));
            }
            let segment = index.newest();
            for (entry, record) in batch.entries.iter().zip(&written.records) {
                let place = Place {
                    segment,
                    offset: (written.offset + record.offset as u64) as u32,
                    bytes: record.bytes as u32,
                    crc: entry.crc,
                };
                index.put(entry.slot, place);
            }
            index.set_bounds(written.numbers.first, written.numbers.end);
            while let Some(segment) = index.take_unused() {
                unused.push(segment::name(segment.sequence));
            }
        }
        unused.iter().try_for_each(|name| self.remove(name))?;
        if let Some(meta) = &batch.snapshot {
            self.snapshots.remove_older(meta.slot)?;
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        match self.files.remove(name) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(|source| StoreError::io(self.files.path(name), source)),
        }
    }
}

impl<F: Files> LogStore for FileStore<F> {
    type Error = StoreError;

    fn load(&self) -> Result<Recovered, StoreError> {
        let (numbers, base) = {
            let writer = self.writer();
            (*writer.numbers(), writer.base().clone())
        };
        let covered = base.covered();
        let decided = numbers.decided.max(covered);
        let lost = self.index().first_lost(covered);
        let readable = lost.map_or(numbers.end, Slot::previous).max(covered);
        let decided = decided.min(readable);
        let open = self.read(decided.next(), readable, usize::MAX)?;
        Ok(Recovered {
            membership: base.membership,
            promised: numbers.promised,
            accepted: numbers.accepted,
            snapshot: base.snapshot,
            first: numbers.first,
            decided,
            entries: open.entries,
            claimed: numbers.end,
        })
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), StoreError> {
        let mut writer = self.writer();
        writer.check()?;
        let (numbers, base) = step(writer.numbers(), writer.base(), batch)?;
        if let Some(meta) = &batch.snapshot {
            restart::check_snapshot(&self.snapshots, meta)?;
        }
        let written = writer.write(&self.files, numbers, base, &batch.entries)?;
        let shown = self.show(&written, batch);
        shown.inspect_err(|error| writer.fail(error))
    }

    fn read(&self, first: Slot, last: Slot, bytes_max: usize) -> Result<Read, StoreError> {
        reader::read(self, first, last, bytes_max)
    }
}

impl<F: Files> FileStore<F> {
    pub(super) fn scramble(&self) -> Scramble {
        self.scramble
    }

    pub(super) fn segment_path(&self, sequence: u64) -> PathBuf {
        self.files.path(&segment::name(sequence))
    }
}

/// What of a store there is in a directory.
enum Presence {
    None,
    Unfinished,
    Whole,
}

fn presence<F: Files>(files: &F) -> Result<Presence, StoreError> {
    let names = files.list();
    let names = names.map_err(|source| StoreError::io(files.path(""), source))?;
    let ours = |name: &String| {
        is_temporary(name) || segment::parse_name(name).is_some() || snapshot::is_name(name)
    };
    if names.iter().any(|name| name == IDENTITY_FILE) {
        Ok(Presence::Whole)
    } else if names.iter().any(ours) {
        Ok(Presence::Unfinished)
    } else {
        Ok(Presence::None)
    }
}

fn open_identity<F: Files>(files: &F) -> Result<(F::Lock, Record), StoreError> {
    match presence(files)? {
        Presence::None => {
            return Err(StoreError::Missing {
                path: files.path(""),
            });
        }
        Presence::Unfinished => return Err(unfinished(files)),
        Presence::Whole => {}
    }
    let lock = lock(files)?;
    Ok((lock, Record::read(files)?))
}

fn unfinished<F: Files>(files: &F) -> StoreError {
    StoreError::Unfinished {
        path: files.path(""),
    }
}

fn lock<F: Files>(files: &F) -> Result<F::Lock, StoreError> {
    files.lock().map_err(|source| match source.kind() {
        ErrorKind::WouldBlock => StoreError::InUse {
            path: files.path(""),
        },
        _ => StoreError::io(files.path(""), source),
    })
}
