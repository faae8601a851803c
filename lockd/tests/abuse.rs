//! One client of a real cell does all that it can to be in the way, and another one works on; and a
//! certificate is of no use for the sessions of another one.

#![allow(
    clippy::unwrap_used,
    reason = "a set-up that fails is a test that fails"
)]

mod cli_support;
mod nodes;
mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lockd::server::config::NodeConfig;
use lockd_client::{Client, GuardState, Wait};
use lockd_protocol::client::{
    About, Acquire, ClientFrame, EndReason, Labels, NodeFrame, Operation, Outcome, Query, Refusal,
};
use lockd_protocol::limits::CLIENT_ALPN;
use lockd_protocol::{
    CellId, LockName, Millis, Mode, NodeId, Nonce, Sequence, SessionId, Token, frame,
};
use nodes::Nodes;
use support::{Raw, dial};

/// Cycles of the victim while the flood lasts.
const CYCLES: u64 = 25;

/// The victim's: short, but long enough for a machine that is busy with other tests.
const TTL: Duration = Duration::from_secs(10);

fn home(config: &Path) -> PathBuf {
    config.parent().unwrap().to_owned()
}

/// Who floods, and whom.
#[derive(Clone)]
struct Abuser {
    home: PathBuf,
    cell: CellId,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

impl Abuser {
    /// A connection, with a session if the node leads.
    async fn connect(&self) -> Option<(Raw, SessionId)> {
        let connection = dial(&self.home, CLIENT_ALPN, self.address).await.ok()?;
        let mut raw = Raw::open(connection).await;
        raw.hello(self.cell).await;
        raw.say(&open(rand_nonce())).await;
        loop {
            match raw.hear().await? {
                NodeFrame::Opened { result, .. } => return Some((raw, result.ok()?)),
                NodeFrame::Redirect { .. } => return Some((raw, SessionId(1))),
                _ => {}
            }
        }
    }

    /// Sends without reading, on one connection after the other, until it is told to stop.
    async fn flood(self, make: impl Fn(SessionId, u64) -> ClientFrame) {
        while !self.stop.load(Ordering::Relaxed) {
            let Some((mut raw, session)) = self.connect().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let mut n = 0;
            while !self.stop.load(Ordering::Relaxed) {
                let mut bytes = Vec::new();
                for _ in 0..500 {
                    n += 1;
                    frame::encode(&make(session, n), &mut bytes).unwrap();
                }
                let written = raw.send.write_all(&bytes);
                match tokio::time::timeout(Duration::from_secs(1), written).await {
                    Ok(Ok(())) => drop(self.sent.fetch_add(500, Ordering::Relaxed)),
                    // It was cut off, or is not read from any more.
                    _ => break,
                }
            }
            raw.connection.close(0u32.into(), b"");
        }
    }
}

fn rand_nonce() -> Nonce {
    static LAST: AtomicU64 = AtomicU64::new(1);
    let last = LAST.fetch_add(1, Ordering::Relaxed);
    Nonce(u128::from(last) << 64 | u128::from(std::process::id()))
}

fn open(nonce: Nonce) -> ClientFrame {
    ClientFrame::Open {
        nonce,
        ttl: Millis(1000),
        about: About::described("x".repeat(200)),
    }
}

fn acquire(session: SessionId, n: u64, name: &str, wait: Wait) -> ClientFrame {
    let wait = match wait {
        Wait::Forever => lockd_protocol::client::Wait::Forever,
        _ => lockd_protocol::client::Wait::Try,
    };
    let acquire = Acquire::one(LockName::new(name).unwrap(), Mode::Exclusive, wait);
    ClientFrame::Request {
        session,
        sequence: Sequence(n),
        acknowledged: Sequence(n - 1),
        operation: Operation::Acquire(acquire),
    }
}

fn keep_alive(session: u64, number: u64) -> ClientFrame {
    let session = SessionId(session);
    ClientFrame::KeepAlive { session, number }
}

fn question(id: u64) -> ClientFrame {
    let query = match id % 2 {
        0 => Query::Sessions {
            after: None,
            labels: Labels::new(),
            limit: 1000,
        },
        _ => Query::Locks {
            prefix: String::new(),
            after: None,
            limit: 1000,
        },
    };
    let stale = id.is_multiple_of(3);
    ClientFrame::Query { id, query, stale }
}

/// Floods nodes in every way, on one thread beside the victim's.
fn abuse(abusers: Vec<Abuser>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        let floods = abusers.into_iter().map(|abuser| async move {
            let each = || abuser.clone();
            tokio::join!(
                each().flood(|session, n| acquire(session, n, "abuse", Wait::Try)),
                each().flood(|session, n| acquire(session, n, "queue", Wait::Forever)),
                each().flood(|_, _| open(rand_nonce())),
                each().flood(|session, n| keep_alive(session.0, n)),
                each().flood(|_, n| keep_alive(n % 1000, n)),
                each().flood(|_, n| question(n)),
            );
        });
        let tasks = tokio::task::LocalSet::new();
        tasks.block_on(&runtime, async {
            let floods: Vec<_> = floods.map(tokio::task::spawn_local).collect();
            for flood in floods {
                flood.await.unwrap();
            }
        });
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_floods_a_cell_does_not_take_the_lock_of_another_client_nor_keep_it_from_working() {
    let nodes = Nodes::started();
    let [victim, abuser] = &nodes.layout.clients[..] else {
        panic!("two identities")
    };
    let config = NodeConfig::load(&nodes.layout.nodes[0]).unwrap();
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let client = Client::builder().config_file(victim).unwrap().ttl(TTL);
    let client = client.request_timeout(Duration::from_secs(60));
    let client = client.connect().await.unwrap();
    let guard = client.lock("victim").acquire().await.unwrap();

    let members = config.member.iter();
    let abusers = members.map(|member| Abuser {
        home: home(abuser),
        cell: config.cell(),
        address: member.address,
        stop: Arc::clone(&stop),
        sent: Arc::clone(&sent),
    });
    let flood = abuse(abusers.collect());
    let mut cycles = 0;
    // As long as it takes for both: so many cycles, under so much of a flood.
    while cycles < CYCLES || sent.load(Ordering::Relaxed) < 100_000 {
        let name = format!("work/{}", cycles % 7);
        let work = client.lock(name).acquire().await;
        let work = work.unwrap_or_else(|error| panic!("{error}\n{}", nodes.all_logs()));
        let released = work.release().await;
        released.unwrap_or_else(|error| panic!("{error}\n{}", nodes.all_logs()));
        cycles += 1;
        let state = guard.state();
        assert!(
            !matches!(state, GuardState::Lost { .. }),
            "after {cycles} cycles: {state:?}"
        );
    }
    stop.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    let frames = sent.load(Ordering::Relaxed);
    println!("{cycles} cycles beside {frames} frames of the flood");
    assert_eq!(
        client.session_id(),
        Some(guard.session()),
        "the first session"
    );
    guard.release().await.unwrap();
    client.close().await;
}

/// The node that leads, and a connection to it with another identity.
async fn at_the_leader(nodes: &Nodes, identity: &Path, id: NodeId) -> Raw {
    let config = NodeConfig::load(&nodes.layout.nodes[0]).unwrap();
    let member = config.member.iter().find(|member| member.id == id.0);
    let address = member.unwrap().address;
    let connection = dial(&home(identity), CLIENT_ALPN, address).await.unwrap();
    let mut raw = Raw::open(connection).await;
    raw.hello(config.cell()).await;
    raw
}

/// What the node says of this session.
async fn said_of(raw: &mut Raw, session: SessionId) -> NodeFrame {
    while let Some(frame) = raw.hear().await {
        match &frame {
            NodeFrame::KeptAlive { session: of, .. }
            | NodeFrame::SessionEnded { session: of, .. }
            | NodeFrame::Reply { session: of, .. }
                if *of == session =>
            {
                return frame;
            }
            _ => {}
        }
    }
    panic!("the node hung up")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_certificate_of_the_cell_neither_renews_nor_releases_nor_closes_a_session() {
    let nodes = Nodes::started();
    let [owner, other] = &nodes.layout.clients[..] else {
        panic!("two identities")
    };
    let client = Client::builder().config_file(owner).unwrap();
    let client = client.ttl(Duration::from_secs(20)).connect().await.unwrap();
    let guard = client.lock("mine").acquire().await.unwrap();
    let session = guard.session();
    let leader = client.status().await.unwrap().leader.unwrap();

    let mut raw = at_the_leader(&nodes, other, leader).await;
    raw.say(&keep_alive(session.0, 9)).await;
    let reason = EndReason::OtherIdentity;
    let told = NodeFrame::SessionEnded { session, reason };
    assert_eq!(said_of(&mut raw, session).await, told);
    let (acquire, token) = (Sequence(1), guard.token());
    let all = [
        Operation::Release { acquire, token },
        Operation::Release {
            acquire,
            token: Token(1),
        },
        Operation::Cancel { acquire },
        Operation::Close,
    ];
    for operation in all {
        raw.say(&ClientFrame::Request {
            session,
            sequence: Sequence(2),
            acknowledged: Sequence(1),
            operation,
        })
        .await;
        let NodeFrame::Reply { outcome, .. } = said_of(&mut raw, session).await else {
            panic!("a request gets its reply")
        };
        let Outcome::Refused(Refusal::OtherIdentity { asks, .. }) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(asks, "gateway");
    }
    let detail = client.who("mine").await.unwrap().unwrap();
    assert_eq!(detail.holders[0].session, session);
    assert_eq!(detail.holders[0].identity, "client");
    assert_eq!(guard.state(), GuardState::Held);
    guard.release().await.unwrap();
    client.close().await;
}
