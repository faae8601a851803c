//! A node: the real core, a disk that forgets what was not synced, and a clock of its own; and the
//! driver that a server has around it.

use std::collections::VecDeque;

use lockd::server::core::clients::ConnectionId;
use lockd::server::core::members::{Member, Members, encode_members};
use lockd::server::core::quota::Quotas;
use lockd::server::core::{Core, Fatal, Settings, Work};
use lockd_protocol::client::ClientFrame;
use lockd_protocol::planted;
use lockd_protocol::ticket::Signer;
use lockd_protocol::{CellId, NodeId};
use paxos::{Config, Membership, Replica, Time, WriteBatch};

use super::clock::Clock;
use super::disk::Disk;
use super::invariants::{Violation, same_state};
use super::plan::Plan;
use super::snapshots::{self, FileWork};
use super::world::{Event, World};

pub(super) const CELL: CellId = CellId([7; 16]);

/// Seed of the key that signs tickets.
pub(super) const TICKET_SEED: [u8; 32] = [1; 32];

/// How long a node takes from an arrival to its turn, microseconds: what arrives meanwhile is
/// part of it.
const TURN_DELAY: u64 = 20;

pub(super) struct Node {
    pub(super) at: usize,
    pub(super) core: Option<Core>,
    pub(super) clock: Clock,
    pub(super) life: u64,
    /// The cell has gone on without it.
    pub(super) removed: bool,
    pub(super) disk: Disk,
    /// Given out and not done.
    writing: Option<WriteBatch>,
    pub(super) disk_slow_until: u64,
    pub(super) disk_stuck_until: u64,
    pub(super) paused_until: u64,
    /// What came while it was paused.
    held: VecDeque<Event>,
    turn_due: bool,
    /// When the timer that is set goes off, true time.
    timer: u64,
    /// It led for sure at its last turn.
    pub(super) leads: bool,
}

impl Node {
    /// A node of a cell that is made with so many.
    pub(super) fn new(at: usize, members: usize, clock: Clock) -> Node {
        Node::with(at, first_membership(members), clock)
    }

    /// A node that is to join.
    pub(super) fn learner(at: usize, clock: Clock) -> Node {
        Node::with(at, Membership::none(), clock)
    }

    fn with(at: usize, membership: Membership, clock: Clock) -> Node {
        Node {
            at,
            core: None,
            clock,
            life: 0,
            removed: false,
            disk: Disk::new(membership),
            writing: None,
            disk_slow_until: 0,
            disk_stuck_until: 0,
            paused_until: 0,
            held: VecDeque::new(),
            turn_due: false,
            timer: u64::MAX,
            leads: false,
        }
    }

    pub(super) fn listens(&self, now: u64) -> bool {
        self.core.is_some() && self.paused_until <= now
    }

    pub(super) fn time(&self, now: u64) -> Time {
        Time(self.clock.local(now))
    }

    /// Starts from the disk, as a server does: replays what is decided, then goes on.
    fn start(&mut self, now: u64, seeds: Vec<paxos::NodeId>, plan: &Plan, seed: u64) {
        self.life += 1;
        self.timer = u64::MAX;
        self.turn_due = false;
        let config = Config {
            node: paxos::NodeId(self.at as u64 + 1),
            seeds,
            timing: plan.timing,
            seed,
        };
        planted::run_as(self.at as u64);
        let replay = snapshots::replay(&self.disk);
        let time = self.time(now);
        let replica = Replica::new(config, self.disk.recovered(), time);
        let mut replica = replica.expect("a disk of our own");
        replica.tighten(plan.bounds);
        let settings = Settings {
            cell: CELL,
            node: NodeId(self.at as u64 + 1),
            signer: Signer::from_seed(CELL, &TICKET_SEED).expect("a seed of the right length"),
            compaction: plan.compaction,
            quotas: Quotas::default(),
            history: plan.history,
        };
        self.core = Some(Core::new(settings, replica, replay, time));
    }
}

/// The membership that a cell is made with.
fn first_membership(nodes: usize) -> Membership {
    let members: Members = (0..nodes)
        .map(|node| {
            let (address, incarnation) = (address(node), incarnation(node));
            let member = Member {
                address,
                incarnation,
            };
            (NodeId(node as u64 + 1), member)
        })
        .collect();
    let ids = (1..=nodes as u64).map(paxos::NodeId);
    let mut membership = Membership::first(ids).expect("3 or 5 nodes");
    membership.context = encode_members(&members);
    membership
}

/// A node's disk, as it introduces itself.
fn incarnation(node: usize) -> u64 {
    node as u64 + 1
}

/// A node's address.
pub(super) fn address(node: usize) -> String {
    format!("10.0.0.{}:7400", node + 1)
}

/// The node at an address.
pub(super) fn node_at(address: &str) -> Option<usize> {
    let number = address.strip_prefix("10.0.0.")?.strip_suffix(":7400")?;
    number.parse::<usize>().ok()?.checked_sub(1)
}

impl World {
    pub(super) fn start_node(&mut self, node: usize) {
        if self.nodes[node].core.is_some() || self.nodes[node].removed {
            return;
        }
        self.story
            .landmark(self.now, || format!("node {node} starts"));
        let seed = self.dice.any();
        let seeds = self.members.iter().map(|node| *node as u64 + 1);
        let seeds = seeds.map(paxos::NodeId).collect();
        self.nodes[node].start(self.now, seeds, &self.plan, seed);
        self.turn_soon(node);
    }

    pub(super) fn crash_node(&mut self, node: usize, until: u64) {
        if self.nodes[node].core.take().is_none() {
            return;
        }
        self.story
            .landmark(self.now, || format!("node {node} crashes"));
        let kept = self.dice.per_mille(300);
        let it = &mut self.nodes[node];
        it.held.clear();
        it.paused_until = 0;
        it.leads = false;
        if let Some(batch) = it.writing.take() {
            if kept {
                it.disk.write(batch);
            } else {
                self.coverage.hit("write to disk lost in a crash");
            }
        }
        self.break_streams_of_node(node);
        self.schedule(until, Event::NodeStarts { node });
    }

    pub(super) fn pause_node(&mut self, node: usize, until: u64) {
        if self.nodes[node].paused_until < until {
            self.nodes[node].paused_until = until;
            self.schedule(until, Event::NodeWakes { node });
        }
    }

    /// Everything that waited is handed in; whether before or after the next turn is up to chance.
    pub(super) fn wake_node(&mut self, node: usize) -> Result<(), Violation> {
        if self.nodes[node].paused_until > self.now {
            return Ok(());
        }
        if self.nodes[node].core.is_some() && self.dice.per_mille(300) {
            self.turn(node)?;
        }
        for event in std::mem::take(&mut self.nodes[node].held) {
            self.at_node(event)?;
        }
        self.turn_soon(node);
        Ok(())
    }

    pub(super) fn heal_node(&mut self, node: usize) -> Result<(), Violation> {
        self.nodes[node].disk_slow_until = 0;
        self.nodes[node].disk_stuck_until = 0;
        self.nodes[node].paused_until = 0;
        self.start_node(node);
        if let Some(batch) = &self.nodes[node].writing {
            let (id, life) = (batch.id, self.nodes[node].life);
            self.after(1, Event::Persisted { node, life, id });
        }
        self.wake_node(node)
    }

    pub(super) fn turn_soon(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        if !it.turn_due && it.core.is_some() {
            it.turn_due = true;
            let life = it.life;
            self.after(TURN_DELAY, Event::Turn { node, life });
        }
    }

    /// Something arrives at a node, unless it is another life's by now.
    pub(super) fn at_node(&mut self, event: Event) -> Result<(), Violation> {
        let (node, life) = match &event {
            Event::Turn { node, life }
            | Event::Persisted { node, life, .. }
            | Event::Loaded { node, life, .. }
            | Event::Files { node, life, .. }
            | Event::Timer { node, life } => (*node, *life),
            Event::Message { node, .. } => (*node, self.nodes[*node].life),
            Event::ToNode { stream, .. } | Event::Left { stream } => {
                let stream = &self.streams[*stream];
                (stream.node, stream.life)
            }
            _ => return Ok(()),
        };
        let it = &mut self.nodes[node];
        if it.life != life || it.core.is_none() {
            return Ok(());
        }
        if it.paused_until > self.now {
            it.held.push_back(event);
            return Ok(());
        }
        let now = it.time(self.now);
        let Some(core) = &mut it.core else {
            return Ok(());
        };
        planted::run_as(node as u64);
        match event {
            Event::Turn { .. } => {
                it.turn_due = false;
                return self.turn(node);
            }
            Event::Timer { .. } => {
                if it.timer > self.now {
                    return Ok(());
                }
                it.timer = u64::MAX;
                return self.turn(node);
            }
            Event::Files { work, .. } => self.file_work_done(node, work)?,
            Event::Message { from, message, .. } => {
                core.peer_seen(NodeId(from as u64 + 1), incarnation(from));
                core.peer_message(now, NodeId(from as u64 + 1), message);
            }
            Event::Persisted { id, .. } => {
                // A write may end twice in the queue: a healed disk finishes it early.
                match it.writing.take() {
                    Some(batch) if batch.id == id => {
                        let repaired = it.disk.write(batch);
                        self.coverage.add("damaged entry repaired", repaired);
                        core.persisted(now, id);
                    }
                    other => it.writing = other,
                }
            }
            Event::Loaded {
                id,
                entries,
                damaged,
                ..
            } => {
                if let Some(slot) = damaged {
                    core.damaged(now, slot);
                }
                core.loaded(now, id, entries);
            }
            Event::ToNode { stream, frame } => self.frame_at_node(stream, frame),
            Event::Left { stream } => core.client_left(self.streams[stream].connection),
            _ => {}
        }
        self.turn_soon(node);
        Ok(())
    }

    fn frame_at_node(&mut self, stream: usize, frame: ClientFrame) {
        let (node, connection) = (self.streams[stream].node, self.streams[stream].connection);
        self.streams[stream].packets += 1;
        if let ClientFrame::KeepAlive { session, number } = &frame {
            self.judge.expiry.on_received(self.now, *session, *number);
            if self.silenced == Some(*session) {
                self.last_heard = self.now;
            }
        }
        self.story
            .step(self.now, || format!("node {node} reads {frame:?}"));
        let now = self.nodes[node].time(self.now);
        if let Some(core) = &mut self.nodes[node].core {
            core.client_frame(now, connection, frame);
        }
    }

    fn turn(&mut self, node: usize) -> Result<(), Violation> {
        let it = &mut self.nodes[node];
        let now = it.time(self.now);
        let Some(core) = &mut it.core else {
            return Ok(());
        };
        planted::run_as(it.at as u64);
        let work = match core.turn(now) {
            Ok(work) => work,
            Err(Fatal::Removed { .. }) => {
                it.removed = true;
                self.coverage.hit("removed node ends");
                self.crash_node(node, self.now);
                return Ok(());
            }
            Err(fatal) => {
                let detail = format!("node {node} cannot go on: {fatal}");
                return Err(Violation::new(same_state::NAME, detail));
            }
        };
        let timer = it.clock.true_time(core.next_turn().0).max(self.now + 1);
        let leads = core.is_established();
        let began = leads && !it.leads;
        it.leads = leads;
        let (life, set) = (it.life, it.timer > timer);
        if set {
            it.timer = timer;
            self.schedule(timer, Event::Timer { node, life });
        }
        if began {
            self.led_since = Some(self.now);
            self.coverage.hit("leadership");
            self.story
                .landmark(self.now, || format!("node {node} leads"));
        }
        self.carry_out(node, work)?;
        self.look_at_silenced()
    }

    fn carry_out(&mut self, node: usize, work: Work) -> Result<(), Violation> {
        let life = self.nodes[node].life;
        for batch in work.writes {
            let delay = self.write_delay(node);
            if let Some(meta) = &batch.snapshot {
                let (slot, restart) = (meta.slot, batch.restart);
                self.story.landmark(self.now, || {
                    format!("node {node} goes on from the snapshot of {slot} (restart {restart})")
                });
            }
            let id = batch.id;
            self.nodes[node].writing = Some(batch);
            self.after(delay, Event::Persisted { node, life, id });
        }
        for load in work.loads {
            let disk = &self.nodes[node].disk;
            let (entries, damaged) = disk.read(load.first, load.last, load.bytes_max);
            let id = load.id;
            let delay = 1 + self.plan.disk / 10;
            self.after(
                delay,
                Event::Loaded {
                    node,
                    life,
                    id,
                    entries,
                    damaged,
                },
            );
        }
        for load in work.chunk_loads {
            self.order_file_work(node, FileWork::LoadChunk(load));
        }
        for chunk in work.chunks {
            self.order_file_work(node, FileWork::StoreChunk(chunk));
        }
        if let Some(order) = work.compact {
            self.order_file_work(node, FileWork::Compact(Box::new(order)));
        }
        if work.membership_changed {
            self.members_changed(node);
        }
        for (to, message) in work.messages {
            self.send_message(node, to.0 as usize - 1, message);
        }
        if !work.applied.is_empty() {
            let Some(core) = &self.nodes[node].core else {
                return Ok(());
            };
            let (now, name) = (self.now, node as u64);
            let news = self
                .judge
                .on_applied(now, name, &work.applied, core.state())?;
            self.take_news(&news)?;
        }
        // Their order is that of a hash table.
        let mut connections: Vec<ConnectionId> = work.clients;
        connections.sort_unstable();
        for connection in connections {
            self.write_to_client(node, connection)?;
        }
        Ok(())
    }

    /// A node knows of another membership; the newest one is what clients are configured with.
    fn members_changed(&mut self, node: usize) {
        let Some(core) = &self.nodes[node].core else {
            return;
        };
        let epoch = core.membership().epoch.0;
        if epoch > self.epoch {
            self.epoch = epoch;
            let members = core.members().keys();
            self.members = members.map(|id| id.0 as usize - 1).collect();
            self.coverage.hit("membership changed");
            let members = &self.members;
            self.story
                .landmark(self.now, || format!("epoch {epoch}: nodes {members:?}"));
        }
    }

    fn send_message(&mut self, from: usize, to: usize, message: paxos::Message) {
        let [first, second] =
            self.network
                .arrivals(&mut self.dice, &self.plan, self.now, (from, to));
        let lost = if first.is_none() { " (lost)" } else { "" };
        self.story.step(self.now, || {
            format!("node {from} -> {to} {:?}{lost}", message.body)
        });
        for at in [second, first].into_iter().flatten() {
            let message = message.clone();
            self.schedule(
                at,
                Event::Message {
                    node: to,
                    from,
                    message,
                },
            );
        }
    }

    fn write_delay(&mut self, node: usize) -> u64 {
        let it = &self.nodes[node];
        let stuck = it.disk_stuck_until.saturating_sub(self.now);
        let slow = if it.disk_slow_until > self.now { 30 } else { 1 };
        stuck + self.dice.around(slow * self.plan.disk)
    }

    /// The node that leads for sure and is awake, if there is one.
    pub(super) fn leader(&self) -> Option<usize> {
        let now = self.now;
        self.nodes
            .iter()
            .position(|node| node.leads && node.listens(now))
    }
}
