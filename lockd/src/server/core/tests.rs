//! Three cores in memory under a virtual clock: elections, renewals, expiry, redirects, breaks.

use super::*;
use std::collections::VecDeque;

use lockd_protocol::client::{
    Answer, ClientFrame, EndReason, NodeFrame, Operation, Outcome, Query, Wait,
};
use lockd_protocol::frame::{self, Decoder};
use lockd_protocol::limits::CLIENT_PROTOCOL_VERSION;
use lockd_protocol::{LockName, Millis, Mode, Nonce, Sequence, SessionId, Token};
use paxos::{Config, Recovered, Timing};

const CELL: CellId = CellId([7; 16]);
const TTL: Millis = Millis(2000);
const NODES: u64 = 3;

/// A cell whose disks are instant and whose network delivers at once, but for who is cut off.
struct Cell {
    now: Time,
    cores: BTreeMap<NodeId, Core>,
    paused: Vec<NodeId>,
    inbox: VecDeque<(NodeId, NodeId, Message)>,
}

/// A client of one node.
struct Client {
    node: NodeId,
    connection: ConnectionId,
    decoder: Decoder,
}

impl Cell {
    fn new() -> Cell {
        let members: Vec<_> = (1..=NODES).map(paxos::NodeId).collect();
        let cores = members.iter().map(|id| {
            let config = Config {
                node: *id,
                members: members.clone(),
                timing: Timing::default(),
                seed: id.0,
            };
            let now = Time(1_000_000);
            let replica = Replica::new(config, Recovered::fresh(members.clone()), now)
                .expect("a good configuration");
            let settings = Settings {
                cell: CELL,
                node: NodeId(id.0),
                addresses: (1..=NODES)
                    .map(|n| (NodeId(n), format!("node-{n}:1")))
                    .collect(),
                signer: Signer::from_seed(CELL, &[1; 32]).expect("a seed"),
            };
            (
                NodeId(id.0),
                Core::new(settings, replica, State::default(), Slot::NONE, now),
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
    fn led() -> (Cell, NodeId) {
        let mut cell = Cell::new();
        let leader = cell.elect();
        (cell, leader)
    }

    fn elect(&mut self) -> NodeId {
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
    fn run(&mut self, millis: u64) {
        for _ in 0..millis {
            self.settle();
            self.now = self.now.plus_micros(1000);
        }
        self.settle();
    }

    /// Takes turns until nothing moves any more at this time.
    fn settle(&mut self) {
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

    fn turn(&mut self, id: NodeId) -> bool {
        let core = self.cores.get_mut(&id).expect("a member");
        let work = core.turn(self.now).expect("not fatal");
        assert!(
            work.loads.is_empty(),
            "nothing is old enough to be read from disk"
        );
        let moved = !work.writes.is_empty() || !work.messages.is_empty();
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

    fn connect(&mut self, node: NodeId) -> Client {
        let core = self.cores.get_mut(&node).expect("a member");
        let connection = core.client_joined("test".to_owned());
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

    fn send(&mut self, client: &Client, frame: ClientFrame) {
        let core = self.cores.get_mut(&client.node).expect("a member");
        core.client_frame(self.now, client.connection, frame);
    }

    /// Lets everything settle and returns what the client got.
    fn received(&mut self, client: &mut Client) -> Vec<NodeFrame> {
        self.settle();
        let core = self.cores.get_mut(&client.node).expect("a member");
        let outgoing = core
            .take_outgoing(client.connection, Vec::new())
            .expect("connected");
        client.decoder.feed(&outgoing.bytes);
        std::iter::from_fn(|| client.decoder.next().expect("frames")).collect()
    }

    fn ask(&mut self, client: &mut Client, frame: ClientFrame) -> Vec<NodeFrame> {
        self.send(client, frame);
        self.received(client)
    }

    /// A client of the leader with a session.
    fn open(&mut self, leader: NodeId, nonce: u128) -> (Client, SessionId) {
        let mut client = self.connect(leader);
        let open = ClientFrame::Open {
            nonce: Nonce(nonce),
            ttl: TTL,
            label: "test".to_owned(),
        };
        let frames = self.ask(&mut client, open);
        let session = frames.iter().find_map(|frame| match frame {
            NodeFrame::Opened { result, .. } => result.clone().ok(),
            _ => None,
        });
        (
            client,
            session.unwrap_or_else(|| panic!("no session: {frames:?}")),
        )
    }
}

fn acquire(session: SessionId, sequence: u64, wait: Wait) -> ClientFrame {
    let lock = LockName::new("a").expect("a name");
    let operation = Operation::Acquire {
        lock,
        mode: Mode::Exclusive,
        wait,
        ticket: true,
    };
    request(session, sequence, operation)
}

fn request(session: SessionId, sequence: u64, operation: Operation) -> ClientFrame {
    let (sequence, acknowledged) = (Sequence(sequence), Sequence(sequence - 1));
    ClientFrame::Request {
        session,
        sequence,
        acknowledged,
        operation,
    }
}

fn granted(frames: &[NodeFrame]) -> Option<Token> {
    frames.iter().find_map(|frame| match frame {
        NodeFrame::Reply {
            outcome: Outcome::Granted { token },
            ticket: Some(_),
            ..
        } => Some(*token),
        _ => None,
    })
}

fn kept_alive(frames: &[NodeFrame], wanted: u64) -> bool {
    let mut frames = frames.iter();
    frames.any(|f| matches!(f, NodeFrame::KeptAlive { number, .. } if *number == wanted))
}

fn ended(frames: &[NodeFrame], wanted: EndReason) -> bool {
    let mut frames = frames.iter();
    frames.any(|f| matches!(f, NodeFrame::SessionEnded { reason, .. } if *reason == wanted))
}

#[test]
fn a_grant_comes_with_a_genuine_ticket() {
    let (mut cell, leader) = Cell::led();
    let (mut client, session) = cell.open(leader, 1);
    let frames = cell.ask(&mut client, acquire(session, 1, Wait::Try));
    let Some(NodeFrame::Reply {
        ticket: Some(ticket),
        ..
    }) = frames.first()
    else {
        panic!("no grant: {frames:?}");
    };
    let signer = Signer::from_seed(CELL, &[1; 32]).expect("a seed");
    let verifier =
        lockd_protocol::ticket::Verifier::new(CELL, [signer.public_key()]).expect("a key");
    let ticket = verifier.verify(ticket.as_str()).expect("genuine");
    assert_eq!(
        (Some(ticket.token), ticket.session),
        (granted(&frames), session)
    );
}

#[test]
fn a_node_that_does_not_lead_names_the_leader() {
    let (mut cell, leader) = Cell::led();
    cell.run(200);
    let follower = NodeId(leader.0 % NODES + 1);
    let mut client = cell.connect(follower);
    let frames = cell.received(&mut client);
    let address = format!("node-{leader}:1");
    assert!(matches!(frames[0], NodeFrame::Welcome { .. }));
    assert_eq!(
        frames[1],
        NodeFrame::Redirect {
            leader: Some((leader, address))
        }
    );
}

#[test]
fn bad_versions_other_cells_and_missing_hellos_are_dismissed_with_the_reason() {
    let (mut cell, leader) = Cell::led();
    let hello = |version, cell| ClientFrame::Hello { version, cell };
    for (frame, wanted) in [
        (hello(99, CELL), "version 99"),
        (
            hello(CLIENT_PROTOCOL_VERSION, CellId([9; 16])),
            "looks for cell 0909",
        ),
        (
            ClientFrame::KeepAlive {
                session: SessionId(1),
                number: 1,
            },
            "must be Hello",
        ),
    ] {
        let core = cell.cores.get_mut(&leader).expect("a member");
        let connection = core.client_joined("test".to_owned());
        let mut client = Client {
            node: leader,
            connection,
            decoder: Decoder::default(),
        };
        let frames = cell.ask(&mut client, frame);
        let [NodeFrame::Bye { reason }] = &frames[..] else {
            panic!("{frames:?}")
        };
        assert!(reason.contains(wanted), "{reason}");
    }
}

#[test]
fn a_session_that_is_renewed_lives_and_a_silent_one_expires_and_hands_its_lock_on() {
    let (mut cell, leader) = Cell::led();
    let (mut holder, held) = cell.open(leader, 1);
    let (mut waiter, waits) = cell.open(leader, 2);
    let first = granted(&cell.ask(&mut holder, acquire(held, 1, Wait::Try))).expect("free");
    assert_eq!(
        granted(&cell.ask(&mut waiter, acquire(waits, 1, Wait::Forever))),
        None
    );
    for number in 1..=10 {
        cell.run(TTL.0 / 2);
        for (client, session) in [(&mut holder, held), (&mut waiter, waits)] {
            let frames = cell.ask(client, ClientFrame::KeepAlive { session, number });
            assert!(kept_alive(&frames, number), "{frames:?}");
        }
    }
    // From here on only the waiter is heard.
    cell.run(TTL.0 / 2);
    cell.ask(
        &mut waiter,
        ClientFrame::KeepAlive {
            session: waits,
            number: 11,
        },
    );
    cell.run(TTL.0 / 2 + 1000);
    let second = granted(&cell.received(&mut waiter)).expect("handed on");
    assert!(second > first);
    assert!(ended(&cell.received(&mut holder), EndReason::Expired));
}

#[test]
fn a_leader_without_a_quorum_confirms_no_renewal() {
    let (mut cell, leader) = Cell::led();
    let (mut client, session) = cell.open(leader, 1);
    cell.paused = (1..=NODES).map(NodeId).filter(|id| *id != leader).collect();
    let frames = cell.ask(&mut client, ClientFrame::KeepAlive { session, number: 1 });
    assert!(!kept_alive(&frames, 1), "{frames:?}");
    cell.run(3000);
    let frames = cell.received(&mut client);
    assert!(!kept_alive(&frames, 1) && !ended(&frames, EndReason::Expired));
    assert!(
        frames.contains(&NodeFrame::Redirect { leader: None }),
        "it has stepped down"
    );
}

#[test]
fn after_a_failover_the_session_and_its_lock_are_still_there_and_retries_get_the_first_answer() {
    let (mut cell, leader) = Cell::led();
    let (mut client, session) = cell.open(leader, 1);
    let token = granted(&cell.ask(&mut client, acquire(session, 1, Wait::Try))).expect("free");
    cell.run(100);
    cell.paused = vec![leader];
    let next = cell.elect();
    assert_ne!(next, leader);
    let mut client = cell.connect(next);
    let frames = cell.ask(&mut client, ClientFrame::KeepAlive { session, number: 9 });
    assert!(kept_alive(&frames, 9), "{frames:?}");
    let retried = cell.ask(&mut client, acquire(session, 1, Wait::Try));
    assert_eq!(granted(&retried), Some(token));
    let lock = LockName::new("a").expect("a name");
    let frames = cell.ask(
        &mut client,
        request(session, 2, Operation::Release { lock, token }),
    );
    assert!(matches!(
        &frames[..],
        [NodeFrame::Reply {
            outcome: Outcome::Released,
            ..
        }]
    ));
    // The old leader wakes up and must not believe that it still leads.
    cell.paused.clear();
    cell.run(500);
    assert!(cell.cores[&leader].leading.is_none());
}

#[test]
fn a_leader_that_stood_still_expires_nobody_for_it() {
    let (mut cell, leader) = Cell::led();
    let (mut client, session) = cell.open(leader, 1);
    // The whole machine sleeps: every node is late, none was deposed.
    cell.now = cell.now.plus_micros(10 * TTL.0 * 1000);
    cell.settle();
    let leader = cell.elect();
    if leader != client.node {
        client = cell.connect(leader);
    }
    let frames = cell.ask(&mut client, ClientFrame::KeepAlive { session, number: 1 });
    assert!(kept_alive(&frames, 1), "{frames:?}");
}

#[test]
fn a_limited_wait_ends_in_time_and_leaves_the_queue() {
    let (mut cell, leader) = Cell::led();
    let (mut holder, held) = cell.open(leader, 1);
    cell.ask(&mut holder, acquire(held, 1, Wait::Try));
    let (mut waiter, waits) = cell.open(leader, 2);
    cell.ask(&mut waiter, acquire(waits, 1, Wait::For(Millis(300))));
    cell.run(290);
    assert_eq!(cell.received(&mut waiter), []);
    cell.run(20);
    let frames = cell.received(&mut waiter);
    assert!(matches!(
        &frames[..],
        [NodeFrame::Reply {
            outcome: Outcome::TimedOut,
            ..
        }]
    ));
}

#[test]
fn a_broken_holder_is_told_before_any_later_renewal_is_answered() {
    let (mut cell, leader) = Cell::led();
    let (mut holder, held) = cell.open(leader, 1);
    let token = granted(&cell.ask(&mut holder, acquire(held, 1, Wait::Try))).expect("free");
    let (mut operator, session) = cell.open(leader, 2);
    let lock = LockName::new("a").expect("a name");
    let operation = Operation::Break {
        lock: lock.clone(),
        reason: "stuck".into(),
        at_once: false,
    };
    let frames = cell.ask(&mut operator, request(session, 1, operation));
    let Some(NodeFrame::Reply {
        outcome:
            Outcome::Broken {
                token: broken,
                fence,
                ..
            },
        ..
    }) = frames.first()
    else {
        panic!("not broken: {frames:?}");
    };
    assert!(*broken == token && *fence > token);
    // The holder reconnects, so that whatever was pushed to it before is lost.
    holder = cell.connect(leader);
    cell.received(&mut holder);
    let frames = cell.ask(
        &mut holder,
        ClientFrame::KeepAlive {
            session: held,
            number: 5,
        },
    );
    assert!(matches!(
        &frames[..],
        [
            NodeFrame::Lost { .. },
            NodeFrame::KeptAlive { number: 5, .. }
        ]
    ));
    // It never lets go: after a TTL the lock moves all the same, and the session lives on.
    for number in 6..12 {
        cell.run(TTL.0 / 5);
        cell.ask(
            &mut holder,
            ClientFrame::KeepAlive {
                session: held,
                number,
            },
        );
        cell.ask(&mut operator, ClientFrame::KeepAlive { session, number });
    }
    let frames = cell.ask(&mut operator, acquire(session, 2, Wait::Try));
    assert!(
        granted(&frames).is_some_and(|token| token > *fence),
        "{frames:?}"
    );
    let frames = cell.ask(
        &mut holder,
        ClientFrame::KeepAlive {
            session: held,
            number: 12,
        },
    );
    assert!(
        matches!(&frames[..], [NodeFrame::KeptAlive { .. }]),
        "{frames:?}"
    );
}

#[test]
fn questions_are_answered_by_the_leader_after_a_confirmation() {
    let (mut cell, leader) = Cell::led();
    let (mut client, session) = cell.open(leader, 1);
    cell.ask(&mut client, acquire(session, 1, Wait::Try));
    let query = Query::Locks {
        prefix: String::new(),
        after: None,
        limit: 10,
    };
    let frames = cell.ask(&mut client, ClientFrame::Query { id: 3, query });
    let [
        NodeFrame::Answer {
            id: 3,
            answer: Answer::Locks { locks, more: false },
        },
    ] = &frames[..]
    else {
        panic!("{frames:?}");
    };
    assert_eq!(locks[0].holder, session);
    let frames = cell.ask(
        &mut client,
        ClientFrame::Query {
            id: 4,
            query: Query::Status,
        },
    );
    let [
        NodeFrame::Answer {
            answer: Answer::Status(status),
            ..
        },
    ] = &frames[..]
    else {
        panic!("{frames:?}");
    };
    assert!(status.leading && status.sessions == 1 && status.locks == 1);
}

#[test]
fn whatever_a_client_sends_the_node_goes_on() {
    let (mut cell, leader) = Cell::led();
    let (mut client, session) = cell.open(leader, 1);
    let name = LockName::new("never seen").expect("a name");
    let release = |token| Operation::Release {
        lock: name.clone(),
        token: Token(token),
    };
    for (sequence, operation) in [
        (u64::MAX, release(u64::MAX)),
        (0, release(0)),
        (
            5,
            Operation::Cancel {
                acquire: Sequence(u64::MAX),
            },
        ),
        (
            6,
            Operation::Cancel {
                acquire: Sequence(6),
            },
        ),
        (
            7,
            Operation::Break {
                lock: name.clone(),
                reason: String::new(),
                at_once: true,
            },
        ),
    ] {
        for session in [session, SessionId(0), SessionId(u64::MAX)] {
            let (sequence, acknowledged) = (Sequence(sequence), Sequence(u64::MAX));
            let operation = operation.clone();
            cell.send(
                &client,
                ClientFrame::Request {
                    session,
                    sequence,
                    acknowledged,
                    operation,
                },
            );
        }
    }
    cell.received(&mut client);
    let mut out = Vec::new();
    frame::encode(
        &ClientFrame::KeepAlive {
            session,
            number: u64::MAX,
        },
        &mut out,
    )
    .expect("a frame");
    let (_, fresh) = cell.open(leader, 2);
    assert_ne!(fresh, session);
}
