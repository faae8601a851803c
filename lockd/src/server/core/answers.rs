//! Answers that wait for a confirmation: renewals and linearizable questions. And the one that
//! does not: the node's status.

use lockd_protocol::Millis;
use lockd_protocol::NodeId;
use lockd_protocol::client::{Answer, EndReason, NodeFrame, NodeStanding, Query, Status};
use lockd_protocol::planted::{self, Planted};
use paxos::{Ballot, ConfirmNumber, Time};

use super::clients::ConnectionId;
use super::leading::Leading;
use super::leases::Confirmed;
use super::{Core, leases};
use crate::state::Effect;
use crate::state::command::Command;

/// A question that is answered once its confirm number is.
#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone))]
pub(super) struct PendingQuery {
    pub(super) confirm: ConfirmNumber,
    pub(super) connection: ConnectionId,
    pub(super) id: u64,
    pub(super) query: Query,
}

impl Core {
    /// A quorum has echoed `number`: answers the renewals and the questions it covers.
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
        while let Some(pending) = self.leading.as_mut().filter(ours).and_then(|leading| {
            let due = leading.queries.front()?.confirm <= number;
            if due {
                leading.queries.pop_front()
            } else {
                None
            }
        }) {
            let answer = self.answer(now, &pending.query);
            let frame = NodeFrame::Answer {
                id: pending.id,
                answer,
            };
            self.clients.send(pending.connection, &frame);
        }
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
            Confirmed::Hear => self.proposals.push_unbounded(&Command::Heard {
                session,
                leadership,
            }),
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
        if self.state.session_ttl(session).is_none() && !planted::has(Planted::RenewedAfterTheEnd) {
            let reason = EndReason::Unknown;
            return self
                .clients
                .send(connection, &NodeFrame::SessionEnded { session, reason });
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

    pub(super) fn answer(&self, now: Time, query: &Query) -> Answer {
        match query {
            Query::Locks {
                prefix,
                after,
                limit,
            } => self.state.list_locks(prefix, after.as_ref(), *limit),
            Query::Lock {
                lock,
                skip_holders,
                skip_waiters,
                limit,
            } => Answer::Lock(
                self.state
                    .describe_lock(lock, *skip_holders, *skip_waiters, *limit),
            ),
            Query::Sessions { after, limit } => {
                let left = |session| match &self.leading {
                    Some(leading) => leading.leases.left(now, session),
                    None => Millis(0),
                };
                self.state.list_sessions(*after, *limit, left)
            }
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
