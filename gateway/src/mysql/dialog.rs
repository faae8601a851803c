//! Whose turn it is on a session, and the walk over both sides' packets. A command goes to the
//! server only when the answer to the one before is complete, so that a session that shows a
//! ticket is idle by construction; what a client sends ahead waits in its buffer. No I/O.

use super::packet::{self, HEADER_BYTES, Header, PAYLOAD_MAX};
use super::response::{Dialect, LOOK_BYTES, Response, Taken, Violation};
use super::statement::{Verdict, judge};
use crate::limits::{MYSQL_SHORT_ANSWER_BYTES_MAX, RELAY_BUFFER_BYTES, STATEMENT_LOOK_BYTES};
use crate::net::buffer::Buffer;
use crate::net::legs::Passage;

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The client may send a command.
    Client,
    /// The server answers one.
    Server(Response),
    /// The client sends a file; then the server answers.
    File,
    /// Either side goes on with a login.
    Login,
}

/// A command whose answer is held back until the gateway has done its part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Special {
    /// Shows these tickets.
    Show(String),
    /// Resets the session.
    Reset,
    /// Changes the account.
    ChangeUser,
}

/// Why a command does not go to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// A ticket in a form in which it cannot be taken.
    Misplaced,
    /// An XA transaction.
    Xa,
    /// Replication, or a copy of the server.
    Replication,
}

/// The answer to a [`Special`] command, whole at the front of the server's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// Its length.
    pub(super) total: usize,
    /// Its place in the exchange.
    pub(super) sequence: u8,
    /// The session's status if it was done; `None` if the server refused.
    pub(super) done: Option<u16>,
}

/// One direction: what has been read, and how much of it may be written.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) buffer: Buffer,
    cleared: usize,
    /// How much of the current packet is still to come; it goes on as it comes.
    passing: usize,
    /// The next packet belongs to the one before.
    continued: bool,
}

impl Passage for Side {
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

impl Side {
    fn new(ahead: &[u8]) -> Side {
        Side {
            buffer: Buffer::holding(ahead, RELAY_BUFFER_BYTES),
            cleared: 0,
            passing: 0,
            continued: false,
        }
    }

    fn rest(&self) -> &[u8] {
        self.buffer.filled().get(self.cleared..).unwrap_or_default()
    }

    fn pass(&mut self, header: Header) {
        self.continued = header.is_continued();
        self.passing = header.total();
        self.pass_on();
    }

    /// Clears what is there of the current packet. Whether all of it was.
    fn pass_on(&mut self) -> bool {
        let here = self.passing.min(self.rest().len());
        self.cleared += here;
        self.passing -= here;
        self.passing == 0
    }
}

/// Both directions of a session.
#[derive(Debug)]
pub(super) struct Dialog {
    pub(super) from_client: Side,
    pub(super) from_server: Side,
    dialect: Dialect,
    turn: Turn,
    special: Option<Special>,
    held: Option<Held>,
    refused: Option<Refused>,
    /// A refused command is taken out: how much of its packet is still to come.
    dropping: Option<usize>,
    /// Place of the last packet that was taken out.
    dropped_at: u8,
}

impl Dialog {
    /// Begins with what both sides sent behind the login.
    pub(super) fn new(dialect: Dialect, client_ahead: &[u8], server_ahead: &[u8]) -> Dialog {
        Dialog {
            from_client: Side::new(client_ahead),
            from_server: Side::new(server_ahead),
            dialect,
            turn: Turn::Client,
            special: None,
            held: None,
            refused: None,
            dropping: None,
            dropped_at: 0,
        }
    }

    /// Walks over what has come in from both sides.
    pub(super) fn scan(&mut self) -> Result<(), Violation> {
        // An answer that ends lets the next command through, and so on.
        loop {
            self.scan_server()?;
            let turn = self.turn;
            self.scan_client();
            if turn == self.turn {
                return Ok(());
            }
        }
    }

    /// The answer that is held, once everything before it has been written.
    pub(super) fn held(&self) -> Option<(Held, &Special)> {
        let held = self.held.filter(|_| self.from_server.cleared == 0)?;
        Some((held, self.special.as_ref()?))
    }

    /// Lets the held answer go, or takes it out for another one to be written instead.
    pub(super) fn settle(&mut self, let_go: bool) {
        let Some(held) = self.held.take() else { return };
        self.special = None;
        self.turn = Turn::Client;
        if let_go {
            self.from_server.cleared += held.total;
        } else {
            self.from_server.buffer.consume(held.total);
        }
    }

    /// A command that was refused and is to be answered now, with the place of the answer.
    pub(super) fn refused(&mut self) -> Option<(Refused, u8)> {
        if self.dropping.is_some() || !self.from_server.buffer.filled().is_empty() {
            return None;
        }
        let refused = self.refused.take()?;
        Some((refused, self.dropped_at.wrapping_add(1)))
    }

    /// Whether the server owes an answer.
    pub(super) fn is_answering(&self) -> bool {
        self.turn != Turn::Client
    }

    /// Whether the client has begun something that it has not ended.
    pub(super) fn is_within_client_packet(&self) -> bool {
        let unfinished = self.from_client.passing > 0 || self.from_client.continued;
        let begun = !self.from_client.buffer.filled().is_empty() && self.turn == Turn::Client;
        unfinished || begun || matches!(self.turn, Turn::File | Turn::Login)
    }

    fn scan_client(&mut self) {
        loop {
            if self.dropping.is_some() && !self.drop_on() {
                return;
            }
            if self.refused.is_some() || !self.from_client.pass_on() {
                return;
            }
            if matches!(self.turn, Turn::Server(_)) && !self.from_client.continued {
                return;
            }
            let Some(header) = packet::header(self.from_client.rest()) else {
                return;
            };
            if self.from_client.continued {
                self.from_client.pass(header);
                continue;
            }
            match self.turn {
                Turn::Client => {
                    if !self.command(header) {
                        return;
                    }
                }
                Turn::File => {
                    // An empty packet is the end of the file.
                    self.from_client.pass(header);
                    self.from_client.continued = false;
                    if header.payload == 0 {
                        self.turn = Turn::Server(Response::Result);
                    }
                }
                Turn::Login => self.from_client.pass(header),
                Turn::Server(_) => return,
            }
        }
    }

    /// A command's first packet. `false`: not enough of it is there.
    fn command(&mut self, header: Header) -> bool {
        let rest = self.from_client.rest();
        let wanted = header.payload.min(STATEMENT_LOOK_BYTES);
        let code = rest.get(HEADER_BYTES).copied();
        let is_text = matches!(code, Some(0x03 | 0x16));
        let needed = if is_text { wanted } else { wanted.min(1) };
        let Some(payload) = rest.get(HEADER_BYTES..HEADER_BYTES + needed) else {
            return false;
        };
        match look(payload, self.dialect) {
            Look::Refuse(why) => {
                self.refused = Some(why);
                self.dropping = Some(header.total());
                self.dropped_at = header.sequence;
                self.from_client.continued = header.is_continued();
            }
            Look::Pass(response, special) => {
                self.special = special;
                if let Some(response) = response {
                    self.turn = Turn::Server(response);
                }
                self.from_client.pass(header);
            }
        }
        true
    }

    /// Takes a refused command out. `true` once all of it, with its continuations, is.
    fn drop_on(&mut self) -> bool {
        while let Some(left) = self.dropping {
            let here = left.min(self.from_client.buffer.filled().len());
            self.from_client.buffer.consume(here);
            self.dropping = Some(left - here);
            if here < left {
                return false;
            }
            if !self.from_client.continued {
                self.dropping = None;
                return true;
            }
            let Some(header) = packet::header(self.from_client.buffer.filled()) else {
                self.dropping = Some(0);
                return false;
            };
            self.dropping = Some(header.total());
            self.dropped_at = header.sequence;
            self.from_client.continued = header.is_continued();
        }
        true
    }

    fn scan_server(&mut self) -> Result<(), Violation> {
        while self.held.is_none() {
            if !self.from_server.pass_on() {
                return Ok(());
            }
            let rest = self.from_server.rest();
            let Some(header) = packet::header(rest) else {
                return Ok(());
            };
            if self.from_server.continued {
                self.from_server.pass(header);
                continue;
            }
            let look = header.payload.min(LOOK_BYTES);
            let Some(payload) = rest.get(HEADER_BYTES..HEADER_BYTES + look) else {
                return Ok(());
            };
            let mut response = match self.turn {
                Turn::Server(response) => response,
                Turn::Login => Response::Login,
                // Out of turn a server says only why it goes away.
                Turn::Client | Turn::File => {
                    self.from_server.pass(header);
                    continue;
                }
            };
            let taken = response.take(header, payload, self.dialect)?;
            let done = match taken {
                Taken::Done(status) => Some(status),
                _ => None,
            };
            let over = done.is_some() || taken == Taken::Failed;
            if over && self.special.is_some() {
                if header.payload > MYSQL_SHORT_ANSWER_BYTES_MAX {
                    return Err(Violation("a very long answer to a short command"));
                }
                if rest.len() < header.total() {
                    return Ok(());
                }
                self.held = Some(Held {
                    total: header.total(),
                    sequence: header.sequence,
                    done: done.map(Option::unwrap_or_default),
                });
                return Ok(());
            }
            self.turn = match taken {
                _ if over => Turn::Client,
                Taken::File => Turn::File,
                Taken::Ask => Turn::Login,
                _ => Turn::Server(response),
            };
            self.from_server.pass(header);
        }
        Ok(())
    }
}

enum Look {
    Pass(Option<Response>, Option<Special>),
    Refuse(Refused),
}

/// What a command is, by its first bytes.
fn look(payload: &[u8], dialect: Dialect) -> Look {
    let Some((&code, body)) = payload.split_first() else {
        return Look::Pass(Some(Response::Result), None);
    };
    let response = match code {
        // Quit, data for a parameter, close a statement: no answer.
        0x01 | 0x18 | 0x19 => return Look::Pass(None, None),
        0x03 => {
            let body = match (dialect.query_attributes, body) {
                // No attributes.
                (true, [0, 1, text @ ..]) => text,
                _ => body,
            };
            return look_at_text(body, false);
        }
        0x16 => return look_at_text(body, true),
        // Descriptions without their number; rows of a cursor.
        0x04 | 0x1c => Response::Rows,
        // Statistics: a text.
        0x09 => Response::Count(1),
        0x11 => return Look::Pass(Some(Response::Login), Some(Special::ChangeUser)),
        0x1f => return Look::Pass(Some(Response::Result), Some(Special::Reset)),
        0x12 | 0x13 | 0x15 | 0x1e | 0x20 => return Look::Refuse(Refused::Replication),
        _ => Response::Result,
    };
    Look::Pass(Some(response), None)
}

fn look_at_text(text: &[u8], prepare: bool) -> Look {
    let response = if prepare {
        Response::Prepared
    } else {
        Response::Result
    };
    match judge(text) {
        Verdict::Pass => Look::Pass(Some(response), None),
        Verdict::Ticket(_) if prepare => Look::Refuse(Refused::Misplaced),
        Verdict::Ticket(tickets) => {
            Look::Pass(Some(response), Some(Special::Show(tickets.to_owned())))
        }
        Verdict::Misplaced => Look::Refuse(Refused::Misplaced),
        Verdict::Xa => Look::Refuse(Refused::Xa),
    }
}

const _: () = assert!(HEADER_BYTES + STATEMENT_LOOK_BYTES < RELAY_BUFFER_BYTES);
const _: () = assert!(HEADER_BYTES + MYSQL_SHORT_ANSWER_BYTES_MAX < RELAY_BUFFER_BYTES);
const _: () = assert!(MYSQL_SHORT_ANSWER_BYTES_MAX < PAYLOAD_MAX);

#[cfg(test)]
mod tests {
    use super::super::packet::packet;
    use super::*;

    fn dialog() -> Dialog {
        Dialog::new(Dialect::default(), b"", b"")
    }

    fn query(text: &str) -> Vec<u8> {
        packet(0, &[b"\x03", text.as_bytes()].concat())
    }

    fn ok(sequence: u8) -> Vec<u8> {
        packet(sequence, &[0, 0, 0, 2, 0, 0, 0])
    }

    /// Feeds one side a few bytes at a time; what comes out on the other.
    fn feed(dialog: &mut Dialog, client: bool, bytes: &[u8], step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for mut chunk in bytes.chunks(step) {
            loop {
                let taken = if client {
                    dialog.from_client.buffer.push(chunk)
                } else {
                    dialog.from_server.buffer.push(chunk)
                };
                chunk = &chunk[taken..];
                dialog.scan().unwrap();
                let from = if client {
                    &mut dialog.from_client
                } else {
                    &mut dialog.from_server
                };
                out.extend_from_slice(from.cleared());
                from.sent(from.cleared().len());
                if chunk.is_empty() || taken == 0 {
                    break;
                }
            }
        }
        out
    }

    #[test]
    fn a_command_waits_until_the_one_before_is_answered() {
        for step in [1, 3, 1000] {
            let mut dialog = dialog();
            let (first, second) = (query("select 1"), query("select 2"));
            let both = [first.clone(), second.clone()].concat();
            assert_eq!(feed(&mut dialog, true, &both, step), first);
            assert!(dialog.is_answering());
            assert_eq!(feed(&mut dialog, false, &ok(1), step), ok(1));
            assert_eq!(dialog.from_client.cleared(), second);
        }
    }

    #[test]
    fn commands_without_an_answer_go_on_at_once() {
        let mut dialog = dialog();
        let bytes = [
            packet(0, b"\x19\x01\0\0\0"),
            packet(0, b"\x18data"),
            packet(0, b"\x0e"),
        ];
        assert_eq!(feed(&mut dialog, true, &bytes.concat(), 2), bytes.concat());
        assert!(dialog.is_answering());
    }

    #[test]
    fn a_ticket_goes_to_the_server_and_its_answer_is_held() {
        let mut dialog = dialog();
        let show = query("set @fence_ticket = 'lk1.a'");
        assert_eq!(feed(&mut dialog, true, &show, 1), show);
        assert_eq!(feed(&mut dialog, false, &ok(1), 1), b"");
        let (held, special) = dialog.held().unwrap();
        assert_eq!(special, &Special::Show("lk1.a".into()));
        assert_eq!((held.sequence, held.done), (1, Some(2)));
        dialog.settle(true);
        assert_eq!(dialog.from_server.cleared(), ok(1));
        assert!(!dialog.is_answering());
    }

    #[test]
    fn a_refused_command_is_taken_out_whole_and_answered_behind_it() {
        for text in ["xa start 'x'", "select 1; set @fence_ticket = 'lk1.a'"] {
            let mut dialog = dialog();
            let ping = packet(0, b"\x0e");
            let bytes = [query(text), ping.clone()].concat();
            assert_eq!(feed(&mut dialog, true, &bytes, 5), b"");
            let (_, sequence) = dialog.refused().unwrap();
            assert_eq!(sequence, 1);
            dialog.scan().unwrap();
            assert_eq!(dialog.from_client.cleared(), ping);
        }
        for code in [0x12, 0x15, 0x1e] {
            let mut dialog = dialog();
            feed(&mut dialog, true, &packet(0, &[code, 1, 2, 3]), 9);
            assert_eq!(dialog.refused(), Some((Refused::Replication, 1)));
        }
    }

    #[test]
    fn a_refused_command_of_several_packets_is_answered_behind_the_last() {
        let mut dialog = dialog();
        let mut text = b"\x03xa start '".to_vec();
        text.resize(PAYLOAD_MAX, b'x');
        let mut bytes = vec![0xff, 0xff, 0xff, 0];
        bytes.extend_from_slice(&text);
        bytes.extend(packet(1, b"tail'"));
        assert_eq!(feed(&mut dialog, true, &bytes, 20_000), b"");
        assert_eq!(dialog.refused(), Some((Refused::Xa, 2)));
    }

    #[test]
    fn a_statement_of_several_packets_goes_on_whole() {
        let mut dialog = dialog();
        let mut text = b"\x03insert into t values ('".to_vec();
        text.resize(PAYLOAD_MAX, b'x');
        let mut bytes = vec![0xff, 0xff, 0xff, 0];
        bytes.extend_from_slice(&text);
        // A continuation looks like a command of its own.
        bytes.extend(packet(1, b"\x03set @fence_ticket = 'lk1.a'"));
        assert_eq!(feed(&mut dialog, true, &bytes, 20_000), bytes);
        assert!(dialog.held().is_none() && dialog.is_answering());
    }

    #[test]
    fn a_file_is_sent_on_until_its_empty_packet() {
        let mut dialog = dialog();
        feed(
            &mut dialog,
            true,
            &query("load data local infile 'f' into table t"),
            100,
        );
        let ask = packet(1, b"\xfbf");
        assert_eq!(feed(&mut dialog, false, &ask, 1), ask);
        // Its content may look like anything, a command with sequence 0 too.
        let file = [
            packet(2, b"\x03set @fence_ticket = 'x'"),
            packet(0, b"\x01"),
            packet(4, b""),
        ];
        let next = packet(0, b"\x0e");
        let sent = feed(
            &mut dialog,
            true,
            &[file.concat(), next.clone()].concat(),
            3,
        );
        assert_eq!(sent, file.concat());
        assert_eq!(feed(&mut dialog, false, &ok(5), 1), ok(5));
        assert_eq!(dialog.from_client.cleared(), next);
    }

    #[test]
    fn a_change_of_user_is_a_login_whose_end_is_held() {
        let mut dialog = dialog();
        let change = packet(0, b"\x11app\0");
        assert_eq!(feed(&mut dialog, true, &change, 4), change);
        let ask = packet(1, b"\xfemysql_native_password\0nonce\0");
        assert_eq!(feed(&mut dialog, false, &ask, 4), ask);
        let proof = packet(2, b"\x03proof");
        assert_eq!(feed(&mut dialog, true, &proof, 4), proof);
        assert_eq!(feed(&mut dialog, false, &ok(3), 4), b"");
        assert_eq!(dialog.held().unwrap().1, &Special::ChangeUser);
    }

    #[test]
    fn what_a_server_says_out_of_turn_passes() {
        let mut dialog = dialog();
        let bye = packet::error(0, 1927, "70100", "Connection was killed");
        assert_eq!(feed(&mut dialog, false, &bye, 2), bye);
    }
}
