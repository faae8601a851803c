//! The server's side of a relay: walks over message headers and tells the idle count what the
//! server has said. Everything goes to the client as it came. No I/O.

use super::idle::Idle;
use super::messages::{self, HEADER_BYTES};
use crate::limits::RELAY_BUFFER_BYTES;
use crate::net::buffer::Buffer;
use crate::net::legs::Passage;

/// What the server has sent and the client has not got yet.
#[derive(Debug)]
pub(super) struct FromServer {
    pub(super) buffer: Buffer,
    /// How much of the buffer's front has been looked at and may go to the client.
    cleared: usize,
    /// How much of the current message is still to come.
    passing: usize,
    /// The last message was an error.
    said_error: bool,
}

impl Passage for FromServer {
    fn cleared(&self) -> &[u8] {
        self.buffer.filled().get(..self.cleared).unwrap_or_default()
    }

    fn sent(&mut self, count: usize) {
        self.buffer.consume(count);
        self.cleared = self.cleared.saturating_sub(count);
    }

    fn buffer(&mut self) -> &mut Buffer {
        &mut self.buffer
    }
}

impl FromServer {
    /// Begins with what is still to be told from the login.
    pub(super) fn new(ahead: &[u8]) -> FromServer {
        let buffer = Buffer::holding(ahead, RELAY_BUFFER_BYTES);
        FromServer {
            buffer,
            cleared: 0,
            passing: 0,
            said_error: false,
        }
    }

    /// Whether the server has ended in the middle of a message.
    pub(super) fn is_within_message(&self) -> bool {
        self.passing > 0 || self.buffer.filled().len() > self.cleared
    }

    /// Whether the last that the server said was an error.
    pub(super) fn said_error(&self) -> bool {
        self.said_error
    }

    /// Walks over what has come in.
    pub(super) fn scan(&mut self, idle: &mut Idle) -> Result<(), messages::BadLength> {
        loop {
            let rest = self.buffer.filled().get(self.cleared..).unwrap_or_default();
            if self.passing > 0 {
                let here = self.passing.min(rest.len());
                self.cleared += here;
                self.passing -= here;
                if self.passing > 0 {
                    return Ok(());
                }
                continue;
            }
            let Some(header) = messages::header(rest)? else {
                return Ok(());
            };
            match header.kind {
                b'Z' => match rest.get(HEADER_BYTES) {
                    Some(&state) => idle.ready(state),
                    None => return Ok(()),
                },
                b'G' => idle.copy_begins(),
                _ => {}
            }
            self.said_error = header.kind == b'E';
            self.passing = header.total;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::{message, ready};
    use super::*;

    #[test]
    fn answers_are_counted_and_go_through_unchanged_in_any_pieces() {
        let mut bytes = message(b'T', &[1; 50_000]);
        bytes.extend(ready());
        bytes.extend(message(b'E', b"x"));
        for step in [1, 4, 6, 1000, bytes.len()] {
            let (mut from_server, mut idle) = (FromServer::new(b""), Idle::default());
            idle.sent(b'Q');
            let mut out = Vec::new();
            for mut chunk in bytes.chunks(step) {
                while !chunk.is_empty() {
                    let taken = from_server.buffer.push(chunk);
                    chunk = &chunk[taken..];
                    from_server.scan(&mut idle).unwrap();
                    out.extend_from_slice(from_server.cleared());
                    from_server.sent(from_server.cleared().len());
                }
            }
            assert!(out == bytes && idle.is_idle() && from_server.said_error());
            assert!(!from_server.is_within_message());
        }
    }
}
