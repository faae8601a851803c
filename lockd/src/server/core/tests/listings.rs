//! What a leader tells beside the state, and what any node tells by itself.

use super::*;
use lockd_protocol::client::{Age, Labels, LockDetail, Stale};

fn who(cell: &mut Cell, client: &mut Client, stale: bool) -> Option<(LockDetail, Option<Stale>)> {
    let query = Query::Lock {
        lock: LockName::new("a").expect("a name"),
        skip_holders: 0,
        skip_waiters: 0,
        limit: 10,
    };
    let id = 7;
    let frames = cell.ask(client, ClientFrame::Query { id, query, stale });
    frames.into_iter().find_map(|frame| match frame {
        NodeFrame::Answer {
            id: 7,
            answer: Answer::Lock(Some(detail)),
            stale,
        } => Some((detail, stale)),
        _ => None,
    })
}

#[test]
fn a_leader_tells_for_how_long_and_after_a_failover_at_least_for_how_long() {
    let (mut cell, leader) = Cell::led();
    let (mut holder, held) = cell.open(leader, 1);
    cell.ask(&mut holder, acquire(held, 1, Wait::Try));
    cell.run(500);
    let (mut waiter, waits) = cell.open(leader, 2);
    cell.ask(&mut waiter, acquire(waits, 1, Wait::Forever));
    cell.run(200);
    let (detail, stale) = who(&mut cell, &mut waiter, false).expect("answered");
    assert_eq!(stale, None);
    let exactly = |span| {
        let (span, at_least) = (Millis(span), false);
        Some(Age { span, at_least })
    };
    assert_eq!(detail.holders[0].age, exactly(700));
    assert_eq!(detail.waiters[0].age, exactly(200));
    assert_eq!(detail.holders[0].identity, "operator:test");

    let query = Query::Sessions {
        after: None,
        labels: Labels::new(),
        limit: 10,
    };
    let stale = false;
    let frames = cell.ask(
        &mut waiter,
        ClientFrame::Query {
            id: 1,
            query,
            stale,
        },
    );
    let [NodeFrame::Answer { answer, .. }] = &frames[..] else {
        panic!("{frames:?}")
    };
    let Answer::Sessions { sessions, .. } = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(sessions[0].address.as_deref(), Some("10.0.0.9:1234"));
    assert_eq!(sessions[0].ttl_left, Some(Millis(TTL.0 - 700)));

    cell.paused = vec![leader];
    let next = cell.elect();
    cell.run(300);
    let mut client = cell.connect(next);
    let (detail, _) = who(&mut cell, &mut client, false).expect("answered");
    let age = detail.holders[0].age.expect("a leader tells");
    assert!(age.at_least && age.span >= Millis(300), "{age:?}");
}

#[test]
fn a_node_alone_answers_what_may_be_stale_and_says_so_and_nothing_else() {
    let (mut cell, leader) = Cell::led();
    let (mut holder, held) = cell.open(leader, 1);
    cell.ask(&mut holder, acquire(held, 1, Wait::Try));
    cell.run(300);
    let alone = NodeId(leader.0 % NODES + 1);
    cell.paused = (1..=NODES).map(NodeId).filter(|id| *id != alone).collect();
    cell.run(3000);
    let mut client = cell.connect(alone);
    assert_eq!(who(&mut cell, &mut client, false), None);
    let (detail, stale) = who(&mut cell, &mut client, true).expect("it needs nobody");
    assert_eq!(detail.summary.holder, Some(held));
    assert_eq!(detail.holders[0].age, None, "only a leader tells");
    let applied = cell.cores[&alone].applied.0;
    let node = alone;
    assert_eq!(stale, Some(Stale { node, applied }));
}
