//! A timer of the kernel's, since those of the runtime count in milliseconds: an open loop that
//! sent each request up to a millisecond late would measure mostly that.

use std::io;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::net::unix::pipe::Receiver;

/// Wakes one task at a time it is told.
///
/// The runtime has no type for a timer of the kernel's that takes no `unsafe`. Like a pipe it can
/// be read when there is something to be read, and that is all that is asked of it.
pub struct Timer(Receiver);

impl Timer {
    /// A timer in the current runtime.
    ///
    /// # Errors
    /// If the kernel gives none: there are too many open files.
    pub fn new() -> io::Result<Timer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Timer(Receiver::from_owned_fd_unchecked(timer)?))
    }

    /// Returns at this time, or at once, but not before others have had their turn.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn sleep_until(&self, at: Instant) -> io::Result<()> {
        let span = at.saturating_duration_since(Instant::now());
        if span.is_zero() {
            tokio::task::yield_now().await;
            return Ok(());
        }
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once(span))?;
        loop {
            self.0.readable().await?;
            match self.0.try_read(&mut [0; 8]) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn once(span: Duration) -> Itimerspec {
    Itimerspec {
        it_interval: Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        // Far in the future is as good as the end of time.
        it_value: Timespec::try_from(span).unwrap_or(Timespec {
            tv_sec: i64::MAX,
            tv_nsec: 0,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn it_never_wakes_too_early_and_can_be_set_again() {
        let timer = Timer::new().unwrap();
        for wait_us in [0, 300, 1, 2000] {
            let at = Instant::now() + Duration::from_micros(wait_us);
            timer.sleep_until(at).await.unwrap();
            assert!(Instant::now() >= at);
        }
        let given_up = timer.sleep_until(Instant::now() + Duration::from_secs(3600));
        let _ = tokio::time::timeout(Duration::from_millis(1), given_up).await;
        let at = Instant::now() + Duration::from_micros(100);
        timer.sleep_until(at).await.unwrap();
        assert!(Instant::now() >= at);
    }
}
