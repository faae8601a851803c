//! A node: the real core, a disk in memory that forgets what was not synced, and a clock that is
//! slightly wrong.

use std::collections::{BTreeMap, VecDeque};

use lockd::server::core::clients::ConnectionId;
use lockd::server::core::{Core, Settings, apply_entry};
use lockd::state::State;
use lockd_protocol::client::ClientFrame;
use lockd_protocol::ticket::Signer;
use lockd_protocol::{CellId, NodeId};
use paxos::{
    Ballot, Config, Entry, Epoch, Message, Recovered, Replica, Slot, Time, Timing, WriteBatch,
};

pub(crate) const CELL: CellId = CellId([7; 16]);
pub(crate) const NODES: u64 = 3;

pub(crate) struct Node {
    id: u64,
    core: Option<Core>,
    disk: Disk,
    /// Written, not synced: when they will be.
    writes: VecDeque<(u64, WriteBatch)>,
    /// Until when it does nothing, in true milliseconds.
    paused_until: u64,
    /// How fast its clock is, per mille.
    rate: i64,
    lives: u64,
}

#[derive(Default)]
struct Disk {
    promised: Option<Ballot>,
    accepted: Option<Ballot>,
    decided: Slot,
    log: Vec<Entry>,
}

/// A clock that began at one second and runs off by `rate` per mille, in microseconds.
pub(crate) fn clock(now: u64, rate: i64) -> u64 {
    let now = i64::try_from(now * 1000).expect("a short simulation");
    u64::try_from(1_000_000 + now + now * rate / 1000).expect("later than the beginning")
}

impl Node {
    pub(crate) fn new(id: u64, rate: i64) -> Node {
        let mut node = Node {
            id,
            core: None,
            disk: Disk::default(),
            writes: VecDeque::new(),
            paused_until: 0,
            rate,
            lives: 0,
        };
        node.start(0);
        node
    }

    fn time(&self, now: u64) -> Time {
        Time(clock(now, self.rate))
    }

    pub(crate) fn is_up(&self) -> bool {
        self.core.is_some()
    }

    fn is_paused(&self, now: u64) -> bool {
        now < self.paused_until
    }

    pub(crate) fn pause(&mut self, until: u64) {
        self.paused_until = until;
    }

    /// Everything that was not synced is forgotten.
    pub(crate) fn crash(&mut self) {
        self.core = None;
        self.writes.clear();
        self.paused_until = 0;
    }

    /// Starts from the disk.
    pub(crate) fn start(&mut self, now: u64) {
        if self.core.is_some() {
            return;
        }
        self.lives += 1;
        let time = self.time(now);
        let members: Vec<_> = (1..=NODES).map(paxos::NodeId).collect();
        let config = Config {
            node: paxos::NodeId(self.id),
            members: members.clone(),
            timing: Timing::default(),
            seed: self.id << 32 | self.lives,
        };
        let (mut state, mut effects) = (State::default(), Vec::new());
        let known = usize::try_from(self.disk.decided.0).expect("a short log");
        for entry in &self.disk.log[..known] {
            apply_entry(&mut state, entry, &mut effects).expect("our own entries");
        }
        let recovered = Recovered {
            epoch: Epoch::FIRST,
            members,
            promised: self.disk.promised.unwrap_or(Ballot::NONE),
            accepted: self.disk.accepted.unwrap_or(Ballot::NONE),
            decided: self.disk.decided,
            entries: self.disk.log[known..].to_vec(),
        };
        let replica = Replica::new(config, recovered, time).expect("a good configuration");
        let addresses = (1..=NODES).map(|n| (NodeId(n), n.to_string()));
        let settings = Settings {
            cell: CELL,
            node: NodeId(self.id),
            addresses: addresses.collect::<BTreeMap<_, _>>(),
            signer: Signer::from_seed(CELL, &[1; 32]).expect("a seed"),
        };
        self.core = Some(Core::new(settings, replica, state, self.disk.decided, time));
    }

    pub(crate) fn join(&mut self) -> Option<ConnectionId> {
        Some(self.core.as_mut()?.client_joined("test".to_owned()))
    }

    pub(crate) fn leave(&mut self, connection: ConnectionId) {
        if let Some(core) = &mut self.core {
            core.client_left(connection);
        }
    }

    /// Which life this is: connections do not survive a crash.
    pub(crate) fn life(&self) -> u64 {
        self.lives
    }

    pub(crate) fn listens(&self, now: u64) -> bool {
        self.is_up() && !self.is_paused(now)
    }

    pub(crate) fn client_frame(&mut self, now: u64, from: ConnectionId, frame: ClientFrame) {
        let time = self.time(now);
        if let Some(core) = &mut self.core {
            core.client_frame(time, from, frame);
        }
    }

    pub(crate) fn peer_message(&mut self, now: u64, from: u64, message: Message) {
        let time = self.time(now);
        if let Some(core) = &mut self.core {
            core.peer_message(time, NodeId(from), message);
        }
    }

    pub(crate) fn take_bytes(&mut self, connection: ConnectionId) -> Vec<u8> {
        let core = self.core.as_mut();
        let outgoing = core.and_then(|core| core.take_outgoing(connection, Vec::new()));
        outgoing.map_or_else(Vec::new, |outgoing| outgoing.bytes)
    }

    /// Lets it act. What it writes is synced after `sync` milliseconds.
    pub(crate) fn turn(&mut self, now: u64, sync: u64) -> Vec<(u64, Message)> {
        if self.is_paused(now) {
            return Vec::new();
        }
        let time = self.time(now);
        let Some(core) = &mut self.core else {
            return Vec::new();
        };
        while self.writes.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, batch)) = self.writes.pop_front() {
                self.disk.write(&batch);
                core.persisted(time, batch.id);
            }
        }
        let work = core.turn(time).expect("not fatal");
        for load in work.loads {
            let from = usize::try_from(load.first.0 - 1).expect("a short log");
            let to = usize::try_from(load.last.0).expect("a short log");
            let entries = self.disk.log[from..to.min(self.disk.log.len())].to_vec();
            core.loaded(time, load.id, entries);
        }
        let after = self.writes.back().map_or(now, |(due, _)| *due);
        let writes = work.writes.into_iter();
        self.writes
            .extend(writes.map(|batch| (after.max(now + sync), batch)));
        work.messages
            .into_iter()
            .map(|(to, message)| (to.0, message))
            .collect()
    }

    /// Locks and sessions in its state, by its own account.
    pub(crate) fn counts(&mut self, now: u64) -> Option<(u64, u64)> {
        use lockd_protocol::client::{Answer, NodeFrame, Query};
        let connection = self.join()?;
        let hello = ClientFrame::Hello {
            version: lockd_protocol::limits::CLIENT_PROTOCOL_VERSION,
            cell: CELL,
        };
        self.client_frame(now, connection, hello);
        let query = Query::Status;
        self.client_frame(now, connection, ClientFrame::Query { id: 1, query });
        let mut decoder = lockd_protocol::frame::Decoder::default();
        decoder.feed(&self.take_bytes(connection));
        self.leave(connection);
        while let Some(frame) = decoder.next::<NodeFrame>().expect("frames") {
            if let NodeFrame::Answer {
                answer: Answer::Status(status),
                ..
            } = frame
            {
                return Some((status.locks, status.sessions));
            }
        }
        None
    }
}

impl Disk {
    fn write(&mut self, batch: &WriteBatch) {
        self.promised = batch.promised.or(self.promised);
        self.accepted = batch.accepted.or(self.accepted);
        if let Some(from) = batch.truncate_from {
            let keep = usize::try_from(from.0 - 1).expect("a short log");
            self.log.truncate(keep);
        }
        self.log.extend(batch.entries.iter().cloned());
        self.decided = self.decided.max(batch.decided);
    }
}
