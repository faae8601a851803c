//! Three replicas in memory: the test decides which links work and which disks answer.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use paxos::{
    Config, ConfirmNumber, Entry, Input, Message, NodeId, Output, PersistId, Recovered, Replica,
    Role, Slot, Time, Timing, WriteBatch,
};

/// Longest that any test waits, microseconds of the cell's time.
const PATIENCE_MICROS: u64 = 30_000_000;

pub(crate) struct Cell {
    pub(crate) now: Time,
    pub(crate) nodes: Vec<Node>,
    /// Links that lose everything, by sender and receiver.
    pub(crate) cut: BTreeSet<(u64, u64)>,
    /// Every message that was sent.
    pub(crate) sent: Vec<(NodeId, NodeId, Message)>,
    queue: VecDeque<(NodeId, NodeId, Message)>,
}

pub(crate) struct Node {
    pub(crate) replica: Replica,
    /// Its disk does not answer.
    pub(crate) stuck: bool,
    pub(crate) applied: Vec<Entry>,
    pub(crate) confirmed: ConfirmNumber,
    pub(crate) disk: Recovered,
    writing: Option<WriteBatch>,
}

impl Cell {
    pub(crate) fn new() -> Cell {
        let members: Vec<NodeId> = (1..=3).map(NodeId).collect();
        let node = |id: &NodeId| {
            let disk = Recovered::fresh(members.clone());
            Node {
                replica: start(*id, disk.clone(), Time(0)),
                stuck: false,
                applied: Vec::new(),
                confirmed: ConfirmNumber(0),
                disk,
                writing: None,
            }
        };
        Cell {
            now: Time(0),
            nodes: members.iter().map(node).collect(),
            cut: BTreeSet::new(),
            sent: Vec::new(),
            queue: VecDeque::new(),
        }
    }

    /// A cell with an established leader, and who that is.
    pub(crate) fn with_leader() -> (Cell, usize) {
        let mut cell = Cell::new();
        cell.run_until(|cell| cell.leader().is_some());
        let leader = cell.leader().expect("it was waited for");
        (cell, leader)
    }

    pub(crate) fn leader(&self) -> Option<usize> {
        let established = |node: &Node| {
            matches!(
                node.replica.role(),
                Role::Leader {
                    established: true,
                    ..
                }
            )
        };
        self.nodes.iter().position(established)
    }

    pub(crate) fn propose(&mut self, node: usize, payload: &[u8]) -> Slot {
        let payload = Bytes::copy_from_slice(payload);
        let slot = self.nodes[node].replica.propose(self.now, payload);
        let slot = slot.expect("a leader with room takes proposals");
        self.settle();
        slot
    }

    pub(crate) fn input(&mut self, node: usize, input: Input) {
        self.nodes[node].replica.handle(self.now, input);
        self.drain(node);
    }

    /// Starts a node again from its disk.
    pub(crate) fn restart(&mut self, node: usize) {
        let disk = self.nodes[node].disk.clone();
        self.nodes[node].writing = None;
        self.nodes[node].replica = start(NodeId(node as u64 + 1), disk, self.now);
    }

    /// Cuts a node off, both ways.
    pub(crate) fn isolate(&mut self, node: usize) {
        let node = node as u64 + 1;
        for peer in (1..=3).filter(|peer| *peer != node) {
            self.cut.extend([(node, peer), (peer, node)]);
        }
    }

    /// Lets time pass from timer to timer until `done`.
    pub(crate) fn run_until(&mut self, done: impl Fn(&Cell) -> bool) {
        let end = self.now.plus_micros(PATIENCE_MICROS);
        self.settle();
        while !done(self) {
            assert!(self.now < end, "waited in vain");
            self.pass_to_next_timer();
        }
    }

    pub(crate) fn run_for(&mut self, micros: u64) {
        let end = self.now.plus_micros(micros);
        self.settle();
        while self.now < end {
            self.pass_to_next_timer();
        }
    }

    /// Delivers everything that is on its way, and what that causes.
    pub(crate) fn settle(&mut self) {
        loop {
            for node in 0..self.nodes.len() {
                self.drain(node);
                self.write(node);
            }
            let Some((from, to, message)) = self.queue.pop_front() else {
                break;
            };
            self.input(to.0 as usize - 1, Input::Message { from, message });
        }
    }

    fn pass_to_next_timer(&mut self) {
        let next = self
            .nodes
            .iter()
            .map(|node| node.replica.next_timer())
            .min()
            .expect("a cell has nodes");
        self.now = self.now.plus_micros(1).max(next);
        for node in 0..self.nodes.len() {
            self.input(node, Input::Tick);
        }
        self.settle();
    }

    fn write(&mut self, node: usize) {
        while !self.nodes[node].stuck {
            let Some(batch) = self.nodes[node].writing.take() else {
                break;
            };
            let id: PersistId = batch.id;
            self.nodes[node].store(batch);
            self.input(node, Input::Persisted(id));
        }
    }

    fn drain(&mut self, node: usize) {
        let from = NodeId(node as u64 + 1);
        while let Some(output) = self.nodes[node].replica.poll_output() {
            match output {
                Output::Send { to, message } => {
                    self.sent.push((from, to, message.clone()));
                    if !self.cut.contains(&(from.0, to.0)) {
                        self.queue.push_back((from, to, message));
                    }
                }
                Output::Persist(batch) => self.nodes[node].writing = Some(batch),
                Output::Apply(entries) => self.nodes[node].applied.extend(entries),
                Output::Confirmed { number, .. } => self.nodes[node].confirmed = number,
                Output::Load { .. } => panic!("these logs stay in memory"),
                Output::RoleChanged(_) => {}
            }
        }
    }
}

impl Node {
    pub(crate) fn payloads(&self) -> Vec<&[u8]> {
        let payloads = self.applied.iter().map(|entry| &entry.payload[..]);
        payloads.filter(|payload| !payload.is_empty()).collect()
    }

    fn store(&mut self, batch: WriteBatch) {
        let disk = &mut self.disk;
        disk.promised = batch.promised.unwrap_or(disk.promised);
        disk.accepted = batch.accepted.unwrap_or(disk.accepted);
        if let Some(from) = batch.truncate_from {
            disk.entries.retain(|entry| entry.slot < from);
        }
        disk.entries.extend(batch.entries);
        disk.entries.retain(|entry| entry.slot > batch.decided);
        disk.decided = batch.decided;
    }
}

fn start(node: NodeId, disk: Recovered, now: Time) -> Replica {
    let (members, seed) = (disk.members.clone(), node.0);
    Replica::new(
        Config {
            node,
            members,
            timing: Timing::default(),
            seed,
        },
        disk,
        now,
    )
    .expect("a sound configuration")
}
