//! Who connects, what a client's frames ask of a node, and who gets them instead if it does not lead.

use std::time::Duration;

use lockd_protocol::client::{
    Answer, ClientFrame, EndReason, News, NodeFrame, Operation, Outcome, Query, Quota,
    ReconfigureRefusal, Refusal,
};
use lockd_protocol::limits::CLIENT_PROTOCOL_VERSION;
use lockd_protocol::planted::{self, Planted};
use lockd_protocol::roles;
use lockd_protocol::{CellId, NodeId, Sequence, SessionId};
use paxos::{Role, Time};

use super::Core;
use super::answers::{Asked, OwnQuestion, Pending};
use super::clients::ConnectionId;
use super::members::Wanted;
use crate::limits::{PENDING_QUERIES_MAX, PRESSED_PART, PRESSED_PAUSE, PRESSED_PAUSE_MAX};
use crate::state::command::Command;

impl Core {
    /// A client connected from `address` and showed a certificate of this role.
    pub fn joined(&mut self, role: &roles::Role, address: String) -> ConnectionId {
        self.clients.join(role, address)
    }

    /// A client connected and showed a client's certificate.
    pub fn client_joined(&mut self, name: String) -> ConnectionId {
        self.joined(&roles::Role::Client(name), String::new())
    }

    /// A client connected and showed an operator's certificate.
    pub fn operator_joined(&mut self, name: String) -> ConnectionId {
        self.joined(&roles::Role::Operator(name), String::new())
    }

    /// Whether another connection of this role would be one too many; if so, how many there may
    /// be.
    #[must_use]
    pub fn has_all_connections(&self, role: &roles::Role) -> Option<u64> {
        let most = self.settings.quotas.connections_per_identity;
        (self.clients.connections_of(&role.identity()) >= most).then_some(most)
    }

    /// For how long a connection should not be read from: the longer, the more of what it asked
    /// since the last call was refused because there is too much of it.
    pub fn take_pause(&mut self, connection: ConnectionId) -> Duration {
        match self.clients.take_pressed(connection) {
            0 => Duration::ZERO,
            refused => (PRESSED_PAUSE * (1 + refused / PRESSED_PART)).min(PRESSED_PAUSE_MAX),
        }
    }

    /// A client's bytes make no sense: say so and close.
    pub fn client_misbehaved(&mut self, connection: ConnectionId, reason: String) {
        tracing::warn!(
            client = self.clients.identity(connection),
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
        if !matches!(frame, ClientFrame::KeepAlive { .. })
            && let Err(quota) = self.count_request(now, connection)
        {
            return self.refuse(connection, frame, Refusal::Quota { quota });
        }
        match frame {
            ClientFrame::Query {
                id, query, stale, ..
            } if query == Query::Status || (stale && is_question(&query)) => {
                self.ask_this_node(OwnQuestion {
                    connection,
                    id,
                    query,
                    stale,
                });
            }
            frame => {
                if let ClientFrame::KeepAlive { session, number } = frame
                    && planted::has(Planted::FollowerAnswers)
                {
                    let kept = NodeFrame::KeptAlive { session, number };
                    self.clients.send(connection, &kept);
                }
                if self.leading.is_none() {
                    // Whoever goes on asking here has to be read no faster than others.
                    self.clients.press(connection);
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
            ClientFrame::Open { .. } => self.open(connection, frame),
            ClientFrame::KeepAlive { session, number } => {
                self.keep_alive(now, connection, session, number);
            }
            ClientFrame::Request {
                session, sequence, ..
            } => match self.state.identity_of(session) {
                Some(identity) if identity == self.clients.identity(connection) => {
                    self.request(connection, frame);
                }
                Some(_) => self.refuse_stranger(connection, session, sequence),
                None => {
                    self.clients.press(connection);
                    let asked = Asked::Request(frame);
                    self.confirm_first(now, connection, asked);
                }
            },
            ClientFrame::Query { id, query, .. } => self.query(now, connection, id, query),
            ClientFrame::Watch {
                watch,
                scope,
                after,
            } => self.confirm_first(
                now,
                connection,
                Asked::Watch {
                    watch,
                    scope,
                    after,
                },
            ),
            ClientFrame::Unwatch { watch } => self.unwatch(connection, watch),
            // Hello was dealt with before; a frame of a later version cannot be decoded here.
            _ => {
                let reason = "this frame has no place here".to_owned();
                self.client_misbehaved(connection, reason);
            }
        }
    }

    fn open(&mut self, connection: ConnectionId, frame: ClientFrame) {
        let ClientFrame::Open { nonce, ttl, about } = frame else {
            return;
        };
        let identity = self.clients.identity(connection).to_owned();
        let sessions = self.state.sessions_of(&identity) + self.clients.opening(connection);
        let limit = self.settings.quotas.sessions_per_identity;
        let result = if sessions as u64 >= limit && !self.state.is_opened(nonce) {
            let quota = Quota::SessionsPerIdentity { identity, limit };
            Err(Refusal::Quota { quota })
        } else {
            let open = Command::Open {
                nonce,
                ttl,
                identity,
                about,
            };
            let taken = self.proposals.push(connection, &open);
            taken.then_some(()).ok_or(Refusal::Busy)
        };
        match result {
            Ok(()) => self.clients.bind_nonce(nonce, connection),
            Err(refusal) => {
                self.clients.press(connection);
                let result = Err(refusal);
                let opened = NodeFrame::Opened { nonce, result };
                self.clients.send(connection, &opened);
            }
        }
    }

    /// Takes a request of a session that belongs to the connection's identity.
    fn request(&mut self, connection: ConnectionId, frame: ClientFrame) {
        let ClientFrame::Request {
            session,
            sequence,
            acknowledged,
            operation,
        } = frame
        else {
            return;
        };
        if matches!(operation, Operation::Break { .. }) && !self.clients.is_operator(connection) {
            let what = "break a lock".to_owned();
            let refusal = Refusal::NotOperator { what };
            return self.refuse_request(connection, session, sequence, refusal);
        }
        self.clients.bind(session, connection);
        let closes = matches!(operation, Operation::Close);
        let quotas = &self.settings.quotas;
        let exceeded = quotas.exceeded(&self.state, session, &operation);
        let command = match exceeded.filter(|_| self.state.is_new(session, sequence)) {
            Some(quota) => Command::Refuse {
                session,
                sequence,
                acknowledged,
                refusal: Refusal::Quota { quota },
            },
            None => Command::Request {
                session,
                sequence,
                acknowledged,
                operation,
            },
        };
        if !self.proposals.push(connection, &command) {
            self.clients.press(connection);
            return self.refuse_request(connection, session, sequence, Refusal::Busy);
        }
        if let Some(leading) = self.leading.as_mut().filter(|_| closes) {
            leading.leases.mark_ending(session);
        }
    }

    /// A request of a session that this node did not know, now that it is as far as the cell was.
    pub(super) fn request_of_unknown(
        &mut self,
        now: Time,
        connection: ConnectionId,
        frame: ClientFrame,
    ) {
        let ClientFrame::Request { session, .. } = frame else {
            return;
        };
        match self.state.identity_of(session) {
            Some(_) => self.leader_frame(now, connection, frame),
            None => self.tell_ended(connection, session, EndReason::Unknown),
        }
    }

    /// Counts what a client asks for. `Err`: it is too much.
    fn count_request(&mut self, now: Time, connection: ConnectionId) -> Result<(), Quota> {
        let limit = self.settings.quotas.requests_per_second;
        if self.clients.count_request(now, connection, limit) {
            return Ok(());
        }
        let identity = self.clients.identity(connection).to_owned();
        Err(Quota::RequestsPerSecond { identity, limit })
    }

    /// Refuses whatever was asked.
    fn refuse(&mut self, connection: ConnectionId, frame: ClientFrame, refusal: Refusal) {
        match frame {
            ClientFrame::Open { nonce, .. } => {
                let result = Err(refusal);
                let opened = NodeFrame::Opened { nonce, result };
                self.clients.send(connection, &opened);
            }
            ClientFrame::Request {
                session, sequence, ..
            } => self.refuse_request(connection, session, sequence, refusal),
            ClientFrame::Query { id, .. } => {
                self.tell(connection, id, Answer::Refused(refusal));
            }
            _ => {}
        }
    }

    fn refuse_request(
        &mut self,
        connection: ConnectionId,
        session: SessionId,
        sequence: Sequence,
        refusal: Refusal,
    ) {
        let reply = NodeFrame::Reply {
            session,
            sequence,
            outcome: Outcome::Refused(refusal),
            tickets: Vec::new(),
        };
        self.clients.send(connection, &reply);
    }

    /// The session is another identity's.
    fn refuse_stranger(
        &mut self,
        connection: ConnectionId,
        session: SessionId,
        sequence: Sequence,
    ) {
        self.clients.press(connection);
        let asks = self.clients.identity(connection).to_owned();
        let refusal = Refusal::OtherIdentity { session, asks };
        self.refuse_request(connection, session, sequence, refusal);
    }

    fn keep_alive(&mut self, now: Time, connection: ConnectionId, session: SessionId, number: u64) {
        match self.state.identity_of(session) {
            Some(identity) if identity == self.clients.identity(connection) => {
                self.clients.bind(session, connection);
            }
            Some(_) => {
                self.clients.press(connection);
                return self.tell_ended(connection, session, EndReason::OtherIdentity);
            }
            // Answered when this node is known to be as far as the cell. Nobody has to ask often
            // for what is no more.
            None => self.clients.press(connection),
        }
        let Ok(confirm) = self.replica.confirm(now) else {
            return self.cannot_confirm(connection);
        };
        if planted::has(Planted::NoConfirmRound) {
            self.clients
                .send(connection, &NodeFrame::KeptAlive { session, number });
        }
        let counted = self.clients.count_renewal(connection);
        if let Some(leading) = self.leading.as_mut().filter(|_| counted) {
            let taken = leading
                .leases
                .renew(now, connection, session, number, confirm);
            if !taken {
                self.clients.press(connection);
                self.clients.renewal_answered(connection);
            }
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
            return self.tell(connection, id, answer);
        }
        if planted::has(Planted::AnsweredUnconfirmed) && self.replica.confirm(now).is_ok() {
            let answer = self.answer(now, &query);
            return self.tell(connection, id, answer);
        }
        self.confirm_first(now, connection, Asked::Query { id, query });
    }

    fn ask_this_node(&mut self, question: OwnQuestion) {
        let room = self.own_questions.len() < PENDING_QUERIES_MAX;
        if room && self.clients.count_query(question.connection) {
            return self.own_questions.push_back(question);
        }
        let answer = Answer::Refused(Refusal::Busy);
        self.tell(question.connection, question.id, answer);
    }

    /// Deals with this as soon as it is certain that this node led when it was asked.
    fn confirm_first(&mut self, now: Time, connection: ConnectionId, asked: Asked) {
        let Ok(confirm) = self.replica.confirm(now) else {
            return self.cannot_confirm(connection);
        };
        let Some(leading) = &mut self.leading else {
            return;
        };
        let room = leading.pending.len() < PENDING_QUERIES_MAX;
        if room && self.clients.count_query(connection) {
            leading.pending.push_back(Pending {
                confirm,
                connection,
                asked,
            });
            return;
        }
        let frame = match asked {
            Asked::Query { id, query } => {
                let stale = false;
                ClientFrame::Query { id, query, stale }
            }
            Asked::Request(frame) => frame,
            Asked::Watch { watch, .. } => {
                let news = News::Refused(Refusal::Busy);
                return self
                    .clients
                    .send(connection, &NodeFrame::News { watch, news });
            }
            Asked::Unwatch { watch } => return self.watching.end(connection, watch),
        };
        self.refuse(connection, frame, Refusal::Busy);
    }

    fn unwatch(&mut self, connection: ConnectionId, watch: u64) {
        let Some(leading) = &mut self.leading else {
            return;
        };
        // Behind the beginning of that watch, if it still waits.
        match leading.pending.back().map(|last| last.confirm) {
            Some(confirm) if leading.pending.len() < PENDING_QUERIES_MAX => {
                self.clients.count_query(connection);
                leading.pending.push_back(Pending {
                    confirm,
                    connection,
                    asked: Asked::Unwatch { watch },
                });
            }
            _ => self.watching.end(connection, watch),
        }
    }
}

/// Whether it asks about the state, and for nothing to be done.
fn is_question(query: &Query) -> bool {
    !matches!(query, Query::Reconfigure { .. })
}
