//! After faults stop there is a leader within a bound, it serves, and everyone catches up.
//!
//! Also: a run in which nothing happened proves nothing, so it fails.

use crate::interface::Timing;
use crate::sim::Report;
use crate::sim::invariants::Violation;

const NAME: &str = "after faults stop a leader exists within a bound and serves";

/// How long the healed cell may take to have a leader that can serve, microseconds: some rounds of
/// election, each of which may be spoilt by another candidate, and what is left of old silences.
pub(crate) fn bound_micros(timing: &Timing) -> u64 {
    let attempt = timing.leader_timeout_micros + timing.round_micros + timing.jitter_micros;
    10 * attempt + 1_000_000
}

/// The bound passed without it.
pub(crate) fn too_late(what: &str, bound: u64) -> Violation {
    Violation::new(NAME, format!("{what} within {bound} us"))
}

/// Whether anything happened.
pub(crate) fn check_not_vacuous(report: &Report) -> Result<(), Violation> {
    let nothing = [
        (report.elections == 0, "no leader was elected"),
        (report.decided == 0, "nothing was decided"),
        (report.confirms == 0, "nothing was confirmed"),
        (report.messages == 0, "no message was sent"),
    ];
    match nothing.into_iter().find(|(is_nothing, _)| *is_nothing) {
        Some((_, what)) => Err(Violation::new("a run does something", what.to_owned())),
        None => Ok(()),
    }
}
