//! A node that was away for a million entries, with real stores: it comes back while the others go
//! on, through a snapshot and the log behind it.

#![allow(clippy::unwrap_used, reason = "whatever fails here fails the test")]

use std::collections::VecDeque;
use std::path::Path;

use bytes::Bytes;
use paxos::store::{FileStore, IncomingSnapshot, LogStore, OsFiles};
use paxos::{
    CellId, Config, Entry, Identity, Incarnation, Input, Membership, NodeId, Output, Replica, Role,
    Slot, SnapshotMeta, Time, Timing, WriteBatch,
};

const MISSED: u64 = 1_000_000;

/// Proposals that are made at once.
const BATCH: u64 = 2_000;

/// A state that says whether two nodes applied the same: how much, and what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    applied: Slot,
    hash: u64,
}

impl State {
    fn apply(&mut self, entry: &Entry) {
        assert_eq!(entry.slot, self.applied.next());
        self.applied = entry.slot;
        self.hash = self.hash.rotate_left(5) ^ u64::from(entry.crc);
    }

    /// Large enough to take many messages.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.applied.0.to_le_bytes().to_vec();
        bytes.extend(self.hash.to_le_bytes());
        bytes.resize(2_000_000, 7);
        bytes
    }

    fn decode(bytes: &[u8]) -> State {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        State {
            applied: Slot(number(0)),
            hash: number(8),
        }
    }
}

struct Node {
    id: NodeId,
    replica: Replica,
    store: FileStore,
    state: State,
    last_origin: paxos::Ballot,
    installed: usize,
    writing: Option<WriteBatch>,
    incoming: Option<IncomingSnapshot<OsFiles>>,
    away: bool,
}

impl Node {
    fn new(directory: &Path, id: u64) -> Node {
        let membership = Membership::first((1..=3).map(NodeId)).unwrap();
        let identity = Identity {
            cell: CellId([1; 16]),
            node: NodeId(id),
            incarnation: Incarnation(id),
        };
        let directory = directory.join(id.to_string());
        let store = FileStore::create(&directory, identity, &membership).unwrap();
        let config = Config {
            node: NodeId(id),
            seeds: Vec::new(),
            timing: Timing::default(),
            seed: id,
        };
        Node {
            id: NodeId(id),
            replica: Replica::new(config, store.load().unwrap(), Time(0)).unwrap(),
            store,
            state: State::default(),
            last_origin: paxos::Ballot::NONE,
            installed: 0,
            writing: None,
            incoming: None,
            away: false,
        }
    }

    fn take_snapshot(&mut self) -> SnapshotMeta {
        let membership = self.replica.status().membership;
        let snapshots = self.store.snapshots();
        let mut writer = snapshots
            .create(self.state.applied, self.last_origin, membership)
            .unwrap();
        writer.append(&self.state.encode()).unwrap();
        writer.finish().unwrap()
    }

    fn store_chunk(&mut self, meta: SnapshotMeta, offset: u64, bytes: &[u8]) -> Vec<Input> {
        let kept = self.incoming.take().filter(|kept| *kept.meta() == meta);
        let begin = || self.store.snapshots().receive(meta.clone()).unwrap();
        let mut incoming = kept.unwrap_or_else(begin);
        if !bytes.is_empty() {
            incoming.append(offset, bytes).unwrap();
        }
        let stored = incoming.stored();
        let mut inputs = vec![Input::ChunkStored {
            meta: meta.clone(),
            stored,
        }];
        if incoming.is_complete() {
            assert_eq!(incoming.finish().unwrap(), meta);
            inputs.push(Input::SnapshotReady(meta));
        } else {
            self.incoming = Some(incoming);
        }
        inputs
    }

    fn carry_out(&mut self, output: Output) -> Vec<Input> {
        match output {
            Output::Persist(batch) => self.writing = Some(batch),
            Output::Apply(entries) => {
                for entry in entries {
                    self.state.apply(&entry);
                    self.last_origin = entry.origin;
                }
            }
            Output::Load {
                id,
                first,
                last,
                bytes_max,
            } => {
                let entries = self.store.read(first, last, bytes_max).unwrap().entries;
                return vec![Input::Loaded { id, entries }];
            }
            Output::LoadChunk {
                id,
                slot,
                offset,
                bytes,
            } => {
                let reader = self.store.snapshots().open(slot).unwrap();
                let bytes = reader.read_at(offset, bytes).unwrap();
                return vec![Input::ChunkLoaded { id, bytes }];
            }
            Output::StoreChunk {
                meta,
                offset,
                bytes,
            } => return self.store_chunk(meta, offset, &bytes),
            Output::Install(meta) => {
                let reader = self.store.snapshots().open(meta.slot).unwrap();
                let length = usize::try_from(meta.bytes).unwrap();
                self.state = State::decode(&reader.read_at(0, length).unwrap());
                self.installed += 1;
            }
            _ => {}
        }
        Vec::new()
    }
}

/// All that is on its way arrives, and writes are done, until a turn of nothing.
fn settle(nodes: &mut [Node], now: Time) {
    let mut messages = VecDeque::new();
    loop {
        let mut quiet = true;
        for node in nodes.iter_mut() {
            while let Some(output) = node.replica.poll_output() {
                quiet = false;
                if let Output::Send { to, message } = output {
                    messages.push_back((node.id, to, message));
                    continue;
                }
                for input in node.carry_out(output) {
                    node.replica.handle(now, input);
                }
            }
            if let Some(batch) = node.writing.take() {
                node.store.write(&batch).unwrap();
                node.replica.handle(now, Input::Persisted(batch.id));
            }
        }
        while let Some((from, to, message)) = messages.pop_front() {
            quiet = false;
            let reachable = !nodes[from.0 as usize - 1].away && !nodes[to.0 as usize - 1].away;
            if reachable {
                let replica = &mut nodes[to.0 as usize - 1].replica;
                replica.handle(now, Input::Message { from, message });
            }
        }
        if quiet {
            return;
        }
    }
}

fn pass(nodes: &mut [Node], now: &mut Time) {
    let next = nodes.iter().map(|node| node.replica.next_timer()).min();
    *now = now.plus_micros(1).max(next.unwrap());
    for node in nodes.iter_mut() {
        node.replica.handle(*now, Input::Tick);
    }
    settle(nodes, *now);
}

fn leader(nodes: &[Node]) -> Option<usize> {
    let established = |node: &Node| {
        let role = node.replica.role();
        matches!(role, Role::Leader { established, .. } if established)
    };
    nodes.iter().position(established)
}

fn propose(nodes: &mut [Node], leader: usize, now: Time, count: u64) {
    for number in 0..count {
        let payload = Bytes::copy_from_slice(&number.to_le_bytes());
        nodes[leader].replica.propose(now, payload).unwrap();
    }
    settle(nodes, now);
}

#[test]
fn a_node_that_was_away_for_a_million_entries_catches_up_under_load() {
    let directory = tempfile::tempdir().unwrap();
    let mut nodes: Vec<Node> = (1..=3).map(|id| Node::new(directory.path(), id)).collect();
    let mut now = Time(0);
    while leader(&nodes).is_none() {
        pass(&mut nodes, &mut now);
    }
    let leading = leader(&nodes).unwrap();
    let away = (leading + 1) % 3;
    nodes[away].away = true;
    for batch in 1..=MISSED / BATCH {
        propose(&mut nodes, leading, now, BATCH);
        if batch % 20 == 0 {
            pass(&mut nodes, &mut now);
        }
        if batch % 100 == 0 {
            for node in nodes.iter_mut().filter(|node| !node.away) {
                let meta = node.take_snapshot();
                node.replica.handle(now, Input::SnapshotTaken(meta));
            }
        }
    }
    assert!(nodes[away].state.applied < Slot(100));
    nodes[away].away = false;
    // The others never wait for it: they take a batch between any two of its turns.
    let mut meanwhile = 0;
    while nodes[away].state.applied.0 + 200 < nodes[leading].state.applied.0 {
        pass(&mut nodes, &mut now);
        propose(&mut nodes, leading, now, 100);
        meanwhile += 1;
        assert!(meanwhile < 2_000, "it does not catch up");
    }
    while nodes[away].state != nodes[leading].state {
        pass(&mut nodes, &mut now);
    }
    assert_eq!(leader(&nodes), Some(leading), "nobody was disturbed");
    assert_eq!(nodes[away].installed, 1);
    assert!(nodes[away].state.applied > Slot(MISSED));
    let first = nodes[leading].store.numbers().first;
    assert!(first > Slot(MISSED / 2), "the log was cut");
}
