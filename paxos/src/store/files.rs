//! The few things that the store asks of a file system, so that a simulated one can answer.
//!
//! Names are those of files in one flat directory, the data directory of a node.

use std::fmt::Debug;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

/// Error number of a read or write that the device could not do; the same on every Unix.
const EIO: i32 = 5;

/// A directory of files. Clones are the same directory.
pub trait Files: Clone + Debug + Send + Sync + 'static {
    /// An open file.
    type File: DataFile;
    /// Keeps others from opening the directory, until it is dropped.
    type Lock: Debug + Send + Sync + 'static;

    /// Where a file is, for messages; the directory itself for "".
    fn path(&self, name: &str) -> PathBuf;

    /// What tells this machine from others, if it has such a thing.
    fn machine(&self) -> Option<String>;

    /// Makes the directory, durably, if there is none yet.
    ///
    /// # Errors
    /// If it cannot be made.
    fn make_directory(&self) -> io::Result<()>;

    /// Takes the directory for this process alone.
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`] if another has it.
    fn lock(&self) -> io::Result<Self::Lock>;

    /// The names of all files, in no particular order; none if there is no directory.
    ///
    /// # Errors
    /// If the directory cannot be read.
    fn list(&self) -> io::Result<Vec<String>>;

    /// A new empty file, to be read and written. Durable once the directory is synced.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if there is one.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// A file that exists, to be read and written.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Gives a file another name, in the place of the file that had it. Durable once the directory
    /// is synced.
    ///
    /// # Errors
    /// If it could not be done.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; who has it open may still read it. Durable once the directory is synced.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes durable what was created, renamed and removed.
    ///
    /// # Errors
    /// If it may not be durable. It is not to be tried again.
    fn sync_directory(&self) -> io::Result<()>;
}

/// An open file.
pub trait DataFile: Debug + Send + Sync + 'static {
    /// Its length, bytes.
    ///
    /// # Errors
    /// If it cannot be had.
    fn length(&self) -> io::Result<u64>;

    /// Reads some bytes; fewer than asked for, or none at the end of the file.
    ///
    /// # Errors
    /// If none could be read.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Writes some bytes, maybe fewer than given. What lies between the file's end and `offset`
    /// reads as zeros.
    ///
    /// # Errors
    /// If none could be written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize>;

    /// Makes the file that long. What is added reads as zeros.
    ///
    /// # Errors
    /// If it could not be done.
    fn truncate(&self, length: u64) -> io::Result<()>;

    /// Makes durable what was written, and the length.
    ///
    /// # Errors
    /// If it may not be durable. It is not to be tried again: the next try may succeed without it.
    fn sync(&self) -> io::Result<()>;

    /// The number by which the file system knows the file. A copy has another one.
    ///
    /// # Errors
    /// If it cannot be had.
    fn inode(&self) -> io::Result<u64>;

    /// Lets go of what is kept of the file in memory, so that the next read comes from the disk.
    /// Advice: what is not on the disk yet stays.
    fn forget_cached(&self) {}

    /// Writes all of the bytes.
    ///
    /// # Errors
    /// If some could not be written.
    fn write_all_at(&self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(offset, bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    offset += count as u64;
                    bytes = bytes.get(count..).unwrap_or_default();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Fills the buffer as far as the file goes; how far that is.
    ///
    /// # Errors
    /// If the file could not be read.
    fn read_full_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < into.len() {
            match self.read_at(offset + filled as u64, &mut into[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

/// Whether the device could not read this place. Other errors say nothing about what is there.
pub(super) fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(EIO)
}
