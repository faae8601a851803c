//! Redis' parsers, fed by fuzzers: see [`crate::fuzz`].

use super::from_client::FromClient;
use super::from_server::{Awaited, FromServer, Stop};
use super::resp;
use crate::fuzz::{Flow, PIECES_BYTES_MAX};

/// What a client says: commands that show tickets are taken out, all else goes on.
pub(crate) fn client(input: &[u8]) {
    let whole = shown(input, usize::MAX);
    if input.len() <= PIECES_BYTES_MAX {
        assert_eq!(shown(input, 1), whole, "byte by byte");
        assert_eq!(shown(input, 1 + input.len() % 7), whole, "in pieces");
    }
}

/// Where tickets are shown, and which.
fn shown(input: &[u8], step: usize) -> Vec<(usize, String)> {
    let (mut from_client, mut flow) = (FromClient::new(), Flow::new(input));
    let mut shown = Vec::new();
    loop {
        from_client.scan();
        if flow.write(&mut from_client) {
            continue;
        }
        if let Some(show) = from_client.stopped() {
            shown.push((flow.gone, show.tickets.clone()));
            flow.gone += show.total;
            from_client.take_out();
        } else if flow.is_read() {
            if from_client.is_empty() {
                return shown;
            }
            from_client.end();
        } else {
            let read = flow.read(&mut from_client.buffer, step);
            assert!(read > 0, "the buffer is full, and nothing goes on");
        }
    }
}

/// What a server says, while the gateway waits for something: the first byte says for what.
pub(crate) fn server(input: &[u8]) {
    let Some((&awaited, input)) = input.split_first() else {
        return;
    };
    let awaited = match awaited % 3 {
        0 => Awaited::Nothing,
        1 => Awaited::Next,
        _ => Awaited::Echo("0123".to_owned()),
    };
    let whole = found(input, usize::MAX, &awaited);
    if input.len() <= PIECES_BYTES_MAX {
        assert_eq!(found(input, 1, &awaited), whole, "byte by byte");
        let step = 1 + input.len() % 7;
        assert_eq!(found(input, step, &awaited), whole, "in pieces");
    }
}

/// What is found where, and whether replies can be told apart at the end.
fn found(input: &[u8], step: usize, awaited: &Awaited) -> (Vec<(usize, Stop)>, bool) {
    let (mut from_server, mut flow) = (FromServer::new(), Flow::new(input));
    from_server.wait_for(awaited.clone());
    let mut found = Vec::new();
    loop {
        from_server.scan();
        if flow.write(&mut from_server) {
            continue;
        }
        let before = from_server.buffer.filled().len();
        if let Some(stop) = from_server.take_out() {
            found.push((flow.gone, stop));
            flow.gone += before - from_server.buffer.filled().len();
        } else if flow.is_read() {
            return (found, from_server.is_blind());
        } else {
            let read = flow.read(&mut from_server.buffer, step);
            assert!(read > 0, "the buffer is full, and nothing goes on");
        }
    }
}

/// A reply to the gateway itself: it is known to be whole as soon as it is, and not before.
pub(crate) fn reply(input: &[u8]) {
    let Ok(Some((value, used))) = resp::parse(input) else {
        return;
    };
    let whole = input.get(..used).expect("no longer than what there is");
    assert_eq!(resp::parse(whole), Ok(Some((value, used))));
    for end in 0..used.min(PIECES_BYTES_MAX) {
        let part = input.get(..end).unwrap_or_default();
        assert_eq!(resp::parse(part), Ok(None), "after {end} bytes");
    }
}
