//! 18: after faults stop, a leader exists within a bound, and every live waiter is served.

use super::Violation;

pub(crate) const NAME: &str = "18 everybody is served after faults stop";

/// How long a sound run may take from the end of the faults until everybody was served, in TTLs
/// and times that a lock is held: sessions of the dead have to run out, and breaks, and admissions,
/// and everybody may have to wait for everybody else. Microseconds.
pub(crate) fn bound(ttl: u64, hold: u64, waiters: u64) -> u64 {
    6 * ttl + 3 * waiters * hold + 40_000_000
}

/// Not served in time.
pub(crate) fn too_late(what: String, bound: u64) -> Violation {
    let seconds = bound / 1_000_000;
    Violation::new(
        NAME,
        format!("{what}, {seconds} s after all faults had ended"),
    )
}
