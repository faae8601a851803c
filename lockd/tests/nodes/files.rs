//! The files of a node's data directory, and bytes of them that change in their place.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// All of them, by name.
pub(crate) fn of(home: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.join("data")).expect("a directory");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    files
}

/// Those with this extension.
pub(crate) fn with_extension(home: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = of(home);
    files.retain(|file| file.extension().is_some_and(|e| e == extension));
    files
}

/// How much of a file is in use: a log has room behind it.
pub(crate) fn used(path: &Path) -> u64 {
    let bytes = fs::read(path).expect("a file");
    let last = bytes.iter().rposition(|byte| *byte != 0);
    last.map_or(0, |last| last as u64 + 1)
}

/// Where a byte was written that is in the middle of this one of so many parts of what was.
pub(crate) fn written(path: &Path, part: usize, parts: usize) -> Option<u64> {
    let bytes = fs::read(path).expect("a file");
    let written: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let index = written.len() * (2 * part + 1) / (2 * parts);
    written.get(index).map(|at| *at as u64)
}

/// A byte of the newest entry of a segment, its checksum, if there is any entry (`paxos::store` has
/// the format).
pub(crate) fn newest_entry(segment: &Path) -> Option<u64> {
    let bytes = fs::read(segment).expect("a file");
    let number = |at: usize| {
        bytes[at..]
            .first_chunk()
            .map_or(0, |b| u32::from_le_bytes(*b))
    };
    let frames = (0..bytes.len()).step_by(512);
    let mut frames = frames.filter(|at| bytes[*at..].starts_with(b"PXFH"));
    let newest = frames.rfind(|at| number(at + 40) > 0)?;
    Some(newest as u64 + 128 + u64::from(number(newest + 44)) + 25)
}

/// Changes bytes in their place; once more, and they are what they were.
pub(crate) fn flip(path: &Path, offset: u64, bytes: u64) {
    let file = File::options().read(true).write(true).open(path);
    let file = file.expect("a file");
    let end = fs::metadata(path).expect("a file").len();
    let mut changed = vec![0; (end.min(offset + bytes) - offset) as usize];
    file.read_exact_at(&mut changed, offset).expect("read");
    changed.iter_mut().for_each(|byte| *byte ^= 0x08);
    file.write_all_at(&changed, offset).expect("written");
}
