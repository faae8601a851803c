//! The client's side of a relay: walks over commands in the read buffer, says how much of it may
//! go to the server, and stops where a ticket is shown. No I/O.
//!
//! Only names of commands are looked at. Bytes that are not the protocol's go through as they
//! are: it is the server's business to refuse them, in its own words, and nothing rests on
//! understanding them but that a ticket behind them is not seen.

use super::resp::{HEADER_BYTES_MAX, first_line, number};
use crate::limits::{COMMAND_LOOK_BYTES, RELAY_BUFFER_BYTES};
use crate::net::buffer::Buffer;
use crate::net::legs::Passage;

/// Most arguments that the server takes in one command.
const ARGUMENTS_MAX: i64 = 1024 * 1024;

/// Longest name of a command that is anything to the gateway.
const NAME_BYTES_MAX: i64 = 8;

/// A command that shows tickets, at the front once all before it has been sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Show {
    /// As written, several separated by spaces. Empty: they are given back.
    pub(super) tickets: String,
    /// Length of the command.
    pub(super) total: usize,
}

/// What a client has sent and the server has not got yet.
#[derive(Debug)]
pub(super) struct FromClient {
    pub(super) buffer: Buffer,
    /// How much of the buffer's front may go to the server.
    cleared: usize,
    /// How much of the current argument is still to come; it goes on as it comes.
    passing: u64,
    /// Arguments of the current command that are still to come.
    arguments: u64,
    /// The rest of a line that is too long to be looked at goes on as it comes.
    line: bool,
    /// The bytes are not the protocol's: nothing is looked at any more.
    blind: bool,
    stop: Option<Show>,
    modes: Modes,
}

/// What earlier commands have changed about how the next ones are answered.
#[derive(Debug, Default)]
struct Modes {
    /// MULTI has been sent and no end of it.
    in_multi: bool,
    /// Replies have been switched off.
    muted: bool,
}

/// What is at the front.
enum Look {
    /// Not enough to tell.
    More,
    /// This many bytes go through, and this many arguments behind them.
    Pass(usize, u64),
    /// A line of which no end is in sight.
    Line,
    Show(Show),
    Blind,
}

impl Passage for FromClient {
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

impl FromClient {
    pub(super) fn new() -> FromClient {
        FromClient {
            buffer: Buffer::new(RELAY_BUFFER_BYTES),
            cleared: 0,
            passing: 0,
            arguments: 0,
            line: false,
            blind: false,
            stop: None,
            modes: Modes::default(),
        }
    }

    /// Where the scan has stopped, if everything before it has been sent.
    pub(super) fn stopped(&self) -> Option<&Show> {
        self.stop.as_ref().filter(|_| self.cleared == 0)
    }

    /// Goes on after a stop; the command itself is taken out.
    pub(super) fn take_out(&mut self) {
        if let Some(Show { total, .. }) = self.stop.take() {
            self.buffer.consume(total);
        }
    }

    /// Whether all that has come is with the server.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.filled().is_empty()
    }

    /// Nothing more will come: what is there of a command goes to the server as it is.
    pub(super) fn end(&mut self) {
        self.blind = true;
    }

    /// Whether a transaction is being queued.
    pub(super) fn in_multi(&self) -> bool {
        self.modes.in_multi
    }

    /// Whether replies are switched off.
    pub(super) fn is_muted(&self) -> bool {
        self.modes.muted
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
            match if self.arguments > 0 {
                argument(rest)
            } else {
                self.modes.command(rest)
            } {
                Look::More => return,
                Look::Pass(bytes, arguments) if self.arguments == 0 => {
                    self.cleared += bytes;
                    self.arguments = arguments;
                }
                Look::Pass(header, length) => {
                    self.cleared += header;
                    self.passing = length;
                    self.arguments -= 1;
                }
                Look::Line => self.line = true,
                Look::Show(show) => self.stop = Some(show),
                Look::Blind => self.blind = true,
            }
        }
    }
}

impl Modes {
    fn command(&mut self, rest: &[u8]) -> Look {
        if rest.first() != Some(&b'*') {
            return self.inline(rest);
        }
        let Some(line) = first_line(rest, HEADER_BYTES_MAX) else {
            return more_or_blind(rest);
        };
        let header = line.len() + 2;
        let arguments = match number(line) {
            Some(count) if count <= 0 => return Look::Pass(header, 0),
            Some(count) if count <= ARGUMENTS_MAX => count as u64,
            _ => return Look::Blind,
        };
        let behind = rest.get(header..).unwrap_or_default();
        let name = match peek(behind) {
            Peek::More => return Look::More,
            Peek::Long => return Look::Pass(header, arguments),
            Peek::Blind => return Look::Blind,
            Peek::Argument(name) => name.to_ascii_uppercase(),
        };
        match name.as_slice() {
            b"FENCE" | b"CLIENT" => {}
            name => {
                if arguments == 1 {
                    self.note(name);
                }
                return Look::Pass(header, arguments);
            }
        }
        let mut words = Vec::new();
        let mut at = 0;
        for _ in 0..arguments {
            let Some(next) = behind.get(at..).filter(|_| at <= COMMAND_LOOK_BYTES) else {
                return Look::Pass(header, arguments);
            };
            match whole(next) {
                Some(Ok((word, length))) => {
                    words.push(word);
                    at += length;
                }
                Some(Err(())) => return Look::Pass(header, arguments),
                None => return Look::More,
            }
        }
        match self.words(&words) {
            Some(tickets) => Look::Show(Show {
                tickets,
                total: header + at,
            }),
            None => Look::Pass(header, arguments),
        }
    }

    /// A command as people type it: words in a line.
    fn inline(&mut self, rest: &[u8]) -> Look {
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            return if rest.len() < COMMAND_LOOK_BYTES {
                Look::More
            } else {
                Look::Line
            };
        };
        let line = rest.get(..end).unwrap_or_default();
        let words: Vec<_> = line
            .split(u8::is_ascii_whitespace)
            .filter(|w| !w.is_empty())
            .collect();
        if let [name] = words.as_slice() {
            self.note(&name.to_ascii_uppercase());
        }
        match self.words(&words) {
            Some(tickets) => Look::Show(Show {
                tickets,
                total: end + 1,
            }),
            None => Look::Pass(end + 1, 0),
        }
    }

    /// A command without arguments that changes how the next ones are answered.
    fn note(&mut self, name: &[u8]) {
        match name {
            b"MULTI" => self.in_multi = true,
            b"EXEC" | b"DISCARD" => self.in_multi = false,
            b"RESET" => (self.in_multi, self.muted) = (false, false),
            _ => {}
        }
    }

    /// Tickets, if the command shows any.
    fn words(&mut self, words: &[&[u8]]) -> Option<String> {
        let is = |at: usize, word: &str| {
            words
                .get(at)
                .is_some_and(|w| w.eq_ignore_ascii_case(word.as_bytes()))
        };
        if is(0, "client") && is(1, "reply") {
            self.muted = (self.muted || is(2, "off")) && !is(2, "on");
        }
        if !is(0, "fence") || !is(1, "ticket") {
            return None;
        }
        let tickets = words.get(2..).unwrap_or_default().join(&b' ');
        // What is no text is no ticket either, and is told so.
        Some(String::from_utf8_lossy(&tickets).into_owned())
    }
}

enum Peek<'a> {
    More,
    /// Longer than any name that matters.
    Long,
    Argument(&'a [u8]),
    Blind,
}

/// The argument at the front, if it is short.
fn peek(rest: &[u8]) -> Peek<'_> {
    let Some(line) = first_line(rest, HEADER_BYTES_MAX) else {
        return match more_or_blind(rest) {
            Look::More => Peek::More,
            _ => Peek::Blind,
        };
    };
    match number(line).filter(|_| line.first() == Some(&b'$')) {
        Some(length) if length > NAME_BYTES_MAX => Peek::Long,
        Some(length) if length >= 0 => {
            let (from, to) = (line.len() + 2, line.len() + 2 + length as usize);
            match rest.get(from..to) {
                Some(text) => Peek::Argument(text),
                None => Peek::More,
            }
        }
        _ => Peek::Blind,
    }
}

/// The argument at the front and its length with everything, if all of it is there. `Err` if it
/// never will be within what is looked at.
fn whole(rest: &[u8]) -> Option<Result<(&[u8], usize), ()>> {
    let Some(line) = first_line(rest, HEADER_BYTES_MAX) else {
        return (rest.len() >= HEADER_BYTES_MAX).then_some(Err(()));
    };
    let length = number(line).filter(|_| line.first() == Some(&b'$'));
    let Some(length) = length.and_then(|n| usize::try_from(n).ok()) else {
        return Some(Err(()));
    };
    if length > COMMAND_LOOK_BYTES {
        return Some(Err(()));
    }
    let from = line.len() + 2;
    let text = rest.get(from..from + length)?;
    rest.get(from + length + 1)?;
    Some(Ok((text, from + length + 2)))
}

/// One argument of a command that goes through: length of its header, and of the rest.
fn argument(rest: &[u8]) -> Look {
    let Some(line) = first_line(rest, HEADER_BYTES_MAX) else {
        return more_or_blind(rest);
    };
    match number(line).filter(|_| line.first() == Some(&b'$')) {
        Some(length) if length >= 0 => Look::Pass(line.len() + 2, length as u64 + 2),
        _ => Look::Blind,
    }
}

fn more_or_blind(rest: &[u8]) -> Look {
    if rest.len() < HEADER_BYTES_MAX {
        Look::More
    } else {
        Look::Blind
    }
}

#[cfg(test)]
mod tests {
    use super::super::resp::command;
    use super::*;

    /// Feeds bytes a few at a time; says what went through before the first stop.
    fn feed(from_client: &mut FromClient, bytes: &[u8], step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for mut chunk in bytes.chunks(step) {
            while !chunk.is_empty() {
                let taken = from_client.buffer.push(chunk);
                chunk = &chunk[taken..];
                from_client.scan();
                out.extend_from_slice(from_client.cleared());
                from_client.sent(from_client.cleared().len());
                assert!(from_client.buffer.filled().len() <= RELAY_BUFFER_BYTES);
                if from_client.stopped().is_some() && taken == 0 {
                    return out;
                }
            }
        }
        out
    }

    #[test]
    fn commands_of_every_form_go_through_unchanged_in_any_pieces() {
        let mut bytes = command(&["SET", "k", "v"]);
        bytes.extend(b"PING\r\nget \"a b\"\r\n\r\n*0\r\n*-1\r\n");
        bytes.extend(command(&["SET", "k", &"x".repeat(100_000)]));
        bytes.extend(command(&["FENCE"]));
        bytes.extend(command(&["FENCE", "TICKET", &"x".repeat(50_000)]));
        bytes.extend(command(&["CLIENT", "SETNAME", "FENCE"]));
        bytes.extend(command(&["", ""]));
        bytes.extend(vec![b'x'; 50_000]);
        bytes.extend(b"\nPING\r\n");
        for step in [1, 3, 7, 4096, bytes.len()] {
            let mut from_client = FromClient::new();
            assert!(
                feed(&mut from_client, &bytes, step) == bytes,
                "in steps of {step}"
            );
            assert!(!from_client.blind);
        }
    }

    #[test]
    fn the_scan_stops_at_a_ticket_and_what_is_behind_it_stays() {
        for show in [
            command(&["FENCE", "TICKET", "lk1.a"]),
            command(&["fence", "Ticket", "lk1.a"]),
            b"fence ticket lk1.a\r\n".to_vec(),
        ] {
            let before = command(&["GET", "k"]);
            let after = command(&["SET", "k", "v"]);
            let mut from_client = FromClient::new();
            let bytes = [before.clone(), show, after.clone()].concat();
            assert_eq!(feed(&mut from_client, &bytes, 5), before);
            assert_eq!(from_client.stopped().unwrap().tickets, "lk1.a");
            from_client.take_out();
            from_client.scan();
            assert_eq!(from_client.cleared(), after);
        }
    }

    #[test]
    fn several_tickets_are_one_set_and_none_gives_them_back() {
        for (words, tickets) in [
            (&["FENCE", "TICKET", "lk1.a", "lk1.b"][..], "lk1.a lk1.b"),
            (&["FENCE", "TICKET", "lk1.a lk1.b"], "lk1.a lk1.b"),
            (&["FENCE", "TICKET"], ""),
            (&["FENCE", "TICKET", ""], ""),
        ] {
            let mut from_client = FromClient::new();
            from_client.buffer.push(&command(words));
            from_client.scan();
            assert_eq!(from_client.stopped().unwrap().tickets, tickets);
        }
    }

    #[test]
    fn transactions_and_muted_replies_are_noted() {
        let mut from_client = FromClient::new();
        let mut after = |words: &[&str]| {
            from_client.buffer.push(&command(words));
            from_client.scan();
            from_client.sent(from_client.cleared().len());
            (from_client.in_multi(), from_client.is_muted())
        };
        assert_eq!(after(&["multi"]), (true, false));
        assert_eq!(after(&["EXEC", "x"]), (true, false));
        assert_eq!(after(&["EXEC"]), (false, false));
        assert_eq!(after(&["CLIENT", "REPLY", "off"]), (false, true));
        assert_eq!(after(&["CLIENT", "REPLY", "skip"]), (false, true));
        assert_eq!(after(&["CLIENT", "REPLY", "ON"]), (false, false));
        after(&["MULTI"]);
        assert_eq!(after(&["RESET"]), (false, false));
    }

    #[test]
    fn what_is_not_the_protocol_goes_through_unread_and_takes_no_memory() {
        for hostile in [
            &b"*1\r\n:5\r\n"[..],
            b"*99999999999\r\n",
            b"*1\r\n$-5\r\n",
            b"*+1\r\n",
            b"*11111111111111111111111111111111111111111",
            b"*1\r\n$99999999999999999999999999999999999",
            b"*2\r\n$3\r\nGET\r\n$x\r\n",
        ] {
            let mut from_client = FromClient::new();
            let bytes = [hostile, &command(&["FENCE", "TICKET", "x"])].concat();
            assert_eq!(feed(&mut from_client, &bytes, 3), bytes);
            assert!(from_client.blind);
        }
        let mut from_client = FromClient::new();
        let bomb = [
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\n".to_vec(),
            vec![1; 300_000],
        ];
        let bomb = bomb.concat();
        assert_eq!(feed(&mut from_client, &bomb, 1000).len(), bomb.len());
        assert!(from_client.passing > 0);
    }
}
