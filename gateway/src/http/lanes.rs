//! The order of requests ([`crate::fence::order`]), kept for as long as this gateway is the active
//! one, and what a write under way holds of it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lockd_protocol::types::{LockName, Token};
use tokio::sync::watch;

use crate::admission::{self, Fence};
use crate::cell::{Cell, Hold};
use crate::fence::admission::{Admitted, Era};
use crate::fence::order::{Order, Quarantine, RequestId, Rule, Verdict};
use crate::fence::refusal::Refusal;
use crate::fence::set::{Shown, TicketSet};
use crate::limits::{ADMISSION_TIMEOUT_DEFAULT, STANDBY_RETRY_SECONDS};

/// The lanes of one gateway.
pub(super) struct Lanes {
    state: Mutex<State>,
    /// Counts whatever somebody may wait for.
    changes: watch::Sender<u64>,
    begun: Instant,
    settle: Option<Duration>,
    without: Option<Rule>,
    next: AtomicU64,
}

#[derive(Default)]
struct State {
    era: i64,
    active: Option<Active>,
}

struct Active {
    hold: Arc<dyn Hold>,
    order: Order,
    /// Closed when this gateway is not the active one any more.
    ended: watch::Sender<()>,
}

/// Why nobody can be admitted now.
#[derive(Debug, Clone)]
pub(super) enum Unready {
    Standby,
    Lost(String),
    Doubtful(Quarantine, Duration),
    Full,
}

impl fmt::Display for Unready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (quarantine, now) = match self {
            Unready::Standby => {
                return f.write_str("this gateway is not the active one, or cannot reach the cell");
            }
            Unready::Lost(why) => {
                return write!(f, "this gateway is not the active one any more: {why}");
            }
            Unready::Full => return f.write_str("too many locks have writes under way"),
            Unready::Doubtful(quarantine, now) => (quarantine, now),
        };
        match &quarantine.write {
            None => f.write_str("what an earlier gateway may have sent has to settle first")?,
            Some((lock, token)) => write!(
                f,
                "what became of a write of lock {lock:?} under token {token} is not known"
            )?,
        }
        match quarantine.until {
            Some(until) => {
                let left = until.saturating_sub(*now).as_secs() + 1;
                write!(f, "; newer tokens are taken in {left} s")
            }
            None => f.write_str("; newer tokens are taken after `gateway settle`"),
        }
    }
}

/// What `gateway fences` shows of a lane.
pub(super) struct LaneState {
    pub(super) lock: String,
    pub(super) mark: Token,
    pub(super) unanswered: u32,
    pub(super) doubts: usize,
}

impl Lanes {
    pub(super) fn new(settle: Option<Duration>, without: Option<Rule>) -> Lanes {
        Lanes {
            state: Mutex::default(),
            changes: watch::Sender::new(0),
            begun: Instant::now(),
            settle,
            without,
            next: AtomicU64::new(1),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn changed(&self) {
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// This gateway is the active one now.
    pub(super) fn begin(&self, hold: Arc<dyn Hold>) {
        let mut state = self.state();
        state.era += 1;
        let order = Order::begin(Era(state.era), hold.token(), self.settle, self.now());
        state.active = Some(Active {
            hold,
            order: order.without(self.without),
            ended: watch::Sender::new(()),
        });
        drop(state);
        self.changed();
    }

    /// It is not any more. What is under way is given up.
    pub(super) fn end(&self) {
        let mut state = self.state();
        if let Some(active) = state.active.take() {
            // Lanes that were forgotten have counted on.
            state.era = active.order.era().0;
        }
        drop(state);
        self.changed();
    }

    /// Admits a request under a set of tickets, or says why not. A write gets a lease, and nothing
    /// of it may be sent before [`Lease::sent`].
    pub(super) async fn admit(
        self: &Arc<Lanes>,
        cell: &dyn Cell,
        set: &TicketSet,
        writes: bool,
    ) -> Result<Option<Lease>, Refusal> {
        let id = RequestId(self.next.fetch_add(1, Ordering::Relaxed));
        let mut lease = writes.then(|| Lease {
            lanes: Arc::clone(self),
            id,
            held: None,
            is_sent: false,
        });
        let admitting = Admitting {
            lanes: self,
            id,
            writes,
            seen: tokio::sync::Mutex::new(self.changes.subscribe()),
            held: Mutex::default(),
        };
        admission::admit(&admitting, cell, (), set, 0, ADMISSION_TIMEOUT_DEFAULT).await?;
        if let Some(lease) = &mut lease {
            let held = admitting.held.into_inner();
            lease.held = held.unwrap_or_else(PoisonError::into_inner);
        }
        Ok(lease)
    }

    /// After how many seconds a client may try again that was refused although its tickets are
    /// current.
    pub(super) fn retry_after_seconds(&self, set: &TicketSet) -> Option<u64> {
        let now = self.now();
        let state = self.state();
        let Some(active) = &state.active else {
            return Some(STANDBY_RETRY_SECONDS);
        };
        match active.order.quarantine(set, now) {
            Some(quarantine) => Some(quarantine.until?.saturating_sub(now).as_secs() + 1),
            None => Some(STANDBY_RETRY_SECONDS),
        }
    }

    /// The lanes in order of lock, at most so many. None while this gateway is not active.
    pub(super) fn list(&self, most: usize) -> Option<Vec<LaneState>> {
        let state = self.state();
        let lanes = state.active.as_ref()?.order.lanes(self.now());
        let lane = lanes.take(most).map(|lane| LaneState {
            lock: lane.lock.to_string(),
            mark: lane.mark,
            unanswered: lane.unanswered,
            doubts: lane.doubts,
        });
        Some(lane.collect())
    }

    /// An operator vouches; see [`Order::settle`]. None while this gateway is not active.
    pub(super) fn settle(&self, lock: Option<&LockName>) -> Option<usize> {
        let now = self.now();
        let ended = self.state().active.as_mut()?.order.settle(lock, now);
        self.changed();
        Some(ended)
    }
}

/// One request that is to be admitted.
struct Admitting<'a> {
    lanes: &'a Lanes,
    id: RequestId,
    writes: bool,
    /// What had changed when the order was last asked.
    seen: tokio::sync::Mutex<watch::Receiver<u64>>,
    /// Under which lock of the gateway it was admitted.
    held: Mutex<Option<Held>>,
}

/// The gateway's lock, and what is closed when it is not active any more.
type Held = (Arc<dyn Hold>, watch::Receiver<()>);

impl Fence for Admitting<'_> {
    type Session = ();
    type Error = Unready;

    async fn admit(&self, (): (), set: &TicketSet, _: i64) -> Result<Admitted, Unready> {
        // Before the look: what changes after it wakes whoever waits.
        self.seen.lock().await.borrow_and_update();
        let now = self.lanes.now();
        let mut state = self.lanes.state();
        let active = state.active.as_mut().ok_or(Unready::Standby)?;
        active.hold.check().map_err(Unready::Lost)?;
        match active.order.admit(self.id, set, self.writes, now) {
            Verdict::Admitted => {
                let held = (Arc::clone(&active.hold), active.ended.subscribe());
                *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
                Ok(Admitted::Done)
            }
            Verdict::Stale {
                lock,
                shown,
                needed,
            } => Ok(Admitted::Stale {
                lock,
                shown,
                needed,
            }),
            Verdict::Ask(era, shown) => Ok(Admitted::Unknown(era, shown)),
            Verdict::Busy => Ok(Admitted::Busy),
            Verdict::Doubtful(quarantine) => Err(Unready::Doubtful(quarantine, now)),
            Verdict::Full => Err(Unready::Full),
        }
    }

    /// Nobody is ended: a write that is cut off is a write in doubt.
    async fn evict(&self, (): (), _: &TicketSet) -> Result<i32, Unready> {
        let changed = self.seen.lock().await.changed().await;
        changed.map(|()| 0).map_err(|_| Unready::Standby)
    }

    /// An era begins when the gateway becomes the active one, and never here.
    async fn begin_era(&self, (): ()) -> Result<Era, Unready> {
        let state = self.lanes.state();
        let active = state.active.as_ref().ok_or(Unready::Standby)?;
        Ok(active.order.era())
    }

    /// The horizon is the token of the gateway's own lock.
    async fn set_horizon(&self, (): (), _: Era, _: Token) -> Result<(), Unready> {
        Ok(())
    }

    async fn seed(&self, (): (), era: Era, shown: &Shown) -> Result<(), Unready> {
        let now = self.lanes.now();
        let mut state = self.lanes.state();
        let active = state.active.as_mut().ok_or(Unready::Standby)?;
        active.order.seed(era, shown, now);
        Ok(())
    }
}

/// A write that has been admitted. Dropped before it was sent, it never was; dropped afterwards,
/// nobody knows what became of it.
pub(super) struct Lease {
    lanes: Arc<Lanes>,
    id: RequestId,
    held: Option<Held>,
    is_sent: bool,
}

impl Lease {
    /// The write is about to be sent. The last look at the gateway's own lock.
    pub(super) fn sent(&mut self) -> Result<(), Refusal> {
        let lost = match &self.held {
            Some((_, ended)) if ended.has_changed().is_err() => Err(Unready::Standby.to_string()),
            Some((hold, _)) => hold.check(),
            None => Err(Unready::Standby.to_string()),
        };
        lost.map_err(Refusal::Unavailable)?;
        self.is_sent = true;
        Ok(())
    }

    /// Resolves when this gateway is not the active one any more.
    pub(super) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let ended = self.held.as_ref().map(|(_, ended)| ended.clone());
        async move {
            if let Some(mut ended) = ended {
                while ended.changed().await.is_ok() {}
            }
        }
    }

    /// The server has given its final answer, or the write was not sent after all.
    pub(super) fn finish(mut self) {
        self.is_sent = false;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let now = self.lanes.now();
        let mut state = self.lanes.state();
        // A write of an earlier activity is in doubt by the rest that the new one began with.
        let is_ours = |active: &&mut Active| {
            let held = self.held.as_ref();
            held.is_none_or(|(hold, _)| Arc::ptr_eq(hold, &active.hold))
        };
        if let Some(active) = state.active.as_mut().filter(is_ours) {
            if self.is_sent {
                active.order.lose(self.id, now);
            } else {
                active.order.finish(self.id);
            }
        }
        drop(state);
        if self.is_sent {
            tracing::warn!("a write's outcome is unknown: newer tokens of its locks have to wait");
        }
        self.lanes.changed();
    }
}
