//! The client's side of a relay: walks over message headers in the read buffer, says how much of
//! it may go to the server, and stops where the gateway has something to do. No I/O.
//!
//! Only the beginnings of Query and Parse messages are looked at, and Bind while a prepared
//! statement holds a ticket. Everything else, known or not, goes by length.

use std::collections::HashMap;

use super::idle::Idle;
use super::messages::{self, HEADER_BYTES, Header, c_string};
use super::statement::{Verdict, judge};
use super::telling::{self, Manner, Telling};
use crate::limits::{RELAY_BUFFER_BYTES, STATEMENT_LOOK_BYTES, TICKET_STATEMENTS_MAX};
use crate::net::buffer::Buffer;
use crate::net::legs::Passage;

/// Where the scan has stopped: the message at the front, once all before it has been sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Tickets are shown.
    Show(Shown),
    /// The message is refused.
    Refuse(Refused),
    /// A unit begins, and its transaction may have to be told first what the session carries.
    Tell(Untold),
    /// The bytes are not the protocol's.
    Violation(String),
}

/// Tickets shown in a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// As written.
    pub(super) tickets: String,
    /// In which kind of message.
    pub(super) form: Form,
    /// Length of the message.
    pub(super) total: usize,
}

/// The kinds of message that show tickets, with the prepared statement's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Query,
    Parse(Vec<u8>),
    Bind(Vec<u8>),
}

/// The first message of a unit that may have to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Untold {
    pub(super) kind: u8,
    pub(super) total: usize,
    pub(super) manner: Manner,
}

/// A message that is refused because of its text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) why: Why,
    pub(super) form: Form,
    pub(super) total: usize,
}

/// Why a statement is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Misplaced,
    Prepared,
}

/// What a client has sent and the server has not got yet.
#[derive(Debug)]
pub(super) struct FromClient {
    pub(super) buffer: Buffer,
    /// How much of the buffer's front may go to the server.
    cleared: usize,
    /// How much of the current message is still to come; it goes on as it comes.
    passing: usize,
    /// How much of a message that was taken out is still to come.
    dropping: usize,
    stop: Option<Stop>,
    /// Prepared statements that hold a ticket, and what they hold.
    ticket_statements: HashMap<Vec<u8>, String>,
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
    /// Begins with what the client sent while it logged in.
    pub(super) fn new(ahead: &[u8]) -> FromClient {
        FromClient {
            buffer: Buffer::holding(ahead, RELAY_BUFFER_BYTES),
            cleared: 0,
            passing: 0,
            dropping: 0,
            stop: None,
            ticket_statements: HashMap::new(),
        }
    }

    /// Where the scan has stopped, if everything before it has been sent.
    pub(super) fn stopped(&self) -> Option<&Stop> {
        self.stop.as_ref().filter(|_| self.cleared == 0)
    }

    /// Goes on after a stop. The message itself is let through.
    pub(super) fn let_through(&mut self, total: usize, kind: u8, idle: &mut Idle) {
        self.stop = None;
        idle.sent(kind);
        self.pass(total);
    }

    /// Goes on after a stop. The message itself is taken out.
    pub(super) fn take_out(&mut self, total: usize) {
        self.stop = None;
        let here = total.min(self.buffer.filled().len());
        self.buffer.consume(here);
        self.dropping = total - here;
    }

    /// Whether one more prepared statement may hold a ticket.
    pub(super) fn can_remember(&self, name: &[u8]) -> bool {
        self.ticket_statements.len() < TICKET_STATEMENTS_MAX
            || self.ticket_statements.contains_key(name)
    }

    /// Remembers that a prepared statement holds a ticket.
    pub(super) fn remember(&mut self, name: &[u8], tickets: &str) {
        self.ticket_statements
            .insert(name.to_vec(), tickets.to_owned());
    }

    fn pass(&mut self, total: usize) {
        let here = total.min(self.buffer.filled().len().saturating_sub(self.cleared));
        self.cleared += here;
        self.passing = total - here;
    }

    /// Whether the server has got whole messages only.
    pub(super) fn is_between_messages(&self) -> bool {
        self.cleared == 0 && self.passing == 0
    }

    /// Walks over what has come in. `carried` is what the session shows now, `telling` what its
    /// transactions are told of that.
    pub(super) fn scan(&mut self, idle: &mut Idle, carried: &str, telling: &Telling) {
        while self.stop.is_none() {
            if self.dropping > 0 {
                let here = self.dropping.min(self.buffer.filled().len());
                self.buffer.consume(here);
                self.dropping -= here;
                if self.dropping > 0 {
                    return;
                }
            }
            if self.passing > 0 {
                let passing = std::mem::take(&mut self.passing);
                self.pass(passing);
                if self.passing > 0 {
                    return;
                }
            }
            if !idle.has_room() {
                return;
            }
            let rest = self.buffer.filled().get(self.cleared..).unwrap_or_default();
            let header = match messages::header(rest) {
                Ok(Some(header)) => header,
                Ok(None) => return,
                Err(error) => {
                    self.stop = Some(Stop::Violation(error.to_string()));
                    return;
                }
            };
            match look(header, rest, &self.ticket_statements, carried) {
                Look::Pass => {
                    if !self.ticket_statements.is_empty() {
                        self.forget_renamed(header.kind);
                    }
                    if telling.is_due(idle)
                        && telling::begins_unit(header.kind)
                        && idle.is_unit_boundary()
                    {
                        self.stop = Some(Stop::Tell(self.untold(header)));
                    } else {
                        idle.sent(header.kind);
                        self.pass(header.total);
                    }
                }
                Look::More => return,
                Look::Stop(stop) => self.stop = Some(stop),
            }
        }
    }

    fn untold(&self, Header { kind, total }: Header) -> Untold {
        let rest = self.buffer.filled().get(self.cleared..);
        let text = rest.and_then(|rest| statement_text(kind, total, rest));
        let manner = telling::manner(kind, text.unwrap_or_default());
        Untold {
            kind,
            total,
            manner,
        }
    }

    /// A name that held a ticket may stand for another statement now, or for none.
    fn forget_renamed(&mut self, kind: u8) {
        let rest = self
            .buffer
            .filled()
            .get(self.cleared + HEADER_BYTES..)
            .unwrap_or_default();
        let named = match (kind, rest) {
            (b'P', named) | (b'C', [b'S', named @ ..]) => c_string(named),
            _ => None,
        };
        if let Some((name, _)) = named {
            self.ticket_statements.remove(name);
        }
    }
}

enum Look {
    Pass,
    /// Not enough of the message is there.
    More,
    Stop(Stop),
}

fn look(
    header: Header,
    rest: &[u8],
    ticket_statements: &HashMap<Vec<u8>, String>,
    carried: &str,
) -> Look {
    let looked_at = match header.kind {
        b'Q' | b'P' => true,
        b'B' | b'C' => !ticket_statements.is_empty(),
        _ => false,
    };
    if !looked_at {
        return Look::Pass;
    }
    let wanted = header.total.min(HEADER_BYTES + STATEMENT_LOOK_BYTES);
    let Some(body) = rest.get(HEADER_BYTES..wanted) else {
        return Look::More;
    };
    match header.kind {
        b'B' => return look_at_bind(header, body, ticket_statements, carried),
        b'C' => return Look::Pass,
        _ => {}
    }
    let (form, text) = if header.kind == b'Q' {
        (Form::Query, body)
    } else {
        match c_string(body) {
            Some((name, text)) => (Form::Parse(name.to_vec()), text),
            None => return Look::Pass,
        }
    };
    let text = c_string(text).map_or(text, |(text, _)| text);
    let total = header.total;
    Look::Stop(match judge(text) {
        Verdict::Pass => return Look::Pass,
        Verdict::Ticket(tickets) => Stop::Show(Shown {
            tickets: tickets.to_owned(),
            form,
            total,
        }),
        Verdict::Misplaced => Stop::Refuse(Refused {
            why: Why::Misplaced,
            form,
            total,
        }),
        Verdict::Prepared => Stop::Refuse(Refused {
            why: Why::Prepared,
            form,
            total,
        }),
    })
}

/// The text of a Query or Parse, as far as it is looked at and there.
fn statement_text(kind: u8, total: usize, message: &[u8]) -> Option<&[u8]> {
    let end = total.min(HEADER_BYTES + STATEMENT_LOOK_BYTES);
    let body = message.get(HEADER_BYTES..end)?;
    let text = match kind {
        b'Q' => body,
        b'P' => c_string(body)?.1,
        _ => return None,
    };
    Some(c_string(text).map_or(text, |(text, _)| text))
}

fn look_at_bind(
    header: Header,
    body: &[u8],
    ticket_statements: &HashMap<Vec<u8>, String>,
    carried: &str,
) -> Look {
    let name = c_string(body)
        .and_then(|(_portal, rest)| c_string(rest))
        .map(|(name, _)| name);
    match name.and_then(|name| ticket_statements.get_key_value(name)) {
        Some((name, tickets)) if tickets != carried => Look::Stop(Stop::Show(Shown {
            tickets: tickets.clone(),
            form: Form::Bind(name.clone()),
            total: header.total,
        })),
        _ => Look::Pass,
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::{message, parse, query};
    use super::*;

    /// Feeds bytes a few at a time; says what went through before the first stop.
    fn feed(from_client: &mut FromClient, idle: &mut Idle, bytes: &[u8], step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for mut chunk in bytes.chunks(step) {
            while !chunk.is_empty() {
                let taken = from_client.buffer.push(chunk);
                chunk = &chunk[taken..];
                from_client.scan(idle, "", &Telling::default());
                out.extend_from_slice(from_client.cleared());
                from_client.sent(from_client.cleared().len());
                if from_client.stopped().is_some() && taken == 0 {
                    return out;
                }
            }
        }
        out
    }

    #[test]
    fn everything_that_is_not_the_gateways_business_goes_through_unchanged() {
        let mut bytes = query("select 1");
        bytes.extend(parse(b"s", "update t set a = $1"));
        bytes.extend(message(b'B', b"\0s\0\0\0\0\0\0\0"));
        bytes.extend(message(b'?', &[7; 100_000]));
        bytes.extend(query(&"x".repeat(200_000)));
        bytes.extend(message(b'S', b""));
        for step in [1, 3, 7, 4096, bytes.len()] {
            let (mut from_client, mut idle) = (FromClient::new(b""), Idle::default());
            let out = feed(&mut from_client, &mut idle, &bytes, step);
            assert!(out == bytes, "in steps of {step}");
        }
    }

    #[test]
    fn the_scan_stops_at_a_ticket_and_what_is_behind_it_stays() {
        let (mut from_client, mut idle) = (FromClient::new(b""), Idle::default());
        let mut bytes = query("select 1");
        let before = bytes.clone();
        bytes.extend(query("set fence.ticket = 'lk1.a'"));
        bytes.extend(query("update t set a = 1"));
        let out = feed(&mut from_client, &mut idle, &bytes, 5);
        assert_eq!(out, before);
        let Some(Stop::Show(Shown {
            tickets,
            form: Form::Query,
            total,
        })) = from_client.stopped()
        else {
            panic!("{from_client:?}");
        };
        assert_eq!(tickets, "lk1.a");
        let total = *total;
        from_client.take_out(total);
        from_client.scan(&mut idle, "lk1.a", &Telling::default());
        assert_eq!(from_client.cleared(), query("update t set a = 1"));
    }

    #[test]
    fn a_prepared_ticket_that_is_executed_again_is_shown_again() {
        let (mut from_client, mut idle) = (FromClient::new(b""), Idle::default());
        from_client.remember(b"s1", "lk1.a");
        from_client
            .buffer
            .push(&message(b'B', b"\0s1\0\0\0\0\0\0\0"));
        from_client.scan(&mut idle, "lk1.b", &Telling::default());
        assert!(matches!(
            from_client.stopped(),
            Some(Stop::Show(Shown {
                form: Form::Bind(_),
                ..
            }))
        ));
        let mut from_client = FromClient::new(b"");
        from_client.remember(b"s1", "lk1.a");
        from_client.buffer.push(&parse(b"s1", "select 1"));
        from_client
            .buffer
            .push(&message(b'B', b"\0s1\0\0\0\0\0\0\0"));
        from_client.scan(&mut idle, "lk1.b", &Telling::default());
        assert!(from_client.stopped().is_none());
    }

    #[test]
    fn statements_that_hold_tickets_are_forgotten_when_they_are_closed_and_counted_before() {
        let (mut from_client, mut idle) = (FromClient::new(b""), Idle::default());
        for number in 0..TICKET_STATEMENTS_MAX {
            assert!(from_client.can_remember(b"new"));
            from_client.remember(format!("s{number}").as_bytes(), "lk1.a");
        }
        assert!(!from_client.can_remember(b"new") && from_client.can_remember(b"s1"));
        from_client.buffer.push(&message(b'C', b"Ss1\0"));
        from_client.scan(&mut idle, "", &Telling::default());
        assert!(from_client.can_remember(b"new"));
    }

    #[test]
    fn an_impossible_length_is_a_violation() {
        let (mut from_client, mut idle) = (FromClient::new(b""), Idle::default());
        from_client.buffer.push(b"Q\xff\xff\xff\xff");
        from_client.scan(&mut idle, "", &Telling::default());
        assert!(matches!(from_client.stopped(), Some(Stop::Violation(_))));
    }

    #[test]
    fn a_message_as_long_as_a_length_can_say_takes_no_memory() {
        let (mut from_client, mut idle) = (FromClient::new(b""), Idle::default());
        let mut bytes = b"d\x7f\xff\xff\xff".to_vec();
        bytes.resize(300_000, 1);
        assert_eq!(
            feed(&mut from_client, &mut idle, &bytes, 1000).len(),
            bytes.len()
        );
        assert!(from_client.passing > 0);
    }

    #[test]
    fn each_unit_stops_where_its_transaction_may_have_to_be_told() {
        let mut telling = Telling::default();
        telling.carry("{a} 1:ff");
        let (mut from_client, mut idle) = (FromClient::new(b""), Idle::default());
        let unit = [parse(b"s", "select 1"), message(b'S', b"")].concat();
        let bytes = [unit, query("vacuum")].concat();
        from_client.buffer.push(&bytes);
        for (kind, manner) in [(b'P', Manner::Query), (b'Q', Manner::Not)] {
            from_client.scan(&mut idle, "", &telling);
            from_client.sent(from_client.cleared().len());
            let Some(&Stop::Tell(untold)) = from_client.stopped() else {
                panic!("{from_client:?}");
            };
            assert_eq!((untold.kind, untold.manner), (kind, manner));
            from_client.let_through(untold.total, kind, &mut idle);
        }
        assert!(!from_client.is_between_messages());
    }
}
