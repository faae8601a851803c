//! What the fuzzers feed: one function for each parser of bytes that a client or a server sends.
//!
//! Each takes any bytes, must end soon, and checks more than that nothing panics: what the gateway
//! does not take out goes on unchanged, and what is found does not depend on the pieces in which
//! the bytes come. `gateway/fuzz` runs them under libFuzzer; the tests here run them on their
//! corpus and on mutants of it, so that nothing found once comes back unnoticed.

use std::fmt::Debug;

use lockd_protocol::client::{ClientFrame, NodeFrame};
use lockd_protocol::frame;
use lockd_protocol::limits::FRAME_PREFIX_BYTES;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::net::buffer::Buffer;
use crate::net::legs::Passage;
use crate::{mysql, postgres, redis};

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// Every parser, by the name of its fuzz target.
pub const TARGETS: [(&str, Target); 10] = [
    ("lock_service", lock_service),
    ("mysql_answer", mysql::fuzz::answer),
    ("mysql_dialog", mysql::fuzz::dialog),
    ("mysql_greeting", mysql::fuzz::greeting),
    ("mysql_statement", mysql::fuzz::statement),
    ("postgres_startup", postgres::fuzz::startup),
    ("postgres_statement", postgres::fuzz::statement),
    ("redis_client", redis::fuzz::client),
    ("redis_reply", redis::fuzz::reply),
    ("redis_server", redis::fuzz::server),
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name)?;
    Some(*target)
}

/// Longest input of which is asked what it is in other pieces. Parsers give up on what is longer
/// than they look at, and then it matters how much of it they have.
pub(crate) const PIECES_BYTES_MAX: usize = 900;

/// Puts as much of a piece into a buffer as it takes, and lets everything that is cleared go on:
/// it has to be what came in.
pub(crate) struct Flow<'a> {
    input: &'a [u8],
    /// How much has been read into the buffer.
    read: usize,
    /// How much has gone on, or was taken out.
    pub(crate) gone: usize,
}

impl<'a> Flow<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Flow<'a> {
        Flow {
            input,
            read: 0,
            gone: 0,
        }
    }

    /// Reads up to so many bytes. How many there were.
    pub(crate) fn read(&mut self, buffer: &mut Buffer, most: usize) -> usize {
        let end = self.input.len().min(self.read.saturating_add(most));
        let read = buffer.push(self.input.get(self.read..end).unwrap_or_default());
        self.read += read;
        read
    }

    /// Lets go on what may. Whether anything did.
    pub(crate) fn write(&mut self, passage: &mut impl Passage) -> bool {
        let cleared = passage.cleared();
        let count = cleared.len();
        let came = self.input.get(self.gone..self.gone + count);
        assert_eq!(came, Some(cleared), "something else goes on than came in");
        self.gone += count;
        passage.sent(count);
        count > 0
    }

    /// Whether everything has been read.
    pub(crate) fn is_read(&self) -> bool {
        self.read == self.input.len()
    }
}

/// What the lock service says to a client, or a client to it: the first byte says which. A message
/// that can be read is the same when it is written and read again.
fn lock_service(input: &[u8]) {
    match input.split_first() {
        Some((0, frame)) => same_again::<ClientFrame>(frame),
        Some((_, frame)) => same_again::<NodeFrame>(frame),
        None => {}
    }
}

fn same_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(frame: &[u8]) {
    let Ok(message) = frame::decode::<T>(frame) else {
        return;
    };
    let mut written = Vec::new();
    if frame::encode(&message, &mut written).is_ok() {
        let payload = written.get(FRAME_PREFIX_BYTES..).unwrap_or_default();
        assert_eq!(frame::decode::<T>(payload), Ok(message));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    /// Mutants of each input of a corpus.
    const MUTANTS: u64 = 3000;

    fn project() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
    }

    fn corpus(name: &str) -> Vec<Vec<u8>> {
        let directory = project().join("corpus").join(name);
        let files = std::fs::read_dir(&directory).expect("every target has a corpus");
        let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        let read = paths.iter().map(|path| std::fs::read(path).unwrap());
        read.collect()
    }

    /// SplitMix64.
    fn roll(dice: &mut u64) -> usize {
        *dice = dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *dice;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize
    }

    /// Another input: some bytes changed, dropped, repeated, or taken from elsewhere.
    fn mutant(dice: &mut u64, corpus: &[Vec<u8>], of: &[u8]) -> Vec<u8> {
        let mut bytes = of.to_vec();
        for _ in 0..1 + roll(dice) % 4 {
            let at = roll(dice) % (bytes.len() + 1);
            let to = (at + roll(dice) % 9).min(bytes.len());
            match roll(dice) % 5 {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(at..to)),
                2 => {
                    let part = bytes[at..to].to_vec();
                    bytes.splice(at..at, part.repeat(1 + roll(dice) % 3));
                }
                3 => {
                    let other = &corpus[roll(dice) % corpus.len()];
                    let from = roll(dice) % (other.len() + 1);
                    let upto = (from + roll(dice) % 40).min(other.len());
                    bytes.splice(at..to, other[from..upto].iter().copied());
                }
                _ => bytes[at..to]
                    .iter_mut()
                    .for_each(|byte| *byte = roll(dice) as u8),
            }
        }
        bytes
    }

    #[test]
    fn every_parser_survives_its_corpus_and_mutants_of_it() {
        for (name, target) in TARGETS {
            let corpus = corpus(name);
            assert!(!corpus.is_empty(), "{name}");
            let mut dice = 1;
            for input in &corpus {
                target(input);
                for _ in 0..MUTANTS {
                    target(&mutant(&mut dice, &corpus, input));
                }
            }
        }
    }

    #[test]
    fn every_parser_has_a_fuzz_target() {
        let files = std::fs::read_dir(project().join("fuzz_targets")).unwrap();
        let files: BTreeSet<_> = files.map(|file| file.unwrap().file_name()).collect();
        let named: BTreeSet<_> = TARGETS.map(|(name, _)| format!("{name}.rs").into()).into();
        assert_eq!(files, named);
        let project = std::fs::read_to_string(project().join("Cargo.toml")).unwrap();
        for (name, _) in TARGETS {
            assert!(project.contains(&format!("name = \"{name}\"")), "{name}");
        }
    }
}
