//! What a node's file threads do: make snapshots of the one before and the log after it, read and
//! keep parts of them; and the changes of membership that bring nodes which need them.

use bytes::Bytes;
use lockd::server::core::compaction::{Base, Compact, CompactFailure};
use lockd::server::core::replay::Replay;
use lockd::server::core::{Chunk, ChunkLoad};
use lockd::state::State;
use lockd::state::snapshot::Decoder;
use lockd_protocol::NodeId;
use lockd_protocol::client::{ClientFrame, MemberChange, Query};
use paxos::{Slot, SnapshotMeta};

use super::disk::Disk;
use super::invariants::{Verdict, Violation, same_state};
use super::node::{CELL, Node, address};
use super::world::{Event, World};

/// Nodes of a run at most, those that left included.
const NODES_MAX: usize = 9;

/// A cell does not become smaller than this.
const MEMBERS_MIN: usize = 3;

/// A cell does not become larger than this.
const MEMBERS_MAX: usize = 5;

/// File work of a node.
#[derive(Debug)]
pub(super) enum FileWork {
    Compact(Box<Compact>),
    LoadChunk(ChunkLoad),
    StoreChunk(Chunk),
}

/// The state that a snapshot holds.
pub(super) fn decode(body: &[u8]) -> Result<State, String> {
    let mut decoder = Decoder::default();
    let fed = decoder.feed(body);
    fed.map_err(|error| error.to_string())?;
    decoder.finish().map_err(|error| error.to_string())
}

/// Makes a state of the newest snapshot and of the log after it, as a server does when it starts.
pub(super) fn replay(disk: &Disk) -> Replay {
    let recovered = disk.recovered();
    let mut replay = match &recovered.snapshot {
        None => Replay::default(),
        Some(meta) => {
            let (_, body) = disk.snapshot(meta.slot).expect("the log goes on from it");
            Replay::from_snapshot(meta, decode(body).expect("it was checked"))
        }
    };
    apply(disk, &mut replay, recovered.decided);
    assert_eq!(
        replay.slot,
        recovered.decided,
        "what is decided can be read: {}",
        disk.outline()
    );
    replay
}

/// Applies what can be read of the log up to `to`.
fn apply(disk: &Disk, replay: &mut Replay, to: Slot) {
    let (entries, _) = disk.read(replay.slot.next(), to, usize::MAX);
    for entry in &entries {
        replay.apply(entry).expect("our own entries can be read");
    }
}

impl World {
    /// A node's file work is done.
    pub(super) fn file_work_done(&mut self, node: usize, work: FileWork) -> Verdict {
        match work {
            FileWork::Compact(order) => self.compact(node, *order),
            FileWork::LoadChunk(load) => {
                let it = &mut self.nodes[node];
                let bytes = it.disk.chunk(load.slot, load.offset, load.bytes);
                let now = it.time(self.now);
                if let Some(core) = &mut it.core {
                    core.chunk_loaded(now, load.id, bytes);
                }
                Ok(())
            }
            FileWork::StoreChunk(chunk) => self.store_chunk(node, chunk),
        }
    }

    fn compact(&mut self, node: usize, order: Compact) -> Verdict {
        let it = &mut self.nodes[node];
        let now = it.time(self.now);
        let Some(core) = &mut it.core else {
            return Ok(());
        };
        let base = match &order.base {
            Base::Nothing => Some(Replay::default()),
            Base::Snapshot(meta) => it.disk.snapshot(meta.slot).map(|(meta, body)| {
                Replay::from_snapshot(meta, decode(body).expect("it was checked"))
            }),
            Base::State(_) => None,
        };
        let Some(mut replay) = base else {
            core.compact_failed(now, &CompactFailure::DamagedSnapshot);
            return Ok(());
        };
        let from = replay.slot;
        // What is applied need not be durable here yet.
        let durable = order.to.min(it.disk.decided());
        let (entries, damaged) = it.disk.read(from.next(), durable, usize::MAX);
        if let Some(slot) = damaged {
            core.damaged(now, slot);
            core.compact_failed(now, &CompactFailure::DamagedLog);
            return Ok(());
        }
        for entry in &entries {
            replay.apply(entry).expect("our own entries can be read");
        }
        let whole = replay.slot == order.to;
        let digest = order.digest.filter(|_| whole);
        let membership = replay.membership.take();
        let membership = membership.or_else(|| whole.then_some(order.membership));
        let more = replay.slot > from || from == order.to;
        let Some(membership) = membership.filter(|_| more) else {
            core.compact_failed(now, &CompactFailure::Overtaken);
            return Ok(());
        };
        if digest.is_some_and(|digest| digest != replay.state.digest()) {
            let detail = format!(
                "node {node}: the log up to {} makes another state than memory holds; {}",
                order.to,
                self.judge.undecided(&entries)
            );
            return Err(Violation::new(same_state::NAME, detail));
        }
        let body = Bytes::from(replay.state.encode().flatten().collect::<Vec<u8>>());
        let meta = SnapshotMeta {
            slot: replay.slot,
            origin: replay.origin,
            membership,
            bytes: body.len() as u64,
            crc: crc32c::crc32c(&body),
        };
        it.disk.keep(meta.clone(), body);
        core.snapshot_taken(now, meta);
        self.coverage.hit("snapshot taken");
        Ok(())
    }

    fn store_chunk(&mut self, node: usize, chunk: Chunk) -> Verdict {
        let it = &mut self.nodes[node];
        let now = it.time(self.now);
        let Some(core) = &mut it.core else {
            return Ok(());
        };
        let Chunk {
            meta,
            offset,
            bytes,
        } = chunk;
        let (stored, whole) = it.disk.store_chunk(&meta, offset, &bytes);
        let Some(body) = whole else {
            core.chunk_stored(now, meta, stored);
            return Ok(());
        };
        let state = decode(&body)
            .ok()
            .filter(|_| crc32c::crc32c(&body) == meta.crc);
        let Some(state) = state else {
            let detail = format!("node {node} was sent another snapshot than {meta:?}");
            return Err(Violation::new(same_state::NAME, detail));
        };
        it.disk.keep(meta.clone(), body);
        core.chunk_stored(now, meta.clone(), stored);
        core.snapshot_ready(now, meta, Box::new(state));
        self.coverage.hit("snapshot of a peer installed");
        self.story
            .landmark(self.now, || format!("node {node} has a peer's snapshot"));
        Ok(())
    }

    /// Brings the next change of the membership a step further: a node comes, joins, or leaves.
    pub(super) fn change_members(&mut self) {
        let Some(leader) = self.leader() else {
            return;
        };
        let Some(core) = &self.nodes[leader].core else {
            return;
        };
        let epoch = core.membership().epoch.0;
        let newest = core.membership().newest.0;
        let members: Vec<NodeId> = core.members().keys().copied().collect();
        let spare = (newest as usize..self.nodes.len()).find(|node| !self.nodes[*node].removed);
        let old = members[self.dice.index(members.len())];
        let leaves = members.len() > MEMBERS_MIN && self.dice.per_mille(400);
        let change = match spare {
            _ if leaves => MemberChange::Remove { node: old },
            Some(node) => {
                let (new, address) = (NodeId(node as u64 + 1), address(node));
                match members.len() < MEMBERS_MAX && self.dice.per_mille(500) {
                    true => MemberChange::Add { node: new, address },
                    false => MemberChange::Replace { old, new, address },
                }
            }
            None => return self.bring_a_node(),
        };
        self.story
            .landmark(self.now, || format!("an operator asks for {change:?}"));
        let now = self.nodes[leader].time(self.now);
        let Some(core) = &mut self.nodes[leader].core else {
            return;
        };
        let connection = core.operator_joined("operator".to_owned());
        let version = lockd_protocol::limits::CLIENT_PROTOCOL_VERSION;
        let hello = ClientFrame::Hello {
            version,
            cell: CELL,
        };
        core.client_frame(now, connection, hello);
        let query = Query::Reconfigure {
            epoch,
            change,
            quorums: None,
            force: false,
        };
        core.client_frame(
            now,
            connection,
            ClientFrame::Query {
                id: 1,
                query,
                stale: false,
            },
        );
        // Whoever asked does not wait for the answer: the membership tells.
        core.client_left(connection);
        self.turn_soon(leader);
    }

    fn bring_a_node(&mut self) {
        if self.nodes.len() >= NODES_MAX {
            return;
        }
        let node = self.nodes.len();
        let clock = super::draw_clock(&mut self.dice, &self.plan, 1);
        self.nodes.push(Node::learner(node, clock));
        self.coverage.hit("node brought");
        self.start_node(node);
    }

    /// One node's copy of a decided entry rots, where all others have theirs.
    pub(super) fn damage_disk(&mut self, node: usize) {
        if self.nodes.iter().any(|node| node.disk.is_damaged()) {
            return;
        }
        let slots = self.nodes[node].disk.readable();
        if !slots.is_empty() {
            let slot = slots[self.dice.index(slots.len())];
            self.nodes[node].disk.damage(slot);
            self.coverage.hit("entry damaged");
        }
    }

    /// Orders a node's file work, which takes a while.
    pub(super) fn order_file_work(&mut self, node: usize, work: FileWork) {
        let life = self.nodes[node].life;
        let delay = 1 + self.dice.around(self.plan.disk);
        self.after(delay, Event::Files { node, life, work });
    }
}
