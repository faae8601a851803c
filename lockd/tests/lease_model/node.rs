//! One node: the production core with its replica, a disk, a clock, and the driver between them.
//!
//! The replica's own clock stands still, in a future that the node's never reaches: when to
//! campaign and when a heartbeat is due is up to the checker. The node's clock runs its leases.

use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};

use lockd::server::core::clients::ConnectionId;
use lockd::server::core::compaction::CompactionBounds;
use lockd::server::core::history::HistoryBounds;
use lockd::server::core::members::{Member, Members, encode_members};
use lockd::server::core::quota::Quotas;
use lockd::server::core::replay::Replay;
use lockd::server::core::{Core, Fatal, Settings};
use lockd_protocol::client::{About, Answer, ClientFrame, Labels, MemberChange, NodeFrame, Query};
use lockd_protocol::frame::Decoder;
use lockd_protocol::planted::{self, Planted};
use lockd_protocol::ticket::Signer;
use lockd_protocol::{CellId, Nonce};
use paxos::message::{Accept, Body};
use paxos::{
    Ballot, Config, Membership, Message, NodeId, Replica, Role, Slot, Time, Timing, WriteBatch,
};

use crate::client::{NONCE, SESSION};
use crate::clock::TTL;
use crate::disk::Disk;

const CELL: CellId = CellId([7; 16]);

/// The replica's time.
const NEVER: Time = Time(1 << 60);

/// What a node's clock shows when it first starts.
const START: Time = Time(1_000_000_000);

/// How all nodes of an instance are set up.
#[derive(Clone, Debug)]
pub(crate) struct SetUp {
    pub(crate) first: Membership,
    /// Who is removed if a leader changes the membership.
    pub(crate) removes: Vec<u64>,
    /// The disk of the first leader takes its time; all others are instant.
    pub(crate) slow: bool,
    /// A heartbeat that is an event arrives, even if it says no more than what is decided.
    pub(crate) loud: bool,
    pub(crate) bugs: Vec<Planted>,
    pub(crate) replica_bug: Option<paxos::Planted>,
}

impl SetUp {
    /// The voters of an epoch, and how many of them accept.
    pub(crate) fn voters(&self, ballot: Ballot) -> (Vec<NodeId>, usize) {
        let mut voters = self.first.members.clone();
        if ballot.epoch > self.first.epoch {
            voters.retain(|voter| !self.removes.contains(&voter.0));
        }
        let quorum = voters.len() / 2 + 1;
        (voters, quorum)
    }
}

/// Three nodes.
pub(crate) fn first_membership() -> Membership {
    let ids = (1..=3).map(NodeId);
    let member = |n| Member {
        address: format!("127.0.0.{n}:1"),
        incarnation: n,
    };
    let members: Members = (1..=3)
        .map(|n| (lockd_protocol::NodeId(n), member(n)))
        .collect();
    let first = Membership::first(ids).expect("three members");
    Membership {
        context: encode_members(&members),
        ..first
    }
}

/// A node, up.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) core: Core,
    pub(crate) now: Time,
    /// The session's client, another client, and an operator.
    connections: [ConnectionId; 3],
    pub(crate) disk: Disk,
    /// The write that is given out and not known to be done.
    pub(crate) writing: Option<WriteBatch>,
    /// The cell goes on without it.
    pub(crate) removed: bool,
}

/// What can happen to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// A message of a peer comes: its number in the arena of messages.
    Deliver(u32),
    Campaign {
        round: u64,
    },
    Heartbeat,
    /// The session's client wants it opened.
    Open,
    KeepAlive {
        number: u8,
    },
    /// Another client opens another session.
    Write {
        nonce: u8,
    },
    /// Another client asks which sessions there are.
    Read {
        id: u8,
    },
    /// An operator changes the membership.
    Reconfigure,
    /// Its timer goes off.
    Wake,
    /// Time passes on its clock.
    Pass {
        micros: u32,
    },
    Persisted,
    /// Everything but the disk is lost; the write in flight is there all the same, or is not.
    Crash {
        written: bool,
    },
}

/// A message on its way.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Envelope {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) message: Message,
}

/// What an event did beside changing the node.
#[derive(Default)]
pub(crate) struct Effects {
    pub(crate) sent: Vec<Envelope>,
    /// Requests of the session's client that were answered, as bits.
    pub(crate) told: u8,
    /// How many sessions the other client was told of, by the number of its question.
    pub(crate) read: [Option<u8>; 2],
    pub(crate) panicked: bool,
}

impl Node {
    /// The node as it is when its cell is made.
    pub(crate) fn fresh(id: NodeId, set_up: &SetUp) -> Node {
        Node::start(id, Disk::fresh(set_up.first.clone()), START, set_up)
    }

    fn start(id: NodeId, disk: Disk, now: Time, set_up: &SetUp) -> Node {
        let config = Config {
            node: id,
            seeds: Vec::new(),
            timing: Timing::default(),
            seed: id.0,
        };
        let mut replay = Replay::default();
        for entry in disk.read(Slot(1), disk.decided) {
            replay.apply(&entry).expect("entries of this program");
        }
        let replica = Replica::new(config, disk.recovered(), NEVER);
        let mut replica = replica.expect("a disk that a replica wrote");
        if let Some(bug) = set_up.replica_bug {
            replica.plant(bug);
        }
        let settings = Settings {
            cell: CELL,
            node: lockd_protocol::NodeId(id.0),
            signer: Signer::from_seed(CELL, &[1; 32]).expect("a seed"),
            compaction: CompactionBounds::default(),
            quotas: Quotas::default(),
            history: HistoryBounds::default(),
        };
        let mut core = Core::new(settings, replica, replay, now);
        let connections = [
            core.client_joined("client".to_owned()),
            core.client_joined("other".to_owned()),
            core.operator_joined("operator".to_owned()),
        ];
        Node {
            id,
            core,
            now,
            connections,
            disk,
            writing: None,
            removed: false,
        }
    }

    /// The node after an event, and what else it did; none if the event cannot happen to it.
    pub(crate) fn after(
        &self,
        event: Event,
        message: Option<&Envelope>,
        set_up: &SetUp,
    ) -> Option<(Node, Effects)> {
        planted::plant_all(&set_up.bugs);
        let mut node = self.clone();
        let mut effects = Effects::default();
        // An assertion of the node is a finding too: caught, and told with the way to it.
        let run = catch_unwind(AssertUnwindSafe(|| {
            let happens = node.take(event, message, set_up);
            // No turn is taken while time passes: whatever comes first then has it.
            if happens && !matches!(event, Event::Pass { .. }) {
                let heartbeat = set_up.loud && event == Event::Heartbeat;
                node.turn(heartbeat, set_up, &mut effects);
            }
            happens
        }));
        match run {
            Ok(true) => Some((node, effects)),
            Ok(false) => None,
            Err(_) => {
                effects.panicked = true;
                Some((self.clone(), effects))
            }
        }
    }

    /// The ballot that it campaigns or leads under.
    pub(crate) fn ballot(&self) -> Option<Ballot> {
        let replica = self.core.replica();
        match replica.role() {
            Role::Follower { .. } | Role::Learner => None,
            Role::Candidate => Some(replica.status().promised),
            Role::Leader { leadership, .. } => Some(leadership),
        }
    }

    pub(crate) fn leads(&self) -> bool {
        self.core.leads()
    }

    fn take(&mut self, event: Event, message: Option<&Envelope>, set_up: &SetUp) -> bool {
        let (now, core) = (self.now, &mut self.core);
        let [client, other, operator] = self.connections;
        if self.removed {
            return false;
        }
        match event {
            Event::Deliver(_) => {
                let Some(envelope) = message else {
                    return false;
                };
                let from = lockd_protocol::NodeId(envelope.from.0);
                core.peer_message(now, from, envelope.message.clone());
            }
            Event::Campaign { round } => return core.campaign_now(now, round),
            Event::Heartbeat => return core.heartbeat_now(now),
            Event::Open => core.welcomed_frame(now, client, open(NONCE)),
            Event::Write { nonce } => {
                let nonce = Nonce(u128::from(nonce) + 100);
                core.welcomed_frame(now, other, open(nonce));
            }
            Event::KeepAlive { number } => {
                let (session, number) = (SESSION, number.into());
                let frame = ClientFrame::KeepAlive { session, number };
                core.welcomed_frame(now, client, frame);
            }
            Event::Read { id } => {
                let query = Query::Sessions {
                    after: None,
                    labels: Labels::new(),
                    limit: 100,
                };
                let id = id.into();
                core.welcomed_frame(
                    now,
                    other,
                    ClientFrame::Query {
                        id,
                        query,
                        stale: false,
                    },
                );
            }
            Event::Reconfigure => {
                let [node] = set_up.removes[..] else {
                    let mut voters = set_up.first.members.clone();
                    voters.retain(|voter| !set_up.removes.contains(&voter.0));
                    return core.reconfigure_now(now, voters);
                };
                let node = lockd_protocol::NodeId(node);
                let query = Query::Reconfigure {
                    epoch: core.membership().epoch.0,
                    change: MemberChange::Remove { node },
                    quorums: None,
                    force: true,
                };
                core.welcomed_frame(
                    now,
                    operator,
                    ClientFrame::Query {
                        id: 1,
                        query,
                        stale: false,
                    },
                );
            }
            Event::Wake => return core.is_due(now),
            Event::Pass { micros } => self.now = now.plus_micros(micros.into()),
            Event::Persisted => return self.persist(),
            Event::Crash { written } => {
                if written && !self.persist() {
                    return false;
                }
                *self = Node::start(self.id, self.disk.clone(), now, set_up);
            }
        }
        true
    }

    fn persist(&mut self) -> bool {
        let Some(batch) = self.writing.take() else {
            return false;
        };
        self.disk.write(&batch);
        self.core.persisted(self.now, batch.id);
        true
    }

    /// What a driver does with what the core gives out, until it gives out nothing more.
    fn turn(&mut self, heartbeat: bool, set_up: &SetUp, effects: &mut Effects) {
        loop {
            let work = match self.core.turn(self.now) {
                Ok(work) => work,
                Err(Fatal::Removed { .. }) => {
                    self.removed = true;
                    return;
                }
                Err(fatal) => panic!("{fatal}"),
            };
            for (to, message) in work.messages {
                let to = NodeId(to.0);
                if is_of_use(&message, heartbeat) {
                    let from = self.id;
                    effects.sent.push(Envelope { from, to, message });
                }
            }
            let mut again = false;
            for load in work.loads {
                let entries = self.disk.read(load.first, load.last);
                self.core.loaded(self.now, load.id, entries);
                again = true;
            }
            for batch in work.writes {
                assert!(self.writing.is_none(), "one write at a time");
                self.writing = Some(batch);
            }
            let instant = !(set_up.slow && self.id == NodeId(1));
            if instant && self.persist() {
                again = true;
            }
            if !again {
                break;
            }
        }
        for connection in self.connections {
            self.read_outbox(connection, effects);
        }
    }

    fn read_outbox(&mut self, connection: ConnectionId, effects: &mut Effects) {
        let outgoing = self.core.take_outgoing(connection, Vec::new());
        let Some(outgoing) = outgoing.filter(|outgoing| !outgoing.bytes.is_empty()) else {
            return;
        };
        let mut decoder = Decoder::default();
        decoder.feed(&outgoing.bytes);
        while let Some(frame) = decoder.next().expect("whole frames") {
            match frame {
                NodeFrame::KeptAlive { number, .. } => effects.told |= 1 << number,
                // A late Open that follows the end of the session opens another one, of which
                // the client here is not told.
                NodeFrame::Opened { nonce, result } if nonce == NONCE => {
                    effects.told |= u8::from(result == Ok(SESSION));
                }
                NodeFrame::Answer {
                    id,
                    answer: Answer::Sessions { sessions, .. },
                    ..
                } => effects.read[id as usize] = Some(sessions.len() as u8),
                // Where the leader is, that a session has ended, that somebody else's is open:
                // nothing of this makes the client believe for longer.
                _ => {}
            }
        }
    }
}

fn open(nonce: Nonce) -> ClientFrame {
    let (ttl, about) = (TTL, About::default());
    ClientFrame::Open { nonce, ttl, about }
}

/// Whether a message is not among those that are always lost: they plan campaigns, which here begin
/// whenever they like, tell a leader that it is none, which may come late for ever, or tell
/// nothing, unless a heartbeat is an event.
fn is_of_use(message: &Message, heartbeat: bool) -> bool {
    let idle = |accept: &Accept| accept.entries.is_empty() && accept.confirm.0 == 0;
    match &message.body {
        Body::Ping(_) | Body::Pong(_) | Body::Reject(_) | Body::Removed => false,
        Body::Accept(accept) => !idle(accept) || heartbeat,
        Body::Sync(sync) => !sync.entries.is_empty() || sync.confirm.0 > 0,
        Body::Learned(learned) => !learned.entries.is_empty(),
        _ => true,
    }
}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.id, self.removed, &self.disk).hash(state);
        if !self.removed {
            self.core.hash_at(self.now, NONCE, state);
            self.writing.hash(state);
        }
    }
}
