//! A session belongs to the identity that opened it, whoever leads.

use super::*;
use lockd_protocol::client::Refusal;

fn role(name: &str) -> Role {
    Role::Client(name.to_owned())
}

fn refusal(frames: &[NodeFrame]) -> Option<Refusal> {
    frames.iter().find_map(|frame| match frame {
        NodeFrame::Reply {
            outcome: Outcome::Refused(refusal),
            ..
        } => Some(refusal.clone()),
        _ => None,
    })
}

fn release(session: SessionId, sequence: u64, token: Token) -> ClientFrame {
    let acquire = Sequence(1);
    request(session, sequence, Operation::Release { acquire, token })
}

/// A thief tries everything with a session that holds a lock.
fn all_is_refused(cell: &mut Cell, leader: NodeId, victim: SessionId, token: Token) {
    let mut thief = cell.connect_as(leader, &role("thief"));
    let number = 99;
    let keep_alive = ClientFrame::KeepAlive {
        session: victim,
        number,
    };
    let frames = cell.ask(&mut thief, keep_alive);
    assert!(ended(&frames, EndReason::OtherIdentity) && !kept_alive(&frames, number));
    for frame in [
        release(victim, 2, token),
        request(victim, 2, Operation::Close),
        acquire(victim, 1, Wait::Try),
    ] {
        let frames = cell.ask(&mut thief, frame);
        let refused = refusal(&frames).unwrap_or_else(|| panic!("{frames:?}"));
        assert!(matches!(&refused, Refusal::OtherIdentity { asks, .. } if asks == "thief"));
        assert!(
            refused
                .to_string()
                .contains("another identity than \"thief\"")
        );
    }
}

#[test]
fn nobody_else_renews_releases_or_closes_a_session_also_after_a_failover() {
    let (mut cell, leader) = Cell::led();
    let mut victim = cell.connect_as(leader, &role("victim"));
    let session = cell.open_on(&mut victim, 1);
    let token = granted(&cell.ask(&mut victim, acquire(session, 1, Wait::Try))).expect("free");
    all_is_refused(&mut cell, leader, session, token);
    cell.run(100);
    cell.paused = vec![leader];
    let next = cell.elect();
    all_is_refused(&mut cell, next, session, token);
    let mut victim = cell.connect_as(next, &role("victim"));
    let frames = cell.ask(&mut victim, ClientFrame::KeepAlive { session, number: 1 });
    assert!(kept_alive(&frames, 1), "{frames:?}");
    let frames = cell.ask(&mut victim, release(session, 2, token));
    let released = |frame: &NodeFrame| matches!(frame, NodeFrame::Reply { outcome, .. } if *outcome == Outcome::Released);
    assert!(frames.iter().any(released), "{frames:?}");
}

#[test]
fn a_renewal_by_somebody_else_does_not_keep_a_session_alive() {
    let (mut cell, leader) = Cell::led();
    let mut victim = cell.connect_as(leader, &role("victim"));
    let session = cell.open_on(&mut victim, 1);
    let mut thief = cell.connect_as(leader, &role("thief"));
    for number in 1..=8 {
        cell.run(TTL.0 / 4);
        cell.ask(&mut thief, ClientFrame::KeepAlive { session, number });
    }
    assert!(ended(&cell.received(&mut victim), EndReason::Expired));
}

#[test]
fn a_guess_of_a_session_that_is_just_being_opened_does_nothing_to_it() {
    let (mut cell, leader) = Cell::led();
    let mut thief = cell.connect_as(leader, &role("thief"));
    let mut victim = cell.connect_as(leader, &role("victim"));
    cell.received(&mut thief);
    // All of it arrives in one turn, the guesses before and behind the opening.
    let guess = SessionId(1);
    cell.send(&thief, acquire(guess, 1, Wait::Try));
    cell.send(
        &thief,
        ClientFrame::KeepAlive {
            session: guess,
            number: 5,
        },
    );
    cell.send(&victim, cell::open(1));
    cell.send(&thief, request(guess, 2, Operation::Close));
    let frames = cell.received(&mut thief);
    assert!(
        granted(&frames).is_none() && !kept_alive(&frames, 5),
        "{frames:?}"
    );
    let frames = cell.received(&mut victim);
    let opened = frames.contains(&NodeFrame::Opened {
        nonce: Nonce(1),
        result: Ok(guess),
    });
    assert!(opened, "{frames:?}");
    // The victim's first request is its own, and gets its answer where the victim is.
    let frames = cell.ask(&mut victim, acquire(guess, 1, Wait::Try));
    assert!(granted(&frames).is_some(), "{frames:?}");
}

#[test]
fn a_request_of_a_session_that_is_no_more_says_so() {
    let (mut cell, leader) = Cell::led();
    let mut client = cell.connect_as(leader, &role("a"));
    let unknown = SessionId(77);
    let frames = cell.ask(&mut client, acquire(unknown, 1, Wait::Try));
    assert!(ended(&frames, EndReason::Unknown), "{frames:?}");
}

#[test]
fn only_operators_break_locks() {
    let (mut cell, leader) = Cell::led();
    let mut client = cell.connect_as(leader, &role("client"));
    let session = cell.open_on(&mut client, 1);
    let token = granted(&cell.ask(&mut client, acquire(session, 1, Wait::Try)));
    let take = Operation::Break {
        lock: LockName::new("a").expect("a name"),
        reason: "mine".to_owned(),
        at_once: true,
    };
    let frames = cell.ask(&mut client, request(session, 2, take.clone()));
    let refused = refusal(&frames).expect("refused").to_string();
    assert!(
        refused.contains("only an operator may break a lock"),
        "{refused}"
    );
    let (mut operator, session) = cell.open(leader, 2);
    let frames = cell.ask(&mut operator, request(session, 1, take));
    let [NodeFrame::Reply { outcome, .. }] = &frames[..] else {
        panic!("{frames:?}")
    };
    let Outcome::Broken { holders, .. } = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(Some(holders[0].1), token);
}
