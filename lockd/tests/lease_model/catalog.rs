//! Every distinct node, client and message of an instance, and what each event does to each.
//!
//! The production code is deterministic, so it runs once for every distinct (node, event). What it
//! did is remembered, and most steps of the checker are look-ups of integers.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, PoisonError, RwLock};

use lockd::server::core::replay::apply_entry;
use lockd::state::command::{self, Command};
use lockd::state::{Effect, State};
use lockd_protocol::planted;
use paxos::{Ballot, Entry, EntryKind, Epoch};

use crate::arena::Arena;
use crate::client::{Client, ClientEvent, SESSION};
use crate::network::{Label, Position};
use crate::node::{Effects, Envelope, Event, Node, SetUp, first_membership};

/// A node, with what the checker asks of it all the time.
pub(crate) struct Known {
    pub(crate) node: Node,
    pub(crate) standing: Position,
    pub(crate) promised: Ballot,
    pub(crate) epoch: Epoch,
    pub(crate) established: bool,
    pub(crate) due: bool,
    pub(crate) writing: bool,
    pub(crate) removed: bool,
    /// The end of its epoch is in its log.
    pub(crate) stopping: bool,
    /// KeepAlives that wait for their confirmation here, as bits.
    pub(crate) renewing: u8,
    /// Sessions in the state.
    pub(crate) sessions: u8,
    /// Under which ballot the disk's log is.
    pub(crate) accepted: Ballot,
    /// The disk's log, as numbers of entries.
    pub(crate) log: Vec<u32>,
}

/// A client, with what the checker asks of it all the time.
pub(crate) struct KnownClient {
    client: Client,
    pub(crate) believes: bool,
    pub(crate) is_over: bool,
    pub(crate) waits_for: u8,
    /// Microseconds of its lease that are left.
    pub(crate) left: u64,
    /// All of its lease is left.
    pub(crate) is_fresh: bool,
}

/// A message, with what the checker asks of it all the time.
pub(crate) struct Sent {
    envelope: Envelope,
    pub(crate) label: Label,
}

/// What an event does to a node.
pub(crate) struct Step {
    pub(crate) node: u32,
    pub(crate) sent: Vec<u32>,
    pub(crate) told: u8,
    pub(crate) read: [Option<u8>; 2],
    pub(crate) panicked: bool,
}

/// What an event does to the client: its number then, and what it sends.
#[derive(Clone, Copy)]
pub(crate) struct ClientStep {
    pub(crate) client: u32,
    pub(crate) sent: u8,
}

/// What a decided log makes of the session.
#[derive(Clone, Copy, Default)]
pub(crate) struct Fate {
    /// It was open and has ended.
    pub(crate) ended: bool,
    /// An expiry of it was decided and had no effect.
    pub(crate) stale: bool,
}

/// See the module.
pub(crate) struct Catalog {
    pub(crate) set_up: SetUp,
    /// KeepAlives that the client may send.
    renewals: u8,
    nodes: Arena<Known>,
    clients: Arena<KnownClient>,
    messages: Arena<Sent>,
    entries: Arena<Entry>,
    steps: Memory<(u32, Event), Option<Arc<Step>>>,
    client_steps: Memory<(u32, ClientEvent), ClientStep>,
    fates: Memory<Vec<u32>, Fate>,
}

type Memory<K, V> = RwLock<HashMap<K, V>>;

/// What is remembered under `key`, or else what `find` finds.
fn recall<K: Clone + Eq + Hash, V: Clone>(
    memory: &Memory<K, V>,
    key: &K,
    find: impl FnOnce() -> V,
) -> V {
    let known = memory.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(value) = known.get(key) {
        return value.clone();
    }
    drop(known);
    let value = find();
    let mut known = memory.write().unwrap_or_else(PoisonError::into_inner);
    known.entry(key.clone()).or_insert(value).clone()
}

impl Hash for Known {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.node.hash(state);
    }
}

impl Hash for KnownClient {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.client.hash(state);
    }
}

impl Hash for Sent {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.envelope.hash(state);
    }
}

impl Catalog {
    pub(crate) fn new(set_up: SetUp, renewals: u8) -> Catalog {
        Catalog {
            set_up,
            renewals,
            nodes: Arena::new(),
            clients: Arena::new(),
            messages: Arena::new(),
            entries: Arena::new(),
            steps: Memory::default(),
            client_steps: Memory::default(),
            fates: Memory::default(),
        }
    }

    /// A cell whose first node leads and whose log all have (but not all know yet what of it is
    /// decided), and a client, with a session or not; nothing is on its way, and no time has
    /// passed.
    pub(crate) fn start(&self, opened: bool) -> ([u32; 3], u32) {
        let set_up = SetUp {
            slow: false,
            loud: false,
            first: first_membership(),
            ..self.set_up.clone()
        };
        let members = set_up.first.members.iter();
        let mut nodes: Vec<Node> = members.map(|id| Node::fresh(*id, &set_up)).collect();
        planted::plant_all(&set_up.bugs);
        let mut client = Client::new(self.renewals);
        let mut told = settle(&mut nodes, Event::Campaign { round: 1 }, &set_up);
        if opened {
            client.take(ClientEvent::Connect);
            told |= settle(&mut nodes, Event::Open, &set_up);
            assert_eq!(told, 1, "the session is open");
            client.take(ClientEvent::Opened);
        }
        settle(&mut nodes, Event::Heartbeat, &set_up);
        let nodes: Vec<u32> = nodes.into_iter().map(|node| self.know(node)).collect();
        let nodes = nodes.try_into().expect("three nodes");
        (nodes, self.know_client(client))
    }

    pub(crate) fn node(&self, number: u32) -> Arc<Known> {
        self.nodes.get(number)
    }

    pub(crate) fn client(&self, number: u32) -> Arc<KnownClient> {
        self.clients.get(number)
    }

    pub(crate) fn message(&self, number: u32) -> Arc<Sent> {
        self.messages.get(number)
    }

    /// How many distinct nodes were met, and how often the production code ran.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        let steps = self.steps.read().unwrap_or_else(PoisonError::into_inner);
        (self.nodes.len(), steps.len())
    }

    /// What the event does to the node; none if it cannot happen.
    pub(crate) fn step(&self, node: u32, event: Event) -> Option<Arc<Step>> {
        recall(&self.steps, &(node, event), || {
            self.run(node, event).map(Arc::new)
        })
    }

    fn run(&self, number: u32, event: Event) -> Option<Step> {
        let before = self.node(number);
        let message = match event {
            Event::Deliver(message) => Some(self.message(message)),
            _ => None,
        };
        let envelope = message.as_ref().map(|sent| &sent.envelope);
        let (after, effects) = before.node.after(event, envelope, &self.set_up)?;
        let Effects {
            sent,
            told,
            read,
            panicked,
        } = effects;
        let number = |envelope: Envelope| {
            let label = Label::of(&envelope);
            self.messages.number(Sent { envelope, label })
        };
        Some(Step {
            node: self.know(after),
            sent: sent.into_iter().map(number).collect(),
            told,
            read,
            panicked,
        })
    }

    /// What the event does to the client.
    pub(crate) fn client_step(&self, client: u32, event: ClientEvent) -> ClientStep {
        recall(&self.client_steps, &(client, event), || {
            planted::plant_all(&self.set_up.bugs);
            let mut after = self.client(client).client.clone();
            let sent = after.take(event);
            let client = self.know_client(after);
            ClientStep { client, sent }
        })
    }

    fn know(&self, node: Node) -> u32 {
        let status = node.core.replica().status();
        let log = node.disk.log.iter().cloned();
        let renewing = (1..=self.renewals).filter(|n| node.core.is_renewing((*n).into()));
        self.nodes.number(Known {
            standing: Position::of(&node),
            promised: status.promised,
            epoch: status.membership.epoch,
            established: node.core.is_established(),
            due: node.core.is_due(node.now),
            writing: node.writing.is_some(),
            removed: node.removed,
            stopping: node
                .disk
                .log
                .last()
                .is_some_and(|last| last.kind == EntryKind::Stop),
            renewing: renewing.fold(0, |all, number| all | 1 << number),
            sessions: node.core.state().session_count() as u8,
            accepted: node.disk.accepted,
            log: log.map(|entry| self.entries.number(entry)).collect(),
            node,
        })
    }

    fn know_client(&self, client: Client) -> u32 {
        self.clients.number(KnownClient {
            believes: client.believes(),
            is_over: client.is_over(),
            waits_for: client.waits_for(),
            left: client.left(),
            is_fresh: client.is_fresh(),
            client,
        })
    }

    /// What this decided log makes of the session.
    pub(crate) fn fate(&self, log: &[u32]) -> Fate {
        recall(&self.fates, &log.to_vec(), || {
            planted::plant_all(&self.set_up.bugs);
            self.replay(log)
        })
    }

    fn replay(&self, log: &[u32]) -> Fate {
        let mut state = State::default();
        let mut fate = Fate::default();
        let is_open = |state: &State| state.session_ttl(SESSION).is_some();
        for number in log {
            let entry = self.entries.get(*number);
            let before = is_open(&state);
            let mut effects: Vec<Effect> = Vec::new();
            apply_entry(&mut state, &entry, &mut effects).expect("entries of this program");
            fate.ended |= before && !is_open(&state);
            fate.stale |= before && is_open(&state) && expires(&entry);
        }
        fate
    }

    /// The event in words.
    pub(crate) fn tell(&self, event: Event) -> String {
        match event {
            Event::Deliver(message) => {
                let sent = self.message(message);
                let Envelope { from, message, .. } = &sent.envelope;
                format!("gets from {from}: {:?}", message.body)
            }
            other => format!("{other:?}"),
        }
    }
}

/// Whether a decided entry wants to end the session.
fn expires(entry: &Entry) -> bool {
    let wanted = |command: &Command| match command {
        Command::Expire { session, .. } => *session == SESSION,
        _ => false,
    };
    let commands = command::decode(&entry.payload);
    entry.kind == EntryKind::Command && commands.is_ok_and(|all| all.iter().any(wanted))
}

/// Something happens to the first node, and all that follows from it; what the client is told.
fn settle(nodes: &mut [Node], event: Event, set_up: &SetUp) -> u8 {
    let (first, effects) = nodes[0].after(event, None, set_up).expect("it happens");
    nodes[0] = first;
    let mut told = effects.told;
    let mut waiting = effects.sent;
    while !waiting.is_empty() {
        let envelope = waiting.remove(0);
        let index = envelope.to.0 as usize - 1;
        let after = nodes[index].after(Event::Deliver(0), Some(&envelope), set_up);
        let (node, effects) = after.expect("it is delivered");
        assert!(!effects.panicked, "no assertion fails");
        nodes[index] = node;
        told |= effects.told;
        waiting.extend(effects.sent);
    }
    told
}
