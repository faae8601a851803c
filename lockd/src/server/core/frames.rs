//! What a client's frames ask of a node, and who gets them instead if it does not lead.

use lockd_protocol::client::{
    Answer, ClientFrame, News, NodeFrame, Operation, Outcome, Query, ReconfigureRefusal, Refusal,
    Scope,
};
use lockd_protocol::limits::CLIENT_PROTOCOL_VERSION;
use lockd_protocol::planted::{self, Planted};
use lockd_protocol::{CellId, EventNumber, NodeId, SessionId};
use paxos::{Role, Time};

use super::Core;
use super::answers::{Asked, PendingQuery};
use super::clients::ConnectionId;
use super::members::Wanted;
use crate::limits::PENDING_QUERIES_MAX;
use crate::state::command::Command;

impl Core {
    /// A client's bytes make no sense: say so and close.
    pub fn client_misbehaved(&mut self, connection: ConnectionId, reason: String) {
        tracing::warn!(
            client = self.clients.name(connection),
            reason,
            "closing a client"
        );
        self.clients.dismiss(connection, reason);
    }

    /// Takes a frame of a client.
    pub fn client_frame(&mut self, now: Time, connection: ConnectionId, frame: ClientFrame) {
        if self.clients.is_closing(connection) {
            return;
        }
        if let ClientFrame::Hello { version, cell } = frame {
            return self.hello(connection, version, cell);
        }
        if !self.clients.is_welcomed(connection) {
            let reason = "the first frame of a connection must be Hello".to_owned();
            return self.client_misbehaved(connection, reason);
        }
        match frame {
            ClientFrame::Query {
                id,
                query: Query::Status,
            } => {
                let answer = Answer::Status(self.status(now));
                self.clients
                    .send(connection, &NodeFrame::Answer { id, answer });
            }
            frame => {
                if let ClientFrame::KeepAlive { session, number } = frame
                    && planted::has(Planted::FollowerAnswers)
                {
                    let kept = NodeFrame::KeptAlive { session, number };
                    self.clients.send(connection, &kept);
                }
                if self.leading.is_none() {
                    return self.redirect(connection);
                }
                self.leader_frame(now, connection, frame);
            }
        }
    }

    fn hello(&mut self, connection: ConnectionId, version: u16, cell: CellId) {
        if version != CLIENT_PROTOCOL_VERSION {
            let reason = format!(
                "the client speaks version {version} of the protocol, this node speaks \
                 {CLIENT_PROTOCOL_VERSION}: update the older of the two"
            );
            return self.client_misbehaved(connection, reason);
        }
        if cell != self.settings.cell {
            let reason = format!(
                "the client looks for cell {cell}, this node belongs to cell {}",
                self.settings.cell
            );
            return self.client_misbehaved(connection, reason);
        }
        self.clients.welcome(connection);
        let (cell, node) = (self.settings.cell, self.settings.node);
        let welcome = NodeFrame::Welcome {
            version: CLIENT_PROTOCOL_VERSION,
            cell,
            node,
        };
        self.clients.send(connection, &welcome);
        self.tell_members(connection);
        if self.leading.is_none() {
            self.redirect(connection);
        }
    }

    pub(super) fn redirect(&mut self, connection: ConnectionId) {
        let leader = self.known_leader().and_then(|node| {
            let member = self.members.get(&node)?;
            Some((node, member.address.clone()))
        });
        self.clients
            .send(connection, &NodeFrame::Redirect { leader });
    }

    /// The node that leads, as far as this one knows; never itself unless it does.
    pub(super) fn known_leader(&self) -> Option<NodeId> {
        match self.replica.role() {
            Role::Follower { leader } => leader.map(|node| NodeId(node.0)),
            Role::Leader { .. } if self.leading.is_some() => Some(self.settings.node),
            _ => None,
        }
    }

    fn leader_frame(&mut self, now: Time, connection: ConnectionId, frame: ClientFrame) {
        match frame {
            ClientFrame::Open { nonce, ttl, label } => {
                if !self.proposals.push(&Command::Open { nonce, ttl, label }) {
                    let opened = NodeFrame::Opened {
                        nonce,
                        result: Err(Refusal::Busy),
                    };
                    return self.clients.send(connection, &opened);
                }
                self.clients.bind_nonce(nonce, connection);
            }
            ClientFrame::KeepAlive { session, number } => {
                self.keep_alive(now, connection, session, number);
            }
            ClientFrame::Request {
                session,
                sequence,
                acknowledged,
                operation,
            } => {
                self.clients.bind(session, connection);
                let closes = matches!(operation, Operation::Close);
                let request = Command::Request {
                    session,
                    sequence,
                    acknowledged,
                    operation,
                };
                if !self.proposals.push(&request) {
                    let outcome = Outcome::Refused(Refusal::Busy);
                    let reply = NodeFrame::Reply {
                        session,
                        sequence,
                        outcome,
                        tickets: Vec::new(),
                    };
                    return self.clients.send(connection, &reply);
                }
                if let Some(leading) = self.leading.as_mut().filter(|_| closes) {
                    leading.leases.mark_ending(session);
                }
            }
            ClientFrame::Query { id, query } => self.query(now, connection, id, query),
            ClientFrame::Watch {
                watch,
                scope,
                after,
            } => self.watch(now, connection, watch, scope, after),
            ClientFrame::Unwatch { watch } => self.unwatch(connection, watch),
            // Hello was dealt with before; a frame of a later version cannot be decoded here.
            _ => {
                let reason = "this frame has no place here".to_owned();
                self.client_misbehaved(connection, reason);
            }
        }
    }

    fn keep_alive(&mut self, now: Time, connection: ConnectionId, session: SessionId, number: u64) {
        self.clients.bind(session, connection);
        let Ok(confirm) = self.replica.confirm(now) else {
            return self.cannot_confirm(connection);
        };
        if planted::has(Planted::NoConfirmRound) {
            self.clients
                .send(connection, &NodeFrame::KeptAlive { session, number });
        }
        if let Some(leading) = &mut self.leading {
            leading
                .leases
                .renew(now, connection, session, number, confirm);
        }
    }

    /// While the membership changes nothing is confirmed, and the change of role that ends this
    /// makes every client send again what was not answered.
    fn cannot_confirm(&mut self, connection: ConnectionId) {
        if self.leading.is_none() {
            self.redirect(connection);
        }
    }

    fn query(&mut self, now: Time, connection: ConnectionId, id: u64, query: Query) {
        if let Query::Reconfigure {
            epoch,
            change,
            quorums,
            force,
        } = query
        {
            let answer = if self.clients.is_operator(connection) {
                self.reconfigure(
                    now,
                    Wanted {
                        epoch,
                        change,
                        quorums,
                        force,
                    },
                )
            } else {
                Answer::NotReconfigured(ReconfigureRefusal::NotOperator)
            };
            let frame = NodeFrame::Answer { id, answer };
            return self.clients.send(connection, &frame);
        }
        let Ok(confirm) = self.replica.confirm(now) else {
            return self.cannot_confirm(connection);
        };
        if planted::has(Planted::AnsweredUnconfirmed) {
            let answer = self.answer(now, &query);
            return self
                .clients
                .send(connection, &NodeFrame::Answer { id, answer });
        }
        let Some(leading) = &mut self.leading else {
            return;
        };
        if leading.queries.len() >= PENDING_QUERIES_MAX {
            let answer = Answer::Refused(Refusal::Busy);
            return self
                .clients
                .send(connection, &NodeFrame::Answer { id, answer });
        }
        leading.queries.push_back(PendingQuery {
            confirm,
            connection,
            asked: Asked::Query { id, query },
        });
    }

    fn unwatch(&mut self, connection: ConnectionId, watch: u64) {
        let Some(leading) = &mut self.leading else {
            return;
        };
        match leading.queries.back().map(|last| last.confirm) {
            Some(confirm) if leading.queries.len() < PENDING_QUERIES_MAX => {
                leading.queries.push_back(PendingQuery {
                    confirm,
                    connection,
                    asked: Asked::Unwatch { watch },
                });
            }
            _ => self.watching.end(connection, watch),
        }
    }

    fn watch(
        &mut self,
        now: Time,
        connection: ConnectionId,
        watch: u64,
        scope: Scope,
        after: Option<EventNumber>,
    ) {
        let Ok(confirm) = self.replica.confirm(now) else {
            return self.cannot_confirm(connection);
        };
        let Some(leading) = &mut self.leading else {
            return;
        };
        if leading.queries.len() >= PENDING_QUERIES_MAX {
            let news = News::Refused(Refusal::Busy);
            let frame = NodeFrame::News { watch, news };
            return self.clients.send(connection, &frame);
        }
        leading.queries.push_back(PendingQuery {
            confirm,
            connection,
            asked: Asked::Watch {
                watch,
                scope,
                after,
            },
        });
    }
}
