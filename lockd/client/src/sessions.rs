//! All sessions of the background task: which frame and which command goes to which, what comes
//! of it, and when to look again. Knows whether there is a connection, but not which.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockd_protocol::client::{ClientFrame, NodeFrame, Operation, Value};
use lockd_protocol::frame;
use lockd_protocol::{EventNumber, Nonce, SessionId};
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::core::{Ended, Input, Output, RequestId, Time};
use crate::error::{DowngradeProblem, LostReason, MetadataError, ReleaseError};
use crate::guard::GuardState;
use crate::lease::{Grant, Lease};
use crate::slot::{DowngradeReply, MetadataReply, ReleaseReply, Slot, Waiter, failed};
use crate::task::{Command, SlotId};

/// The sessions and what they share.
pub(crate) struct Sessions {
    slots: HashMap<SlotId, Slot>,
    by_session: HashMap<SessionId, SlotId>,
    by_nonce: HashMap<Nonce, SlotId>,
    timers: BTreeSet<(Time, SlotId)>,
    /// Frames to be written, encoded.
    pub(crate) out: Vec<u8>,
    /// Whether there is a connection to what may be the leader.
    up: bool,
    connected: Arc<AtomicBool>,
    /// The connected node does not answer.
    pub(crate) suspect: bool,
    clock: Clock,
    open_timeout: Duration,
}

impl Sessions {
    pub(crate) fn new(clock: Clock, open_timeout: Duration) -> Sessions {
        Sessions {
            slots: HashMap::new(),
            by_session: HashMap::new(),
            by_nonce: HashMap::new(),
            timers: BTreeSet::new(),
            out: Vec::new(),
            up: false,
            connected: Arc::new(AtomicBool::new(false)),
            suspect: false,
            clock,
            open_timeout,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether frames can be sent.
    pub(crate) fn is_up(&self) -> bool {
        self.up
    }

    /// Puts a frame into the buffer that is written next.
    pub(crate) fn send(&mut self, frame: &ClientFrame) {
        encode(frame, &mut self.out);
    }

    /// There is a connection.
    pub(crate) fn connection_up(&mut self) {
        self.up = true;
        self.suspect = false;
        self.connected.store(true, Ordering::Relaxed);
        self.drive_all(|| Input::Connected);
    }

    /// There is none any more.
    pub(crate) fn connection_down(&mut self) {
        self.up = false;
        self.connected.store(false, Ordering::Relaxed);
        self.drive_all(|| Input::Disconnected);
    }

    /// When to call [`Sessions::tick`].
    pub(crate) fn next_timeout(&self) -> Time {
        self.timers.first().map_or(Time::MAX, |(time, _)| *time)
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self) {
        let now = self.clock.now();
        while let Some(&(time, id)) = self.timers.first() {
            if time > now {
                return;
            }
            self.timers.pop_first();
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.armed = None;
                let late = slot.open_until.is_some_and(|until| now >= until);
                let input = match late {
                    true => Input::Abandon(Ended::GivenUp),
                    false => Input::Tick,
                };
                self.drive(now, id, input);
            }
        }
    }

    /// Nobody is left who could ask for anything: what is still there ends at `time`.
    pub(crate) fn end_by(&mut self, time: Time) {
        self.slots.retain(|_, slot| slot.core.is_some());
        for (id, slot) in &mut self.slots {
            slot.closing = true;
            slot.open_until = Some(slot.open_until.unwrap_or(time).min(time));
            arm(&mut self.timers, *id, slot);
        }
    }

    /// Takes what a user asked for. Questions are not for sessions.
    pub(crate) fn take_command(&mut self, now: Time, command: Command) {
        match command {
            Command::NewSlot {
                slot: id,
                settings,
                current,
                opener,
            } => {
                let mut slot = Slot::new(settings, current);
                let open = opener.is_some();
                slot.openers.extend(opener);
                self.slots.insert(id, slot);
                if open {
                    self.open(now, id);
                }
            }
            Command::Submit {
                slot,
                request,
                operation,
                waiter,
            } => {
                self.open(now, slot);
                let input = Input::Submit {
                    request,
                    operation,
                    waiter,
                };
                self.drive(now, slot, input);
            }
            Command::TakeBack { slot, request } => {
                self.drive(now, slot, Input::TakeBack { request });
            }
            Command::Release { slot, grant, reply } => self.release(now, slot, &grant, reply),
            Command::Downgrade { slot, grant, reply } => self.downgrade(now, slot, grant, reply),
            Command::SetMetadata {
                slot,
                grant,
                expect,
                value,
                reply,
            } => self.set_metadata(now, slot, &grant, (expect, value), reply),
            Command::Close { slot, reply } => self.close(now, slot, reply),
            Command::Query { .. } | Command::Watch(_) => {}
        }
    }

    /// Takes a frame. Says whether only a leader sends such a one.
    pub(crate) fn take_frame(&mut self, now: Time, frame: NodeFrame) -> bool {
        let (session, input) = match frame {
            NodeFrame::Opened { nonce, result } => {
                let opened = result.is_ok();
                if let Some(&id) = self.by_nonce.get(&nonce) {
                    if let (Ok(session), Some(slot)) = (&result, self.slots.get_mut(&id)) {
                        slot.session = Some(*session);
                        self.by_session.insert(*session, id);
                    }
                    self.drive(now, id, Input::Opened { result });
                }
                return opened;
            }
            NodeFrame::KeptAlive { session, number } => (session, Input::KeptAlive { number }),
            NodeFrame::SessionEnded { session, reason } => {
                (session, Input::SessionEnded { reason })
            }
            NodeFrame::Reply {
                session,
                sequence,
                outcome,
                tickets,
            } => {
                let input = Input::Reply {
                    sequence,
                    outcome,
                    tickets,
                };
                (session, input)
            }
            NodeFrame::Lost {
                session,
                acquire,
                reason,
            } => (session, Input::Lost { acquire, reason }),
            _ => return false,
        };
        if let Some(&id) = self.by_session.get(&session) {
            self.drive(now, id, input);
        }
        true
    }

    /// Makes sure that the slot has a session, or is about to.
    fn open(&mut self, now: Time, id: SlotId) {
        let until = now.after(self.open_timeout);
        let Some(slot) = self.slots.get_mut(&id).filter(|slot| !slot.closing) else {
            return;
        };
        let (core, new) = slot.core_or_new(until);
        if new {
            self.by_nonce.insert(core.nonce(), id);
            let input = match self.up {
                true => Input::Connected,
                false => Input::Disconnected,
            };
            self.drive(now, id, input);
        }
    }

    fn release(&mut self, now: Time, id: SlotId, grant: &Arc<Grant>, reply: Option<ReleaseReply>) {
        let acquire = grant.acquire;
        let current = self.slots.get_mut(&id).is_some_and(|slot| {
            let lease = slot.lease.as_ref();
            let current = lease.is_some_and(|lease| Arc::ptr_eq(lease, &grant.lease));
            if current {
                slot.grants.remove(&acquire);
            }
            current
        });
        if current {
            let waiter = Waiter::Release(reply);
            self.drive(now, id, Input::Release { acquire, waiter });
        } else if let Some(reply) = reply {
            let reason = match grant.state() {
                GuardState::Lost { reason } => reason,
                _ => LostReason::Closed,
            };
            // Whoever waited may have gone.
            let _ = reply.send(Err(ReleaseError::SessionLost(reason)));
        }
    }

    fn downgrade(&mut self, now: Time, id: SlotId, grant: Arc<Grant>, reply: DowngradeReply) {
        if let GuardState::Lost { reason } = grant.state() {
            // Whoever waited may have gone.
            let _ = reply.send(Err(DowngradeProblem::Lost(reason)));
            return;
        }
        let acquire = grant.acquire;
        let ticket = grant.locks.iter().any(|lock| lock.ticket.is_some());
        let input = Input::Downgrade {
            acquire,
            ticket,
            waiter: Waiter::Downgrade { grant, reply },
        };
        self.drive(now, id, input);
    }

    fn set_metadata(
        &mut self,
        now: Time,
        id: SlotId,
        grant: &Grant,
        (expect, value): (Option<EventNumber>, Value),
        reply: MetadataReply,
    ) {
        if let GuardState::Lost { reason } = grant.state() {
            // Whoever waited may have gone.
            let _ = reply.send(Err(MetadataError::Lost(reason)));
            return;
        }
        let input = Input::Submit {
            request: RequestId(0),
            operation: Operation::SetMetadata {
                acquire: grant.acquire,
                token: grant.locks[0].token,
                expect,
                value,
            },
            waiter: Waiter::SetMetadata(reply),
        };
        self.drive(now, id, input);
    }

    fn close(&mut self, now: Time, id: SlotId, reply: Option<oneshot::Sender<()>>) {
        let Some(slot) = self.slots.get_mut(&id).filter(|slot| !slot.closing) else {
            return;
        };
        slot.closing = true;
        // The cell may grant its locks to others before its answer is here.
        slot.give_up_guards();
        if slot.core.is_none() {
            self.slots.remove(&id);
            return;
        }
        let input = Input::Submit {
            request: RequestId(0),
            operation: Operation::Close,
            waiter: Waiter::Close(reply),
        };
        self.drive(now, id, input);
    }

    fn drive_all(&mut self, input: impl Fn() -> Input<Waiter>) {
        let now = self.clock.now();
        let all: Vec<SlotId> = self.slots.keys().copied().collect();
        for id in all {
            self.drive(now, id, input());
        }
    }

    /// Gives a session its input and does what it asks for.
    fn drive(&mut self, now: Time, id: SlotId, input: Input<Waiter>) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let Some(core) = slot.core.as_mut() else {
            return;
        };
        core.handle(now, input);
        while let Some(output) = slot.core.as_mut().and_then(|core| core.poll_output()) {
            match output {
                Output::Send(frame) => encode(&frame, &mut self.out),
                Output::Queued { sequence, ahead } => slot.queued(sequence, ahead),
                Output::Done {
                    waiter,
                    sequence,
                    outcome,
                    tickets,
                } => slot.done(waiter, sequence, outcome, tickets),
                Output::Failed { waiter, ended } => failed(waiter, &ended, self.open_timeout),
                Output::GrantLost { acquire, reason } => slot.grant_lost(acquire, reason),
                Output::Suspect => self.suspect = true,
                Output::Opened { session, deadline } => {
                    let connected = Arc::clone(&self.connected);
                    let lease = slot.lease_length();
                    let clock = self.clock.clone();
                    let lease = Lease::new(session, lease, deadline, connected, clock);
                    slot.opened(Arc::new(lease));
                }
                Output::Deadline(deadline) => {
                    let lease = slot.lease.as_ref().filter(|_| !slot.closing);
                    let seen_lost = lease.is_some_and(|lease| !lease.extend(deadline));
                    if seen_lost && let Some(core) = slot.core.as_mut() {
                        core.handle(now, Input::Abandon(Ended::LeaseRanOut));
                    }
                }
                Output::Ended(ended) => {
                    slot.ended(&ended, self.open_timeout);
                    if let Some(session) = slot.session.take() {
                        self.by_session.remove(&session);
                    }
                    if let Some(core) = &slot.core {
                        self.by_nonce.remove(&core.nonce());
                    }
                }
            }
        }
        let over = slot
            .core
            .as_ref()
            .is_some_and(|core| core.ended().is_some());
        if over {
            slot.core = None;
        }
        arm(&mut self.timers, id, slot);
        if over && slot.closing {
            self.slots.remove(&id);
        }
    }
}

fn encode(frame: &ClientFrame, out: &mut Vec<u8>) {
    if let Err(error) = frame::encode(frame, out) {
        // Names and texts were checked, so that no frame of ours is ever too large.
        tracing::error!(%error, "a frame could not be encoded");
    }
}

/// Keeps the slot's timer at the time it wants.
fn arm(timers: &mut BTreeSet<(Time, SlotId)>, id: SlotId, slot: &mut Slot) {
    let wanted = slot.next_timeout();
    if wanted != slot.armed {
        if let Some(old) = slot.armed {
            timers.remove(&(old, id));
        }
        if let Some(new) = wanted {
            timers.insert((new, id));
        }
        slot.armed = wanted;
    }
}
