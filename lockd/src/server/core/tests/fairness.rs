//! What one client takes leaves enough for the others.

use super::*;
use lockd_protocol::client::{Quota, Refusal};
use lockd_protocol::limits::FRAME_BYTES_MAX;

use crate::limits::{CLIENT_OUTBOX_BYTES_MAX, PENDING_COMMANDS_BYTES_MAX};

fn role(name: &str) -> Role {
    Role::Client(name.to_owned())
}

fn refusals(frames: &[NodeFrame]) -> Vec<&Refusal> {
    let each = frames.iter().filter_map(|frame| match frame {
        NodeFrame::Reply {
            outcome: Outcome::Refused(refusal),
            ..
        }
        | NodeFrame::Opened {
            result: Err(refusal),
            ..
        }
        | NodeFrame::Answer {
            answer: Answer::Refused(refusal),
            ..
        } => Some(refusal),
        _ => None,
    });
    each.collect()
}

/// The only refusal, in words.
fn refused(frames: &[NodeFrame]) -> String {
    match refusals(frames)[..] {
        [refusal] => refusal.to_string(),
        _ => panic!("{frames:?}"),
    }
}

fn try_lock(session: SessionId, sequence: u64, name: &str, wait: Wait) -> ClientFrame {
    let lock = LockName::new(name).expect("a name");
    let acquire = Acquire {
        ticket: true,
        ..Acquire::one(lock, Mode::Exclusive, wait)
    };
    request(session, sequence, Operation::Acquire(acquire))
}

#[test]
fn a_flood_in_one_turn_neither_delays_a_renewal_nor_takes_the_room_of_another_clients_request() {
    let (mut cell, leader) = Cell::led();
    let mut abuser = cell.connect_as(leader, &role("abuser"));
    let mut victim = cell.connect_as(leader, &role("victim"));
    let flood = cell.open_on(&mut abuser, 1);
    let session = cell.open_on(&mut victim, 2);
    let name = "x".repeat(200);
    let frames = PENDING_COMMANDS_BYTES_MAX as u64 / 150;
    for sequence in 1..=frames {
        cell.send(&abuser, try_lock(flood, sequence, &name, Wait::Try));
    }
    cell.send(&victim, acquire(session, 1, Wait::Try));
    cell.send(&victim, ClientFrame::KeepAlive { session, number: 1 });
    let core = cell.cores.get_mut(&leader).expect("a member");
    assert!(
        core.take_pause(abuser.connection) > Duration::ZERO,
        "it is to be read more slowly"
    );
    assert_eq!(core.take_pause(victim.connection), Duration::ZERO);
    let frames = cell.received(&mut victim);
    assert!(
        granted(&frames).is_some() && kept_alive(&frames, 1),
        "{frames:?}"
    );
    let said = cell.received(&mut abuser);
    assert!(refusals(&said).contains(&&Refusal::Busy));
}

#[test]
fn what_waits_for_a_client_that_does_not_read_is_bounded_and_it_is_cut_off() {
    let (mut cell, leader) = Cell::led();
    let mut abuser = cell.connect_as(leader, &role("abuser"));
    let session = cell.open_on(&mut abuser, 1);
    for n in 1..=30 {
        let name = format!("{}/{n}", "x".repeat(240));
        cell.ask(&mut abuser, try_lock(session, n, &name, Wait::Try));
    }
    for round in 0..4 {
        for number in 1000 * round..1000 * (round + 1) {
            let query = Query::Locks {
                prefix: String::new(),
                after: None,
                limit: 1000,
            };
            let (id, stale) = (number, true);
            cell.send(&abuser, ClientFrame::Query { id, query, stale });
            cell.send(&abuser, ClientFrame::KeepAlive { session, number });
        }
        cell.run(20);
    }
    let core = cell.cores.get_mut(&leader).expect("a member");
    let outgoing = core.take_outgoing(abuser.connection, Vec::new());
    let outgoing = outgoing.expect("its connection is still there");
    assert!(outgoing.close && outgoing.bytes.len() <= CLIENT_OUTBOX_BYTES_MAX + FRAME_BYTES_MAX);
}

#[test]
fn sessions_of_one_identity_have_a_quota_and_the_refusal_names_limit_and_remedy() {
    let (mut cell, leader) = Cell::led();
    cell.set_quotas(&Quotas {
        sessions_per_identity: 2,
        ..Quotas::default()
    });
    let mut client = cell.connect_as(leader, &role("a"));
    cell.received(&mut client);
    // Those that are still being opened count.
    (1..=3).for_each(|nonce| cell.send(&client, cell::open(nonce)));
    let text = refused(&cell.received(&mut client));
    assert!(text.contains("\"a\" has 2 sessions"), "{text}");
    assert!(
        text.contains("raise `sessions_per_identity` in [quota]"),
        "{text}"
    );
    let again = cell.ask(&mut client, cell::open(1));
    assert_eq!(
        refusals(&again),
        [] as [&Refusal; 0],
        "a retry is none more"
    );
    let mut other = cell.connect_as(leader, &role("b"));
    cell.open_on(&mut other, 9);
}

#[test]
fn acquisitions_of_a_session_and_waiters_of_a_lock_have_quotas_and_retries_keep_their_answers() {
    let (mut cell, leader) = Cell::led();
    cell.set_quotas(&Quotas {
        acquisitions_per_session: 2,
        waiters_per_lock: 1,
        ..Quotas::default()
    });
    let (mut holder, held) = cell.open(leader, 1);
    cell.ask(&mut holder, try_lock(held, 1, "a", Wait::Forever));
    let (mut waiter, waits) = cell.open(leader, 2);
    cell.ask(&mut waiter, try_lock(waits, 1, "a", Wait::Forever));
    let (mut third, late) = cell.open(leader, 3);
    let frames = cell.ask(&mut third, try_lock(late, 1, "a", Wait::Forever));
    let text = refused(&frames);
    assert!(text.contains("lock \"a\" has 1 waiters"), "{text}");
    assert!(text.contains("raise `waiters_per_lock`"), "{text}");
    // A late copy of it queues nowhere.
    let frames = cell.ask(&mut third, try_lock(late, 1, "b", Wait::Forever));
    assert!(matches!(refusals(&frames)[..], [Refusal::Quota { .. }]));
    // A copy of what waits already goes on waiting.
    let frames = cell.ask(&mut waiter, try_lock(waits, 1, "a", Wait::Forever));
    let queued = |frame: &NodeFrame| {
        matches!(
            frame,
            NodeFrame::Reply {
                outcome: Outcome::Queued { .. },
                ..
            }
        )
    };
    assert!(frames.iter().any(queued), "{frames:?}");

    cell.ask(&mut holder, try_lock(held, 2, "b", Wait::Try));
    let text = refused(&cell.ask(&mut holder, try_lock(held, 3, "c", Wait::Try)));
    assert!(text.contains("the session has 2 acquisitions"), "{text}");
}

#[test]
fn a_rate_over_its_quota_is_refused_for_a_moment_and_renewals_do_not_count() {
    let (mut cell, leader) = Cell::led();
    let mut client = cell.connect_as(leader, &role("a"));
    let session = cell.open_on(&mut client, 1);
    cell.set_quotas(&Quotas {
        requests_per_second: 10,
        ..Quotas::default()
    });
    cell.run(100);
    let name = |n| format!("lock/{n}");
    for n in 1..=30 {
        cell.send(&client, try_lock(session, n, &name(n), Wait::Try));
    }
    cell.send(&client, ClientFrame::KeepAlive { session, number: 1 });
    let frames = cell.received(&mut client);
    let refused = refusals(&frames);
    assert!((10..30).contains(&refused.len()), "{}", refused.len());
    assert!(refused.iter().all(|refusal| refusal.is_momentary()));
    let quota = Quota::RequestsPerSecond {
        identity: "a".to_owned(),
        limit: 10,
    };
    assert_eq!(refused[0], &Refusal::Quota { quota });
    assert!(kept_alive(&frames, 1));
    cell.run(1000);
    let again = cell.ask(&mut client, try_lock(session, 30, &name(30), Wait::Try));
    assert!(granted(&again).is_some(), "{again:?}");
}
