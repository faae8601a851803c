//! The files of the operating system.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::store::files::{DataFile, Files};

/// The file that is locked while a store is open. It stays when the store is closed.
const LOCK_FILE: &str = "lock";

/// Where Linux keeps the number of the installation.
const MACHINE_FILE: &str = "/etc/machine-id";

/// A directory of the file system.
#[derive(Clone, Debug)]
pub struct OsFiles {
    directory: Arc<Path>,
}

impl OsFiles {
    /// The directory of this path, which need not exist yet.
    #[must_use]
    pub fn new(directory: &Path) -> OsFiles {
        OsFiles {
            directory: directory.into(),
        }
    }
}

impl Files for OsFiles {
    type File = File;
    type Lock = File;

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() {
            self.directory.to_path_buf()
        } else {
            self.directory.join(name)
        }
    }

    fn machine(&self) -> Option<String> {
        let machine = fs::read_to_string(MACHINE_FILE).ok()?;
        let machine = machine.trim();
        (!machine.is_empty()).then(|| machine.to_owned())
    }

    fn make_directory(&self) -> io::Result<()> {
        match fs::create_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
            made => made?,
        }
        let parent = self.directory.parent();
        let parent = parent.filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    }

    fn lock(&self) -> io::Result<File> {
        let path = self.path(LOCK_FILE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        // A name that is no UTF-8 is none of ours.
        let name = |entry: io::Result<fs::DirEntry>| match entry {
            Ok(entry) => entry.file_name().into_string().ok().map(Ok),
            Err(error) => Some(Err(error)),
        };
        entries.filter_map(name).collect()
    }

    fn create(&self, name: &str) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        options.open(self.path(name))
    }

    fn open(&self, name: &str) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).open(self.path(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}

impl DataFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(self, into, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        // As fdatasync: with the length, without the times.
        self.sync_data()
    }

    fn inode(&self) -> io::Result<u64> {
        Ok(self.metadata()?.ino())
    }

    fn forget_cached(&self) {
        // Where this is not heeded, a scrub finds damage only after the memory was needed.
        let _ = rustix::fs::fadvise(self, 0, None, rustix::fs::Advice::DontNeed);
    }
}
