//! A fixed buffer between a socket that is read and one that is written. Never grows.

/// Bytes that have been read and not yet written.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// An empty buffer for this many bytes.
    pub(crate) fn new(capacity: usize) -> Buffer {
        Buffer {
            bytes: vec![0; capacity].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    /// A buffer for this many bytes, or for as many as it begins with.
    pub(crate) fn holding(bytes: &[u8], capacity: usize) -> Buffer {
        let mut buffer = Buffer::new(capacity.max(bytes.len()));
        buffer.push(bytes);
        buffer
    }

    /// What has been read and not yet written.
    pub(crate) fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Whether there is room for more.
    pub(crate) fn has_room(&self) -> bool {
        self.end - self.start < self.bytes.len()
    }

    /// Where to read into; empty only if the buffer is full.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.end == self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// `count` bytes have been read into [`Buffer::room`].
    pub(crate) fn advance(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }

    /// `count` bytes have been written, or are not wanted.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// Puts bytes behind those that are there. Returns how many found room.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> usize {
        let room = self.room();
        let count = bytes.len().min(room.len());
        if let (Some(to), Some(from)) = (room.get_mut(..count), bytes.get(..count)) {
            to.copy_from_slice(from);
        }
        self.advance(count);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in_however_the_buffer_is_full() {
        let mut buffer = Buffer::new(8);
        let mut out = Vec::new();
        let input: Vec<u8> = (0..100).collect();
        let mut rest = &input[..];
        while out.len() < input.len() {
            rest = &rest[buffer.push(rest)..];
            assert!(!buffer.filled().is_empty());
            let take = buffer.filled().len().min(3);
            out.extend_from_slice(&buffer.filled()[..take]);
            buffer.consume(take);
        }
        assert_eq!(out, input);
    }

    #[test]
    fn a_full_buffer_has_no_room() {
        let mut buffer = Buffer::new(4);
        assert_eq!(buffer.push(b"abcdef"), 4);
        assert!(!buffer.has_room() && buffer.room().is_empty());
        buffer.consume(1);
        assert_eq!(buffer.room().len(), 1);
    }
}
