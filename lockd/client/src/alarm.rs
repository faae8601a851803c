//! The background task's timer, on its client's clock. Moved only when it has to ring earlier.

use std::pin::Pin;
use std::time::Duration;

use crate::clock::{Clock, LOOK_EVERY};
use crate::core::Time;

/// A timer that may ring too early, and never too late.
pub(crate) struct Alarm {
    timer: Timer,
    at: Time,
}

enum Timer {
    Tokio(Pin<Box<tokio::time::Sleep>>),
    #[cfg(feature = "test-kit")]
    Manual(crate::test_kit::ManualClock),
}

impl Alarm {
    pub(crate) fn new(clock: &Clock) -> Alarm {
        let timer = match clock {
            Clock::Boot => Timer::Tokio(Box::pin(tokio::time::sleep(Duration::ZERO))),
            #[cfg(feature = "test-kit")]
            Clock::Manual(clock) => Timer::Manual(clock.clone()),
        };
        let at = Time::MAX;
        Alarm { timer, at }
    }

    /// Rings at `time` at the latest; perhaps earlier.
    pub(crate) fn set(&mut self, time: Time) {
        if time >= self.at {
            return;
        }
        self.at = match &mut self.timer {
            Timer::Tokio(sleep) => {
                let now = crate::clock::now();
                let wait = time.since(now).min(LOOK_EVERY);
                sleep.as_mut().reset(tokio::time::Instant::now() + wait);
                now.after(wait)
            }
            #[cfg(feature = "test-kit")]
            Timer::Manual(_) => time,
        };
    }

    /// Waits. Cancel-safe.
    pub(crate) async fn rings(&mut self) {
        if self.at == Time::MAX {
            return std::future::pending().await;
        }
        match &mut self.timer {
            Timer::Tokio(sleep) => sleep.as_mut().await,
            #[cfg(feature = "test-kit")]
            Timer::Manual(clock) => clock.sleep_until(self.at).await,
        }
        self.at = Time::MAX;
    }
}
