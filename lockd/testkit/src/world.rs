//! Nodes, connections and background tasks, moved by hand: [`World::settle`] does all that can be
//! done at this time, [`World::step`] goes on to the next time at which there is something to do.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use lockd::server::core::clients::ConnectionId;
use lockd::server::core::members::{Member, Members, encode_members};
use lockd_client::test_kit::ManualClock;
use lockd_client::{ClientConfig, Time};
use lockd_protocol::client::ClientFrame;
use lockd_protocol::frame::Decoder;
use lockd_protocol::ticket::Signer;
use lockd_protocol::{CellId, NodeId, SessionId};
use paxos::{Membership, Message};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use crate::node::Node;
use crate::wire::{Dialled, Task, Wires};
use crate::{ByNode, KitError};

/// When every cell begins.
pub(crate) const BEGINNING: Time = Time::from_micros(1_000_000);

/// Nodes of a cell.
const NODES: u64 = 3;

const CELL: CellId = CellId([0x7e; 16]);

/// Seed of the key that signs tickets.
const TICKET_SEED: [u8; 32] = [0x7e; 32];

/// Time moves on by this much at least.
const STEP_MIN: Duration = Duration::from_millis(1);

/// A node's address.
fn address(node: NodeId) -> String {
    format!("test-node-{}:1", node.0)
}

/// The node at an address.
pub(crate) fn node_at(address: &str) -> Option<NodeId> {
    let number = address.strip_prefix("test-node-")?.strip_suffix(":1")?;
    number.parse().ok().map(NodeId)
}

/// All there is of a cell and of its clients' edges.
pub(crate) struct World {
    clock: ManualClock,
    wires: Arc<Wires>,
    waker: Waker,
    nodes: ByNode<Node>,
    mail: VecDeque<(NodeId, NodeId, Message)>,
    connections: Vec<Connection>,
    tasks: Vec<Task>,
    /// Sessions whose renewals are kept from the cell.
    muted: BTreeSet<SessionId>,
    signer: Signer,
}

/// The node's end of a connection.
struct Connection {
    client: u64,
    node: NodeId,
    id: ConnectionId,
    stream: DuplexStream,
    packets: Arc<AtomicU64>,
    decoder: Decoder,
    out: Vec<u8>,
}

impl World {
    pub(crate) fn new(clock: ManualClock, wires: Arc<Wires>) -> Result<World, KitError> {
        let wrong = |error: String| KitError::Cell(error);
        let signer =
            || Signer::from_seed(CELL, &TICKET_SEED).map_err(|error| wrong(error.to_string()));
        let member = |id: u64| Member {
            address: address(NodeId(id)),
            incarnation: id,
        };
        let members: Members = (1..=NODES).map(|id| (NodeId(id), member(id))).collect();
        let ids = (1..=NODES).map(paxos::NodeId);
        let first = Membership::first(ids).map_err(|error| wrong(error.to_string()))?;
        let membership = Membership {
            context: encode_members(&members),
            ..first
        };
        let mut nodes = ByNode::new();
        for id in (1..=NODES).map(NodeId) {
            let now = paxos_time(clock.now());
            let node = Node::new(CELL, id, membership.clone(), signer()?, now)?;
            nodes.insert(id, node);
        }
        Ok(World {
            clock,
            waker: Waker::from(Arc::clone(&wires.bell)),
            wires,
            nodes,
            mail: VecDeque::new(),
            connections: Vec::new(),
            tasks: Vec::new(),
            muted: BTreeSet::new(),
            signer: signer()?,
        })
    }

    /// What its clients need to know. There are no certificates where there is no network.
    pub(crate) fn config(&self) -> ClientConfig {
        ClientConfig {
            cell: CELL,
            nodes: self.nodes.keys().copied().map(address).collect(),
            ca: Vec::new(),
            certificate: Vec::new(),
            key: Vec::new(),
            ticket_keys: vec![self.signer.public_key()],
        }
    }

    /// The node that leads for sure, unless it is paused.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let paused = self.wires.desk().paused.clone();
        let mut live = self.nodes.iter().filter(|(id, _)| !paused.contains(id));
        live.find(|(_, node)| node.leads()).map(|(id, _)| *id)
    }

    pub(crate) fn mute(&mut self, session: SessionId) {
        self.muted.insert(session);
    }

    pub(crate) fn unmute(&mut self, session: SessionId) {
        self.muted.remove(&session);
    }

    /// Goes on to the next time at which there is something to do, at most to `until`.
    pub(crate) fn step(&mut self, until: Time) {
        self.settle();
        let paused = self.wires.desk().paused.clone();
        let live = self.nodes.iter().filter(|(id, _)| !paused.contains(id));
        let turns = live.map(|(_, node)| Time::from_micros(node.next_turn().0));
        let next = turns.chain(self.clock.next_wake()).min().unwrap_or(until);
        let soonest = self.clock.now().after(STEP_MIN);
        self.clock.set(next.max(soonest).min(until));
        self.settle();
    }

    /// Does everything that can be done without time passing.
    pub(crate) fn settle(&mut self) {
        loop {
            let rung = self.wires.bell.was_rung();
            self.take_what_is_new();
            self.poll_tasks();
            let read = self.read_from_clients();
            let turned = self.turn_nodes();
            let written = self.write_to_clients();
            if !(rung || read || turned || written) {
                return;
            }
        }
    }

    fn take_what_is_new(&mut self) {
        let mut desk = self.wires.desk();
        self.tasks.append(&mut desk.spawned);
        let dialled = std::mem::take(&mut desk.dialled);
        drop(desk);
        for Dialled {
            client,
            node,
            stream,
            packets,
        } in dialled
        {
            if let Some(it) = self.nodes.get_mut(&node) {
                self.connections.push(Connection {
                    client,
                    node,
                    id: it.join(client),
                    stream,
                    packets,
                    decoder: Decoder::default(),
                    out: Vec::new(),
                });
            }
        }
    }

    fn poll_tasks(&mut self) {
        let mut context = Context::from_waker(&self.waker);
        self.tasks
            .retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
    }

    /// Hands the nodes what clients have sent. Says whether there was anything.
    fn read_from_clients(&mut self) -> bool {
        let now = paxos_time(self.clock.now());
        let (cut, paused) = {
            let desk = self.wires.desk();
            (desk.cut.clone(), desk.paused.clone())
        };
        let mut moved = false;
        let mut context = Context::from_waker(&self.waker);
        let (nodes, muted) = (&mut self.nodes, &self.muted);
        self.connections.retain_mut(|connection| {
            if cut.contains(&connection.client) || paused.contains(&connection.node) {
                return true;
            }
            let Some(node) = nodes.get_mut(&connection.node) else {
                return false;
            };
            loop {
                match connection.read(&mut context) {
                    Poll::Pending => return true,
                    Poll::Ready(true) => moved = true,
                    Poll::Ready(false) => {
                        moved = true;
                        node.leave(connection.id);
                        return false;
                    }
                }
                // A client that sends what is no frame is lockd's own, and mistaken.
                while let Some(frame) = connection.decoder.next().expect("a client's frames") {
                    let kept = matches!(&frame, ClientFrame::KeepAlive { session, .. }
                        if muted.contains(session));
                    if !kept {
                        node.hear_client(now, connection.id, frame);
                    }
                }
            }
        });
        moved
    }

    /// Lets the nodes take turns until none has anything to say. Says whether any had.
    fn turn_nodes(&mut self) -> bool {
        let now = paxos_time(self.clock.now());
        let paused = self.wires.desk().paused.clone();
        let mut any = false;
        loop {
            let mut moved = false;
            for (from, to, message) in std::mem::take(&mut self.mail) {
                // What is sent to a node that is paused for long is lost.
                if let Some(node) = self.nodes.get_mut(&to).filter(|_| !paused.contains(&to)) {
                    node.hear_peer(now, from, message);
                }
            }
            for (id, node) in &mut self.nodes {
                if !paused.contains(id) {
                    let (messages, did) = node.turn(now);
                    moved |= did;
                    let mail = messages.into_iter().map(|(to, message)| (*id, to, message));
                    self.mail.extend(mail);
                }
            }
            if !moved {
                return any;
            }
            any = true;
        }
    }

    /// Hands clients what the nodes have for them. Says whether there was anything.
    fn write_to_clients(&mut self) -> bool {
        let (cut, paused) = {
            let desk = self.wires.desk();
            (desk.cut.clone(), desk.paused.clone())
        };
        let mut moved = false;
        let mut context = Context::from_waker(&self.waker);
        for connection in &mut self.connections {
            if paused.contains(&connection.node) {
                continue;
            }
            if let Some(node) = self.nodes.get_mut(&connection.node) {
                let bytes = node.take_outgoing(connection.id);
                connection.out.extend(bytes);
            }
            if !cut.contains(&connection.client) {
                moved |= connection.write(&mut context);
            }
        }
        moved
    }
}

impl Connection {
    /// Reads what there is. `false`: the client has hung up.
    fn read(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let mut bytes = [0; 4096];
        let mut buffer = ReadBuf::new(&mut bytes);
        match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                self.packets.fetch_add(1, Ordering::Relaxed);
                self.decoder.feed(buffer.filled());
                Poll::Ready(true)
            }
            Poll::Ready(_) => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Writes what fits. Says whether that was anything.
    fn write(&mut self, context: &mut Context<'_>) -> bool {
        let mut any = false;
        while !self.out.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, &self.out) {
                Poll::Ready(Ok(count @ 1..)) => {
                    self.packets.fetch_add(1, Ordering::Relaxed);
                    self.out.drain(..count);
                    any = true;
                }
                // The client has hung up: its end is found when it is read.
                Poll::Ready(_) => self.out.clear(),
                Poll::Pending => break,
            }
        }
        any
    }
}

fn paxos_time(time: Time) -> paxos::Time {
    paxos::Time(time.as_micros())
}
