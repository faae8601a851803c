//! After faults stop there is a leader within a bound, it serves, and everyone catches up.
//!
//! Also: a run in which nothing happened proves nothing, so it fails.

use crate::sim::Report;
use crate::sim::coverage::Check;
use crate::sim::invariants::Violation;
use crate::sim::plan::Plan;

/// How long the healed cell may take until a leader serves, and then until everyone has caught up,
/// microseconds: some rounds of election, each of which may be spoilt by another candidate; and
/// for whoever is behind, one read from a disk and one round trip for each entry, as if messages
/// had room for one only.
pub(crate) fn bound_micros(plan: &Plan, entries_behind: u64) -> u64 {
    let timing = &plan.timing;
    let attempt = timing.leader_timeout_micros + timing.round_micros + timing.jitter_micros;
    let entry = 4 * plan.disk_micros + 2_000;
    10 * attempt + 500_000 + entries_behind * entry
}

/// The bound passed without it.
pub(crate) fn too_late(what: &str, bound: u64) -> Violation {
    Violation::of(Check::Recovery, format!("{what} within {bound} us"))
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
