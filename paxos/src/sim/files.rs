//! Simulated files: what is synced survives a crash, what is not may or may not, sector by sector;
//! and everything that disks and file systems are known to do wrong can be asked for.
//!
//! Nothing here waits: how long an operation takes is the caller's business. It is as quick as
//! memory, so that a simulation can afford the real store.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sim::content::Content;
use crate::sim::disk::{Change, Disk, DiskFault, EIO};
use crate::store::{DataFile, Files};

/// A directory of simulated files on a disk of its own. Clones are the same.
#[derive(Clone)]
pub struct SimFiles(Arc<Mutex<Disk>>);

/// An open simulated file. A crash ends it.
pub struct SimFile {
    disk: SimFiles,
    inode: u64,
    life: u64,
}

/// Held by whoever has the directory open.
#[derive(Debug)]
pub struct SimLock {
    disk: SimFiles,
    life: u64,
}

impl SimFiles {
    /// An empty disk. All its chance comes from the seed.
    #[must_use]
    pub fn new(seed: u64) -> SimFiles {
        SimFiles(Arc::new(Mutex::new(Disk::new(seed))))
    }

    /// Another disk with copies of all files, as a backup that was restored: with other inodes.
    #[must_use]
    pub fn restored_copy(&self, seed: u64) -> SimFiles {
        let copy = SimFiles::new(seed);
        {
            let (from, mut to) = (self.disk(), copy.disk());
            to.next_inode = from.next_inode;
            for (name, inode) in &from.names {
                let Some(content) = from.files.get(inode) else {
                    continue;
                };
                let inode = to.next_inode;
                to.next_inode += 1;
                to.files
                    .insert(inode, Content::durable(content.bytes().to_vec()));
                to.names.insert(name.clone(), inode);
            }
            to.durable_names = to.names.clone();
        }
        copy
    }

    /// Another disk that is as this one is now, inodes included: a disk as it was before.
    #[must_use]
    pub fn snapshot_of_disk(&self, seed: u64) -> SimFiles {
        let copy = SimFiles::new(seed);
        {
            let (from, mut to) = (self.disk(), copy.disk());
            let durable = |(inode, content): (&u64, &Content)| {
                (*inode, Content::durable(content.bytes().to_vec()))
            };
            to.files = from.files.iter().map(durable).collect();
            to.names = from.names.clone();
            to.durable_names = from.names.clone();
            to.next_inode = from.next_inode;
            to.machine = from.machine.clone();
        }
        copy
    }

    /// Moves the disk into a machine of this name.
    pub fn set_machine(&self, machine: &str) {
        machine.clone_into(&mut self.disk().machine);
    }

    /// Bytes that all files together may take.
    pub fn set_capacity(&self, bytes: u64) {
        self.disk().capacity = bytes;
    }

    /// Lets something go wrong once: after `after` more operations of the kind that it concerns.
    pub fn inject(&self, fault: DiskFault, after: u64) {
        self.disk().faults.push((fault, after));
    }

    /// Forgets faults that have not happened yet.
    pub fn heal(&self) {
        self.disk().faults.clear();
    }

    /// The machine stops after `operations` more operations that change something: from then on
    /// everything fails. Call [`SimFiles::crash`] then.
    pub fn stop_after(&self, operations: u64) {
        self.disk().stops_after = Some(operations);
    }

    /// The machine loses its power and starts again: files are closed, and of what was not synced
    /// some sectors are there and some are not.
    pub fn crash(&self) {
        self.disk().crash();
    }

    /// The process ends, and the machine goes on: files are closed, and what was not synced is
    /// still there, until a crash.
    pub fn end_process(&self) {
        self.disk().end_life();
    }

    /// Changes bits of a byte at rest.
    ///
    /// # Errors
    /// If there is no such byte.
    pub fn flip(&self, name: &str, offset: u64, mask: u8) -> io::Result<()> {
        let mut disk = self.disk();
        let content = disk.named(name)?;
        let flipped = content.flip(offset, mask);
        flipped.ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }

    /// Changes one bit of some file at rest; where, if there is any.
    pub fn flip_somewhere(&self) -> Option<(String, u64)> {
        let mut disk = self.disk();
        let (name, length) = disk.draw_file()?;
        let offset = disk.dice.between(0, length - 1);
        let mask = 1 << disk.dice.between(0, 7);
        disk.named(&name).ok()?.flip(offset, mask)?;
        Some((name, offset))
    }

    /// Makes a sector unreadable until it is written again.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn make_unreadable(&self, name: &str, offset: u64) -> io::Result<()> {
        self.disk().named(name)?.make_unreadable(offset);
        Ok(())
    }

    /// Cuts a file to a length at rest.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn cut(&self, name: &str, length: u64) -> io::Result<()> {
        let mut disk = self.disk();
        let content = disk.named(name)?;
        let mut bytes = content.bytes().to_vec();
        bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        *content = Content::durable(bytes);
        Ok(())
    }

    /// What a file holds.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn contents(&self, name: &str) -> io::Result<Vec<u8>> {
        Ok(self.disk().named(name)?.bytes().to_vec())
    }

    /// Puts a whole file there, durably.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut disk = self.disk();
        let inode = disk.next_inode;
        disk.next_inode += 1;
        disk.files.insert(inode, Content::durable(bytes));
        disk.names.insert(name.to_owned(), inode);
        disk.durable_names.insert(name.to_owned(), inode);
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, inode: u64, disk: &mut Disk) -> SimFile {
        if let Some(content) = disk.files.get_mut(&inode) {
            content.handles += 1;
        }
        SimFile {
            disk: self.clone(),
            inode,
            life: disk.life,
        }
    }
}

impl std::fmt::Debug for SimFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimFiles")
    }
}

impl std::fmt::Debug for SimFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimFile({})", self.inode)
    }
}

impl Files for SimFiles {
    type File = SimFile;
    type Lock = SimLock;

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/simulated").join(name)
    }

    fn machine(&self) -> Option<String> {
        Some(self.disk().machine.clone())
    }

    fn make_directory(&self) -> io::Result<()> {
        self.disk().check_running()
    }

    fn lock(&self) -> io::Result<SimLock> {
        let mut disk = self.disk();
        disk.check_running()?;
        if std::mem::replace(&mut disk.locked, true) {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(SimLock {
            disk: self.clone(),
            life: disk.life,
        })
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let disk = self.disk();
        disk.check_running()?;
        Ok(disk.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<SimFile> {
        let mut disk = self.disk();
        disk.count(false)?;
        if disk.names.contains_key(name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let inode = disk.new_file();
        disk.names.insert(name.to_owned(), inode);
        disk.changes.push(Change::Create(name.to_owned(), inode));
        Ok(self.file(inode, &mut disk))
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let mut disk = self.disk();
        disk.check_running()?;
        let inode = *disk.names.get(name).ok_or(ErrorKind::NotFound)?;
        Ok(self.file(inode, &mut disk))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.count(false)?;
        if !disk.names.contains_key(from) {
            return Err(ErrorKind::NotFound.into());
        }
        let change = Change::Rename(from.to_owned(), to.to_owned());
        change.clone().apply(&mut disk.names);
        disk.changes.push(change);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.count(false)?;
        if disk.names.remove(name).is_none() {
            return Err(ErrorKind::NotFound.into());
        }
        disk.changes.push(Change::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.count(true)?;
        if !disk.faults.is_empty() && disk.strikes(DiskFault::DirectoryError) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        disk.names_synced();
        Ok(())
    }
}

impl SimFile {
    fn disk(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let disk = self.disk.disk();
        disk.check_running()?;
        if disk.life != self.life {
            return Err(io::Error::other("the machine has started again"));
        }
        Ok(disk)
    }
}

impl DataFile for SimFile {
    fn length(&self) -> io::Result<u64> {
        let disk = self.disk()?;
        Ok(disk.files.get(&self.inode).map_or(0, Content::length))
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut disk = self.disk()?;
        let mut into = into;
        if !disk.faults.is_empty() {
            if disk.strikes(DiskFault::ReadError) {
                return Err(io::Error::from_raw_os_error(EIO));
            }
            if disk.strikes(DiskFault::ShortRead) {
                let part = disk.part(into.len());
                into = &mut into[..part];
            }
        }
        let content = disk.files.get(&self.inode).ok_or(ErrorKind::NotFound)?;
        let read = content.read(offset, into);
        read.ok_or_else(|| io::Error::from_raw_os_error(EIO))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let mut disk = self.disk()?;
        disk.count(false)?;
        disk.write(self.inode, offset, bytes)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let mut disk = self.disk()?;
        disk.count(false)?;
        let content = disk.files.get_mut(&self.inode);
        content.ok_or(ErrorKind::NotFound)?.truncate(length);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk()?;
        disk.count(true)?;
        let fails = !disk.faults.is_empty() && disk.strikes(DiskFault::SyncError);
        let content = disk.files.get_mut(&self.inode);
        let content = content.ok_or(ErrorKind::NotFound)?;
        if fails {
            content.fail_sync();
            return Err(io::Error::from_raw_os_error(EIO));
        }
        content.sync();
        Ok(())
    }

    fn inode(&self) -> io::Result<u64> {
        self.disk().map(|_| self.inode)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut disk = self.disk.disk();
        if disk.life == self.life
            && let Some(content) = disk.files.get_mut(&self.inode)
        {
            content.handles -= 1;
        }
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut disk = self.disk.disk();
        if disk.life == self.life {
            disk.locked = false;
        }
    }
}
