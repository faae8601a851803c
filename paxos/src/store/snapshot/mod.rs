//! Snapshot files: the state up to a slot, checked block by block.
//!
//! A snapshot is written under another name, synced, read again, and only then renamed, so that a
//! file that has the name of a snapshot was right once. The log refers to one by its meta.

mod body;
mod incoming;
mod reader;
mod writer;

use crate::store::FORMAT_VERSION;
use crate::store::error::StoreError;
use crate::store::fields::Fields;
use crate::store::files::{DataFile, Files};
use crate::types::{Ballot, Slot, SnapshotMeta};

pub use incoming::IncomingSnapshot;
pub use reader::SnapshotReader;
pub use writer::SnapshotWriter;

use crate::membership::Membership;

const MAGIC: [u8; 4] = *b"PXSN";

/// Where the copies of the header are. A meta with the longest membership fits well.
const HEADERS_AT: [u64; 2] = [0, 8 * 1024];
const HEADER_BYTES: usize = 8 * 1024;

/// Where the body begins.
const BODY_AT: u64 = 16 * 1024;

/// The snapshots of a store. Clones are the same.
#[derive(Clone, Debug)]
pub struct Snapshots<F: Files> {
    files: F,
}

impl<F: Files> Snapshots<F> {
    pub(super) fn new(files: F) -> Snapshots<F> {
        Snapshots { files }
    }

    /// Begins to write a snapshot of the state after `slot`, whose entry is of `origin`.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn create(
        &self,
        slot: Slot,
        origin: Ballot,
        membership: Membership,
    ) -> Result<SnapshotWriter<F>, StoreError> {
        SnapshotWriter::create(self.files.clone(), slot, origin, membership)
    }

    /// Begins, or goes on, to receive a snapshot from a peer. What was received of any other is
    /// removed.
    ///
    /// # Errors
    /// If the file cannot be made or read.
    pub fn receive(&self, meta: SnapshotMeta) -> Result<IncomingSnapshot<F>, StoreError> {
        let name = part_name(&meta);
        for other in self.names()? {
            if other.ends_with(".part") && other != name {
                self.remove(&other)?;
            }
        }
        IncomingSnapshot::resume(self.files.clone(), name, meta)
    }

    /// Opens the snapshot of `slot`.
    ///
    /// # Errors
    /// If there is none, or its header is damaged.
    pub fn open(&self, slot: Slot) -> Result<SnapshotReader<F>, StoreError> {
        SnapshotReader::open(&self.files, slot)
    }

    /// The slots of all complete snapshots, ascending.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Slot>, StoreError> {
        let names = self.names()?;
        let mut slots: Vec<Slot> = names
            .iter()
            .filter_map(|n| parse_name(n, ".snap"))
            .collect();
        slots.sort_unstable();
        Ok(slots)
    }

    /// Removes what `newest`, which the log refers to now, makes needless.
    pub(super) fn remove_older(&self, newest: Slot) -> Result<(), StoreError> {
        for name in self.names()? {
            let older = parse_name(&name, ".snap").is_some_and(|slot| slot < newest)
                || parse_name(&name, ".tmp").is_some_and(|slot| slot <= newest)
                || parse_part_name(&name).is_some_and(|slot| slot <= newest);
            if older {
                self.remove(&name)?;
            }
        }
        Ok(())
    }

    /// Removes what was being written when the last process ended.
    pub(super) fn remove_unfinished(&self) -> Result<(), StoreError> {
        for name in self.names()? {
            if parse_name(&name, ".tmp").is_some() {
                self.remove(&name)?;
            }
        }
        Ok(())
    }

    /// Where the snapshot of `slot` is.
    pub(super) fn path(&self, slot: Slot) -> std::path::PathBuf {
        self.files.path(&snapshot_name(slot, ".snap"))
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        let names = self.files.list();
        names.map_err(|source| StoreError::io(self.files.path(""), source))
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        remove(&self.files, name)
    }
}

fn remove<F: Files>(files: &F, name: &str) -> Result<(), StoreError> {
    match files.remove(name) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|source| StoreError::io(files.path(name), source)),
    }
}

/// Whether a file of this name belongs to a store.
pub(super) fn is_name(name: &str) -> bool {
    parse_name(name, ".snap").is_some()
        || parse_name(name, ".tmp").is_some()
        || parse_part_name(name).is_some()
}

fn snapshot_name(slot: Slot, suffix: &str) -> String {
    format!("snapshot-{:020}{suffix}", slot.0)
}

fn part_name(meta: &SnapshotMeta) -> String {
    format!("snapshot-{:020}-{:08x}.part", meta.slot.0, meta.crc)
}

fn parse_name(name: &str, suffix: &str) -> Option<Slot> {
    let digits = name.strip_prefix("snapshot-")?.strip_suffix(suffix)?;
    let all_digits = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| all_digits).map(Slot)
}

fn parse_part_name(name: &str) -> Option<Slot> {
    let (name, crc) = name.strip_suffix(".part")?.rsplit_once('-')?;
    parse_name(name, "").filter(|_| crc.len() == 8)
}

/// The header: magic, CRC-32C of what follows, version, length of the meta, the meta.
fn encode_header(meta: &SnapshotMeta) -> Vec<u8> {
    let encoded = postcard::to_allocvec(meta);
    let encoded = encoded.expect("data made of numbers, bytes and sequences has an encoding");
    let mut header = MAGIC.to_vec();
    header.extend([0; 4]);
    header.extend([FORMAT_VERSION, 0, 0, 0]);
    header.extend((encoded.len() as u32).to_le_bytes());
    header.extend(encoded);
    let crc = crc32c::crc32c(&header[8..]);
    header[4..8].copy_from_slice(&crc.to_le_bytes());
    header
}

/// The meta, or the version of a header of another one.
fn decode_header(header: &[u8]) -> Option<Result<SnapshotMeta, u8>> {
    let mut fields = Fields(header);
    let magic = fields.array()?;
    let crc = fields.u32()?;
    let sealed = fields.0;
    let [version, ..] = fields.array::<4>()?;
    let length = fields.u32()? as usize;
    let encoded = fields.bytes(length)?;
    let right = magic == MAGIC && crc32c::crc32c(sealed.get(..8 + length)?) == crc;
    if !right {
        return None;
    }
    if version != FORMAT_VERSION {
        return Some(Err(version));
    }
    postcard::from_bytes(encoded).ok().map(Ok)
}

fn write_headers(file: &impl DataFile, meta: &SnapshotMeta) -> std::io::Result<()> {
    let header = encode_header(meta);
    HEADERS_AT
        .iter()
        .try_for_each(|offset| file.write_all_at(*offset, &header))
}

/// What the file says that it holds, if either copy of its header is right; and whether the other
/// one is not.
fn read_headers(file: &impl DataFile) -> Result<Option<(SnapshotMeta, bool)>, StoreError> {
    let mut header = vec![0; HEADER_BYTES];
    let (mut right, mut other_version) = (Vec::new(), None);
    for offset in HEADERS_AT {
        // A copy that cannot be read is no worse than one that is damaged.
        let read = file.read_full_at(offset, &mut header).unwrap_or(0);
        match decode_header(&header[..read]) {
            Some(Ok(meta)) => right.push(meta),
            Some(Err(version)) => other_version = Some(version),
            None => {}
        }
    }
    let damaged = right.len() < HEADERS_AT.len() || right.first() != right.last();
    match (right.into_iter().next(), other_version) {
        (None, Some(found)) => Err(StoreError::WrongVersion { found }),
        (meta, _) => Ok(meta.map(|meta| (meta, damaged))),
    }
}
