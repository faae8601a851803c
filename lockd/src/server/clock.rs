//! The node's clock: monotonic, and going on while the machine is suspended.

use paxos::Time;
use rustix::time::{ClockId, clock_gettime};

/// Now, on the boot-time clock. The standard library's clock stops during suspend, which would
/// let a node that was asleep believe that no time has passed.
pub(super) fn now() -> Time {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    Time(seconds * 1_000_000 + nanos / 1_000)
}
