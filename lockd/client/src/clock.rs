//! The boot-time clock: monotonic, and it goes on while the machine is suspended, so that a
//! lease that ran out during a suspend is seen to have run out.

use rustix::time::{ClockId, clock_gettime};

use crate::core::Time;

/// The boot-time clock's reading.
#[must_use]
pub fn now() -> Time {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    Time::from_micros(seconds * 1_000_000 + nanoseconds / 1_000)
}
