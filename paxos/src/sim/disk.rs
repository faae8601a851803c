//! The disk under simulated files: which names and bytes are there, which of them would be after a
//! crash, and what goes wrong.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};

use crate::sim::content::{Content, SECTOR_BYTES};
use crate::sim::dice::Dice;

/// The error number for what the device could not do.
pub(super) const EIO: i32 = 5;

/// So many pieces of memory are kept for files to come.
const SPARE_MAX: usize = 4;

/// Something that goes wrong once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// A write seems to succeed, and to be synced, but never arrives. A crash shows it.
    LostWrite,
    /// A write lands in another place of some file, and not in its own.
    MisdirectedWrite,
    /// A write does only a part.
    ShortWrite,
    /// A write fails; some of it may have been done.
    WriteError,
    /// There is no room for a write; some of it may have been done.
    Full,
    /// A read gives only a part.
    ShortRead,
    /// A read fails.
    ReadError,
    /// A sync of a file fails, and what was to be synced counts as written from then on; a crash
    /// shows what was not.
    SyncError,
    /// A sync of the directory fails.
    DirectoryError,
}

/// A disk, and what will go wrong with it.
pub(super) struct Disk {
    pub(super) dice: Dice,
    pub(super) files: BTreeMap<u64, Content>,
    pub(super) names: BTreeMap<String, u64>,
    pub(super) durable_names: BTreeMap<String, u64>,
    /// What happened to names since the directory was synced.
    pub(super) changes: Vec<Change>,
    pub(super) next_inode: u64,
    pub(super) machine: String,
    /// Counts crashes.
    pub(super) life: u64,
    pub(super) locked: bool,
    pub(super) capacity: u64,
    /// Faults to come, each after so many more operations of its kind.
    pub(super) faults: Vec<(DiskFault, u64)>,
    /// The machine stops after so many more operations that change something.
    pub(super) stops_after: Option<u64>,
    /// Memory of files that are gone, for the next ones.
    spare: Vec<Vec<u8>>,
}

/// A change of a name.
#[derive(Clone)]
pub(super) enum Change {
    Create(String, u64),
    Rename(String, String),
    Remove(String),
}

impl Disk {
    /// An empty one.
    pub(super) fn new(seed: u64) -> Disk {
        Disk {
            dice: Dice::new(seed),
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
            next_inode: 1,
            machine: "simulated".into(),
            life: 0,
            locked: false,
            capacity: u64::MAX,
            faults: Vec::new(),
            stops_after: None,
            spare: Vec::new(),
        }
    }

    /// A new empty file, which has no name yet.
    pub(super) fn new_file(&mut self) -> u64 {
        let inode = self.next_inode;
        self.next_inode += 1;
        let content = Content::in_memory(self.spare.pop().unwrap_or_default());
        self.files.insert(inode, content);
        inode
    }

    /// All changes of names are durable.
    pub(super) fn names_synced(&mut self) {
        self.changes.clear();
        self.durable_names.clone_from(&self.names);
        self.forget_unnamed();
    }

    /// What has no name and is not open is gone.
    fn forget_unnamed(&mut self) {
        let (names, spare) = (&self.names, &mut self.spare);
        self.files.retain(|inode, content| {
            let stays = content.handles > 0 || names.values().any(|named| named == inode);
            if !stays && spare.len() < SPARE_MAX {
                spare.push(content.take_memory());
            }
            stays
        });
    }

    pub(super) fn named(&mut self, name: &str) -> io::Result<&mut Content> {
        let inode = self.names.get(name);
        let content = inode.and_then(|inode| self.files.get_mut(inode));
        content.ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// A file that is not empty, and its length.
    pub(super) fn draw_file(&mut self) -> Option<(String, u64)> {
        let length = |inode| self.files.get(inode).map_or(0, Content::length);
        let files = self.names.iter().map(|(name, inode)| (name, length(inode)));
        let files: Vec<_> = files.filter(|(_, length)| *length > 0).collect();
        if files.is_empty() {
            return None;
        }
        let (name, length) = files[self.dice.index(files.len())];
        Some((name.clone(), length))
    }

    /// Whether a fault of this kind happens now.
    pub(super) fn strikes(&mut self, fault: DiskFault) -> bool {
        let mut strikes = false;
        self.faults.retain_mut(|(kind, after)| {
            if *kind != fault {
                return true;
            }
            if *after == 0 && !strikes {
                strikes = true;
                return false;
            }
            *after = after.saturating_sub(1);
            true
        });
        strikes
    }

    pub(super) fn check_running(&self) -> io::Result<()> {
        if self.stops_after == Some(0) {
            return Err(io::Error::other("the machine has stopped"));
        }
        Ok(())
    }

    /// Counts an operation that changes something. The one with which the machine stops is still
    /// done, unless it is one that makes something durable.
    pub(super) fn count(&mut self, makes_durable: bool) -> io::Result<()> {
        self.check_running()?;
        if let Some(left) = &mut self.stops_after {
            *left -= 1;
            if *left == 0 && makes_durable {
                return self.check_running();
            }
        }
        Ok(())
    }

    /// All that is open is closed.
    pub(super) fn end_life(&mut self) {
        self.life += 1;
        self.locked = false;
        self.stops_after = None;
        for content in self.files.values_mut() {
            content.handles = 0;
        }
    }

    pub(super) fn crash(&mut self) {
        self.end_life();
        self.names = self.durable_names.clone();
        let kept = self.draw_kept();
        for change in std::mem::take(&mut self.changes) {
            if self.dice.chance(kept) {
                change.apply(&mut self.names);
            }
        }
        self.names_synced();
        let mut files = std::mem::take(&mut self.files);
        for content in files.values_mut() {
            let kept = self.draw_kept();
            content.crash(&mut self.dice, kept);
        }
        self.files = files;
    }

    /// With which probability something is kept in a crash: often nothing, or all.
    fn draw_kept(&mut self) -> f64 {
        self.dice.pick(&[0.0, 0.0, 0.3, 0.5, 0.8, 1.0, 1.0])
    }

    pub(super) fn write(&mut self, inode: u64, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let mut bytes = bytes;
        let (mut failed, mut lost) = (None, false);
        if !self.faults.is_empty() {
            if self.strikes(DiskFault::ShortWrite) {
                let part = self.part(bytes.len());
                bytes = &bytes[..up_to_sector(offset, part).unwrap_or(bytes.len())];
            }
            if self.strikes(DiskFault::WriteError) {
                failed = Some(io::Error::from_raw_os_error(EIO));
            } else if self.strikes(DiskFault::Full) {
                failed = Some(ErrorKind::StorageFull.into());
            }
            if self.strikes(DiskFault::MisdirectedWrite) {
                lost = true;
                self.misdirect(bytes);
            }
            lost |= self.strikes(DiskFault::LostWrite);
        }
        if failed.is_some() {
            let part = self.dice.index(bytes.len() + 1);
            let done = up_to_sector(offset, part).unwrap_or(0);
            bytes = &bytes[..done];
        }
        let end = offset.saturating_add(bytes.len() as u64);
        if self.capacity != u64::MAX {
            let used: u64 = self.files.values().map(Content::length).sum();
            let content = self.files.get(&inode).map_or(0, Content::length);
            if used - content.min(used) + end.max(content) > self.capacity {
                return Err(ErrorKind::StorageFull.into());
            }
        }
        let content = self.files.get_mut(&inode);
        let content = content.ok_or(ErrorKind::NotFound)?;
        content.write(offset, bytes, lost);
        failed.map_or(Ok(bytes.len()), Err)
    }

    /// Writes somewhere else.
    fn misdirect(&mut self, bytes: &[u8]) {
        if let Some((name, length)) = self.draw_file() {
            let offset = self.dice.between(0, length / 512) * 512;
            if let Ok(content) = self.named(&name) {
                content.overwrite(offset, bytes);
            }
        }
    }

    /// A part of a length, at least 1 if there is something.
    pub(super) fn part(&mut self, length: usize) -> usize {
        if length < 2 {
            return length;
        }
        1 + self.dice.index(length - 1)
    }
}

impl Change {
    pub(super) fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            Change::Create(name, inode) => {
                names.insert(name, inode);
            }
            Change::Rename(from, to) => {
                if let Some(inode) = names.remove(&from) {
                    names.insert(to, inode);
                }
            }
            Change::Remove(name) => {
                names.remove(&name);
            }
        }
    }
}

/// How much of a part of a write is done: file systems stop between blocks, never within a sector.
/// None if that is nothing.
fn up_to_sector(offset: u64, part: usize) -> Option<usize> {
    let offset = usize::try_from(offset).ok()?;
    let end = (offset + part) / SECTOR_BYTES * SECTOR_BYTES;
    end.checked_sub(offset).filter(|done| *done > 0)
}
