//! The session contract on whole nodes: how long a session lives at least and at most, through
//! elections, stalls and leaders that change all the time. Where another lock service got it wrong,
//! the comment says which.

use super::*;

use crate::limits::EXPIRY_GRACE;
use lockd_protocol::client::{Labels, Refusal};
use lockd_protocol::limits::{TTL_MAX_MS, TTL_MIN_MS};

/// A session is expired at most this long after its TTL.
const LATEST_MS: u64 = 1000;

/// Nodes that are in no hurry: a day of theirs is soon simulated.
fn unhurried() -> Timing {
    Timing {
        heartbeat_micros: 20_000_000,
        leader_timeout_micros: 100_000_000,
        ..Timing::default()
    }
}

impl Cell {
    /// Lets time pass from one timer to the next.
    fn pass(&mut self, millis: u64) {
        let end = self.now.plus_micros(millis * 1000);
        loop {
            self.settle();
            let live = self
                .cores
                .iter()
                .filter(|(id, _)| !self.paused.contains(id));
            let next = live.map(|(_, core)| core.next_turn()).min();
            match next.filter(|next| *next < end) {
                Some(next) => self.now = next.max(self.now.plus_micros(1)),
                None => break,
            }
        }
        self.now = end;
        self.settle();
    }

    fn open_for(&mut self, leader: NodeId, nonce: u128, ttl: Millis) -> (Client, SessionId) {
        let mut client = self.connect(leader);
        let open = ClientFrame::Open {
            nonce: Nonce(nonce),
            ttl,
            about: About::default(),
        };
        let frames = self.ask(&mut client, open);
        let session = frames.iter().find_map(|frame| match frame {
            NodeFrame::Opened { result, .. } => result.clone().ok(),
            _ => None,
        });
        (client, session.expect("a session"))
    }

    fn lives(&self, session: SessionId) -> bool {
        let mut states = self.cores.values().map(|core| &core.state);
        states.all(|state| state.session_ttl(session).is_some())
    }

    /// Whether the node that leads has ended the session.
    fn has_ended(&self, session: SessionId) -> bool {
        let leads = |core: &&Core| core.is_established();
        let mut states = self.cores.values().filter(leads).map(|core| &core.state);
        states.any(|state| state.session_ttl(session).is_none())
    }

    /// Another node leads, without the one that led.
    fn depose(&mut self, leader: NodeId) -> NodeId {
        self.paused = vec![leader];
        let next = self.elect();
        // The old one hears of it, and follows.
        self.paused.clear();
        self.run(100);
        next
    }
}

fn keep_alive(session: SessionId, number: u64) -> ClientFrame {
    ClientFrame::KeepAlive { session, number }
}

#[test]
fn a_session_lives_for_its_ttl_after_its_last_renewal_and_not_a_second_longer() {
    for ttl in [TTL_MIN_MS, 777, 2_000, 10_000, 3_600_000, TTL_MAX_MS] {
        let mut cell = Cell::with(unhurried());
        let leader = cell.elect();
        let (mut client, session) = cell.open_for(leader, 1, Millis(ttl));
        for number in 1..=3 {
            cell.pass(ttl * number / 3 - 1);
            let frames = cell.ask(&mut client, keep_alive(session, number));
            assert!(kept_alive(&frames, number), "TTL {ttl}: {frames:?}");
        }
        cell.pass(ttl + EXPIRY_GRACE.as_millis() as u64 - 1);
        assert!(cell.lives(session), "TTL {ttl}");
        cell.pass(LATEST_MS - EXPIRY_GRACE.as_millis() as u64);
        assert!(cell.has_ended(session), "TTL {ttl}");
        assert!(ended(&cell.received(&mut client), EndReason::Expired));
    }
}

#[test]
fn a_ttl_outside_of_the_range_is_refused_with_the_range() {
    let (mut cell, leader) = Cell::led();
    for (nonce, ttl) in [0, TTL_MIN_MS - 1, TTL_MAX_MS + 1, u64::MAX]
        .into_iter()
        .enumerate()
    {
        let mut client = cell.connect(leader);
        let open = ClientFrame::Open {
            nonce: Nonce(nonce as u128),
            ttl: Millis(ttl),
            about: About::default(),
        };
        let frames = cell.ask(&mut client, open);
        let refused = Err(Refusal::BadTtl {
            min_ms: TTL_MIN_MS,
            max_ms: TTL_MAX_MS,
        });
        assert!(
            frames
                .iter()
                .any(|f| matches!(f, NodeFrame::Opened { result, .. } if *result == refused)),
            "{frames:?}"
        );
    }
}

// hashicorp/consul#1162 and pull request 912, etcd-io/etcd#2660: locks were lost because nobody
// could renew while a leader was elected.
#[test]
fn an_election_of_any_length_below_the_clients_deadline_costs_no_session() {
    for tenths in 1..=9 {
        let (mut cell, leader) = Cell::led();
        let (_, session) = cell.open(leader, 1);
        let before = cell.now;
        // No two nodes can speak: nobody leads for so long.
        cell.paused = (1..=NODES).map(NodeId).collect();
        cell.run(TTL.0 * tenths / 10);
        assert!(cell.now.micros_since(before) / 1000 < TTL.client_lease().0);
        cell.paused.clear();
        let next = cell.elect();
        let mut client = cell.connect(next);
        let frames = cell.ask(&mut client, keep_alive(session, 1));
        assert!(
            kept_alive(&frames, 1),
            "{tenths} tenths of the TTL: {frames:?}"
        );
    }
}

// Chubby's rule, which Consul and etcd did not keep (hashicorp/consul#985): while there is no
// leader no session ends, however long that is.
#[test]
fn while_there_is_no_leader_no_session_ends() {
    let (mut cell, leader) = Cell::led();
    let (_, session) = cell.open(leader, 1);
    cell.run(100);
    cell.paused = vec![
        NodeId(leader.0 % NODES + 1),
        NodeId((leader.0 + 1) % NODES + 1),
    ];
    cell.run(5 * TTL.0);
    assert!(cell.lives(session));
    cell.paused.clear();
    let next = cell.elect();
    let mut client = cell.connect(next);
    assert!(kept_alive(
        &cell.ask(&mut client, keep_alive(session, 1)),
        1
    ));
}

// etcd-io/etcd#15247 and #12528: a leader that was stuck in its disk was deposed, woke up, and
// revoked every lease that had been renewed elsewhere in the meantime.
#[test]
fn a_leader_that_stood_still_and_was_deposed_expires_nobody() {
    let (mut cell, leader) = Cell::led();
    let (mut client, session) = cell.open(leader, 1);
    let token = granted(&cell.ask(&mut client, acquire(session, 1, Wait::Try))).expect("free");
    cell.paused = vec![leader];
    let next = cell.elect();
    let mut client = cell.connect(next);
    for number in 1..=12 {
        cell.run(TTL.0 / 3);
        assert!(kept_alive(
            &cell.ask(&mut client, keep_alive(session, number)),
            number
        ));
    }
    // By its own clock all sessions are long over when it goes on.
    cell.paused.clear();
    for number in 13..=24 {
        cell.run(TTL.0 / 12);
        assert!(kept_alive(
            &cell.ask(&mut client, keep_alive(session, number)),
            number
        ));
    }
    let again = granted(&cell.ask(&mut client, acquire(session, 1, Wait::Try)));
    assert_eq!(again, Some(token));
}

// etcd-io/etcd#9395 and #20273: each new leader began all TTLs anew, so that a dead holder's lock
// was never freed; #17132: what had been noted of them was lost with the third leader.
#[test]
fn leaders_that_change_all_the_time_free_a_dead_holders_lock_and_no_live_ones() {
    for led_for in [TTL.0 / 2, TTL.0 / 2 + 137, TTL.0 / 4] {
        let (mut cell, mut leader) = Cell::led();
        let (_, dead) = cell.open(leader, 1);
        let (mut client, live) = cell.open(leader, 2);
        let token = granted(&cell.ask(&mut client, acquire(live, 1, Wait::Try))).expect("free");
        let (died, mut number, mut led, mut gone) = (cell.now, 0, 0, None);
        for _ in 0..20 {
            leader = cell.depose(leader);
            client = cell.connect(leader);
            let began = cell.now;
            while cell.now.micros_since(began) / 1000 < led_for {
                number += 1;
                let frames = cell.ask(&mut client, keep_alive(live, number));
                assert!(kept_alive(&frames, number), "{frames:?}");
                cell.run(10);
                led += 10;
                if cell.has_ended(dead) {
                    gone = gone.or(Some((led, cell.now.micros_since(died) / 1000)));
                }
            }
        }
        let (led, gone) = gone.expect("it is expired");
        println!(
            "TTL {} ms, a leader every {led_for} ms and an election: expired after {gone} ms, \
             of which somebody led for {led} ms",
            TTL.0
        );
        assert!(gone >= TTL.0 && led <= 2 * TTL.0, "{led} of {gone} ms");
        let held = granted(&cell.ask(&mut client, acquire(live, 1, Wait::Try)));
        assert_eq!(held, Some(token));
    }
}

/// How long a session lives that was called silent, was renewed, and fell silent again; and whether
/// the log still called it so when it was told of the renewal.
fn lives_after_coming_back() -> (u64, bool) {
    let (mut cell, leader) = Cell::led();
    let (mut client, session) = cell.open(leader, 1);
    cell.run(TTL.0 * 7 / 8);
    let silent = |cell: &Cell, node| cell.cores[&node].state.silent_for(session);
    assert!(silent(&cell, leader).is_some_and(|spent| spent.0 > TTL.0 / 2));
    let frames = cell.ask(&mut client, keep_alive(session, 1));
    assert!(kept_alive(&frames, 1), "{frames:?}");
    let called_silent = silent(&cell, leader).is_some();
    let renewed = cell.now;
    cell.depose(leader);
    while !cell.has_ended(session) {
        cell.run(1);
    }
    (cell.now.micros_since(renewed) / 1000, called_silent)
}

#[test]
fn a_session_that_was_called_silent_and_came_back_has_its_whole_ttl_under_the_next_leader() {
    let (lived, called_silent) = lives_after_coming_back();
    assert!(
        !called_silent,
        "the log says that it was heard before it is told so"
    );
    assert!(lived >= TTL.0, "{lived} ms");
}

#[test]
fn were_it_renewed_while_the_log_calls_it_silent_the_next_leader_would_end_it_early() {
    planted::plant(Some(Planted::SilentRenewed));
    let (lived, called_silent) = lives_after_coming_back();
    planted::plant(None);
    assert!(called_silent && lived < TTL.0, "{lived} ms");
}

#[test]
fn a_renewal_of_a_silent_session_is_not_answered_by_a_leader_that_cannot_say_so_in_the_log() {
    let (mut cell, leader) = Cell::led();
    let (mut client, session) = cell.open(leader, 1);
    cell.run(TTL.0 * 7 / 8);
    cell.send(&client, keep_alive(session, 1));
    cell.paused = (1..=NODES)
        .map(NodeId)
        .filter(|node| *node != leader)
        .collect();
    let frames = cell.received(&mut client);
    assert!(!kept_alive(&frames, 1), "{frames:?}");
}

#[test]
fn a_renewal_under_a_leader_that_was_just_elected_ends_the_silence_that_was_noted_before() {
    let (mut cell, leader) = Cell::led();
    let (_, session) = cell.open(leader, 1);
    cell.run(TTL.0 * 7 / 8);
    cell.paused = vec![leader];
    let next = cell.elect();
    let mut client = cell.connect(next);
    assert!(kept_alive(
        &cell.ask(&mut client, keep_alive(session, 1)),
        1
    ));
    assert_eq!(cell.cores[&next].state.silent_for(session), None);
    cell.run(TTL.0 + EXPIRY_GRACE.as_millis() as u64 - 1);
    assert!(!cell.has_ended(session));
}

// Hazelcast commits each heartbeat, and etcd checkpoints each lease: what is alive costs writes.
#[test]
fn renewing_in_time_writes_nothing_into_the_log() {
    let (mut cell, leader) = Cell::led();
    let (mut client, session) = cell.open(leader, 1);
    let before = cell.cores[&leader].applied;
    for number in 1..=100 {
        cell.run(TTL.0 / 2);
        assert!(kept_alive(
            &cell.ask(&mut client, keep_alive(session, number)),
            number
        ));
    }
    assert_eq!(cell.cores[&leader].applied, before);
}

// ZooKeeper's first recipe, and Consul's: all waiters are woken for one lock.
#[test]
fn of_ten_thousand_waiters_one_is_told_when_the_holder_dies() {
    const WAITERS: u64 = 10_000;
    const CONNECTIONS: u64 = 10;
    let (mut cell, leader) = Cell::led();
    let (mut holder, held) = cell.open_for(leader, 0, Millis(TTL_MIN_MS));
    granted(&cell.ask(&mut holder, acquire(held, 1, Wait::Try))).expect("free");
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| cell.connect(leader)).collect();
    for n in 0..WAITERS {
        let client = &clients[(n % CONNECTIONS) as usize];
        let open = ClientFrame::Open {
            nonce: Nonce(1 + u128::from(n)),
            ttl: Millis(TTL_MAX_MS),
            about: About::default(),
        };
        cell.send(client, open);
    }
    cell.settle();
    let mut queued = 0;
    for client in &mut clients {
        let opened = cell.received(client).into_iter();
        let sessions = opened.filter_map(|frame| match frame {
            NodeFrame::Opened { result, .. } => result.ok(),
            _ => None,
        });
        for session in sessions {
            cell.send(client, acquire(session, 1, Wait::Forever));
            queued += 1;
        }
    }
    assert_eq!(queued, WAITERS);
    cell.settle();
    for client in &mut clients {
        let frames = cell.received(client);
        assert_eq!(frames.len() as u64, WAITERS / CONNECTIONS);
    }
    cell.run(TTL_MIN_MS + LATEST_MS);
    assert!(ended(&cell.received(&mut holder), EndReason::Expired));
    let told: Vec<NodeFrame> = clients
        .iter_mut()
        .flat_map(|client| cell.received(client))
        .collect();
    assert_eq!(told.len(), 1, "{} frames", told.len());
    assert!(granted(&told).is_some(), "{told:?}");
}

// etcd-io/etcd#6093: what a client made up ended every node.
#[test]
fn whatever_frames_clients_send_to_whichever_node_the_cell_goes_on() {
    let mut seed = 1u64;
    let mut roll = |below: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let (mut cell, mut leader) = Cell::led();
    let mut strangers: Vec<Client> = (0..6)
        .map(|n| cell.connect(NodeId(n % NODES + 1)))
        .collect();
    let (mut client, session) = cell.open(leader, 1);
    for round in 0..3000u64 {
        let number = |n: u64| [0, 1, 2, 3, 1024, 1 << 48, u64::MAX - 1, u64::MAX][n as usize];
        let (a, b) = (number(roll(8)), number(roll(8)));
        let (sequence, acquire) = (Sequence(a), Sequence(b));
        let operation = match roll(5) {
            0 => Operation::Close,
            1 => Operation::Cancel { acquire },
            2 => Operation::Release {
                acquire,
                token: Token(a),
            },
            3 => Operation::Downgrade {
                acquire,
                token: Token(a),
                ticket: true,
            },
            _ => Operation::Break {
                lock: LockName::new("z").expect("a name"),
                reason: "x".repeat(roll(300) as usize),
                at_once: roll(2) == 0,
            },
        };
        // All sessions but the one that has to live on.
        let of = [SessionId(0), SessionId(2), SessionId(3), SessionId(b)][roll(4) as usize];
        let of = if of == session { SessionId(0) } else { of };
        let frame = match roll(6) {
            0 => ClientFrame::Hello {
                version: a as u16,
                cell: CellId([b as u8; 16]),
            },
            1 => ClientFrame::Open {
                nonce: Nonce(u128::from(a) + 2),
                ttl: Millis(b),
                about: About {
                    description: "x".repeat(roll(300) as usize),
                    ..About::default()
                },
            },
            2 => keep_alive(of, a),
            3 => ClientFrame::Query {
                id: a,
                stale: roll(2) == 0,
                query: Query::Sessions {
                    labels: Labels::new(),
                    after: Some(SessionId(b)),
                    limit: a as u32,
                },
            },
            _ => ClientFrame::Request {
                session: of,
                sequence,
                acknowledged: Sequence(number(roll(8))),
                operation,
            },
        };
        let at = roll(6) as usize;
        cell.send(&strangers[at], frame);
        if round % 10 == 0 {
            strangers[at] = cell.connect(NodeId(roll(NODES) + 1));
        }
        if round % 500 == 499 {
            leader = cell.depose(leader);
            client = cell.connect(leader);
        }
        if round % 20 == 0 {
            cell.run(20);
            assert!(kept_alive(
                &cell.ask(&mut client, keep_alive(session, round)),
                round
            ));
        }
    }
    assert!(granted(&cell.ask(&mut client, acquire(session, 1, Wait::Try))).is_some());
}
