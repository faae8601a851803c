//! Cores in memory under a virtual clock.

use super::*;

/// A cell whose disks are instant and whose network delivers at once, but for who is cut off.
pub(super) struct Cell {
    pub(super) now: Time,
    pub(super) cores: BTreeMap<NodeId, Core>,
    pub(super) paused: Vec<NodeId>,
    pub(super) inbox: VecDeque<(NodeId, NodeId, Message)>,
}

/// A client of one node.
pub(super) struct Client {
    pub(super) node: NodeId,
    pub(super) connection: ConnectionId,
    pub(super) decoder: Decoder,
}

/// All nodes, each at an address of its own.
pub(super) fn first_membership() -> Membership {
    let ids = (1..=NODES).map(paxos::NodeId);
    let member = |n| members::Member {
        address: format!("127.0.0.{n}:1"),
        incarnation: n,
    };
    let members: Members = (1..=NODES).map(|n| (NodeId(n), member(n))).collect();
    Membership {
        context: members::encode_members(&members),
        ..Membership::first(ids).expect("a membership")
    }
}

impl Cell {
    pub(super) fn new() -> Cell {
        Cell::made(Timing::default(), HistoryBounds::default())
    }

    /// A cell whose nodes remember so much for watches.
    pub(super) fn remembering(history: HistoryBounds) -> Cell {
        Cell::made(Timing::default(), history)
    }

    pub(super) fn with(timing: Timing) -> Cell {
        Cell::made(timing, HistoryBounds::default())
    }

    fn made(timing: Timing, history: HistoryBounds) -> Cell {
        let membership = first_membership();
        let cores = membership.members.iter().map(|id| {
            let config = Config {
                node: *id,
                seeds: Vec::new(),
                timing,
                seed: id.0,
            };
            let now = Time(1_000_000);
            let replica = Replica::new(config, Recovered::fresh(membership.clone()), now)
                .expect("a good configuration");
            let settings = Settings {
                cell: CELL,
                node: NodeId(id.0),
                signer: Signer::from_seed(CELL, &[1; 32]).expect("a seed"),
                compaction: CompactionBounds::default(),
                quotas: self::quota::Quotas::default(),
                history,
            };
            (
                NodeId(id.0),
                Core::new(settings, replica, Replay::default(), now),
            )
        });
        let cores = cores.collect();
        Cell {
            now: Time(1_000_000),
            cores,
            paused: Vec::new(),
            inbox: VecDeque::new(),
        }
    }

    /// A cell that has an established leader.
    pub(super) fn led() -> (Cell, NodeId) {
        let mut cell = Cell::new();
        let leader = cell.elect();
        (cell, leader)
    }

    pub(super) fn elect(&mut self) -> NodeId {
        for _ in 0..200 {
            self.run(50);
            let leads = |(id, core): (&NodeId, &Core)| {
                let live = !self.paused.contains(id);
                (live && core.leading.as_ref().is_some_and(|l| l.established)).then_some(*id)
            };
            if let Some(leader) = self.cores.iter().find_map(leads) {
                return leader;
            }
        }
        panic!("no leader within ten seconds");
    }

    /// Lets this many milliseconds pass.
    pub(super) fn run(&mut self, millis: u64) {
        for _ in 0..millis {
            self.settle();
            self.now = self.now.plus_micros(1000);
        }
        self.settle();
    }

    /// Takes turns until nothing moves any more at this time.
    pub(super) fn settle(&mut self) {
        loop {
            let mut moved = false;
            let live = self
                .cores
                .keys()
                .copied()
                .filter(|id| !self.paused.contains(id));
            for id in live.collect::<Vec<_>>() {
                moved |= self.turn(id);
            }
            let Some(round) = (!self.inbox.is_empty()).then(|| std::mem::take(&mut self.inbox))
            else {
                if moved {
                    continue;
                }
                return;
            };
            for (from, to, message) in round {
                if self.paused.contains(&to) {
                    continue;
                }
                let core = self.cores.get_mut(&to).expect("a member");
                core.peer_message(self.now, from, message);
            }
        }
    }

    pub(super) fn turn(&mut self, id: NodeId) -> bool {
        let core = self.cores.get_mut(&id).expect("a member");
        let work = core.turn(self.now).expect("not fatal");
        assert!(
            work.loads.is_empty(),
            "nothing is old enough to be read from disk"
        );
        let busy = core.watching.is_busy();
        let moved = busy || !work.writes.is_empty() || !work.messages.is_empty();
        for batch in work.writes {
            core.persisted(self.now, batch.id);
        }
        self.inbox.extend(
            work.messages
                .into_iter()
                .map(|(to, message)| (id, to, message)),
        );
        moved
    }

    /// A client with an operator's certificate.
    pub(super) fn connect(&mut self, node: NodeId) -> Client {
        self.connect_as(node, &Role::Operator("test".to_owned()))
    }

    pub(super) fn connect_as(&mut self, node: NodeId, role: &Role) -> Client {
        let core = self.cores.get_mut(&node).expect("a member");
        let connection = core.joined(role, "10.0.0.9:1234".to_owned());
        let client = Client {
            node,
            connection,
            decoder: Decoder::default(),
        };
        self.send(
            &client,
            ClientFrame::Hello {
                version: CLIENT_PROTOCOL_VERSION,
                cell: CELL,
            },
        );
        client
    }

    pub(super) fn send(&mut self, client: &Client, frame: ClientFrame) {
        let core = self.cores.get_mut(&client.node).expect("a member");
        core.client_frame(self.now, client.connection, frame);
    }

    /// Lets everything settle and returns what the client got.
    pub(super) fn received(&mut self, client: &mut Client) -> Vec<NodeFrame> {
        self.settle();
        let core = self.cores.get_mut(&client.node).expect("a member");
        let outgoing = core
            .take_outgoing(client.connection, Vec::new())
            .expect("connected");
        client.decoder.feed(&outgoing.bytes);
        std::iter::from_fn(|| client.decoder.next().expect("frames")).collect()
    }

    pub(super) fn ask(&mut self, client: &mut Client, frame: ClientFrame) -> Vec<NodeFrame> {
        self.send(client, frame);
        self.received(client)
    }

    /// A client of the leader with a session.
    pub(super) fn open(&mut self, leader: NodeId, nonce: u128) -> (Client, SessionId) {
        let mut client = self.connect(leader);
        let session = self.open_on(&mut client, nonce);
        (client, session)
    }

    /// Opens a session on a connection to the leader.
    pub(super) fn open_on(&mut self, client: &mut Client, nonce: u128) -> SessionId {
        let frames = self.ask(client, open(nonce));
        let session = frames.iter().find_map(|frame| match frame {
            NodeFrame::Opened { result, .. } => result.clone().ok(),
            _ => None,
        });
        session.unwrap_or_else(|| panic!("no session: {frames:?}"))
    }

    /// Sets the quotas of all nodes.
    pub(super) fn set_quotas(&mut self, quotas: &Quotas) {
        for core in self.cores.values_mut() {
            let settings = Arc::get_mut(&mut core.settings).expect("not shared");
            settings.quotas = quotas.clone();
        }
    }
}

pub(super) fn open(nonce: u128) -> ClientFrame {
    ClientFrame::Open {
        nonce: Nonce(nonce),
        ttl: TTL,
        about: About::described("test"),
    }
}
