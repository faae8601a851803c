//! What a test kit puts in the place of a client's edges: its clock, its network, and the thread
//! that its background task runs on. Everything in between is the client as it is.
//!
//! Only with the feature `test-kit`, and made for the crate `lockd-testkit`: use that.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::DuplexStream;

use crate::core::Time;

/// A connection in memory.
#[derive(Debug)]
pub struct Pipe {
    /// The client's end.
    pub stream: DuplexStream,
    /// How many times something has come from the node, be it only that it has read what it was
    /// sent: raised by the node's end.
    pub packets: Arc<AtomicU64>,
}

/// Connects to the node at an address; `None` if nothing comes back from there.
pub type Dial = Arc<dyn Fn(&str) -> Option<Pipe> + Send + Sync>;

/// Takes a background task, which has to be polled until it ends.
pub type Spawn = Arc<dyn Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync>;

/// A client's edges. See [`ClientBuilder::edges`](crate::ClientBuilder::edges).
#[derive(Clone)]
pub struct Edges {
    /// Its clock.
    pub clock: ManualClock,
    /// Its network.
    pub dial: Dial,
    /// Who runs its background task.
    pub spawn: Spawn,
}

impl fmt::Debug for Edges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edges").finish_non_exhaustive()
    }
}

/// A clock that stands still until it is told to move on. Clones are the same clock.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    now: Time,
    /// Who waits, by time and number.
    sleepers: BTreeMap<(Time, u64), Waker>,
    last_sleeper: u64,
}

impl ManualClock {
    /// A clock that shows this time.
    #[must_use]
    pub fn new(now: Time) -> ManualClock {
        let clock = ManualClock::default();
        clock.state().now = now;
        clock
    }

    /// What it shows.
    #[must_use]
    pub fn now(&self) -> Time {
        self.state().now
    }

    /// Moves it, but never back, and wakes whoever waited for that.
    pub fn set(&self, now: Time) {
        let mut state = self.state();
        state.now = state.now.max(now);
        let now = state.now;
        let mut due = Vec::new();
        while let Some(first) = state.sleepers.first_entry() {
            if first.key().0 > now {
                break;
            }
            due.push(first.remove());
        }
        drop(state);
        due.into_iter().for_each(Waker::wake);
    }

    /// The earliest time that somebody waits for.
    #[must_use]
    pub fn next_wake(&self) -> Option<Time> {
        let state = self.state();
        state.sleepers.keys().next().map(|(time, _)| *time)
    }

    /// Waits until it shows that time. Cancel-safe.
    pub fn sleep_until(&self, time: Time) -> impl Future<Output = ()> + Send + use<> {
        let clock = self.clone();
        let key = None;
        Sleep { clock, time, key }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Sleep {
    clock: ManualClock,
    time: Time,
    key: Option<(Time, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let clock = self.clock.clone();
        let mut state = clock.state();
        if state.now >= self.time {
            return Poll::Ready(());
        }
        let time = self.time;
        let key = *self.key.get_or_insert_with(|| {
            state.last_sleeper += 1;
            (time, state.last_sleeper)
        });
        state.sleepers.insert(key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.clock.state().sleepers.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_clock_moves_when_it_is_told_to_and_wakes_those_whose_time_has_come() {
        let clock = ManualClock::new(Time::from_micros(10));
        let (near, far) = (Time::from_micros(20), Time::from_micros(30));
        let mut sleeping = Box::pin(clock.sleep_until(near));
        let mut longer = Box::pin(clock.sleep_until(far));
        tokio::select! {
            biased;
            () = &mut sleeping => panic!("nobody has moved the clock"),
            () = &mut longer => panic!("nobody has moved the clock"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(clock.next_wake(), Some(near));
        clock.set(near);
        sleeping.await;
        assert_eq!(clock.next_wake(), Some(far));
        drop(longer);
        assert_eq!(clock.next_wake(), None, "who is gone waits for nothing");
        clock.set(near.before(std::time::Duration::from_micros(5)));
        assert_eq!(clock.now(), near, "it never goes back");
    }
}
