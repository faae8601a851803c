//! What the background task and the guards share: deadline and loss, readable without waiting.
//!
//! Believing ends at the deadline by the reader's own clock, even if the task that renews is
//! starved or gone. The first reader that finds the deadline passed makes the loss final for
//! everybody: a renewal that is answered afterwards does not bring it back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lockd_protocol::ticket::TicketText;
use lockd_protocol::{LockName, Mode, Sequence, SessionId, Token};
use tokio::sync::Notify;

use crate::clock::{Clock, LOOK_EVERY};
use crate::core::Time;
use crate::error::LostReason;
use crate::guard::GuardState;

/// Stands for "lost" in place of a deadline.
const LOST: u64 = 0;

/// The lease of one session.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) session: SessionId,
    lease: Duration,
    deadline: AtomicU64,
    last_deadline: AtomicU64,
    reason: OnceLock<LostReason>,
    connected: Arc<AtomicBool>,
    pub(crate) clock: Clock,
}

impl Lease {
    pub(crate) fn new(
        session: SessionId,
        lease: Duration,
        deadline: Time,
        connected: Arc<AtomicBool>,
        clock: Clock,
    ) -> Lease {
        Lease {
            session,
            lease,
            deadline: AtomicU64::new(deadline.as_micros()),
            last_deadline: AtomicU64::new(deadline.as_micros()),
            reason: OnceLock::new(),
            connected,
            clock,
        }
    }

    /// Moves the deadline. Says `false` if someone has found the lease lost before.
    pub(crate) fn extend(&self, deadline: Time) -> bool {
        let new = deadline.as_micros();
        let longer = |old: u64| (old != LOST).then_some(old.max(new));
        let moved = self
            .deadline
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, longer);
        if moved.is_ok() {
            self.last_deadline.fetch_max(new, Ordering::AcqRel);
        }
        moved.is_ok()
    }

    /// The lease is over.
    pub(crate) fn lose(&self, reason: LostReason) {
        // Whoever sets it first says why.
        let _ = self.reason.set(reason);
        self.deadline.store(LOST, Ordering::Release);
    }

    /// The deadline up to which it was ever believed in.
    pub(crate) fn last_deadline(&self) -> Time {
        Time::from_micros(self.last_deadline.load(Ordering::Acquire))
    }

    fn state(&self, now: Time) -> GuardState {
        let mut known = self.deadline.load(Ordering::Acquire);
        while known != LOST {
            let deadline = Time::from_micros(known);
            if now < deadline {
                return self.believed(now, deadline);
            }
            let lost =
                self.deadline
                    .compare_exchange(known, LOST, Ordering::AcqRel, Ordering::Acquire);
            known = match lost {
                Ok(_) => LOST,
                Err(moved) => moved,
            };
        }
        let reason = self.reason.get_or_init(|| LostReason::LeaseRanOut).clone();
        GuardState::Lost { reason }
    }

    fn believed(&self, now: Time, until: Time) -> GuardState {
        let renewed_late = until.since(now) < self.lease / 2;
        if renewed_late || !self.connected.load(Ordering::Relaxed) {
            GuardState::Jeopardy { until }
        } else {
            GuardState::Held
        }
    }
}

/// A lock that an acquisition got.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldLock {
    /// Its name.
    pub name: LockName,
    /// How it is held.
    pub mode: Mode,
    /// The fencing token.
    pub token: Token,
    /// Which permit of a semaphore this is, counted from 0; 0 in other modes.
    pub slot: u32,
    /// The signed form of the grant, if it was asked for.
    pub ticket: Option<TicketText>,
}

/// What one acquisition got.
#[derive(Debug)]
pub(crate) struct Grant {
    /// In order of tokens.
    pub(crate) locks: Vec<HeldLock>,
    pub(crate) acquire: Sequence,
    pub(crate) lease: Arc<Lease>,
    /// Why it was lost, and its last deadline.
    lost: OnceLock<(LostReason, Time)>,
    changed: Notify,
}

impl Grant {
    pub(crate) fn new(locks: Vec<HeldLock>, acquire: Sequence, lease: Arc<Lease>) -> Grant {
        Grant {
            locks,
            acquire,
            lease,
            lost: OnceLock::new(),
            changed: Notify::new(),
        }
    }

    /// The grant is over, whatever becomes of its session.
    pub(crate) fn lose(&self, reason: LostReason) {
        // Whoever sets it first says why.
        let _ = self.lost.set((reason, self.lease.last_deadline()));
        self.changed.notify_waiters();
    }

    pub(crate) fn state(&self) -> GuardState {
        if let Some((reason, _)) = self.lost.get() {
            let reason = reason.clone();
            return GuardState::Lost { reason };
        }
        let state = self.lease.state(self.lease.clock.now());
        if let GuardState::Lost { reason } = &state {
            self.lose(reason.clone());
        }
        state
    }

    /// Until when nobody else is granted the lock. A renewal of its session after the loss does
    /// not move it.
    pub(crate) fn deadline(&self) -> Time {
        let lost = self.lost.get();
        lost.map_or_else(|| self.lease.last_deadline(), |(_, deadline)| *deadline)
    }

    /// Resolves when the grant is lost. Looks at the clock itself, so that it does not depend
    /// on the background task.
    pub(crate) async fn lost(&self) -> LostReason {
        let clock = &self.lease.clock;
        loop {
            let changed = self.changed.notified();
            if let GuardState::Lost { reason } = self.state() {
                return reason;
            }
            let left = self.deadline().since(clock.now());
            let look = left.min(LOOK_EVERY) + Duration::from_millis(1);
            tokio::select! {
                () = changed => {}
                () = clock.sleep(look) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(deadline: u64) -> Lease {
        Lease::new(
            SessionId(1),
            Duration::from_micros(1_000),
            Time::from_micros(deadline),
            Arc::new(AtomicBool::new(true)),
            Clock::Boot,
        )
    }

    #[test]
    fn a_lease_goes_from_held_over_jeopardy_to_lost_by_the_readers_clock() {
        let lease = lease(2_000);
        let until = Time::from_micros(2_000);
        assert_eq!(lease.state(Time::from_micros(1_500)), GuardState::Held);
        let late = lease.state(Time::from_micros(1_501));
        assert_eq!(late, GuardState::Jeopardy { until });
        let reason = LostReason::LeaseRanOut;
        assert_eq!(lease.state(until), GuardState::Lost { reason });
    }

    #[test]
    fn a_renewal_that_is_answered_after_the_loss_was_seen_does_not_bring_it_back() {
        let lease = lease(2_000);
        assert!(matches!(
            lease.state(Time::from_micros(2_000)),
            GuardState::Lost { .. }
        ));
        assert!(!lease.extend(Time::from_micros(9_000)));
        assert!(matches!(
            lease.state(Time::from_micros(1_000)),
            GuardState::Lost { .. }
        ));
    }

    #[test]
    fn without_a_connection_a_lease_is_in_jeopardy() {
        let lease = lease(2_000);
        lease.connected.store(false, Ordering::Relaxed);
        let until = Time::from_micros(2_000);
        assert_eq!(
            lease.state(Time::from_micros(0)),
            GuardState::Jeopardy { until }
        );
    }

    #[test]
    fn the_first_reason_of_a_loss_stays() {
        let lease = lease(2_000);
        lease.lose(LostReason::Closed);
        lease.lose(LostReason::LeaseRanOut);
        let reason = LostReason::Closed;
        assert_eq!(lease.state(Time::default()), GuardState::Lost { reason });
    }
}
