//! The boot-time clock: monotonic, and it goes on while the machine is suspended, so that a
//! lease that ran out during a suspend is seen to have run out.
//!
//! A client reads its clock and waits by it through [`Clock`], so that the test kit can put a
//! clock in its place that moves only when a test says so. Without the feature `test-kit` there
//! is one clock, and nothing to choose.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::core::Time;
#[cfg(feature = "test-kit")]
use crate::test_kit::ManualClock;

/// Tokio's timers stand still during a suspend: look at the boot-time clock this often.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The boot-time clock's reading.
#[must_use]
pub fn now() -> Time {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    Time::from_micros(seconds * 1_000_000 + nanoseconds / 1_000)
}

/// The clock of one client.
#[derive(Clone, Debug, Default)]
pub(crate) enum Clock {
    /// The machine's.
    #[default]
    Boot,
    /// A test's.
    #[cfg(feature = "test-kit")]
    Manual(ManualClock),
}

impl Clock {
    pub(crate) fn now(&self) -> Time {
        match self {
            Clock::Boot => now(),
            #[cfg(feature = "test-kit")]
            Clock::Manual(clock) => clock.now(),
        }
    }

    /// Lets so much time pass.
    pub(crate) async fn sleep(&self, span: Duration) {
        match self {
            Clock::Boot => tokio::time::sleep(span).await,
            #[cfg(feature = "test-kit")]
            Clock::Manual(clock) => clock.sleep_until(clock.now().after(span)).await,
        }
    }

    /// What comes of `work`, unless it takes longer than that.
    pub(crate) async fn timeout<T>(
        &self,
        within: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        match self {
            Clock::Boot => tokio::time::timeout(within, work).await.ok(),
            #[cfg(feature = "test-kit")]
            Clock::Manual(_) => tokio::select! {
                biased;
                done = work => Some(done),
                () = self.sleep(within) => None,
            },
        }
    }
}
