//! The server's side of a relay: walks over replies and finds the few that are the gateway's.
//! Everything else goes to the client as it came. No I/O.
//!
//! How replies nest does not matter, only when one is over: a count of the elements that are
//! still to come is enough, however deep they are.

use super::acl;
use super::resp::{HEADER_BYTES_MAX, Value, first_line, number, parse};
use crate::limits::{RELAY_BUFFER_BYTES, REPLY_LOOK_BYTES};
use crate::net::buffer::Buffer;
use crate::net::legs::Passage;

/// What the gateway is waiting for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Awaited {
    #[default]
    Nothing,
    /// A reply that can be told from all others: the text itself, or an error that has it in it.
    Echo(String),
    /// The next reply, whatever it is.
    Next,
}

/// Where the scan has stopped: what is at the front, once all before it is with the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The awaited text.
    Echoed,
    /// An error with the awaited text in it.
    Refused,
    /// The reply that was awaited.
    Reply(Value),
    /// A refusal of the server that the fence has the better words for.
    Denied,
    /// The server does not know the command FENCE: it was one that is not taken.
    NotTaken,
}

/// What the server has sent and the client has not got yet.
#[derive(Debug)]
pub(super) struct FromServer {
    pub(super) buffer: Buffer,
    /// How much of the buffer's front may go to the client.
    cleared: usize,
    /// How much of the current element is still to come.
    passing: u64,
    /// The current element is a line whose end is still to come.
    line: bool,
    /// Elements of the current reply that are still to come.
    elements: u64,
    /// Whether the current reply is no reply, but something that the server says by itself.
    push: bool,
    /// The bytes are not the protocol's.
    blind: bool,
    awaited: Awaited,
    stop: Option<(Stop, usize)>,
    /// What goes to the client before anything in the buffer.
    instead: Vec<u8>,
}

enum Look {
    More,
    /// A header of this length, so many bytes behind it, and so many elements.
    Pass(usize, u64, u64),
    Line,
    Stop(Stop, usize),
    Blind,
}

impl Passage for FromServer {
    fn cleared(&self) -> &[u8] {
        if !self.instead.is_empty() {
            return &self.instead;
        }
        self.buffer.filled().get(..self.cleared).unwrap_or_default()
    }

    fn sent(&mut self, count: usize) {
        if !self.instead.is_empty() {
            self.instead.drain(..count.min(self.instead.len()));
            return;
        }
        self.buffer.consume(count);
        self.cleared = self.cleared.saturating_sub(count);
    }

    fn buffer(&mut self) -> &mut Buffer {
        &mut self.buffer
    }
}

impl FromServer {
    pub(super) fn new() -> FromServer {
        FromServer {
            buffer: Buffer::new(RELAY_BUFFER_BYTES),
            cleared: 0,
            passing: 0,
            line: false,
            elements: 0,
            push: false,
            blind: false,
            awaited: Awaited::Nothing,
            stop: None,
            instead: Vec::new(),
        }
    }

    /// Where the scan has stopped, if everything before it has been sent.
    pub(super) fn stopped(&self) -> Option<&Stop> {
        self.stop
            .as_ref()
            .filter(|_| self.cleared().is_empty())
            .map(|(stop, _)| stop)
    }

    /// Goes on after a stop; what is at the front is taken out.
    pub(super) fn take_out(&mut self) -> Option<Stop> {
        let (stop, total) = self.stop.take()?;
        self.buffer.consume(total);
        Some(stop)
    }

    /// Goes on after a stop; these bytes stand in for what is at the front.
    pub(super) fn replace(&mut self, bytes: &[u8]) {
        if self.take_out().is_some() {
            self.instead.extend_from_slice(bytes);
        }
    }

    /// Looks out for something from here on.
    pub(super) fn wait_for(&mut self, awaited: Awaited) {
        self.awaited = awaited;
    }

    /// Whether replies can still be told apart.
    pub(super) fn is_blind(&self) -> bool {
        self.blind
    }

    /// Walks over what has come in.
    pub(super) fn scan(&mut self) {
        while self.stop.is_none() {
            let filled = self.buffer.filled();
            let rest = filled.get(self.cleared..).unwrap_or_default();
            if rest.is_empty() {
                return;
            }
            if self.blind {
                self.cleared = filled.len();
                return;
            }
            if self.passing > 0 {
                let here = self.passing.min(rest.len() as u64);
                self.passing -= here;
                self.cleared += here as usize;
                continue;
            }
            if self.line {
                let end = rest.iter().position(|&byte| byte == b'\n');
                self.line = end.is_none();
                self.cleared += end.map_or(rest.len(), |end| end + 1);
                continue;
            }
            let begins = self.elements == 0;
            if begins {
                self.push = rest.first() == Some(&b'>');
            }
            match self.element(rest, begins && !self.push) {
                Look::More => return,
                Look::Pass(header, bytes, elements) => {
                    self.count(rest.first() == Some(&b'|'), begins, elements);
                    self.cleared += header;
                    self.passing = bytes;
                }
                Look::Line => {
                    self.count(false, begins, 0);
                    self.line = true;
                }
                Look::Stop(stop, total) => {
                    self.count(false, begins, 0);
                    if !matches!(stop, Stop::Denied | Stop::NotTaken) {
                        self.awaited = Awaited::Nothing;
                    }
                    self.stop = Some((stop, total));
                }
                Look::Blind => self.blind = true,
            }
        }
    }

    /// One element has begun, and brings so many others. An attribute is none by itself.
    fn count(&mut self, attribute: bool, begins: bool, brings: u64) {
        let due = if begins { 1 } else { self.elements };
        self.elements = due
            .saturating_sub(u64::from(!attribute))
            .saturating_add(brings);
    }

    fn element(&self, rest: &[u8], reply: bool) -> Look {
        let kind = rest.first().copied().unwrap_or_default();
        if reply && self.awaited == Awaited::Next && kind != b'|' {
            return next_reply(rest);
        }
        match kind {
            b'-' => self.error(rest, reply),
            b'+' | b':' | b',' | b'#' | b'(' | b'_' => Look::Line,
            b'$' | b'=' | b'!' | b'*' | b'~' | b'>' | b'%' | b'|' => {
                self.counted(rest, kind, reply)
            }
            _ => Look::Blind,
        }
    }

    /// An element that begins with a number.
    fn counted(&self, rest: &[u8], kind: u8, reply: bool) -> Look {
        let Some(line) = first_line(rest, HEADER_BYTES_MAX) else {
            return if rest.len() < HEADER_BYTES_MAX {
                Look::More
            } else {
                Look::Blind
            };
        };
        let header = line.len() + 2;
        let Some(count) = number(line) else {
            return Look::Blind;
        };
        let Ok(count) = u64::try_from(count) else {
            return Look::Pass(header, 0, 0);
        };
        match kind {
            b'$' | b'=' | b'!' => {
                if let (true, Awaited::Echo(text)) = (reply && kind == b'$', &self.awaited)
                    && count == text.len() as u64
                {
                    let total = header + text.len() + 2;
                    match rest.get(header..total) {
                        None => return Look::More,
                        Some(body) if body.starts_with(text.as_bytes()) => {
                            return Look::Stop(Stop::Echoed, total);
                        }
                        Some(_) => {}
                    }
                }
                Look::Pass(header, count.saturating_add(2), 0)
            }
            b'%' | b'|' => Look::Pass(header, 0, count.saturating_mul(2)),
            _ => Look::Pass(header, 0, count),
        }
    }

    fn error(&self, rest: &[u8], reply: bool) -> Look {
        let Some(line) = first_line(rest, REPLY_LOOK_BYTES) else {
            return if rest.len() < REPLY_LOOK_BYTES {
                Look::More
            } else {
                Look::Line
            };
        };
        let total = line.len() + 2;
        let has = |part: &str| line.windows(part.len()).any(|w| w == part.as_bytes());
        match &self.awaited {
            Awaited::Echo(text) if reply && has(text) => Look::Stop(Stop::Refused, total),
            _ if acl::refuses_key(line) => Look::Stop(Stop::Denied, total),
            _ if line.len() >= UNKNOWN_FENCE.len()
                && line[..UNKNOWN_FENCE.len()].eq_ignore_ascii_case(UNKNOWN_FENCE) =>
            {
                Look::Stop(Stop::NotTaken, total)
            }
            _ => Look::Line,
        }
    }
}

/// How the server says that it does not know the gateway's command.
const UNKNOWN_FENCE: &[u8] = b"-ERR unknown command 'fence'";

/// A short reply, whole.
fn next_reply(rest: &[u8]) -> Look {
    match parse(
        rest.get(..rest.len().min(REPLY_LOOK_BYTES))
            .unwrap_or_default(),
    ) {
        Ok(Some((value, total))) => Look::Stop(Stop::Reply(value), total),
        Ok(None) if rest.len() < REPLY_LOOK_BYTES => Look::More,
        _ => Look::Blind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(from_server: &mut FromServer, bytes: &[u8], step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for mut chunk in bytes.chunks(step) {
            while !chunk.is_empty() {
                let taken = from_server.buffer.push(chunk);
                chunk = &chunk[taken..];
                from_server.scan();
                out.extend_from_slice(from_server.cleared());
                from_server.sent(from_server.cleared().len());
                if from_server.stopped().is_some() && taken == 0 {
                    return out;
                }
            }
        }
        out
    }

    /// One of each kind that a server sends.
    fn all_kinds() -> Vec<u8> {
        let mut bytes = b"+OK\r\n-ERR no such key\r\n:1\r\n$-1\r\n*-1\r\n$0\r\n\r\n".to_vec();
        bytes.extend(b"*2\r\n*1\r\n$3\r\na\r\n\r\n%1\r\n+k\r\n~2\r\n#t\r\n_\r\n,1.5\r\n(123\r\n");
        bytes.extend(b"|1\r\n+ttl\r\n:3\r\n*1\r\n|1\r\n+a\r\n+b\r\n+c\r\n=7\r\ntxt:abc\r\n");
        bytes.extend(b">2\r\n+message\r\n$4\r\nnope\r\n");
        bytes.extend(format!("-ERR {}\r\n", "x".repeat(50_000)).bytes());
        bytes.extend(format!("+{}\r\n", "y".repeat(50_000)).bytes());
        bytes.extend(
            format!(
                "$100000\r\n{}\r\n",
                "-NOPERM key ".repeat(10_000).get(..100_000).unwrap()
            )
            .bytes(),
        );
        bytes
    }

    #[test]
    fn replies_of_every_kind_go_through_unchanged_in_any_pieces() {
        let bytes = all_kinds();
        for step in [1, 3, 7, 4096, bytes.len()] {
            let mut from_server = FromServer::new();
            assert!(
                feed(&mut from_server, &bytes, step) == bytes,
                "in steps of {step}"
            );
            assert!(!from_server.blind && from_server.elements == 0 && !from_server.line);
        }
    }

    #[test]
    fn the_awaited_reply_is_found_behind_all_others_and_only_as_a_reply() {
        let mut bytes = all_kinds();
        bytes.extend(b"*1\r\n$4\r\nnope\r\n");
        let before = bytes.len();
        bytes.extend(b"$4\r\nnope\r\n:7\r\n");
        for step in [1, 5, bytes.len()] {
            let mut from_server = FromServer::new();
            from_server.wait_for(Awaited::Echo("nope".into()));
            let out = feed(&mut from_server, &bytes, step);
            assert_eq!(out.len(), before);
            assert_eq!(from_server.take_out(), Some(Stop::Echoed));
            from_server.wait_for(Awaited::Next);
            from_server.scan();
            assert_eq!(from_server.take_out(), Some(Stop::Reply(Value::Number(7))));
        }
    }

    #[test]
    fn what_the_server_says_by_itself_is_no_reply() {
        let mut from_server = FromServer::new();
        from_server.wait_for(Awaited::Next);
        from_server
            .buffer
            .push(b">2\r\n+invalidate\r\n*1\r\n+k\r\n+OK\r\n");
        from_server.scan();
        assert_eq!(from_server.cleared().len(), 25);
        from_server.sent(25);
        assert_eq!(
            from_server.take_out(),
            Some(Stop::Reply(Value::Text(b"OK".to_vec())))
        );
    }

    #[test]
    fn refusals_of_keys_are_found_at_any_depth_and_counted() {
        let mut from_server = FromServer::new();
        let denied = b"-NOPERM this user has no permissions to access one of the keys\r\n";
        from_server
            .buffer
            .push(&[b"*2\r\n", &denied[..], b"+OK\r\n", &denied[..]].concat());
        from_server.scan();
        from_server.sent(4);
        assert_eq!(from_server.take_out(), Some(Stop::Denied));
        from_server.scan();
        assert_eq!(from_server.cleared(), b"+OK\r\n");
        from_server.sent(5);
        assert_eq!(from_server.take_out(), Some(Stop::Denied));
        assert!(from_server.elements == 0);
        from_server.wait_for(Awaited::Echo("abc".into()));
        from_server
            .buffer
            .push(b"-ERR unknown command 'FENCE', with args\r\n-ERR unknown 'abc'\r\n");
        from_server.scan();
        assert_eq!(from_server.take_out(), Some(Stop::NotTaken));
        from_server.scan();
        assert_eq!(from_server.take_out(), Some(Stop::Refused));
    }

    #[test]
    fn a_million_nested_arrays_and_lengths_without_end_take_no_memory() {
        let mut from_server = FromServer::new();
        let nested = b"*1\r\n".repeat(1_000_000);
        assert_eq!(feed(&mut from_server, &nested, 4096).len(), nested.len());
        for bomb in [
            &b"*9223372036854775807\r\n"[..],
            b"$9223372036854775807\r\n",
            b"%9223372036854775807\r\n",
        ] {
            let mut from_server = FromServer::new();
            assert_eq!(
                feed(&mut from_server, &bomb.repeat(3), 7).len(),
                bomb.len() * 3
            );
        }
        let mut from_server = FromServer::new();
        assert_eq!(feed(&mut from_server, b"HTTP/1.1 400\r\n", 4).len(), 14);
        assert!(from_server.is_blind());
    }
}
