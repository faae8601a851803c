//! The node's centre: the replica, the lock state and the sessions' leases, without any I/O.
//!
//! Whoever drives it hands in what arrived ([`Core::client_frame`], [`Core::peer_message`],
//! [`Core::persisted`] ...) and then calls [`Core::turn`] once for the whole batch. What is to be
//! written to disk, to peers and to clients is collected in between and fetched afterwards. So
//! commands that arrive together go into the log together, and everything that arrives while the
//! disk is busy is the next entry.
//!
//! * [`clients`]: connections, routes and outboxes.
//! * [`leases`]: session timers and renewals.
//! * [`timers`]: ends of waits and breaks.
//! * [`proposals`]: commands on their way into the log.

pub mod clients;
mod leases;
mod proposals;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::{BTreeMap, VecDeque};

use lockd_protocol::client::{
    Answer, ClientFrame, EndReason, NodeFrame, Operation, Query, Refusal, Status,
};
use lockd_protocol::limits::CLIENT_PROTOCOL_VERSION;
use lockd_protocol::ticket::Signer;
use lockd_protocol::{CellId, Millis, NodeId, SessionId};
use paxos::{
    ConfirmNumber, Entry, EntryKind, Input, Leadership, LoadId, Message, Output, PersistId,
    Replica, Role, Slot, Time, WriteBatch,
};

use crate::limits::{PENDING_QUERIES_MAX, STALL};
use crate::state::command::{self, Command};
use crate::state::{Effect, State};
use clients::{Clients, ConnectionId, Outgoing};
use leases::Leases;
use proposals::Proposals;
use timers::{Alarm, Timers};

/// What a node is told about itself and its cell.
#[derive(Debug)]
pub struct Settings {
    /// The cell.
    pub cell: CellId,
    /// This node.
    pub node: NodeId,
    /// Every member's address for clients.
    pub addresses: BTreeMap<NodeId, String>,
    /// Signs tickets.
    pub signer: Signer,
}

/// What follows from a turn, for the driver to carry out.
#[derive(Debug, Default)]
pub struct Work {
    /// To be made durable, in order; each is answered by [`Core::persisted`].
    pub writes: Vec<WriteBatch>,
    /// To be read from the log; each is answered by [`Core::loaded`].
    pub loads: Vec<Load>,
    /// To be sent to peers.
    pub messages: Vec<(NodeId, Message)>,
    /// Connections with something to write: see [`Core::take_outgoing`].
    pub clients: Vec<ConnectionId>,
}

/// Entries to be read from the log.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Given back with the entries.
    pub id: LoadId,
    /// First slot.
    pub first: Slot,
    /// Last slot.
    pub last: Slot,
    /// At most this many bytes of payload (but at least one entry).
    pub bytes_max: usize,
}

/// Why a node cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// A decided entry that this program cannot read.
    #[error(
        "the decided entry at slot {slot} cannot be read ({reason}): it was written by a newer \
         version; start that version instead"
    )]
    UnreadableEntry {
        /// Where.
        slot: u64,
        /// What the decoder says.
        reason: String,
    },
}

/// A node without its I/O.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    started: Time,
    /// When the turn after the last one was due at the latest.
    due: Time,
    replica: Replica,
    state: State,
    applied: Slot,
    clients: Clients,
    proposals: Proposals,
    leading: Option<Leading>,
    effects: Vec<Effect>,
    fatal: Option<Fatal>,
}

/// What only a leader has. It begins with the leadership and is dropped with it.
#[derive(Debug)]
struct Leading {
    leadership: Leadership,
    /// Its first entry is decided and applied: from here on it may judge by its clock.
    established: bool,
    leases: Leases,
    timers: Timers,
    queries: VecDeque<PendingQuery>,
}

#[derive(Debug)]
struct PendingQuery {
    confirm: ConfirmNumber,
    connection: ConnectionId,
    id: u64,
    query: Query,
}

impl Core {
    /// A node that has replayed its log: `state` is what the entries up to `applied` made.
    #[must_use]
    pub fn new(
        settings: Settings,
        replica: Replica,
        state: State,
        applied: Slot,
        now: Time,
    ) -> Core {
        Core {
            settings,
            started: now,
            due: now,
            replica,
            state,
            applied,
            clients: Clients::default(),
            proposals: Proposals::default(),
            leading: None,
            effects: Vec::new(),
            fatal: None,
        }
    }

    /// A client connected and showed a client's certificate.
    pub fn client_joined(&mut self, name: String) -> ConnectionId {
        self.clients.join(name)
    }

    /// A client's connection is gone.
    pub fn client_left(&mut self, connection: ConnectionId) {
        self.clients.leave(connection);
    }

    /// How many clients are connected.
    #[must_use]
    pub fn client_count(&self) -> usize {
        self.clients.len()
    }

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
        if self.leading.is_none() {
            self.redirect(connection);
        }
    }

    fn redirect(&mut self, connection: ConnectionId) {
        let leader = self.known_leader().and_then(|node| {
            self.settings
                .addresses
                .get(&node)
                .map(|address| (node, address.clone()))
        });
        self.clients
            .send(connection, &NodeFrame::Redirect { leader });
    }

    /// The node that leads, as far as this one knows; never itself unless it does.
    fn known_leader(&self) -> Option<NodeId> {
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
                    let outcome = lockd_protocol::client::Outcome::Refused(Refusal::Busy);
                    let reply = NodeFrame::Reply {
                        session,
                        sequence,
                        outcome,
                        ticket: None,
                    };
                    return self.clients.send(connection, &reply);
                }
                if let Some(leading) = self.leading.as_mut().filter(|_| closes) {
                    leading.leases.mark_ending(session);
                }
            }
            ClientFrame::Query { id, query } => self.query(now, connection, id, query),
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
            return self.redirect(connection);
        };
        if let Some(leading) = &mut self.leading {
            leading
                .leases
                .renew(now, connection, session, number, confirm);
        }
    }

    fn query(&mut self, now: Time, connection: ConnectionId, id: u64, query: Query) {
        let Ok(confirm) = self.replica.confirm(now) else {
            return self.redirect(connection);
        };
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
            id,
            query,
        });
    }

    /// Takes a message of a peer, whose certificate said who it is.
    pub fn peer_message(&mut self, now: Time, from: NodeId, message: Message) {
        let from = paxos::NodeId(from.0);
        self.replica.handle(now, Input::Message { from, message });
    }

    /// A write is durable.
    pub fn persisted(&mut self, now: Time, id: PersistId) {
        self.replica.handle(now, Input::Persisted(id));
    }

    /// Entries were read from the log.
    pub fn loaded(&mut self, now: Time, id: LoadId, entries: Vec<Entry>) {
        self.replica.handle(now, Input::Loaded { id, entries });
    }

    /// What is to be written to a client; `spare` becomes its next buffer.
    pub fn take_outgoing(&mut self, id: ConnectionId, spare: Vec<u8>) -> Option<Outgoing> {
        self.clients.take_outgoing(id, spare)
    }

    /// Acts on everything handed in since the last turn.
    ///
    /// # Errors
    /// [`Fatal`]: the node has to stop.
    pub fn turn(&mut self, now: Time) -> Result<Work, Fatal> {
        if self.replica.next_timer() <= now {
            self.replica.handle(now, Input::Tick);
        }
        self.judge_by_the_clock(now);
        let mut work = Work::default();
        loop {
            self.propose(now);
            if !self.drain_replica(now, &mut work) {
                break;
            }
        }
        work.clients = self.clients.take_dirty();
        self.due = self.next_turn().max(now);
        self.fatal.take().map_or(Ok(work), Err)
    }

    /// When [`Core::turn`] has to be called even if nothing arrives.
    #[must_use]
    pub fn next_turn(&self) -> Time {
        let mut next = self.replica.next_timer();
        if let Some(leading) = self.leading.as_ref().filter(|leading| leading.established) {
            let own = [leading.leases.next_deadline(), leading.timers.next()];
            next = own.into_iter().flatten().fold(next, Time::min);
        }
        next
    }

    /// Proposes what the clock decides. A node that did not listen for a while must not judge.
    fn judge_by_the_clock(&mut self, now: Time) {
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
        let mut commands: Vec<Command> = leading
            .leases
            .expired(now)
            .into_iter()
            .map(|session| Command::Expire {
                session,
                leadership,
            })
            .collect();
        while let Some(alarm) = leading.timers.due(now) {
            commands.extend(alarm_command(&self.state, alarm, leadership));
        }
        for command in commands {
            self.proposals.push_unbounded(&command);
        }
    }

    fn propose(&mut self, now: Time) {
        while self.replica.idle_for_proposals() {
            let Some(payload) = self.proposals.take() else {
                return;
            };
            match self.replica.propose(now, payload.clone()) {
                Ok(_) => {}
                Err(paxos::ProposeError::Busy) => return self.proposals.put_back(payload),
                // Not the leader any more: the clients are told with the change of role.
                Err(_) => return,
            }
        }
    }

    /// Carries out what the replica wants. Returns whether it did anything.
    fn drain_replica(&mut self, now: Time, work: &mut Work) -> bool {
        let mut any = false;
        while let Some(output) = self.replica.poll_output() {
            any = true;
            match output {
                Output::Send { to, message } => work.messages.push((NodeId(to.0), message)),
                Output::Persist(batch) => work.writes.push(batch),
                Output::Load {
                    id,
                    first,
                    last,
                    bytes_max,
                } => {
                    work.loads.push(Load {
                        id,
                        first,
                        last,
                        bytes_max,
                    });
                }
                Output::Apply(entries) => {
                    for entry in entries {
                        self.apply(now, &entry);
                    }
                }
                Output::Confirmed { leadership, number } => {
                    self.confirmed(now, leadership, number);
                }
                Output::RoleChanged(role) => self.role_changed(now, role),
            }
        }
        any
    }

    fn role_changed(&mut self, now: Time, role: Role) {
        let Role::Leader {
            leadership,
            established,
        } = role
        else {
            if self.leading.take().is_some() {
                tracing::info!(node = %self.settings.node, "not leading any more");
                self.proposals.clear();
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
            self.state
                .session_ttls()
                .for_each(|(id, ttl)| leases.start(now, id, ttl));
            self.proposals.clear();
            let (timers, queries) = (Timers::default(), VecDeque::new());
            self.leading = Some(Leading {
                leadership,
                established: false,
                leases,
                timers,
                queries,
            });
        }
        if established {
            self.establish(now);
        }
    }

    /// The leadership's first entry is applied: waits and breaks count from here.
    fn establish(&mut self, now: Time) {
        let pending = self.state.pending_timers();
        let Some(leading) = self.leading.as_mut().filter(|leading| !leading.established) else {
            return;
        };
        leading.established = true;
        leading.timers = Timers::default();
        for effect in &pending {
            set_timer(&mut leading.timers, now, effect);
        }
    }

    fn apply(&mut self, now: Time, entry: &Entry) {
        debug_assert_eq!(
            entry.slot,
            self.applied.next(),
            "entries are applied in order"
        );
        self.applied = entry.slot;
        let mut effects = std::mem::take(&mut self.effects);
        if let Err(fatal) = apply_entry(&mut self.state, entry, &mut effects) {
            self.fatal = Some(fatal);
        }
        for effect in effects.drain(..) {
            if self.leading.is_some() {
                self.lead(now, effect);
            }
        }
        self.effects = effects;
    }

    /// What a leader does about an effect.
    fn lead(&mut self, now: Time, effect: Effect) {
        match effect {
            Effect::Opened { nonce, result } => {
                if let (Ok(session), Some(leading)) = (&result, &mut self.leading)
                    && let Some(ttl) = self.state.session_ttl(*session)
                {
                    leading.leases.start(now, *session, ttl);
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
                ticket,
            } => {
                let Some(connection) = self.clients.route(session) else {
                    return;
                };
                let ticket = match (&outcome, ticket) {
                    (lockd_protocol::client::Outcome::Granted { token }, Some((lock, mode))) => {
                        Some(self.settings.signer.sign(&lock, *token, mode, session))
                    }
                    _ => None,
                };
                let reply = NodeFrame::Reply {
                    session,
                    sequence,
                    outcome,
                    ticket,
                };
                self.clients.send(connection, &reply);
            }
            Effect::WaitBegan { .. } => self.set_timer(now, &effect),
            Effect::BreakBegan { .. } => {
                self.set_timer(now, &effect);
                self.tell_lost(effect);
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

    /// A quorum has echoed `number`: answers the renewals and the questions it covers.
    fn confirmed(&mut self, now: Time, leadership: Leadership, number: ConfirmNumber) {
        let ours = |leading: &&mut Leading| leading.leadership == leadership;
        while let Some(renewal) = self
            .leading
            .as_mut()
            .filter(ours)
            .and_then(|leading| leading.leases.confirmed(number))
        {
            self.answer_renewal(renewal);
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

    fn answer_renewal(&mut self, renewal: leases::Renewal) {
        let leases::Renewal {
            connection,
            session,
            number,
            ..
        } = renewal;
        if self.state.session_ttl(session).is_none() {
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

    fn answer(&self, now: Time, query: &Query) -> Answer {
        match query {
            Query::Locks {
                prefix,
                after,
                limit,
            } => self.state.list_locks(prefix, after.as_ref(), *limit),
            Query::Lock { lock, skip, limit } => {
                Answer::Lock(self.state.describe_lock(lock, *skip, *limit))
            }
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

    fn status(&self, now: Time) -> Status {
        let replica = self.replica.status();
        Status {
            node: self.settings.node,
            cell: self.settings.cell,
            leading: self.leading.is_some(),
            leader: self.known_leader(),
            round: replica.promised.round,
            decided: replica.decided.0,
            applied: self.applied.0,
            members: self.settings.addresses.clone().into_iter().collect(),
            sessions: self.state.session_count() as u64,
            locks: self.state.lock_count() as u64,
            last_token: self.state.last_token(),
            uptime: Millis(now.micros_since(self.started) / 1000),
            program: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Applies a decided entry to the state. Also how a node replays its log when it starts.
///
/// # Errors
/// [`Fatal::UnreadableEntry`]: the entry was written by another version.
pub fn apply_entry(
    state: &mut State,
    entry: &Entry,
    effects: &mut Vec<Effect>,
) -> Result<(), Fatal> {
    match entry.kind {
        EntryKind::NewLeader => {
            let epoch = paxos::Epoch::FIRST;
            state.begin_leadership(Leadership {
                epoch,
                ballot: entry.origin,
            });
            Ok(())
        }
        EntryKind::Command => {
            let commands =
                command::decode(&entry.payload).map_err(|error| Fatal::UnreadableEntry {
                    slot: entry.slot.0,
                    reason: error.to_string(),
                })?;
            for command in commands {
                state.apply(command, effects);
            }
            Ok(())
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

fn alarm_command(state: &State, alarm: Alarm, leadership: Leadership) -> Option<Command> {
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
        Alarm::BreakOver { lock, token } => Some(Command::FinishBreak {
            lock,
            token,
            leadership,
        }),
    }
}
