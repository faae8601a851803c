//! Links to the other nodes of the cell.
//!
//! Each node dials every member, and one that is not a member yet dials those that its
//! configuration names. On each connection either side may open two streams to speak on: one for
//! what a leader and its followers say, and one of lower priority for what is large and not urgent.
//! A node is answered on the connection that it dialled as long as this one has not dialled it.
//! Messages that cannot be sent are lost, which the protocol expects of any network.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use lockd_protocol::peer::PeerHello;
use lockd_protocol::roles::{CLOSE_OTHER_CELL, CLOSE_OTHER_DISK, NODE_SERVER_NAME, Role};
use lockd_protocol::{NodeId, frame};
use paxos::Message;
use paxos::message::Body;
use quinn::{Connection, ConnectionError, Endpoint, SendStream};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, spawn_local};

use super::accept::{self, role_of};
use super::shell::Shell;
use super::transport;
use crate::limits::{FOREIGN_REDIAL, PEER_OUTBOX_BYTES_MAX, PEER_REDIAL};

/// Priority of the stream for what is large and not urgent; the other one has 0.
const BULK_PRIORITY: i32 = -1;

/// What is to be sent to one peer.
#[derive(Debug, Default)]
pub(super) struct PeerLink {
    urgent: Outbox,
    bulk: Outbox,
    connected: Cell<bool>,
}

#[derive(Debug, Default)]
struct Outbox {
    bytes: RefCell<Vec<u8>>,
    wake: Notify,
}

impl PeerLink {
    /// Queues a message, or loses it.
    fn send(&self, message: &Message) {
        let bulk = matches!(message.body, Body::Chunk(_) | Body::Learned(_));
        let outbox = if bulk { &self.bulk } else { &self.urgent };
        let mut bytes = outbox.bytes.borrow_mut();
        if !self.connected.get() || bytes.len() > PEER_OUTBOX_BYTES_MAX {
            return;
        }
        let framed = frame::encode_with(&mut bytes, |out| {
            message.encode(out);
            Ok(())
        });
        if let Err(error) = framed {
            tracing::error!(%error, "a message does not fit a frame");
        }
        outbox.wake.notify_one();
    }

    /// Speaks on a connection until it breaks.
    async fn speak(
        &self,
        connection: &Connection,
        hello: &PeerHello,
    ) -> Result<(), ConnectionError> {
        let urgent = connection.open_uni().await?;
        let bulk = connection.open_uni().await?;
        let _ = bulk.set_priority(BULK_PRIORITY);
        self.connected.set(true);
        tokio::select! {
            () = self.urgent.pump(urgent, hello) => {}
            () = self.bulk.pump(bulk, hello) => {}
            _ = connection.closed() => {}
        }
        self.disconnected();
        Err(connection.closed().await)
    }

    fn disconnected(&self) {
        self.connected.set(false);
        self.urgent.bytes.borrow_mut().clear();
        self.bulk.bytes.borrow_mut().clear();
    }
}

impl Outbox {
    /// Writes what is put into the outbox, behind the hello. Ends when that is not possible.
    async fn pump(&self, mut stream: SendStream, hello: &PeerHello) {
        let mut bytes = Vec::new();
        if frame::encode(hello, &mut bytes).is_err() {
            return;
        }
        loop {
            if stream.write_all(&bytes).await.is_err() {
                return;
            }
            bytes.clear();
            if self.bytes.borrow().is_empty() {
                self.wake.notified().await;
            }
            std::mem::swap(&mut bytes, &mut *self.bytes.borrow_mut());
        }
    }
}

/// The links to all peers.
#[derive(Debug)]
pub(super) struct Links {
    endpoint: Endpoint,
    dial: quinn::ClientConfig,
    hello: PeerHello,
    dialled: RefCell<BTreeMap<NodeId, Dialled>>,
    /// Nodes that are answered on the connections that they dialled.
    guests: RefCell<BTreeMap<NodeId, Rc<PeerLink>>>,
}

#[derive(Debug)]
struct Dialled {
    address: SocketAddr,
    link: Rc<PeerLink>,
    /// What answers there belongs to another cell.
    foreign: Rc<Cell<bool>>,
    task: AbortHandle,
}

impl Drop for Dialled {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Links {
    pub(super) fn new(endpoint: Endpoint, dial: quinn::ClientConfig, hello: PeerHello) -> Links {
        Links {
            endpoint,
            dial,
            hello,
            dialled: RefCell::default(),
            guests: RefCell::default(),
        }
    }

    pub(super) fn hello(&self) -> &PeerHello {
        &self.hello
    }

    /// Sends a message, or loses it.
    pub(super) fn send(&self, to: NodeId, message: &Message) {
        let dialled = self.dialled.borrow();
        let connected = |link: &&Rc<PeerLink>| link.connected.get();
        if let Some(link) = dialled.get(&to).map(|to| &to.link).filter(connected) {
            link.send(message);
        } else if let Some(link) = self.guests.borrow().get(&to) {
            link.send(message);
        }
    }

    /// Dials these from now on, and nobody else.
    pub(super) fn dial_these(&self, shell: &Rc<Shell>, wanted: &BTreeMap<NodeId, SocketAddr>) {
        let mut dialled = self.dialled.borrow_mut();
        dialled.retain(|id, to| wanted.get(id) == Some(&to.address));
        for (id, address) in wanted {
            if dialled.contains_key(id) {
                continue;
            }
            let (link, foreign) = (Rc::<PeerLink>::default(), Rc::<Cell<bool>>::default());
            let task = spawn_local(keep_dialling(
                shell.clone(),
                link.clone(),
                foreign.clone(),
                *id,
                *address,
            ));
            let task = task.abort_handle();
            let address = *address;
            dialled.insert(
                *id,
                Dialled {
                    address,
                    link,
                    foreign,
                    task,
                },
            );
        }
    }

    /// Gives up the connection to a node.
    pub(super) fn hang_up(&self, peer: NodeId) {
        self.dialled.borrow_mut().remove(&peer);
    }

    /// Whether all that were dialled belong to another cell: then it is this node that is wrong.
    fn all_are_foreign(&self) -> bool {
        let dialled = self.dialled.borrow();
        !dialled.is_empty() && dialled.values().all(|to| to.foreign.get())
    }

    /// Answers a node on the connection that it dialled, until that breaks.
    pub(super) async fn answer(&self, peer: NodeId, connection: &Connection) {
        let link = Rc::<PeerLink>::default();
        self.guests.borrow_mut().insert(peer, link.clone());
        let _ = link.speak(connection, &self.hello).await;
        let mut guests = self.guests.borrow_mut();
        if guests.get(&peer).is_some_and(|now| Rc::ptr_eq(now, &link)) {
            guests.remove(&peer);
        }
    }
}

/// Keeps a connection to a peer, until the task is aborted.
async fn keep_dialling(
    shell: Rc<Shell>,
    link: Rc<PeerLink>,
    foreign: Rc<Cell<bool>>,
    peer: NodeId,
    address: SocketAddr,
) {
    let mut complaint = String::new();
    loop {
        let (connected, ended) = dial(&shell, &link, peer, address).await;
        let refused = classify(&ended);
        foreign.set(matches!(refused, Refused::OtherCell));
        let reason = ended.reason.as_str();
        let news = ended.reason != complaint;
        match refused {
            Refused::OtherDisk => return shell.refused_as_other_disk(peer, ended.reason),
            Refused::OtherCell if shell.links().all_are_foreign() => {
                return shell.refused_as_foreign(peer, ended.reason);
            }
            Refused::OtherCell if news => tracing::warn!(
                %peer,
                %address,
                reason,
                "a peer is of another cell; this node ends if all the others are, too"
            ),
            Refused::No if connected => {
                tracing::info!(%peer, %address, reason, "lost the connection to a peer");
            }
            Refused::No if news => {
                tracing::info!(%peer, %address, reason, "cannot reach a peer, trying on");
            }
            Refused::OtherCell | Refused::No => {}
        }
        match connected && !foreign.get() {
            true => complaint.clear(),
            false => complaint = ended.reason,
        }
        let pause = match foreign.get() {
            true => FOREIGN_REDIAL,
            false => PEER_REDIAL,
        };
        tokio::time::sleep(pause).await;
    }
}

/// How a connection ended.
struct Ended {
    error: Option<ConnectionError>,
    reason: String,
}

impl From<ConnectionError> for Ended {
    fn from(error: ConnectionError) -> Ended {
        let reason = match &error {
            ConnectionError::ApplicationClosed(close) => {
                String::from_utf8_lossy(&close.reason).into_owned()
            }
            error => error.to_string(),
        };
        let error = Some(error);
        Ended { error, reason }
    }
}

/// Connects once, and speaks and hears until the connection breaks; whether it did connect.
async fn dial(
    shell: &Rc<Shell>,
    link: &PeerLink,
    peer: NodeId,
    address: SocketAddr,
) -> (bool, Ended) {
    let links = shell.links();
    let connecting = links
        .endpoint
        .connect_with(links.dial.clone(), address, NODE_SERVER_NAME);
    let connection = match connecting {
        Ok(connecting) => match connecting.await {
            Ok(connection) => connection,
            Err(error) => return (false, error.into()),
        },
        Err(error) => {
            let reason = error.to_string();
            return (
                false,
                Ended {
                    error: None,
                    reason,
                },
            );
        }
    };
    if role_of(&connection) != Some(Role::Node(peer)) {
        connection.close(
            transport::CLOSE_WRONG_ROLE,
            b"another node was expected here",
        );
        let reason = format!(
            "there is another node at its address: {:?}",
            role_of(&connection)
        );
        return (
            false,
            Ended {
                error: None,
                reason,
            },
        );
    }
    tracing::info!(%peer, %address, "connected to a peer");
    let ended = tokio::select! {
        ended = link.speak(&connection, &links.hello) => ended.err(),
        () = accept::hear_peer(shell, &connection, peer, false) => Some(connection.closed().await),
    };
    link.disconnected();
    let lost = ConnectionError::LocallyClosed;
    (true, ended.unwrap_or(lost).into())
}

/// Whether a peer will have nothing to do with this node.
enum Refused {
    No,
    OtherCell,
    OtherDisk,
}

fn classify(ended: &Ended) -> Refused {
    match &ended.error {
        Some(ConnectionError::ApplicationClosed(close)) => match close.error_code.into_inner() {
            code if code == u64::from(CLOSE_OTHER_CELL) => Refused::OtherCell,
            code if code == u64::from(CLOSE_OTHER_DISK) => Refused::OtherDisk,
            _ => Refused::No,
        },
        Some(error) if is_of_tls(error) => Refused::OtherCell,
        _ => Refused::No,
    }
}

/// Whether one of the two certificates is not of the other one's authority.
pub(super) fn is_of_tls(error: &ConnectionError) -> bool {
    let code = match error {
        ConnectionError::TransportError(error) => error.code.into(),
        ConnectionError::ConnectionClosed(close) => close.error_code.into(),
        _ => 0,
    };
    // QUIC's codes for alerts of TLS (RFC 9001, 4.8).
    (0x100..0x200_u64).contains(&code)
}

/// The settings with which peers are dialled.
pub(super) fn client_config(
    tls: std::sync::Arc<quinn::crypto::rustls::QuicClientConfig>,
) -> quinn::ClientConfig {
    let mut config = quinn::ClientConfig::new(tls);
    config.transport_config(std::sync::Arc::new(transport::peer_transport()));
    config
}
