//! The node's side of its client connections: who they are, which sessions they speak for, and
//! what is to be written to them.

use std::collections::{HashMap, HashSet};

use lockd_protocol::client::NodeFrame;
use lockd_protocol::roles::Role;
use lockd_protocol::{Nonce, SessionId, frame};
use paxos::Time;

use super::quota::Rate;
use crate::limits::{
    CLIENT_OUTBOX_BYTES_MAX, PENDING_QUERIES_PER_CONNECTION_MAX, RENEWALS_PER_CONNECTION_MAX,
    RENEWALS_PER_SESSION_MAX, WATCH_OUTBOX_BYTES_MAX,
};

/// A client connection of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// All client connections.
#[derive(Debug, Default)]
#[cfg_attr(feature = "model", derive(Clone))]
pub(super) struct Clients {
    connections: HashMap<ConnectionId, Connection>,
    routes: HashMap<SessionId, ConnectionId>,
    opening: HashMap<Nonce, ConnectionId>,
    /// What is known of each identity that is connected.
    identities: HashMap<String, Present>,
    /// Connections with something to write, each once.
    dirty: Vec<ConnectionId>,
    last: u64,
}

/// An identity that is connected.
#[derive(Debug, Default)]
#[cfg_attr(feature = "model", derive(Clone))]
struct Present {
    connections: u64,
    rate: Rate,
}

#[derive(Debug, Default)]
#[cfg_attr(feature = "model", derive(Clone))]
struct Connection {
    /// The identity that its certificate names.
    identity: String,
    /// Where the client is.
    address: String,
    /// Its certificate is an operator's.
    operator: bool,
    welcomed: bool,
    outbox: Vec<u8>,
    dirty: bool,
    /// To be closed once the outbox is written.
    closing: bool,
    sessions: HashSet<SessionId>,
    nonces: HashSet<Nonce>,
    /// Its renewals and questions that wait for their confirmation.
    renewals: usize,
    queries: usize,
    /// How much of what it asked was refused because there is too much of it.
    pressed: u32,
}

/// What the shell is to write to a connection.
#[derive(Debug)]
pub struct Outgoing {
    /// Whole frames.
    pub bytes: Vec<u8>,
    /// Close the connection behind them.
    pub close: bool,
    /// There is more for it that waited for room: take a turn.
    pub more: bool,
}

impl Clients {
    pub(super) fn join(&mut self, role: &Role, address: String) -> ConnectionId {
        self.last += 1;
        let id = ConnectionId(self.last);
        let identity = role.identity();
        let present = self.identities.entry(identity.clone()).or_default();
        present.connections += 1;
        self.connections.insert(
            id,
            Connection {
                identity,
                address,
                operator: matches!(role, Role::Operator(_)),
                ..Connection::default()
            },
        );
        id
    }

    pub(super) fn leave(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        if let Some(present) = self.identities.get_mut(&connection.identity) {
            present.connections -= 1;
            if present.connections == 0 {
                self.identities.remove(&connection.identity);
            }
        }
        for session in connection.sessions {
            if self.routes.get(&session) == Some(&id) {
                self.routes.remove(&session);
            }
        }
        for nonce in connection.nonces {
            if self.opening.get(&nonce) == Some(&id) {
                self.opening.remove(&nonce);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    pub(super) fn ids(&self) -> Vec<ConnectionId> {
        self.connections.keys().copied().collect()
    }

    /// The identity that a connection's certificate names.
    pub(super) fn identity(&self, id: ConnectionId) -> &str {
        let connection = self.connections.get(&id);
        connection.map_or("", |connection| &connection.identity)
    }

    /// Where the client of a connection is.
    pub(super) fn address(&self, id: ConnectionId) -> Option<&str> {
        let address = self.connections.get(&id).map(|c| c.address.as_str());
        address.filter(|address| !address.is_empty())
    }

    /// How many connections an identity has.
    pub(super) fn connections_of(&self, identity: &str) -> u64 {
        let present = self.identities.get(identity);
        present.map_or(0, |present| present.connections)
    }

    /// How many sessions are being opened over a connection.
    pub(super) fn opening(&self, id: ConnectionId) -> usize {
        let connection = self.connections.get(&id);
        connection.map_or(0, |connection| connection.nonces.len())
    }

    /// Counts a request of the connection's identity. `false`: it has had its share of this
    /// second.
    pub(super) fn count_request(&mut self, now: Time, id: ConnectionId, per_second: u64) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else {
            return false;
        };
        let present = self.identities.entry(connection.identity.clone());
        let within = present.or_default().rate.take(now, per_second);
        connection.pressed += u32::from(!within);
        within
    }

    /// Counts a renewal that waits for its confirmation. `false`: too many do.
    pub(super) fn count_renewal(&mut self, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else {
            return false;
        };
        let own = connection.sessions.len() * RENEWALS_PER_SESSION_MAX;
        let room = connection.renewals < RENEWALS_PER_CONNECTION_MAX + own;
        connection.renewals += usize::from(room);
        connection.pressed += u32::from(!room);
        room
    }

    pub(super) fn renewal_answered(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.renewals = connection.renewals.saturating_sub(1);
        }
    }

    /// Counts a question that waits for its confirmation. `false`: too many do.
    pub(super) fn count_query(&mut self, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else {
            return false;
        };
        let room = connection.queries < PENDING_QUERIES_PER_CONNECTION_MAX;
        connection.queries += usize::from(room);
        connection.pressed += u32::from(!room);
        room
    }

    pub(super) fn query_answered(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.queries = connection.queries.saturating_sub(1);
        }
    }

    /// Nothing waits for a confirmation any more.
    pub(super) fn forget_pending(&mut self) {
        for connection in self.connections.values_mut() {
            (connection.renewals, connection.queries) = (0, 0);
        }
    }

    /// Something that the connection asked was refused because there is too much of it.
    pub(super) fn press(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.pressed = connection.pressed.saturating_add(1);
        }
    }

    /// How often that has happened since the last call.
    pub(super) fn take_pressed(&mut self, id: ConnectionId) -> u32 {
        let connection = self.connections.get_mut(&id);
        connection.map_or(0, |connection| std::mem::take(&mut connection.pressed))
    }

    pub(super) fn is_operator(&self, id: ConnectionId) -> bool {
        let connection = self.connections.get(&id);
        connection.is_some_and(|connection| connection.operator)
    }

    pub(super) fn is_welcomed(&self, id: ConnectionId) -> bool {
        self.connections
            .get(&id)
            .is_some_and(|connection| connection.welcomed)
    }

    pub(super) fn is_closing(&self, id: ConnectionId) -> bool {
        self.connections
            .get(&id)
            .is_none_or(|connection| connection.closing)
    }

    pub(super) fn welcome(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.welcomed = true;
        }
    }

    /// Frames about `session` go to this connection from now on, unless its client has come back
    /// over a newer one: what an old connection delivers late must not take the answers, of which
    /// each is pushed only once, to where nobody reads them.
    pub(super) fn bind(&mut self, session: SessionId, id: ConnectionId) {
        let bound = self.routes.get(&session);
        if bound.is_some_and(|bound| *bound >= id) {
            return;
        }
        self.routes.insert(session, id);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.sessions.insert(session);
        }
    }

    /// The answer to an attempt to open a session goes to this connection.
    pub(super) fn bind_nonce(&mut self, nonce: Nonce, id: ConnectionId) {
        self.opening.insert(nonce, id);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.nonces.insert(nonce);
        }
    }

    /// The connection that tried to open a session under `nonce`.
    pub(super) fn take_nonce(&mut self, nonce: Nonce) -> Option<ConnectionId> {
        let id = self.opening.remove(&nonce)?;
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.nonces.remove(&nonce);
        }
        Some(id)
    }

    pub(super) fn route(&self, session: SessionId) -> Option<ConnectionId> {
        self.routes.get(&session).copied()
    }

    pub(super) fn unbind(&mut self, session: SessionId) {
        let Some(id) = self.routes.remove(&session) else {
            return;
        };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.sessions.remove(&session);
        }
    }

    /// Whether a connection's outbox has room for what may as well come later.
    pub(super) fn has_room(&self, id: ConnectionId) -> bool {
        let connection = self.connections.get(&id);
        connection.is_some_and(|it| it.outbox.len() < WATCH_OUTBOX_BYTES_MAX)
    }

    /// Queues a frame for a connection. One that does not read is cut off.
    pub(super) fn send(&mut self, id: ConnectionId, message: &NodeFrame) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.closing {
            return;
        }
        if let Err(error) = frame::encode(message, &mut connection.outbox) {
            tracing::error!(client = connection.identity, %error, "an answer does not fit a frame");
            connection.closing = true;
        }
        if connection.outbox.len() > CLIENT_OUTBOX_BYTES_MAX {
            tracing::warn!(
                client = connection.identity,
                "the client does not read its answers"
            );
            connection.outbox.clear();
            connection.closing = true;
        }
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(id);
        }
    }

    /// Queues a farewell; the connection is closed behind it.
    pub(super) fn dismiss(&mut self, id: ConnectionId, reason: String) {
        self.send(id, &NodeFrame::Bye { reason });
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.closing = true;
        }
    }

    /// Whether the answer to this attempt to open a session would find its connection.
    #[cfg(feature = "model")]
    pub(super) fn is_opening(&self, nonce: Nonce) -> bool {
        self.opening.contains_key(&nonce)
    }

    /// The connections that have something to write since the last call.
    pub(super) fn take_dirty(&mut self) -> Vec<ConnectionId> {
        std::mem::take(&mut self.dirty)
    }

    /// What is to be written to a connection. `spare` becomes its next outbox.
    pub(super) fn take_outgoing(&mut self, id: ConnectionId, spare: Vec<u8>) -> Option<Outgoing> {
        let connection = self.connections.get_mut(&id)?;
        connection.dirty = false;
        let bytes = std::mem::replace(&mut connection.outbox, spare);
        Some(Outgoing {
            bytes,
            close: connection.closing,
            more: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(clients: &mut Clients) -> ConnectionId {
        clients.join(&Role::Client("test".to_owned()), String::new())
    }

    fn clients() -> (Clients, ConnectionId) {
        let mut clients = Clients::default();
        let id = join(&mut clients);
        (clients, id)
    }

    #[test]
    fn a_client_that_does_not_read_is_cut_off() {
        let (mut clients, id) = clients();
        let long = NodeFrame::Bye {
            reason: "x".repeat(60_000),
        };
        for _ in 0..CLIENT_OUTBOX_BYTES_MAX / 60_000 + 1 {
            clients.send(id, &long);
        }
        let outgoing = clients.take_outgoing(id, Vec::new()).expect("connected");
        assert!(outgoing.close && outgoing.bytes.len() <= CLIENT_OUTBOX_BYTES_MAX);
    }

    #[test]
    fn a_session_is_routed_to_the_connection_that_spoke_for_it_last() {
        let (mut clients, first) = clients();
        let second = join(&mut clients);
        clients.bind(SessionId(1), first);
        clients.bind(SessionId(1), second);
        clients.leave(first);
        assert_eq!(clients.route(SessionId(1)), Some(second));
        clients.leave(second);
        assert_eq!(clients.route(SessionId(1)), None);
    }

    #[test]
    fn a_late_frame_of_an_old_connection_does_not_take_a_session_back() {
        let (mut clients, first) = clients();
        let second = join(&mut clients);
        clients.bind(SessionId(1), first);
        clients.bind(SessionId(1), second);
        clients.bind(SessionId(1), first);
        assert_eq!(clients.route(SessionId(1)), Some(second));
    }

    #[test]
    fn identities_are_counted_while_they_are_connected() {
        let (mut clients, first) = clients();
        let second = join(&mut clients);
        assert_eq!(clients.connections_of("test"), 2);
        assert!(clients.count_request(Time(1), first, 1));
        assert!(!clients.count_request(Time(1), second, 1), "one identity");
        assert_eq!(
            (clients.take_pressed(first), clients.take_pressed(second)),
            (0, 1)
        );
        clients.leave(first);
        clients.leave(second);
        assert_eq!(clients.connections_of("test"), 0);
        assert!(clients.identities.is_empty());
    }

    #[test]
    fn a_connection_has_a_bounded_number_of_renewals_waiting() {
        let (mut clients, id) = clients();
        let taken = (0..9999).filter(|_| clients.count_renewal(id)).count();
        assert_eq!(taken, RENEWALS_PER_CONNECTION_MAX);
        clients.bind(SessionId(1), id);
        assert!(clients.count_renewal(id), "room for its sessions' renewals");
        clients.forget_pending();
        assert!(clients.count_renewal(id));
    }

    #[test]
    fn a_connection_is_dirty_once_until_its_outbox_is_taken() {
        let (mut clients, id) = clients();
        let redirect = NodeFrame::Redirect { leader: None };
        clients.send(id, &redirect);
        clients.send(id, &redirect);
        assert_eq!(clients.take_dirty(), [id]);
        clients.send(id, &redirect);
        assert_eq!(clients.take_dirty(), []);
        assert!(
            !clients
                .take_outgoing(id, Vec::new())
                .expect("connected")
                .bytes
                .is_empty()
        );
        clients.send(id, &redirect);
        assert_eq!(clients.take_dirty(), [id]);
    }
}
