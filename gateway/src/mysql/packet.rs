//! The frame of the MariaDB protocol: packets of at most 16 MiB with a sequence number, and the
//! numbers of variable length within. No I/O.

/// Bytes in front of each packet's payload.
pub(super) const HEADER_BYTES: usize = 4;

/// A packet with a payload of this length is continued by the next one.
pub(super) const PAYLOAD_MAX: usize = 0xff_ff_ff;

/// First byte of an answer: it was done.
pub(super) const OK: u8 = 0x00;
/// First byte of an answer: it was not.
pub(super) const ERR: u8 = 0xff;
/// First byte of the end of columns or rows; in a login, of a change of method.
pub(super) const EOF: u8 = 0xfe;

/// A packet's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Length of the payload.
    pub(super) payload: usize,
    /// Place in the exchange, modulo 256.
    pub(super) sequence: u8,
}

impl Header {
    /// Length with the header.
    pub(super) fn total(self) -> usize {
        HEADER_BYTES + self.payload
    }

    /// Whether the next packet belongs to this one.
    pub(super) fn is_continued(self) -> bool {
        self.payload == PAYLOAD_MAX
    }
}

/// Reads the header that these bytes begin with, if it is whole.
pub(super) fn header(bytes: &[u8]) -> Option<Header> {
    let [a, b, c, sequence] = *bytes.first_chunk::<HEADER_BYTES>()?;
    let payload = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
    Some(Header { payload, sequence })
}

/// A packet. The payload has to be shorter than [`PAYLOAD_MAX`]; the gateway's own are.
pub(super) fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let [a, b, c, ..] = payload.len().to_le_bytes();
    let mut bytes = vec![a, b, c, sequence];
    bytes.extend_from_slice(payload);
    bytes
}

/// An error as the server would say it.
pub(super) fn error(sequence: u8, code: u16, state: &str, text: &str) -> Vec<u8> {
    let mut payload = vec![ERR];
    payload.extend_from_slice(&code.to_le_bytes());
    payload.push(b'#');
    payload.extend(state.bytes().chain(std::iter::repeat(b'0')).take(5));
    payload.extend_from_slice(text.as_bytes());
    packet(sequence, &payload)
}

/// Reads fields one after the other.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.bytes(1)?.first().copied()
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(*self.bytes(2)?.first_chunk()?))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(*self.bytes(4)?.first_chunk()?))
    }

    /// A number of variable length.
    pub(super) fn number(&mut self) -> Option<u64> {
        let wide = |bytes: &[u8]| {
            let folded = bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
            Some(folded)
        };
        match self.u8()? {
            0xfc => wide(self.bytes(2)?),
            0xfd => wide(self.bytes(3)?),
            0xfe => wide(self.bytes(8)?),
            small @ ..=0xfa => Some(u64::from(small)),
            _ => None,
        }
    }

    /// Bytes with their length in front.
    pub(super) fn counted(&mut self) -> Option<&'a [u8]> {
        let count = self.number()?;
        self.bytes(usize::try_from(count).ok()?)
    }

    /// Bytes up to a NUL, which is skipped.
    pub(super) fn text(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|&b| b == 0)?;
        let text = self.bytes(end)?;
        self.bytes(1)?;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let bytes = packet(7, &vec![1; 70_000]);
        let read = header(&bytes).unwrap();
        assert_eq!((read.payload, read.sequence), (70_000, 7));
        assert_eq!(read.total(), bytes.len());
        assert_eq!(header(&bytes[..3]), None);
        let full = Header {
            payload: PAYLOAD_MAX,
            sequence: 0,
        };
        assert!(full.is_continued() && !read.is_continued());
    }

    #[test]
    fn numbers_have_four_widths_and_may_be_cut_off() {
        for (bytes, number) in [
            (&[250][..], Some(250)),
            (&[0xfc, 1, 2], Some(0x201)),
            (&[0xfd, 1, 2, 3], Some(0x3_0201)),
            (&[0xfe, 1, 0, 0, 0, 0, 0, 0, 1], Some(0x0100_0000_0000_0001)),
            (&[0xfe, 1], None),
            (&[0xfb], None),
            (&[0xff], None),
            (&[], None),
        ] {
            assert_eq!(Fields(bytes).number(), number, "{bytes:?}");
        }
        assert_eq!(Fields(b"\x03abcd").counted(), Some(&b"abc"[..]));
        assert_eq!(
            Fields(b"\xfe\xff\xff\xff\xff\xff\xff\xff\xffa").counted(),
            None
        );
        assert_eq!(Fields(b"ab\0c").text(), Some(&b"ab"[..]));
    }

    #[test]
    fn an_error_has_code_state_and_text() {
        let bytes = error(1, 1644, "FN001", "stale");
        assert_eq!(&bytes, b"\x0e\0\0\x01\xff\x6c\x06#FN001stale");
    }
}
