//! Three cores in memory under a virtual clock: elections, renewals, expiry, redirects, breaks.

mod cell;
mod contract;
mod fairness;
mod identity;
mod listings;
mod watching;

use super::*;
use cell::{Cell, Client};
use std::collections::VecDeque;
use std::time::Duration;

use lockd_protocol::client::{
    About, Acquire, Answer, ClientFrame, EndReason, NodeFrame, Operation, Outcome, Query, Wait,
};
use lockd_protocol::frame::{self, Decoder};
use lockd_protocol::limits::CLIENT_PROTOCOL_VERSION;
use lockd_protocol::roles::Role;
use lockd_protocol::{LockName, Millis, Mode, Nonce, Sequence, SessionId, Token};
use paxos::{Config, Recovered, Timing};

const CELL: CellId = CellId([7; 16]);
const TTL: Millis = Millis(2000);
const NODES: u64 = 3;

fn acquire(session: SessionId, sequence: u64, wait: Wait) -> ClientFrame {
    let lock = LockName::new("a").expect("a name");
    let acquire = Acquire {
        ticket: true,
        ..Acquire::one(lock, Mode::Exclusive, wait)
    };
    request(session, sequence, Operation::Acquire(acquire))
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
            outcome, tickets, ..
        } if tickets.len() == 1 => outcome.granted_token(),
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
    let Some(NodeFrame::Reply { tickets, .. }) = frames.first() else {
        panic!("no grant: {frames:?}");
    };
    let [ticket] = &tickets[..] else {
        panic!("no ticket: {frames:?}");
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
    let address = format!("127.0.0.{leader}:1");
    assert!(matches!(frames[0], NodeFrame::Welcome { .. }));
    assert!(matches!(&frames[1], NodeFrame::Members { epoch: 1, members } if members.len() == 3));
    assert_eq!(
        frames[2],
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
    let acquire = Sequence(1);
    let frames = cell.ask(
        &mut client,
        request(session, 2, Operation::Release { acquire, token }),
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
        outcome: Outcome::Broken { holders, fence },
        ..
    }) = frames.first()
    else {
        panic!("not broken: {frames:?}");
    };
    assert!(*holders == [(held, token)] && *fence > token);
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
    let frames = cell.ask(
        &mut client,
        ClientFrame::Query {
            id: 3,
            query,
            stale: false,
        },
    );
    let [
        NodeFrame::Answer {
            id: 3,
            answer: Answer::Locks { locks, more: false },
            stale: None,
        },
    ] = &frames[..]
    else {
        panic!("{frames:?}");
    };
    assert_eq!(locks[0].holder, Some(session));
    let frames = cell.ask(
        &mut client,
        ClientFrame::Query {
            id: 4,
            query: Query::Status,
            stale: false,
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
        acquire: Sequence(token),
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
