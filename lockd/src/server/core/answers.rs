//! Answers that wait for a confirmation: renewals, linearizable questions, and requests of sessions
//! that this node does not know. And those that do not: the node's status, and stale answers.

use lockd_protocol::client::{
    Age, Answer, ClientFrame, EndReason, NodeFrame, NodeStanding, Query, Scope, Stale, Status,
};
use lockd_protocol::planted::{self, Planted};
use lockd_protocol::{EventNumber, Millis, NodeId, SessionId, Token};
use paxos::{Ballot, ConfirmNumber, Time};

use super::clients::ConnectionId;
use super::leading::Leading;
use super::leases::Confirmed;
use super::{Core, leases};
use crate::limits::QUERIES_PER_TURN_MAX;
use crate::state::Effect;
use crate::state::command::Command;
use crate::state::listing::{Observed, Unobserved};

/// What is dealt with once its confirm number is echoed.
#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone))]
pub(super) struct Pending {
    pub(super) confirm: ConfirmNumber,
    pub(super) connection: ConnectionId,
    pub(super) asked: Asked,
}

#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone))]
pub(super) enum Asked {
    /// A question.
    Query { id: u64, query: Query },
    /// A request of a session that this node does not know: it has ended, or this node is behind.
    Request(ClientFrame),
    /// So that a watch begins with nothing that is older than what its client knows by itself.
    Watch {
        watch: u64,
        scope: Scope,
        after: Option<EventNumber>,
    },
    /// Its beginning may wait before it.
    Unwatch { watch: u64 },
}

/// A question that a node answers by itself: how it is, or what it has applied.
#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone))]
pub(super) struct OwnQuestion {
    pub(super) connection: ConnectionId,
    pub(super) id: u64,
    pub(super) query: Query,
    pub(super) stale: bool,
}

/// What a leader knows beside the state.
struct LeadersView<'a> {
    core: &'a Core,
    leading: &'a Leading,
    now: Time,
}

impl Observed for LeadersView<'_> {
    fn held(&self, token: Token) -> Option<Age> {
        Some(self.leading.ages.held(self.now, token))
    }

    fn waited(&self, place: u64) -> Option<Age> {
        Some(self.leading.ages.waited(self.now, place))
    }

    fn address(&self, session: SessionId) -> Option<String> {
        let clients = &self.core.clients;
        let address = clients.address(clients.route(session)?)?;
        Some(address.to_owned())
    }

    fn ttl_left(&self, session: SessionId) -> Option<Millis> {
        Some(self.leading.leases.left(self.now, session))
    }
}

impl Core {
    /// A quorum has echoed `number`: answers the renewals that it covers, and soon the questions.
    pub(super) fn confirmed(&mut self, now: Time, leadership: Ballot, number: ConfirmNumber) {
        let ours = |leading: &&mut Leading| leading.leadership == leadership;
        while let Some(renewal) = self
            .leading
            .as_mut()
            .filter(ours)
            .and_then(|leading| leading.leases.confirmed(number))
        {
            self.renewal_confirmed(now, leadership, renewal);
        }
        if let Some(leading) = self.leading.as_mut().filter(ours) {
            leading.confirmed = leading.confirmed.max(number);
        }
    }

    /// Deals with what has been confirmed: so much of it in one turn, lest renewals wait.
    pub(super) fn answer_questions(&mut self, now: Time, left: &mut usize) {
        while *left > 0 {
            let leading = self.leading.as_mut().filter(|l| l.has_questions());
            let Some(pending) = leading.and_then(|leading| leading.pending.pop_front()) else {
                return;
            };
            *left -= 1;
            let connection = pending.connection;
            self.clients.query_answered(connection);
            match pending.asked {
                Asked::Query { id, query } => {
                    let answer = self.answer(now, &query);
                    self.tell(connection, id, answer);
                }
                Asked::Request(frame) => self.request_of_unknown(now, connection, frame),
                Asked::Watch {
                    watch,
                    scope,
                    after,
                } => {
                    let (key, clients) = ((connection, watch), &mut self.clients);
                    self.watching.start(key, scope, after, clients);
                }
                Asked::Unwatch { watch } => self.watching.end(connection, watch),
            }
        }
    }

    /// Answers by itself what was asked of this node alone: so much of it in one turn.
    pub(super) fn answer_own_questions(&mut self, now: Time) {
        for _ in 0..QUERIES_PER_TURN_MAX {
            let Some(own) = self.own_questions.pop_front() else {
                return;
            };
            self.clients.query_answered(own.connection);
            match own.stale {
                true => self.tell_stale(now, own.connection, own.id, &own.query),
                false => {
                    let answer = self.answer(now, &own.query);
                    self.tell(own.connection, own.id, answer);
                }
            }
        }
    }

    /// The answer of the cell, or of this node about itself.
    pub(super) fn tell(&mut self, connection: ConnectionId, id: u64, answer: Answer) {
        let stale = None;
        let frame = NodeFrame::Answer { id, answer, stale };
        self.clients.send(connection, &frame);
    }

    /// The answer of this node alone, from what it has applied.
    fn tell_stale(&mut self, now: Time, connection: ConnectionId, id: u64, query: &Query) {
        let answer = self.answer(now, query);
        let (node, applied) = (self.settings.node, self.applied.0);
        let stale = Some(Stale { node, applied });
        let frame = NodeFrame::Answer { id, answer, stale };
        self.clients.send(connection, &frame);
    }

    fn renewal_confirmed(&mut self, now: Time, leadership: Ballot, renewal: leases::Renewal) {
        let session = renewal.session;
        let Some(leading) = &mut self.leading else {
            return;
        };
        if planted::has(Planted::TimerFromAnswer) {
            leading.leases.restart(now, session);
        }
        match leading.leases.admit(renewal) {
            Confirmed::Answer => self.answer_renewal(renewal),
            Confirmed::Hear => {
                self.proposals.push_unbounded(&Command::Heard {
                    session,
                    leadership,
                });
            }
            Confirmed::Wait => {}
        }
    }

    pub(super) fn answer_renewal(&mut self, renewal: leases::Renewal) {
        let leases::Renewal {
            connection,
            session,
            number,
            ..
        } = renewal;
        self.clients.renewal_answered(connection);
        match self.state.identity_of(session) {
            Some(identity) if identity != self.clients.identity(connection) => {
                return self.tell_ended(connection, session, EndReason::OtherIdentity);
            }
            None if !planted::has(Planted::RenewedAfterTheEnd) => {
                return self.tell_ended(connection, session, EndReason::Unknown);
            }
            Some(_) => self.clients.bind(session, connection),
            None => {}
        }
        // A holder has to know of a break before its lease grows beyond it, on the same stream.
        for effect in self.state.breaks_of(session) {
            let Effect::BreakBegan {
                acquire, reason, ..
            } = effect
            else {
                continue;
            };
            self.clients.send(
                connection,
                &NodeFrame::Lost {
                    session,
                    acquire,
                    reason,
                },
            );
        }
        self.clients
            .send(connection, &NodeFrame::KeptAlive { session, number });
    }

    /// Tells whoever asks for a session that it is no more, or not for it.
    pub(super) fn tell_ended(
        &mut self,
        connection: ConnectionId,
        session: SessionId,
        reason: EndReason,
    ) {
        let frame = NodeFrame::SessionEnded { session, reason };
        self.clients.send(connection, &frame);
    }

    /// What this node knows. Of the cell, only if this was confirmed.
    pub(super) fn answer(&self, now: Time, query: &Query) -> Answer {
        match &self.leading {
            Some(leading) => {
                let core = self;
                self.answer_with(now, query, &LeadersView { core, leading, now })
            }
            None => self.answer_with(now, query, &Unobserved),
        }
    }

    fn answer_with(&self, now: Time, query: &Query, observed: &impl Observed) -> Answer {
        match query {
            Query::Locks {
                prefix,
                after,
                limit,
            } => self
                .state
                .list_locks(prefix, after.as_ref(), *limit, observed),
            Query::Lock {
                lock,
                skip_holders,
                skip_waiters,
                limit,
            } => {
                let skip = (*skip_holders, *skip_waiters);
                Answer::Lock(self.state.describe_lock(lock, skip, *limit, observed))
            }
            Query::Sessions {
                after,
                labels,
                limit,
            } => self.state.list_sessions(*after, labels, *limit, observed),
            _ => Answer::Status(self.status(now)),
        }
    }

    pub(super) fn status(&self, now: Time) -> Status {
        let replica = self.replica.status();
        let voters = replica.peers.iter().map(|peer| NodeStanding {
            node: NodeId(peer.node.0),
            votes: true,
            durable: peer.persisted.0,
            silent: Some(Millis(peer.silent_micros / 1000)),
        });
        let learners = replica.learners.iter().map(|(node, durable)| NodeStanding {
            node: NodeId(node.0),
            votes: false,
            durable: durable.0,
            silent: None,
        });
        let others = match self.leading.is_some() {
            true => voters.chain(learners).collect(),
            false => Vec::new(),
        };
        Status {
            node: self.settings.node,
            cell: self.settings.cell,
            leading: self.leading.is_some(),
            leader: self.known_leader(),
            round: replica.promised.round,
            decided: replica.decided.0,
            applied: self.applied.0,
            members: self.addresses(),
            sessions: self.state.session_count() as u64,
            locks: self.state.lock_count() as u64,
            last_token: self.state.last_token(),
            votes: self
                .membership
                .contains(paxos::NodeId(self.settings.node.0)),
            epoch: self.membership.epoch.0,
            quorums: (
                self.membership.quorums.prepare,
                self.membership.quorums.accept,
            ),
            newest: NodeId(self.membership.newest.0),
            snapshot: replica.snapshot.map_or(0, |meta| meta.slot.0),
            log_first: self.log_first.unwrap_or(replica.first).0,
            log_end: replica.end.0,
            damaged: self.damage.found,
            repaired: self.damage.repaired,
            others,
            uptime: Millis(now.micros_since(self.started) / 1000),
            program: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}
