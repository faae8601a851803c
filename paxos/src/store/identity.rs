//! The identity file: whose store this is, where it was made, and how often it was opened.
//!
//! It is created last, so that a store without one was never finished; and it is written twice
//! into itself, so that neither a damaged sector nor a crash while it is rewritten loses it.

use crate::store::FORMAT_VERSION;
use crate::store::error::StoreError;
use crate::store::fields::Fields;
use crate::store::files::{DataFile, Files};
use crate::types::{CellId, Identity, Incarnation, NodeId};

/// The name of the file.
pub(super) const IDENTITY_FILE: &str = "identity";
const TEMPORARY_FILE: &str = "identity.tmp";

/// Whether a file of this name is an identity that was never finished.
pub(super) fn is_temporary(name: &str) -> bool {
    name == TEMPORARY_FILE
}

/// Where the copies are: not in one sector, whichever size the disk's have.
const COPIES_AT: [u64; 2] = [0, 4096];
const MAGIC: [u8; 4] = *b"PXID";
const RECORD_BYTES: usize = 256;
const MACHINE_BYTES_MAX: usize = 64;

/// What the identity file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) identity: Identity,
    /// The number by which the file system knew this very file.
    inode: u64,
    /// On which machine, if that has a name.
    machine: String,
    /// How often the store was opened, its creation included.
    pub(super) starts: u64,
    /// How many frames the log had when it was last opened. It can only have grown since.
    pub(super) sequence: u64,
    /// One of the copies was not right when this was read.
    pub(super) damaged: bool,
}

impl Record {
    /// Makes the identity file of a new store.
    pub(super) fn create<F: Files>(files: &F, identity: Identity) -> Result<Record, StoreError> {
        let path = files.path(IDENTITY_FILE);
        let failed = |source| StoreError::io(path.clone(), source);
        let file = files.create(TEMPORARY_FILE).map_err(failed)?;
        let record = Record {
            identity,
            inode: file.inode().map_err(failed)?,
            machine: machine(files),
            starts: 1,
            sequence: 1,
            damaged: false,
        };
        record.write(&file).map_err(failed)?;
        files
            .rename(TEMPORARY_FILE, IDENTITY_FILE)
            .map_err(failed)?;
        files.sync_directory().map_err(failed)?;
        Ok(record)
    }

    /// What the file says, if it is there and one of its copies is right.
    pub(super) fn read<F: Files>(files: &F) -> Result<Record, StoreError> {
        let path = files.path(IDENTITY_FILE);
        let failed = |source| StoreError::io(path.clone(), source);
        let file = files.open(IDENTITY_FILE).map_err(failed)?;
        let (mut best, mut other_version, mut damaged) = (None::<Record>, None, false);
        for offset in COPIES_AT {
            match copy_at(&file, offset) {
                Some(Ok(record)) if best.as_ref().is_none_or(|b| b.starts < record.starts) => {
                    best = Some(record);
                }
                Some(Ok(_)) => {}
                Some(Err(version)) => other_version = Some(version),
                None => damaged = true,
            }
        }
        match (best, other_version) {
            (Some(record), _) => Ok(Record { damaged, ..record }),
            (None, Some(found)) => Err(StoreError::WrongVersion { found }),
            (None, None) => Err(StoreError::Damaged { what: "identity" }),
        }
    }

    /// Refuses a store whose disk may have gone back in time. One that was never started since it
    /// was made has promised nothing: it belongs to where it is started first.
    pub(super) fn check_place<F: Files>(&mut self, files: &F) -> Result<(), StoreError> {
        if self.starts == 1 {
            self.inode = inode(files)?;
            self.machine = machine(files);
            return Ok(());
        }
        let copied = |what| StoreError::Copied {
            path: files.path(""),
            what,
        };
        if inode(files)? != self.inode {
            return Err(copied("its identity file is another file now"));
        }
        let machine = machine(files);
        if !machine.is_empty() && !self.machine.is_empty() && machine != self.machine {
            return Err(copied("this is another machine"));
        }
        Ok(())
    }

    /// Binds the store to the place where it is now.
    pub(super) fn adopt<F: Files>(mut self, files: &F) -> Result<(), StoreError> {
        self.inode = inode(files)?;
        self.machine = machine(files);
        self.rewrite(files)
    }

    /// Counts one more start, durably.
    pub(super) fn count_start<F: Files>(
        &mut self,
        files: &F,
        sequence: u64,
    ) -> Result<(), StoreError> {
        self.starts += 1;
        self.sequence = sequence;
        self.rewrite(files)
    }

    fn rewrite<F: Files>(&self, files: &F) -> Result<(), StoreError> {
        let file = files.open(IDENTITY_FILE);
        file.and_then(|file| self.write(&file))
            .map_err(|source| StoreError::io(files.path(IDENTITY_FILE), source))
    }

    /// One copy after the other, so that one of them is whole at any time; therefore first the one
    /// that an interrupted write may have spoilt before.
    fn write(&self, file: &impl DataFile) -> std::io::Result<()> {
        let starts = |offset| copy_at(file, offset)?.ok().map(|record| record.starts);
        let mut copies = COPIES_AT;
        copies.sort_by_key(|offset| starts(*offset));
        for offset in copies {
            file.write_all_at(offset, &self.encode())?;
            file.sync()?;
        }
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let mut record = MAGIC.to_vec();
        record.extend([0; 4]);
        record.extend([FORMAT_VERSION, 0, 0, 0]);
        record.extend(self.identity.cell.0);
        record.extend(self.identity.node.0.to_le_bytes());
        record.extend(self.identity.incarnation.0.to_le_bytes());
        record.extend(self.inode.to_le_bytes());
        record.extend(self.starts.to_le_bytes());
        record.extend(self.sequence.to_le_bytes());
        record.push(self.machine.len() as u8);
        record.extend(self.machine.as_bytes());
        record.resize(RECORD_BYTES, 0);
        let crc = crc32c::crc32c(&record[8..]);
        record[4..8].copy_from_slice(&crc.to_le_bytes());
        record
    }

    /// The record, or the version in which it is written if that is another.
    fn decode(record: &[u8; RECORD_BYTES]) -> Option<Result<Record, u8>> {
        let mut fields = Fields(record);
        let magic = fields.array()?;
        let crc = fields.u32()?;
        if magic != MAGIC || crc != crc32c::crc32c(fields.0) {
            return None;
        }
        let [version, ..] = fields.array::<4>()?;
        if version != FORMAT_VERSION {
            return Some(Err(version));
        }
        let identity = Identity {
            cell: CellId(fields.array()?),
            node: NodeId(fields.u64()?),
            incarnation: Incarnation(fields.u64()?),
        };
        let (inode, starts, sequence) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let machine = fields.u8()?;
        let machine = String::from_utf8_lossy(fields.bytes(machine.into())?).into_owned();
        Some(Ok(Record {
            identity,
            inode,
            machine,
            starts,
            sequence,
            damaged: false,
        }))
    }
}

/// What a copy says, or its version if that is another. One that cannot be read is no worse than
/// one that is damaged.
fn copy_at(file: &impl DataFile, offset: u64) -> Option<Result<Record, u8>> {
    let mut bytes = [0; RECORD_BYTES];
    match file.read_full_at(offset, &mut bytes) {
        Ok(RECORD_BYTES) => Record::decode(&bytes),
        _ => None,
    }
}

fn inode<F: Files>(files: &F) -> Result<u64, StoreError> {
    let file = files.open(IDENTITY_FILE);
    file.and_then(|file| file.inode())
        .map_err(|source| StoreError::io(files.path(IDENTITY_FILE), source))
}

/// The machine's name, or as much of it as there is room for.
fn machine<F: Files>(files: &F) -> String {
    let mut machine = files.machine().unwrap_or_default();
    let fits = |end: &usize| machine.is_char_boundary(*end);
    let end = (0..=machine.len().min(MACHINE_BYTES_MAX)).rev().find(fits);
    machine.truncate(end.unwrap_or(0));
    machine
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_on_disk_stays_as_it_is() {
        let record = Record {
            identity: Identity {
                cell: CellId([7; 16]),
                node: NodeId(2),
                incarnation: Incarnation(9),
            },
            inode: 77,
            machine: "m".into(),
            starts: 3,
            sequence: 4,
            damaged: false,
        };
        let encoded = record.encode();
        let hex: String = encoded[..80].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "5058494479f70cab0200000007070707070707070707070707070707020000000000000009000000\
             00000000\
             4d0000000000000003000000000000000400000000000000016d00000000000000000000"
        );
        let encoded = encoded.try_into().unwrap();
        assert_eq!(Record::decode(&encoded), Some(Ok(record)));
        for at in 0..RECORD_BYTES {
            let mut flipped = encoded;
            flipped[at] ^= 1;
            assert_eq!(Record::decode(&flipped), None, "byte {at}");
        }
    }
}
