//! The spans that a client opens: one for each thing that its user waits for. Their fields are
//! bounded, whatever the names are.
//!
//! | span | fields |
//! |---|---|
//! | `connect` | `cell`, `outcome` |
//! | `session` | `ttl`, `label`, `outcome` |
//! | `acquire` | `locks`, `wait`, `token`, `outcome` |
//! | `release` | `locks`, `outcome` |
//! | `run` | `locks`, `outcome` |
//!
//! All of them are at level DEBUG, with the target `lockd_client`.

use std::fmt::{self, Display, Write};

use lockd_protocol::LockName;
use lockd_protocol::client::Wants;
use tracing::{Span, field};

/// Longest text in a field, bytes.
const TEXT_MAX: usize = 256;

/// What stands for the rest of a text that was too long.
const REST: &str = "...";

/// Opens a span of this crate.
macro_rules! span {
    ($name:literal, $($fields:tt)*) => {
        tracing::debug_span!(target: "lockd_client", $name, $($fields)*)
    };
}
pub(crate) use span;

/// Notes what became of it.
pub(crate) fn outcome<T, E: Display>(span: &Span, result: &Result<T, E>, well: &str) {
    if span.is_disabled() {
        return;
    }
    match result {
        Ok(_) => span.record("outcome", well),
        Err(error) => span.record("outcome", field::display(bounded(error))),
    };
}

/// A text of bounded length.
pub(crate) fn bounded(text: impl Display) -> String {
    let mut bounded = Bounded(String::new());
    // Fails where the bound is reached.
    if write!(bounded, "{text}").is_err() {
        bounded.0.push_str(REST);
    }
    bounded.0
}

/// The names of locks, formatted only if somebody looks at them.
pub(crate) struct Names<'a, I>(pub(crate) &'a I);

impl Display for Names<'_, Wants> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        join(f, self.0.each().iter().map(|want| &want.lock))
    }
}

impl Display for Names<'_, Vec<crate::HeldLock>> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        join(f, self.0.iter().map(|lock| &lock.name))
    }
}

fn join<'a>(f: &mut fmt::Formatter<'_>, names: impl Iterator<Item = &'a LockName>) -> fmt::Result {
    let mut text = Bounded(String::new());
    for (place, name) in names.enumerate() {
        let comma = if place == 0 { "" } else { ", " };
        if write!(text, "{comma}{name}").is_err() {
            text.0.push_str(REST);
            break;
        }
    }
    f.write_str(&text.0)
}

struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = TEXT_MAX - REST.len() - self.0.len();
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        let boundary = (0..=room).rev().find(|at| text.is_char_boundary(*at));
        self.0.push_str(&text[..boundary.unwrap_or(0)]);
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_long_is_cut_between_characters() {
        assert_eq!(bounded("short"), "short");
        let long = bounded("ä".repeat(TEXT_MAX));
        assert!(long.len() <= TEXT_MAX && long.ends_with("ä..."), "{long}");
    }
}
