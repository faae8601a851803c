//! A segment file as bytes: its name, finding the frames in it, and telling torn from damaged.

use std::io;

use crate::store::files::{DataFile, is_unreadable};
use crate::store::frame::{HEADER_BYTES, Header, SECTOR_BYTES};
use crate::types::Incarnation;

/// What stands for a sector that the device cannot read. Not zeros, which would look torn.
const UNREADABLE: u8 = 0xEE;

/// Fewer bytes than these are not zero in a sector that was never written.
const NOISE_BYTES_MIN: usize = 64;

/// Segments are named by the sequence number of their first frame: slots repeat when a log is
/// truncated, repaired or restarted, sequence numbers never do.
pub(super) fn name(sequence: u64) -> String {
    format!("log-{sequence:020}.seg")
}

/// The sequence number in a segment's name, if it is one.
pub(super) fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("log-")?.strip_suffix(".seg")?;
    let all_digits = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| all_digits)
}

/// The first frame at or after `from` that is of this store and not older than `at_least`, found
/// by its header or, if that is damaged, by its footer.
pub(super) fn find(
    bytes: &[u8],
    from: usize,
    incarnation: Incarnation,
    at_least: u64,
) -> Option<Header> {
    let ours = |header: &Header| {
        header.incarnation == incarnation
            && header.sequence >= at_least
            && header.offset >= from as u64
    };
    for at in (from..bytes.len()).step_by(SECTOR_BYTES) {
        let header = Header::decode_header(&bytes[at..]).filter(ours);
        if let Some(header) = header.filter(|header| header.offset == at as u64) {
            return Some(header);
        }
        let Some(sector) = bytes.get(at..at + SECTOR_BYTES) else {
            break;
        };
        let footer = Header::decode_footer(sector).filter(ours);
        let ends = (at + SECTOR_BYTES) as u64;
        let fits = |footer: &Header| footer.offset + footer.frame_bytes() as u64 == ends;
        if let Some(footer) = footer.filter(fits) {
            return Some(footer);
        }
    }
    None
}

/// The highest sequence number of a frame of this store whose header lies where it does not belong:
/// at another offset, or in a segment of which all frames are older than `before`.
pub(super) fn misplaced(bytes: &[u8], incarnation: Incarnation, before: u64) -> u64 {
    let sectors = bytes.chunks(SECTOR_BYTES).enumerate();
    let headers = sectors.filter_map(|(sector, bytes)| {
        let header = Header::decode_header(bytes)?;
        let here = header.offset == (sector * SECTOR_BYTES) as u64 && header.sequence < before;
        (header.incarnation == incarnation && !here).then_some(header.sequence)
    });
    headers.max().unwrap_or(0)
}

/// Whether a frame was not written to its end: it is short, or a sector of it was never written.
///
/// Only the last frame of a log may be torn: the others were durable before the next was begun.
pub(super) fn is_torn(frame: &[u8], header: &Header) -> bool {
    frame.len() < header.frame_bytes() || frame.chunks(SECTOR_BYTES).any(is_unwritten)
}

/// Whether what is left behind the last frame, without a header or a footer, does not begin like
/// a frame that was written.
pub(super) fn is_blank(rest: &[u8]) -> bool {
    rest.len() < HEADER_BYTES || is_unwritten(&rest[..rest.len().min(SECTOR_BYTES)])
}

/// Whether a sector was never written: it is zeros, maybe with some bits flipped since.
///
/// At least half of every sector that is written looks like noise, and of noise one byte in 256
/// is zero. So neither does a flipped bit make a written sector look unwritten, nor the reverse.
pub(super) fn is_unwritten(sector: &[u8]) -> bool {
    let written = sector.iter().filter(|byte| **byte != 0).count();
    written < NOISE_BYTES_MIN
}

/// How many bytes of a part of a file were ever written, counted from its beginning.
pub(super) fn written_bytes(part: &[u8]) -> usize {
    let last = part.iter().rposition(|byte| *byte != 0);
    last.map_or(0, |last| (last + 1).next_multiple_of(SECTOR_BYTES))
}

/// The whole file. Sectors that the device cannot read are filled with something.
pub(super) fn read_whole(file: &impl DataFile) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.length()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; length];
    match file.read_full_at(0, &mut bytes) {
        Ok(read) => bytes.truncate(read),
        Err(error) if is_unreadable(&error) => {
            for (index, sector) in bytes.chunks_mut(SECTOR_BYTES).enumerate() {
                match file.read_full_at((index * SECTOR_BYTES) as u64, sector) {
                    Err(error) if is_unreadable(&error) => sector.fill(UNREADABLE),
                    read => drop(read?),
                }
            }
        }
        Err(error) => return Err(error),
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_names_are_recognised_and_others_are_not() {
        assert_eq!(parse_name(&name(17)), Some(17));
        assert_eq!(parse_name(&name(u64::MAX)), Some(u64::MAX));
        for other in [
            "log-17.seg",
            "log-0000000000000000001x.seg",
            "identity",
            "log-",
        ] {
            assert_eq!(parse_name(other), None, "{other}");
        }
        assert_eq!(parse_name("log-+0000000000000000017.seg"), None);
    }
}
