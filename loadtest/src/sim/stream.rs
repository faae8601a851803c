//! Streams between clients and nodes: in order, reliable while they last, and cut off at any time;
//! what a client had written before may arrive all the same.

use lockd::server::core::clients::ConnectionId;
use lockd_protocol::client::{ClientFrame, NodeFrame};
use lockd_protocol::frame::Decoder;

use super::client::role;
use super::invariants::Verdict;
use super::network::End;
use super::world::{Event, World};

/// One connection.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) client: usize,
    pub(super) node: usize,
    /// Of the node: a stream does not survive it.
    pub(super) life: u64,
    pub(super) connection: ConnectionId,
    /// The client uses it.
    pub(super) open: bool,
    pub(super) last_up: u64,
    pub(super) last_down: u64,
    /// Packets that the client has got, acknowledgements too.
    pub(super) packets: u64,
}

impl World {
    /// A node takes a connection, if it is there.
    pub(super) fn accept(&mut self, client: usize, node: usize) -> Option<usize> {
        let cut = |from, to| self.network.is_cut(self.now, from, to).is_some();
        let (here, there) = (End::Client(client), End::Node(node));
        if cut(here, there) || cut(there, here) || !self.nodes[node].listens(self.now) {
            return None;
        }
        let core = self.nodes[node].core.as_mut()?;
        let connection = core.joined(&role(client), String::new());
        self.streams.push(Stream {
            client,
            node,
            life: self.nodes[node].life,
            connection,
            open: true,
            last_up: 0,
            last_down: 0,
            packets: 1,
        });
        Some(self.streams.len() - 1)
    }

    pub(super) fn write_to_node(&mut self, stream: usize, frame: ClientFrame) {
        let it = &self.streams[stream];
        let link = (End::Client(it.client), End::Node(it.node));
        let (client, last) = (it.client, it.last_up);
        let at = self
            .network
            .on_stream(&mut self.dice, &self.plan, self.now, link, last);
        self.story
            .step(self.now, || format!("client {client} sends {frame:?}"));
        self.streams[stream].last_up = at;
        self.schedule(at, Event::ToNode { stream, frame });
    }

    /// A node has something to write to a connection. What it acknowledges counts from here,
    /// whether or not anybody is left to read it.
    pub(super) fn write_to_client(&mut self, node: usize, connection: ConnectionId) -> Verdict {
        let core = self.nodes[node].core.as_mut();
        let Some(outgoing) = core.and_then(|core| core.take_outgoing(connection, Vec::new()))
        else {
            return Ok(());
        };
        let mut decoder = Decoder::default();
        decoder.feed(&outgoing.bytes);
        while let Ok(Some(frame)) = decoder.next() {
            self.judge.identity.on_told(&frame)?;
            if let NodeFrame::KeptAlive { session, number } = frame {
                self.judge.expiry.on_acknowledged(session, number)?;
            }
        }
        let life = self.nodes[node].life;
        let of = |stream: &Stream| {
            (stream.node, stream.life, stream.connection) == (node, life, connection)
        };
        let Some(stream) = self.streams.iter().rposition(of) else {
            return Ok(());
        };
        let it = &self.streams[stream];
        let link = (End::Node(node), End::Client(it.client));
        let last = it.last_down;
        let at = self
            .network
            .on_stream(&mut self.dice, &self.plan, self.now, link, last);
        self.streams[stream].last_down = at;
        if !outgoing.bytes.is_empty() {
            let bytes = outgoing.bytes;
            self.schedule(at, Event::ToClient { stream, bytes });
        }
        if outgoing.close {
            self.schedule(at, Event::Broken { stream });
        }
        Ok(())
    }

    /// The client's end is gone. What it had written arrives before the node learns of it.
    pub(super) fn close_stream(&mut self, stream: usize) {
        if !std::mem::replace(&mut self.streams[stream].open, false) {
            return;
        }
        let slow = self.dice.between(1, 2_000_000);
        let at = self.streams[stream].last_up.max(self.now + slow);
        self.schedule(at, Event::Left { stream });
    }

    /// A node is gone, and its streams with it: their clients learn of it soon, or late.
    pub(super) fn break_streams_of_node(&mut self, node: usize) {
        for stream in 0..self.streams.len() {
            let it = &self.streams[stream];
            if it.open && it.node == node && it.life == self.nodes[node].life {
                let delay = match self.dice.per_mille(500) {
                    true => self.dice.between(100, 5_000),
                    false => self.dice.between(10_000, 2_000_000),
                };
                self.after(delay, Event::Broken { stream });
            }
        }
    }
}
