//! The fence's refusals in the form that HTTP has for them.

use lockd_origin::problem::{Kind, Problem};

use crate::fence::refusal::Refusal;

/// The problem document of a refusal.
pub(crate) fn of(refusal: &Refusal) -> Problem {
    let detail = refusal.to_string();
    match refusal {
        Refusal::Stale {
            lock,
            shown,
            needed,
        } => Problem::fence(Kind::Stale, detail)
            .tokens(lock, *shown, *needed)
            .hint(refusal.hint()),
        Refusal::NoTicket { .. } => Problem::fence(Kind::NoTicket, detail)
            .hint("Acquire the lock and show its ticket in the header Fencing-Token."),
        Refusal::BadTicket(_) => Problem::fence(Kind::BadTicket, detail).hint(refusal.hint()),
        Refusal::Unavailable(_) => Problem::fence(Kind::Unavailable, detail).hint(refusal.hint()),
        Refusal::Misplaced(_) => Problem::fence(Kind::Misplaced, detail)
            .hint("Send one header Fencing-Token, several tickets with spaces between them."),
    }
}
