//! PostgreSQL's parsers, fed by fuzzers: see [`crate::fuzz`].

use super::startup::Startup;
use super::statement::{SETTING, Verdict, beginning, judge};

/// A start-up packet behind its length: what is written for the server can be read again, and
/// has no ticket in it any more.
pub(crate) fn startup(input: &[u8]) {
    let Some((version, rest)) = input.split_first_chunk::<4>() else {
        return;
    };
    let Ok(startup) = Startup::parse(*version, rest) else {
        return;
    };
    let _ = startup.database();
    let told = startup.encode();
    let rest = told.get(8..).expect("a length and a version");
    let again = Startup::parse(*version, rest).expect("what is told is one too");
    assert_eq!(again.tickets, None, "a ticket goes to the server");
    assert_eq!(again.encode(), told);
}

/// The text of a statement: no ticket is seen where there is none, and it begins in some way.
pub(crate) fn statement(input: &[u8]) {
    let _ = beginning(input);
    if let Verdict::Ticket(_) = judge(input) {
        let named = |part: &[u8]| part.eq_ignore_ascii_case(b"fence");
        assert!(input.windows(SETTING.len() - 7).any(named));
    }
}
