//! Replicas in memory: the test decides which links work and which disks answer.

#![allow(dead_code, reason = "each test program uses a part of it")]

mod disk;

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use paxos::{
    Config, ConfirmNumber, Entry, Epoch, Input, Membership, Message, NodeId, Output, PersistId,
    Replica, Role, Slot, SnapshotMeta, Time, Timing, WriteBatch,
};

use disk::Disk;

/// Longest that any test waits, microseconds of the cell's time.
const PATIENCE_MICROS: u64 = 30_000_000;

pub(crate) struct Cell {
    pub(crate) now: Time,
    /// Node `index` has the number `index` + 1.
    pub(crate) nodes: Vec<Node>,
    /// Links that lose everything, by sender and receiver.
    pub(crate) cut: BTreeSet<(u64, u64)>,
    /// Every message that was sent.
    pub(crate) sent: Vec<(NodeId, NodeId, Message)>,
    queue: VecDeque<(NodeId, NodeId, Message)>,
}

pub(crate) struct Node {
    pub(crate) replica: Replica,
    /// The process is gone.
    pub(crate) down: bool,
    /// Its disk does not answer.
    pub(crate) stuck: bool,
    /// What its state is made of: the snapshot that was installed, and what followed.
    pub(crate) applied: Vec<Entry>,
    pub(crate) confirmed: ConfirmNumber,
    pub(crate) disk: Disk,
    pub(crate) installed: Vec<Slot>,
    pub(crate) repaired: Vec<Slot>,
    pub(crate) removed: Option<Epoch>,
    pub(crate) retired: bool,
    /// How many bytes of a snapshot were stored since the start.
    pub(crate) stored: u64,
    writing: Option<WriteBatch>,
}

impl Cell {
    pub(crate) fn new() -> Cell {
        Cell::of(3)
    }

    /// A cell of so many nodes.
    pub(crate) fn of(nodes: u64) -> Cell {
        let members = Membership::first((1..=nodes).map(NodeId)).expect("a sound membership");
        Cell::with_membership(&members)
    }

    pub(crate) fn with_membership(membership: &Membership) -> Cell {
        let node = |id: &NodeId| Node::new(*id, Disk::new(membership.clone()), Time(0));
        Cell {
            now: Time(0),
            nodes: membership.members.iter().map(node).collect(),
            cut: BTreeSet::new(),
            sent: Vec::new(),
            queue: VecDeque::new(),
        }
    }

    /// Starts a node with an empty disk that knows no membership; its index.
    pub(crate) fn start_learner(&mut self) -> usize {
        let id = NodeId(self.nodes.len() as u64 + 1);
        let node = Node::new(id, Disk::new(Membership::none()), self.now);
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// A cell with an established leader, and who that is.
    pub(crate) fn with_leader() -> (Cell, usize) {
        let mut cell = Cell::new();
        let leader = cell.wait_for_leader();
        (cell, leader)
    }

    pub(crate) fn wait_for_leader(&mut self) -> usize {
        self.run_until(|cell| cell.leader().is_some());
        self.leader().expect("it was waited for")
    }

    pub(crate) fn leader(&self) -> Option<usize> {
        let established = |node: &Node| {
            let role = node.replica.role();
            !node.down && matches!(role, Role::Leader { established, .. } if established)
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

    /// Changes the membership through the present leader, and waits until that has happened.
    pub(crate) fn reconfigure(&mut self, members: &[u64]) {
        let leader = self.wait_for_leader();
        let numbers: Vec<NodeId> = members.iter().copied().map(NodeId).collect();
        let replica = &mut self.nodes[leader].replica;
        let present = replica.status().membership.epoch;
        let begun = replica.reconfigure(self.now, numbers, None, Bytes::new());
        begun.expect("a change that is allowed");
        self.settle();
        self.run_until(|cell| {
            let leader = cell
                .leader()
                .map(|leader| cell.nodes[leader].replica.status());
            leader.is_some_and(|status| status.membership.epoch > present)
        });
    }

    pub(crate) fn input(&mut self, node: usize, input: Input) {
        if !self.nodes[node].down {
            self.nodes[node].replica.handle(self.now, input);
            self.drain(node);
        }
    }

    /// Ends a node's process.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].down = true;
        self.nodes[node].writing = None;
    }

    /// Starts a node again from its disk.
    pub(crate) fn restart(&mut self, node: usize) {
        let id = NodeId(node as u64 + 1);
        let disk = self.nodes[node].disk.clone();
        self.nodes[node] = Node::new(id, disk, self.now);
    }

    /// Takes a snapshot of a node's state, as its driver would.
    pub(crate) fn take_snapshot(&mut self, node: usize) -> SnapshotMeta {
        let meta = self.nodes[node].take_snapshot();
        self.input(node, Input::SnapshotTaken(meta.clone()));
        self.settle();
        meta
    }

    /// Cuts a node off, both ways.
    pub(crate) fn isolate(&mut self, node: usize) {
        let node = node as u64 + 1;
        let nodes = self.nodes.len() as u64;
        for peer in (1..=nodes).filter(|peer| *peer != node) {
            self.cut.extend([(node, peer), (peer, node)]);
        }
    }

    /// Lets time pass from timer to timer until `done`.
    pub(crate) fn run_until(&mut self, done: impl Fn(&Cell) -> bool) {
        let end = self.now.plus_micros(PATIENCE_MICROS);
        self.settle();
        while !done(self) {
            assert!(self.now < end, "waited in vain:\n{}", self.describe());
            self.pass_to_next_timer();
        }
    }

    /// How everyone stands, a line each.
    fn describe(&self) -> String {
        let line = |node: &Node| {
            let applied = node.applied.len();
            let (down, status) = (node.down, node.replica.status());
            format!("applied {applied}, down {down}: {status:?}\n")
        };
        let last = self.sent.iter().rev().take(12).rev();
        let sent: String = last.map(|message| format!("{message:?}\n")).collect();
        self.nodes.iter().map(line).collect::<String>() + &sent
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

    /// Like `run_until`, but looks after every single message.
    pub(crate) fn run_steps_until(&mut self, done: impl Fn(&Cell) -> bool) {
        let end = self.now.plus_micros(PATIENCE_MICROS);
        while !done(self) {
            assert!(self.now < end, "waited in vain");
            if !self.deliver(1) {
                self.pass_to_next_timer_quietly();
            }
        }
    }

    /// Delivers so many messages at most; whether there were as many.
    pub(crate) fn deliver(&mut self, messages: usize) -> bool {
        for _ in 0..messages {
            for node in 0..self.nodes.len() {
                self.drain(node);
                self.write(node);
            }
            let Some((from, to, message)) = self.queue.pop_front() else {
                return false;
            };
            self.input(to.0 as usize - 1, Input::Message { from, message });
        }
        true
    }

    /// Whatever is on its way is lost.
    pub(crate) fn forget_messages(&mut self) {
        self.queue.clear();
    }

    fn pass_to_next_timer(&mut self) {
        self.pass_to_next_timer_quietly();
        self.settle();
    }

    fn pass_to_next_timer_quietly(&mut self) {
        let up = self.nodes.iter().filter(|node| !node.down);
        let next = up.map(|node| node.replica.next_timer()).min();
        let next = next.expect("a cell has nodes");
        self.now = self.now.plus_micros(1).max(next);
        for node in 0..self.nodes.len() {
            self.input(node, Input::Tick);
        }
    }

    fn write(&mut self, node: usize) {
        while !self.nodes[node].stuck {
            let Some(batch) = self.nodes[node].writing.take() else {
                break;
            };
            let id: PersistId = batch.id;
            self.nodes[node].disk.write(batch);
            self.input(node, Input::Persisted(id));
        }
    }

    fn drain(&mut self, node: usize) {
        if self.nodes[node].down {
            return;
        }
        let from = NodeId(node as u64 + 1);
        while let Some(output) = self.nodes[node].replica.poll_output() {
            match output {
                Output::Send { to, message } => {
                    self.sent.push((from, to, message.clone()));
                    let known = to.0 as usize <= self.nodes.len();
                    if known && !self.cut.contains(&(from.0, to.0)) {
                        self.queue.push_back((from, to, message));
                    }
                }
                output => {
                    for answer in self.nodes[node].carry_out(output) {
                        self.nodes[node].replica.handle(self.now, answer);
                    }
                }
            }
        }
    }
}

impl Node {
    fn new(id: NodeId, disk: Disk, now: Time) -> Node {
        let recovered = disk.load();
        let mut node = Node {
            replica: Replica::new(config(id), recovered.clone(), now).expect("a sound disk"),
            down: false,
            stuck: false,
            applied: Vec::new(),
            confirmed: ConfirmNumber(0),
            disk,
            installed: Vec::new(),
            repaired: Vec::new(),
            removed: None,
            retired: false,
            stored: 0,
            writing: None,
        };
        let base = recovered.snapshot.map_or(Slot::NONE, |meta| meta.slot);
        node.load_snapshot();
        let replayed = node.disk.read(base.next(), recovered.decided);
        node.applied.extend(replayed);
        node
    }

    pub(crate) fn payloads(&self) -> Vec<&[u8]> {
        let commands = self.applied.iter();
        let commands = commands.filter(|entry| entry.kind == paxos::EntryKind::Command);
        commands.map(|entry| &entry.payload[..]).collect()
    }

    fn take_snapshot(&mut self) -> SnapshotMeta {
        let mut state = Vec::new();
        for entry in &self.applied {
            let encoded = encode(entry);
            state.extend((encoded.len() as u32).to_le_bytes());
            state.extend(encoded);
        }
        let last = self.applied.last().expect("something was applied");
        let meta = SnapshotMeta {
            slot: last.slot,
            origin: last.origin,
            membership: self.replica.status().membership,
            bytes: state.len() as u64,
            crc: crc32c::crc32c(&state),
        };
        self.disk.snapshot = Some((meta.clone(), state.into()));
        meta
    }

    fn load_snapshot(&mut self) {
        let Some((_, state)) = &self.disk.snapshot else {
            return;
        };
        let mut rest = &state[..];
        self.applied.clear();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let (entry, after) = after.split_at(u32::from_le_bytes(*length) as usize);
            self.applied.push(decode(entry));
            rest = after;
        }
    }

    fn carry_out(&mut self, output: Output) -> Vec<Input> {
        match output {
            Output::Send { .. } | Output::RoleChanged(_) | Output::Membership(_) => {}
            Output::Persist(batch) => self.writing = Some(batch),
            Output::Apply(entries) => {
                for entry in entries {
                    let last = self.applied.last().map_or(Slot::NONE, |last| last.slot);
                    assert_eq!(entry.slot, last.next(), "applied in order, once");
                    self.applied.push(entry);
                }
            }
            Output::Confirmed { number, .. } => self.confirmed = number,
            Output::Load {
                id, first, last, ..
            } => {
                let entries = self.disk.read(first, last);
                let damaged = entries.is_empty().then_some(Input::Damaged(first));
                let loaded = Input::Loaded { id, entries };
                return [Some(loaded), damaged].into_iter().flatten().collect();
            }
            Output::Repaired(slot) => self.repaired.push(slot),
            Output::Removed(epoch) => self.removed = Some(epoch),
            Output::Retired => self.retired = true,
            Output::LoadChunk {
                id,
                slot,
                offset,
                bytes,
            } => {
                let own = self.disk.snapshot.as_ref();
                let own = own.filter(|(meta, _)| meta.slot == slot);
                let from = offset as usize;
                let bytes = own.map(|(_, state)| state.slice(from..from + bytes));
                let bytes = bytes.unwrap_or_default();
                return vec![Input::ChunkLoaded { id, bytes }];
            }
            Output::StoreChunk {
                meta,
                offset,
                bytes,
            } => return self.store_chunk(meta, offset, &bytes),
            Output::Install(meta) => {
                self.installed.push(meta.slot);
                self.load_snapshot();
            }
        }
        Vec::new()
    }

    fn store_chunk(&mut self, meta: SnapshotMeta, offset: u64, bytes: &[u8]) -> Vec<Input> {
        let kept = self.disk.incoming.take().filter(|(kept, _)| *kept == meta);
        let (_, mut state) = kept.unwrap_or((meta.clone(), Vec::new()));
        if offset == state.len() as u64 {
            state.extend(bytes);
            self.stored += bytes.len() as u64;
        }
        let stored = state.len() as u64;
        let mut inputs = vec![Input::ChunkStored {
            meta: meta.clone(),
            stored,
        }];
        if stored == meta.bytes {
            assert_eq!(crc32c::crc32c(&state), meta.crc);
            self.disk.snapshot = Some((meta.clone(), state.into()));
            inputs.push(Input::SnapshotReady(meta));
        } else {
            self.disk.incoming = Some((meta, state));
        }
        inputs
    }
}

fn encode(entry: &Entry) -> Vec<u8> {
    postcard::to_allocvec(entry).expect("an entry has an encoding")
}

fn decode(bytes: &[u8]) -> Entry {
    postcard::from_bytes(bytes).expect("it was encoded above")
}

fn config(node: NodeId) -> Config {
    Config {
        node,
        seeds: (1..=3).map(NodeId).collect(),
        timing: Timing::default(),
        seed: node.0,
    }
}
