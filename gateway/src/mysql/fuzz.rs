//! MariaDB's parsers, fed by fuzzers: see [`crate::fuzz`].

use super::dialog::Dialog;
use super::handshake::{Answer, Greeting, is_ssl_request};
use super::response::Dialect;
use super::statement::{VARIABLE, Verdict, judge};
use crate::fuzz::Flow;

/// A session: after a byte of options, records of one byte (its highest bit says which side, the
/// others how much) and what that side says.
pub(crate) fn dialog(input: &[u8]) {
    let Some((&options, mut rest)) = input.split_first() else {
        return;
    };
    let dialect = Dialect {
        no_eof: options & 1 != 0,
        may_omit_columns: options & 2 != 0,
        query_attributes: options & 4 != 0,
    };
    let mut dialog = Dialog::new(dialect, b"", b"");
    let (mut said, mut pieces) = ([Vec::new(), Vec::new()], Vec::new());
    while let Some((&record, after)) = rest.split_first() {
        let (side, count) = (usize::from(record >> 7), usize::from(record & 0x7f));
        let (piece, after) = after.split_at(count.min(after.len()));
        said[side].extend_from_slice(piece);
        pieces.push((side, piece.len()));
        rest = after;
    }
    let [client, server] = &said;
    let (mut up, mut down) = (Flow::new(client), Flow::new(server));
    for (side, count) in pieces {
        match side {
            0 => up.read(&mut dialog.from_client.buffer, count),
            _ => down.read(&mut dialog.from_server.buffer, count),
        };
        if settle(&mut dialog, &mut up, &mut down, options & 8 != 0).is_none() {
            return;
        }
    }
}

/// Goes on until somebody has to say more. `None`: a side broke the protocol.
fn settle(dialog: &mut Dialog, up: &mut Flow<'_>, down: &mut Flow<'_>, let_go: bool) -> Option<()> {
    loop {
        // A command that is refused is taken out while its place is looked for.
        let before = dialog.from_client.buffer.filled().len();
        dialog.scan().ok()?;
        up.gone += before - dialog.from_client.buffer.filled().len();
        let sent = up.write(&mut dialog.from_client);
        let answered = down.write(&mut dialog.from_server);
        if sent || answered || dialog.refused().is_some() {
            continue;
        }
        let Some((held, _)) = dialog.held() else {
            return Some(());
        };
        if !let_go {
            down.gone += held.total;
        }
        dialog.settle(let_go);
    }
}

/// A greeting can be read again as it is written for the client.
pub(crate) fn greeting(input: &[u8]) {
    let Ok(greeting) = Greeting::parse(input) else {
        return;
    };
    for tls in [false, true] {
        let told = Greeting::parse(&greeting.for_client(tls)).expect("what is told is one too");
        assert_eq!(told.offers_tls(), tls);
        assert_eq!(told.connection, greeting.connection);
    }
}

/// An answer to a greeting, of which the first byte says how long it is.
pub(crate) fn answer(input: &[u8]) {
    let Some((&length, rest)) = input.split_first() else {
        return;
    };
    let (greeting, answer) = rest.split_at(usize::from(length).min(rest.len()));
    let Ok(greeting) = Greeting::parse(greeting) else {
        return;
    };
    let _ = is_ssl_request(answer);
    let Ok(read) = Answer::parse(answer, &greeting) else {
        return;
    };
    for tls in [false, true] {
        let told = read.for_server(tls);
        let again = Answer::parse(&told, &greeting).expect("what is told is one too");
        assert_eq!(again.tickets, read.tickets);
        assert_eq!(again.dialect, read.dialect);
    }
}

/// The text of a statement: no ticket is seen where there is none.
pub(crate) fn statement(input: &[u8]) {
    if let Verdict::Ticket(_) | Verdict::Misplaced = judge(input) {
        let named = |part: &[u8]| part.eq_ignore_ascii_case(VARIABLE.as_bytes());
        assert!(input.windows(VARIABLE.len()).any(named));
    }
}
