//! The server's side of a relay: walks over message headers and tells the idle count what the
//! server has said. Everything goes to the client as it came, but for the answers to what the
//! gateway itself has told the server. No I/O.

use super::idle::Idle;
use super::messages::{self, HEADER_BYTES};
use super::telling::Telling;
use crate::limits::RELAY_BUFFER_BYTES;
use crate::net::buffer::Buffer;
use crate::net::legs::Passage;

/// How much of a command's tag is looked at.
const TAG_LOOK_BYTES: usize = 16;

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
    pub(super) fn scan(
        &mut self,
        idle: &mut Idle,
        telling: &mut Telling,
    ) -> Result<(), messages::BadLength> {
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
            if telling.may_take_out(header.kind) && header.total <= RELAY_BUFFER_BYTES {
                // Taken out at the front only, once what is before it has been sent.
                let whole = rest.get(HEADER_BYTES..header.total);
                let Some(body) = whole.filter(|_| self.cleared == 0) else {
                    return Ok(());
                };
                if telling.takes_out(header.kind, body) {
                    self.buffer.consume(header.total);
                    continue;
                }
            } else if telling.is_on() && header.kind == b'C' {
                let end = header.total.min(HEADER_BYTES + TAG_LOOK_BYTES);
                match rest.get(HEADER_BYTES..end) {
                    Some(tag) => telling.done(tag),
                    None => return Ok(()),
                }
            }
            match header.kind {
                b'Z' => match rest.get(HEADER_BYTES) {
                    Some(&state) => {
                        idle.ready(state);
                        telling.ready(idle.transaction());
                    }
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
    use super::super::idle::Transaction;
    use super::super::messages::{message, ready};
    use super::super::telling::Manner;
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
                    from_server
                        .scan(&mut idle, &mut Telling::default())
                        .unwrap();
                    out.extend_from_slice(from_server.cleared());
                    from_server.sent(from_server.cleared().len());
                }
            }
            assert!(out == bytes && idle.is_idle() && from_server.said_error());
            assert!(!from_server.is_within_message());
        }
    }

    #[test]
    fn the_answers_to_what_the_gateway_told_are_taken_out_in_any_pieces() {
        let told = [
            message(b'3', b""),
            message(b'1', b""),
            message(b'2', b""),
            message(b'D', b"\0\x01\0\0\0\x01f"),
            message(b'C', b"SELECT 1\0"),
            message(b'3', b""),
        ]
        .concat();
        let before = message(b'A', &[5; 40]);
        let own = [
            message(b'D', &[1; 50_000]),
            message(b'C', b"COMMIT\0"),
            ready(),
        ]
        .concat();
        let bytes = [&before[..], &told, &own].concat();
        for step in [1, 4, 6, 1000, bytes.len()] {
            let (mut from_server, mut idle) = (FromServer::new(b""), Idle::default());
            let mut telling = Telling::default();
            telling.carry("{a} 1:ff");
            telling.put_in_front(Transaction::None, Manner::Query, b'Q');
            idle.sent(b'Q');
            let mut out = Vec::new();
            for mut chunk in bytes.chunks(step) {
                while !chunk.is_empty() {
                    let taken = from_server.buffer.push(chunk);
                    chunk = &chunk[taken..];
                    // Each look may find something at the front that the one before has uncovered.
                    for _ in 0..3 {
                        from_server.scan(&mut idle, &mut telling).unwrap();
                        out.extend_from_slice(from_server.cleared());
                        from_server.sent(from_server.cleared().len());
                    }
                }
            }
            assert!(out == [&before[..], &own].concat(), "in steps of {step}");
            assert!(idle.is_idle() && telling.is_due(&idle));
        }
    }
}
