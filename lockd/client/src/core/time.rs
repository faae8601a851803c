//! Points in time, as numbers given from outside. Reads no clock.

use std::time::Duration;

/// A point in time: microseconds of the boot-time clock, which goes on during suspend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Time(u64);

impl Time {
    /// Later than everything.
    pub const MAX: Time = Time(u64::MAX);

    /// The point that many microseconds after boot.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Time {
        Time(micros)
    }

    /// Microseconds after boot.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// This point, `span` later.
    #[must_use]
    pub fn after(self, span: Duration) -> Time {
        Time(self.0.saturating_add(micros(span)))
    }

    /// This point, `span` earlier.
    #[must_use]
    pub fn before(self, span: Duration) -> Time {
        Time(self.0.saturating_sub(micros(span)))
    }

    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
