//! The session contract on a real cell: how long silent sessions really live, and who is told when
//! the holder of a lock dies that ten thousand wait for.

#![allow(
    clippy::unwrap_used,
    reason = "a set-up that fails is a test that fails"
)]

mod cli_support;
mod nodes;
mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lockd_protocol::client::{
    About, Acquire, ClientFrame, EndReason, NodeFrame, Operation, Outcome, Query, Wait,
};
use lockd_protocol::limits::{CLIENT_ALPN, TTL_MAX_MS};
use lockd_protocol::{LockName, Millis, Mode, Nonce, Sequence, SessionId};
use nodes::Nodes;
use support::{Raw, dial};

/// Sessions whose lives are measured at the same time.
const MEASURED: u64 = 200;

/// Who waits for one lock.
const WAITERS: u64 = 10_000;

/// Connections that carry them.
const CONNECTIONS: u64 = 4;

/// A cell, and where its leader answers clients.
struct Leader {
    nodes: Nodes,
    identity: PathBuf,
    address: SocketAddr,
}

impl Leader {
    fn of_a_new_cell() -> Leader {
        let nodes = Nodes::started();
        let leader = nodes.leader();
        let config = lockd::server::config::NodeConfig::load(&nodes.home(leader).join("node.toml"));
        let address = config.unwrap().address().unwrap();
        let identity = nodes.layout.clients[0].parent().unwrap().to_owned();
        Leader {
            nodes,
            identity,
            address,
        }
    }

    async fn connect(&self) -> Raw {
        let connection = dial(&self.identity, CLIENT_ALPN, self.address)
            .await
            .unwrap();
        let mut raw = Raw::open(connection).await;
        raw.hello(self.nodes.layout.cell).await;
        raw
    }
}

async fn open(raw: &mut Raw, nonce: u64, ttl: u64) {
    raw.say(&ClientFrame::Open {
        nonce: Nonce(u128::from(nonce)),
        ttl: Millis(ttl),
        about: About {
            description: "contract".to_owned(),
            ..About::default()
        },
    })
    .await;
}

async fn opened(raw: &mut Raw) -> SessionId {
    loop {
        if let Some(NodeFrame::Opened { result, .. }) = raw.hear().await {
            return result.unwrap();
        }
    }
}

async fn acquire(raw: &mut Raw, session: SessionId, wait: Wait) {
    let lock = LockName::new("contract").unwrap();
    raw.say(&ClientFrame::Request {
        session,
        sequence: Sequence(1),
        acknowledged: Sequence(0),
        operation: Operation::Acquire(Acquire::one(lock, Mode::Exclusive, wait)),
    })
    .await;
}

fn ms(of: Duration) -> f64 {
    of.as_secs_f64() * 1e3
}

/// Lives of sessions of one TTL after their last acknowledged renewal was sent, and after its
/// answer.
async fn lives(raw: &mut Raw, nonce: u64, ttl: u64) -> Vec<(Duration, Duration)> {
    let mut sessions = Vec::new();
    for n in 0..MEASURED {
        open(raw, nonce + n, ttl).await;
        sessions.push(opened(raw).await);
    }
    let (mut sent, mut answered, mut lived) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for session in sessions {
        let (session, number) = (session, 1);
        sent.insert(session, Instant::now());
        raw.say(&ClientFrame::KeepAlive { session, number }).await;
    }
    while lived.len() < MEASURED as usize {
        match raw.hear().await.unwrap() {
            NodeFrame::KeptAlive { session, .. } => {
                answered.insert(session, Instant::now());
            }
            NodeFrame::SessionEnded { session, reason } => {
                assert_eq!(reason, EndReason::Expired);
                lived.push((sent[&session].elapsed(), answered[&session].elapsed()));
            }
            _ => {}
        }
    }
    lived
}

#[tokio::test]
async fn a_silent_session_lives_for_its_ttl_and_how_much_longer_is_measured() {
    let leader = Leader::of_a_new_cell();
    let mut raw = leader.connect().await;
    println!("TTL ms | from sending the last renewal: least | from its answer: most | over TTL");
    for (n, ttl) in [500, 1_000, 3_000].into_iter().enumerate() {
        let lived = lives(&mut raw, 1 + n as u64 * MEASURED, ttl).await;
        let least = lived.iter().map(|(sent, _)| *sent).min().unwrap();
        let most = lived.iter().map(|(_, answered)| *answered).max().unwrap();
        let over = ms(most) - ttl as f64;
        println!("{ttl} | {:.1} | {:.1} | {over:.1}", ms(least), ms(most));
        // The cell counts from the receipt, which came after the sending. How long the end takes to
        // be told depends on how busy this machine is.
        assert!(least >= Duration::from_millis(ttl), "{least:?}");
    }
}

#[tokio::test]
async fn of_ten_thousand_waiters_on_a_real_cell_one_is_told_when_the_holder_dies() {
    let leader = Leader::of_a_new_cell();
    let mut holder = leader.connect().await;
    open(&mut holder, 0, 3_000).await;
    let dying = opened(&mut holder).await;
    acquire(&mut holder, dying, Wait::Try).await;
    let mut waiters = Vec::new();
    for connection in 0..CONNECTIONS {
        let mut raw = leader.connect().await;
        let each = WAITERS / CONNECTIONS;
        for n in 0..each {
            open(&mut raw, 1 + connection * each + n, TTL_MAX_MS).await;
        }
        let mut sessions = Vec::new();
        for _ in 0..each {
            sessions.push(opened(&mut raw).await);
        }
        for session in sessions {
            // The holder must not die before everybody waits.
            acquire(&mut raw, session, Wait::Forever).await;
            let number = session.0;
            let session = dying;
            holder
                .say(&ClientFrame::KeepAlive { session, number })
                .await;
        }
        let mut queued = 0;
        while queued < each {
            match raw.hear().await.unwrap() {
                NodeFrame::Reply {
                    outcome: Outcome::Queued { .. },
                    ..
                } => queued += 1,
                NodeFrame::Reply { outcome, .. } => panic!("{outcome:?}"),
                _ => {}
            }
        }
        waiters.push(raw);
    }
    // Nothing is heard of the holder any more.
    loop {
        if let NodeFrame::SessionEnded { session, reason } = holder.hear().await.unwrap() {
            assert_eq!((session, reason), (dying, EndReason::Expired));
            break;
        }
    }
    let mut told = Vec::new();
    for raw in &mut waiters {
        // What was sent before comes before the answer.
        let query = Query::Lock {
            lock: LockName::new("contract").unwrap(),
            skip_holders: 0,
            skip_waiters: 0,
            limit: 1,
        };
        let stale = false;
        raw.say(&ClientFrame::Query {
            id: 1,
            query,
            stale,
        })
        .await;
        loop {
            match raw.hear().await.unwrap() {
                NodeFrame::Answer { .. } => break,
                frame => told.push(frame),
            }
        }
    }
    assert_eq!(told.len(), 1, "{} frames", told.len());
    let granted = |frame: &NodeFrame| match frame {
        NodeFrame::Reply { outcome, .. } => outcome.granted_token(),
        _ => None,
    };
    assert!(granted(&told[0]).is_some(), "{told:?}");
}
