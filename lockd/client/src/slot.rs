//! One session as the background task sees it: its core, its guards, and who waits for what.
//!
//! A slot outlives the sessions in it: when one is lost, the next acquisition opens another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lockd_protocol::client::{About, EndReason, Outcome, Refusal, Wants};
use lockd_protocol::ticket::TicketText;
use lockd_protocol::{EventNumber, Millis, Mode, Nonce, Sequence, SessionId, Token};
use tokio::sync::oneshot;

use crate::core::{Ended, SessionCore, SessionOptions, Time};
use crate::error::{
    AcquireError, BreakError, ConnectError, DowngradeProblem, LostReason, MetadataError,
    ReleaseError, ReleaseOutcome,
};
use crate::guard::{GuardState, LockGuard};
use crate::handle::{Current, Session};
use crate::lease::{Grant, HeldLock, Lease};

/// What every session of a slot is opened with.
#[derive(Clone, Debug)]
pub(crate) struct SessionSettings {
    pub(crate) ttl: Duration,
    pub(crate) keepalive: Duration,
    pub(crate) about: About,
}

impl SessionSettings {
    pub(crate) fn ttl_millis(&self) -> Millis {
        Millis(u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX))
    }
}

/// What a break did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The sessions that lose the lock and the tokens of their grants, the oldest first. Of a
    /// great many only the first are named.
    pub holders: Vec<(SessionId, Token)>,
    /// No grant so far has a token this high: fences the holders off at the storage.
    pub fence: Token,
}

/// Takes the outcome of a release.
pub(crate) type ReleaseReply = oneshot::Sender<Result<ReleaseOutcome, ReleaseError>>;

/// Takes the outcome of a downgrade.
pub(crate) type DowngradeReply = oneshot::Sender<Result<Arc<Grant>, DowngradeProblem>>;

/// Takes the outcome of a change of metadata.
pub(crate) type MetadataReply = oneshot::Sender<Result<EventNumber, MetadataError>>;

/// Wants to know of an acquisition that it waits, and how many do before it.
#[derive(Clone)]
pub(crate) struct Queued(pub(crate) Arc<dyn Fn(u32) + Send + Sync>);

impl std::fmt::Debug for Queued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Queued")
    }
}

/// Who waits for the outcome of a request.
#[derive(Debug)]
pub(crate) enum Waiter {
    Acquire {
        wants: Wants,
        session: Arc<Session>,
        queued: Option<Queued>,
        reply: oneshot::Sender<Result<LockGuard, AcquireError>>,
    },
    Downgrade {
        grant: Arc<Grant>,
        reply: DowngradeReply,
    },
    SetMetadata(MetadataReply),
    Release(Option<ReleaseReply>),
    Break(oneshot::Sender<Result<Broken, BreakError>>),
    Close(Option<oneshot::Sender<()>>),
}

/// Whoever waits for the session to be open.
pub(crate) type Opener = oneshot::Sender<Result<(), ConnectError>>;

/// One slot.
pub(crate) struct Slot {
    pub(crate) settings: SessionSettings,
    pub(crate) current: Arc<Current>,
    pub(crate) core: Option<SessionCore<Waiter>>,
    /// The session's id, once the cell has told it.
    pub(crate) session: Option<SessionId>,
    pub(crate) lease: Option<Arc<Lease>>,
    pub(crate) grants: BTreeMap<Sequence, Arc<Grant>>,
    pub(crate) openers: Vec<Opener>,
    /// The slot goes when its session has ended.
    pub(crate) closing: bool,
    /// When opening, or closing, is given up.
    pub(crate) open_until: Option<Time>,
    /// When this slot wants a tick, as registered with the task's timers.
    pub(crate) armed: Option<Time>,
}

impl Slot {
    pub(crate) fn new(settings: SessionSettings, current: Arc<Current>) -> Slot {
        Slot {
            settings,
            current,
            core: None,
            session: None,
            closing: false,
            lease: None,
            grants: BTreeMap::new(),
            openers: Vec::new(),
            open_until: None,
            armed: None,
        }
    }

    /// The core of the current session; a new session if there is none.
    pub(crate) fn core_or_new(&mut self, until: Time) -> (&mut SessionCore<Waiter>, bool) {
        let new = self.core.is_none();
        if new {
            self.open_until = Some(until);
        }
        let settings = &self.settings;
        let core = self.core.get_or_insert_with(|| {
            SessionCore::new(SessionOptions {
                nonce: Nonce(rand::random()),
                ttl: settings.ttl_millis(),
                keepalive: settings.keepalive,
                about: settings.about.clone(),
                seed: rand::random(),
            })
        });
        (core, new)
    }

    /// When the slot wants a tick.
    pub(crate) fn next_timeout(&self) -> Option<Time> {
        let core = self.core.as_ref()?.next_timeout();
        [core, self.open_until].into_iter().flatten().min()
    }

    /// What this client counts on after a renewal.
    pub(crate) fn lease_length(&self) -> Duration {
        self.settings.ttl_millis().client_lease().into()
    }

    /// The session is open.
    pub(crate) fn opened(&mut self, lease: Arc<Lease>) {
        self.current.set(Some(lease.session));
        self.lease = Some(lease);
        if !self.closing {
            self.open_until = None;
        }
        for opener in self.openers.drain(..) {
            // Whoever waited may have gone.
            let _ = opener.send(Ok(()));
        }
    }

    /// The session is over: every guard of it is told.
    pub(crate) fn ended(&mut self, ended: &Ended, open_timeout: Duration) {
        let reason = lost_reason(ended);
        if let Some(lease) = self.lease.take() {
            lease.lose(reason.clone());
        }
        for grant in std::mem::take(&mut self.grants).into_values() {
            grant.lose(reason.clone());
        }
        for opener in self.openers.drain(..) {
            let error = match ended {
                Ended::NotOpened(refusal) => ConnectError::Refused(refusal.clone()),
                _ => ConnectError::NoLeader {
                    within: open_timeout,
                },
            };
            // Whoever waited may have gone.
            let _ = opener.send(Err(error));
        }
        self.current.set(None);
        self.open_until = None;
    }

    /// Whoever closes the session gives up its guards at once.
    pub(crate) fn give_up_guards(&self) {
        if let Some(lease) = &self.lease {
            lease.lose(LostReason::Closed);
        }
        for grant in self.grants.values() {
            grant.lose(LostReason::Closed);
        }
    }

    /// One guard has lost its lock.
    pub(crate) fn grant_lost(&mut self, acquire: Sequence, reason: String) {
        if let Some(grant) = self.grants.get(&acquire) {
            grant.lose(LostReason::Broken { reason });
        }
    }

    /// Tells whoever wants to know how many wait before it.
    pub(crate) fn queued(&self, sequence: Sequence, ahead: u32) {
        let waiter = self.core.as_ref().and_then(|core| core.waiter(sequence));
        if let Some(Waiter::Acquire {
            queued: Some(Queued(tell)),
            ..
        }) = waiter
        {
            tell(ahead);
        }
    }

    /// Tells whoever waits what came of its request. A guard that nobody takes is dropped here,
    /// and so gives its lock back.
    pub(crate) fn done(
        &mut self,
        waiter: Waiter,
        sequence: Sequence,
        outcome: Outcome,
        tickets: Vec<TicketText>,
    ) {
        match waiter {
            Waiter::Acquire {
                wants,
                session,
                reply,
                ..
            } => {
                let lease = self.lease.clone();
                let guard = match (held_locks(&wants, &outcome, tickets), lease) {
                    (Some(locks), Some(lease)) => {
                        let grant = Arc::new(Grant::new(locks, sequence, lease));
                        self.grants.insert(sequence, Arc::clone(&grant));
                        Ok(LockGuard::new(grant, session))
                    }
                    _ => Err(not_acquired(&wants, outcome)),
                };
                drop(reply.send(guard));
            }
            Waiter::Downgrade { grant, reply } => {
                // Whoever waited may have gone.
                let _ = reply.send(self.downgraded(&grant, outcome, tickets));
            }
            Waiter::SetMetadata(reply) => {
                let _ = reply.send(metadata_set(outcome));
            }
            Waiter::Release(reply) => {
                if let Some(reply) = reply {
                    let released = match outcome {
                        Outcome::Released => ReleaseOutcome::Released,
                        _ => ReleaseOutcome::NotHeld,
                    };
                    // Whoever waited may have gone.
                    let _ = reply.send(Ok(released));
                }
            }
            Waiter::Break(reply) => {
                let _ = reply.send(broken(outcome));
            }
            Waiter::Close(reply) => {
                if let Some(reply) = reply {
                    let _ = reply.send(());
                }
            }
        }
    }
}

impl Slot {
    /// The grant as it is after its downgrade, in place of the one before.
    fn downgraded(
        &mut self,
        grant: &Arc<Grant>,
        outcome: Outcome,
        tickets: Vec<TicketText>,
    ) -> Result<Arc<Grant>, DowngradeProblem> {
        match outcome {
            Outcome::Downgraded => {}
            Outcome::Refused(refusal) => return Err(DowngradeProblem::Refused(refusal)),
            _ => {
                let reason = EndReason::Unknown;
                return Err(DowngradeProblem::Lost(LostReason::SessionEnded(reason)));
            }
        }
        if let GuardState::Lost { reason } = grant.state() {
            return Err(DowngradeProblem::Lost(reason));
        }
        let mut tickets = tickets.into_iter();
        let locks = grant.locks.iter().map(|lock| HeldLock {
            mode: Mode::Shared,
            ticket: tickets.next(),
            ..lock.clone()
        });
        let (acquire, lease) = (grant.acquire, Arc::clone(&grant.lease));
        let grant = Arc::new(Grant::new(locks.collect(), acquire, lease));
        self.grants.insert(acquire, Arc::clone(&grant));
        Ok(grant)
    }
}

/// What was granted, if anything was. A cell that grants nothing, or what nobody asked for, is not
/// believed.
fn held_locks(wants: &Wants, outcome: &Outcome, tickets: Vec<TicketText>) -> Option<Vec<HeldLock>> {
    let Outcome::Granted(grants) = outcome else {
        return None;
    };
    let mut tickets = tickets.into_iter();
    let locks: Option<Vec<HeldLock>> = grants
        .iter()
        .map(|grant| {
            let want = wants.each().get(grant.want as usize)?;
            Some(HeldLock {
                name: want.lock.clone(),
                mode: want.mode,
                token: grant.token,
                slot: grant.slot,
                ticket: tickets.next(),
            })
        })
        .collect();
    locks.filter(|locks| !locks.is_empty())
}

/// Tells whoever waits that its request will not be answered.
pub(crate) fn failed(waiter: Waiter, ended: &Ended, open_timeout: Duration) {
    let reason = lost_reason(ended);
    match waiter {
        Waiter::Acquire { reply, .. } => {
            let error = match ended {
                Ended::GivenUp => AcquireError::Unavailable {
                    within: open_timeout,
                },
                Ended::NotOpened(refusal) => AcquireError::Refused(refusal.clone()),
                Ended::Closed => AcquireError::Closed,
                _ => AcquireError::SessionLost(reason),
            };
            drop(reply.send(Err(error)));
        }
        Waiter::Downgrade { reply, .. } => {
            let _ = reply.send(Err(DowngradeProblem::Lost(reason)));
        }
        Waiter::SetMetadata(reply) => {
            let _ = reply.send(Err(MetadataError::Lost(reason)));
        }
        Waiter::Release(reply) => {
            if let Some(reply) = reply {
                let _ = reply.send(released_late(ended));
            }
        }
        Waiter::Break(reply) => {
            let error = match ended {
                Ended::NotOpened(refusal) => BreakError::Refused(refusal.clone()),
                Ended::GivenUp => BreakError::Unavailable {
                    within: open_timeout,
                },
                _ => BreakError::SessionLost(reason),
            };
            let _ = reply.send(Err(error));
        }
        Waiter::Close(reply) => {
            if let Some(reply) = reply {
                let _ = reply.send(());
            }
        }
    }
}

/// Closing a session gives back everything it holds.
fn released_late(ended: &Ended) -> Result<ReleaseOutcome, ReleaseError> {
    match ended {
        Ended::Closed => Ok(ReleaseOutcome::Released),
        ended => Err(ReleaseError::SessionLost(lost_reason(ended))),
    }
}

fn lost_reason(ended: &Ended) -> LostReason {
    match ended {
        Ended::LeaseRanOut => LostReason::LeaseRanOut,
        Ended::ByCell(reason) => LostReason::SessionEnded(*reason),
        Ended::Closed => LostReason::Closed,
        Ended::NotOpened(_) | Ended::GivenUp => LostReason::SessionEnded(EndReason::Unknown),
    }
}

fn metadata_set(outcome: Outcome) -> Result<EventNumber, MetadataError> {
    match outcome {
        Outcome::MetadataSet { version } => Ok(version),
        Outcome::OtherMetadata { version } => Err(MetadataError::OtherVersion { version }),
        Outcome::Refused(refusal) => Err(MetadataError::Refused(refusal)),
        _ => {
            let reason = EndReason::Unknown;
            Err(MetadataError::Lost(LostReason::SessionEnded(reason)))
        }
    }
}

fn not_acquired(wants: &Wants, outcome: Outcome) -> AcquireError {
    match outcome {
        Outcome::NotAvailable { want, holder } => match wants.each().get(want as usize) {
            Some(want) => AcquireError::NotAvailable {
                lock: want.lock.clone(),
                holder,
            },
            None => AcquireError::Over,
        },
        Outcome::TimedOut => AcquireError::TimedOut,
        Outcome::Refused(Refusal::Deadlock(circle)) => AcquireError::Deadlock(circle),
        Outcome::Refused(refusal) => AcquireError::Refused(refusal),
        _ => AcquireError::Over,
    }
}

fn broken(outcome: Outcome) -> Result<Broken, BreakError> {
    match outcome {
        Outcome::Broken { holders, fence } => Ok(Broken { holders, fence }),
        Outcome::Refused(refusal) => Err(BreakError::Refused(refusal)),
        Outcome::NothingToBreak => Err(BreakError::NothingToBreak),
        _ => Err(BreakError::Refused(Refusal::NoSession)),
    }
}
