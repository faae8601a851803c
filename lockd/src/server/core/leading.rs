//! What only a leader does: it judges by its clock, acts on effects, and starts every session at
//! its full TTL when its leadership begins.

use std::collections::VecDeque;

use lockd_protocol::Millis;
use lockd_protocol::client::NodeFrame;
use lockd_protocol::planted::{self, Planted};
use paxos::{Ballot, ConfirmNumber, Role, Time};

use super::Core;
use super::ages::Ages;
use super::answers::Pending;
use super::leases::{Judgement, Leases};
use super::timers::{Alarm, Timers};
use crate::limits::STALL;
use crate::state::command::Command;
use crate::state::{Claim, Effect, State};

/// What only a leader has. It begins with the leadership and is dropped with it.
#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone))]
pub(super) struct Leading {
    pub(super) leadership: Ballot,
    /// Its first entry is decided and applied: from here on it may judge by its clock.
    pub(super) established: bool,
    pub(super) leases: Leases,
    pub(super) timers: Timers,
    /// What waits for a confirmation, but for renewals.
    pub(super) pending: VecDeque<Pending>,
    /// What has been confirmed.
    pub(super) confirmed: ConfirmNumber,
    pub(super) ages: Ages,
}

impl Leading {
    /// Whether there are confirmed questions that are not answered yet.
    pub(super) fn has_questions(&self) -> bool {
        let first = self.pending.front();
        first.is_some_and(|first| first.confirm <= self.confirmed)
    }
}

impl Core {
    /// Proposes what the clock decides. A node that did not listen for a while must not judge.
    pub(super) fn judge_by_the_clock(&mut self, now: Time) {
        let Some(leading) = self.leading.as_mut().filter(|leading| leading.established) else {
            return;
        };
        let late = now.micros_since(self.due);
        if late > STALL.as_micros() as u64 {
            tracing::warn!(
                late_ms = late / 1000,
                "the node stood still: sessions start anew"
            );
            leading.leases.restart_all(now);
            return;
        }
        let leadership = leading.leadership;
        let judged = leading.leases.judge(now).into_iter();
        let mut commands: Vec<Command> = judged
            .map(|judged| match judged {
                Judgement::Silent(session, spent) => Command::Silent {
                    session,
                    spent,
                    leadership,
                },
                Judgement::Expired(session) => Command::Expire {
                    session,
                    leadership,
                },
            })
            .collect();
        while let Some(alarm) = leading.timers.due(now) {
            commands.extend(alarm_command(&self.state, alarm, leadership));
        }
        for command in commands {
            self.proposals.push_unbounded(&command);
        }
    }

    pub(super) fn role_changed(&mut self, now: Time, role: Role) {
        let Role::Leader {
            leadership,
            established,
        } = role
        else {
            if self.leading.take().is_some() {
                tracing::info!(node = %self.settings.node, "not leading any more");
                self.forget_proposals();
                self.watching.end_all();
            }
            return self
                .clients
                .ids()
                .into_iter()
                .for_each(|id| self.redirect(id));
        };
        let fresh = self
            .leading
            .as_ref()
            .is_none_or(|old| old.leadership != leadership);
        if fresh {
            tracing::info!(node = %self.settings.node, %leadership, "leading");
            let mut leases = Leases::default();
            for (id, ttl) in self.state.session_ttls() {
                let cut = planted::has(Planted::TimersNotRestarted);
                leases.start(now, id, if cut { Millis(ttl.0 / 2) } else { ttl });
            }
            self.forget_proposals();
            self.clients.forget_pending();
            let (token, place) = (self.state.last_token(), self.state.last_place());
            self.leading = Some(Leading {
                leadership,
                established: false,
                leases,
                timers: Timers::default(),
                pending: VecDeque::new(),
                confirmed: ConfirmNumber(0),
                ages: Ages::new(now, token, place),
            });
        }
        if established {
            self.establish(now);
        }
    }

    fn forget_proposals(&mut self) {
        if !planted::has(Planted::QueueOutlivesLeadership) {
            self.proposals.clear();
        }
    }

    /// Notes which grants and waiters there are by now.
    pub(super) fn note_ages(&mut self, now: Time) {
        let (token, place) = (self.state.last_token(), self.state.last_place());
        if let Some(leading) = &mut self.leading {
            leading.ages.note(now, token, place);
        }
    }

    /// The leadership's first entry is applied: waits and breaks count from here.
    fn establish(&mut self, now: Time) {
        let pending = self.state.pending_timers();
        let Some(leading) = self.leading.as_mut().filter(|leading| !leading.established) else {
            return;
        };
        leading.established = true;
        // What the entries before it granted is older than this leadership.
        leading.ages = Ages::new(now, self.state.last_token(), self.state.last_place());
        leading.leases.silent_before(self.state.silent_sessions());
        leading.timers = Timers::default();
        for effect in &pending {
            set_timer(&mut leading.timers, now, effect);
        }
    }

    /// What a leader does about an effect.
    pub(super) fn lead(&mut self, now: Time, effect: Effect) {
        match effect {
            Effect::Opened { nonce, result } => {
                if let (Ok(session), Some(leading)) = (&result, &mut self.leading)
                    && let Some(ttl) = self.state.session_ttl(*session)
                {
                    leading.leases.open(now, *session, ttl);
                }
                let Some(connection) = self.clients.take_nonce(nonce) else {
                    return;
                };
                if let Ok(session) = &result {
                    self.clients.bind(*session, connection);
                }
                self.clients
                    .send(connection, &NodeFrame::Opened { nonce, result });
            }
            Effect::Reply {
                session,
                sequence,
                outcome,
                tickets,
            } => {
                let Some(connection) = self.clients.route(session) else {
                    return;
                };
                let signer = &self.settings.signer;
                let sign = |claim: Claim| {
                    let Claim { lock, token, mode } = claim;
                    signer.sign(&lock, token, mode, session)
                };
                let reply = NodeFrame::Reply {
                    session,
                    sequence,
                    outcome,
                    tickets: tickets.into_iter().map(sign).collect(),
                };
                self.clients.send(connection, &reply);
            }
            Effect::WaitBegan { .. } | Effect::Closed { .. } => self.set_timer(now, &effect),
            Effect::BreakBegan { .. } => {
                self.set_timer(now, &effect);
                self.tell_lost(effect);
            }
            Effect::Heard { session } => {
                let leading = self.leading.as_mut();
                if let Some(renewal) = leading.and_then(|it| it.leases.heard(session)) {
                    self.answer_renewal(renewal);
                }
            }
            Effect::Ended { session, reason } => {
                if let Some(leading) = &mut self.leading {
                    leading.leases.forget(session);
                }
                if let Some(connection) = self.clients.route(session) {
                    self.clients
                        .send(connection, &NodeFrame::SessionEnded { session, reason });
                }
                self.clients.unbind(session);
            }
            // Dealt with on every node.
            Effect::Changed(_) => {}
        }
    }

    fn set_timer(&mut self, now: Time, effect: &Effect) {
        if let Some(leading) = self.leading.as_mut().filter(|leading| leading.established) {
            set_timer(&mut leading.timers, now, effect);
        }
    }

    fn tell_lost(&mut self, effect: Effect) {
        let Effect::BreakBegan {
            session,
            acquire,
            reason,
            ..
        } = effect
        else {
            return;
        };
        if let Some(connection) = self.clients.route(session) {
            self.clients.send(
                connection,
                &NodeFrame::Lost {
                    session,
                    acquire,
                    reason,
                },
            );
        }
    }
}

fn set_timer(timers: &mut Timers, now: Time, effect: &Effect) {
    match effect {
        Effect::WaitBegan {
            session,
            acquire,
            limit,
        } => {
            let alarm = Alarm::WaitOver {
                session: *session,
                acquire: *acquire,
            };
            timers.set(now, *limit, alarm);
        }
        Effect::Closed { lock, token, span } => {
            let alarm = Alarm::ClosedLongEnough {
                lock: lock.clone(),
                token: *token,
            };
            timers.set(now, *span, alarm);
        }
        Effect::BreakBegan {
            lock,
            token,
            ttl,
            at_once: false,
            ..
        } => {
            timers.set(
                now,
                *ttl,
                Alarm::BreakOver {
                    lock: lock.clone(),
                    token: *token,
                },
            );
        }
        _ => {}
    }
}

fn alarm_command(state: &State, alarm: Alarm, leadership: Ballot) -> Option<Command> {
    match alarm {
        Alarm::WaitOver { session, acquire } => {
            state
                .is_waiting(session, acquire)
                .then_some(Command::TimeOut {
                    session,
                    acquire,
                    leadership,
                })
        }
        Alarm::ClosedLongEnough { lock, token } => Some(Command::Reopen {
            lock,
            token,
            leadership,
        }),
        Alarm::BreakOver { lock, token } => Some(Command::FinishBreak {
            lock,
            token,
            leadership,
        }),
    }
}
