//! The ways in which a check inside the client's own transaction can leak, each closed or refused
//! by the transaction fence: straight to the server and behind PgBouncer. And both modes together.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::pgbouncer::PrivatePooler;
use common::raw::{Raw, query};
use common::{Bed, Running, show};

const ISOLATIONS: [&str; 3] = ["read committed", "repeatable read", "serializable"];

fn write(value: &str) -> String {
    format!("update orders set v = '{value}' where id = 1")
}

/// Gateways in transaction mode: one straight to the server, one by way of a pooler.
struct Both {
    gateways: [Running; 2],
    _pooler: PrivatePooler,
}

impl Both {
    async fn of(bed: &Bed) -> Both {
        let pooler = PrivatePooler::start(bed.server.port(), 5);
        let gateways = [
            bed.transaction_gateway(None).await,
            bed.transaction_gateway(Some(&pooler)).await,
        ];
        Both {
            gateways,
            _pooler: pooler,
        }
    }

    fn addresses(&self) -> [SocketAddr; 2] {
        self.gateways.each_ref().map(|gateway| gateway.address)
    }
}

async fn holder(bed: &Bed, gateway: SocketAddr, token: u64) -> Raw {
    let mut raw = bed.raw(gateway).await;
    let said = raw.outcome(&query(&show(&[("orders/1", token)])), 1).await;
    assert_eq!(said, ["done SET"], "token {token}");
    raw
}

/// What is said to these statements, each in a message of its own.
async fn say(raw: &mut Raw, statements: &[&str]) -> Vec<String> {
    let bytes: Vec<u8> = statements.iter().flat_map(|sql| query(sql)).collect();
    raw.outcome(&bytes, statements.len()).await
}

fn is_stale(word: &str) -> bool {
    word.starts_with("FN001") || word.starts_with("error 40001")
}

/// Leak 1: a lock that is not the row's and a plain read pass on a snapshot from before the wait.
/// Closed: the row itself is locked, which sees the newest one or fails with 40001.
#[tokio::test]
async fn a_snapshot_from_before_the_advance_lets_nothing_through() {
    let bed = Bed::new().await;
    let both = Both::of(&bed).await;
    let mut token = 10;
    for gateway in both.addresses() {
        for isolation in ISOLATIONS {
            token += 2;
            let begin = format!("begin isolation level {isolation}");
            let mut a = holder(&bed, gateway, token).await;
            say(&mut a, &[&begin, "select * from orders"]).await;
            let mut b = holder(&bed, gateway, token + 1).await;
            assert_eq!(say(&mut b, &[&write("b")]).await, ["done UPDATE 1"]);
            let said = say(&mut a, &[&write("a"), "commit"]).await;
            assert!(is_stale(&said[0]), "{isolation}: {said:?}");
            assert_eq!(said[1], "done ROLLBACK");
            assert!(say(&mut a, &[&write("a")]).await[0].starts_with("FN001"));
            assert_eq!(bed.value("orders").await, "b", "{isolation}");
        }
    }
}

/// The same while the advance is waiting: the write that is in flight comes before it, and whoever
/// waits behind the advance sees what it did.
#[tokio::test]
async fn a_write_that_waits_for_an_advance_sees_what_it_has_done() {
    let bed = Bed::new().await;
    let both = Both::of(&bed).await;
    // Within a transaction a session sees others as they were when it first looked.
    let (admin, watcher) = (bed.admin().await, bed.admin().await);
    let mut token = 10;
    for gateway in both.addresses() {
        for isolation in ISOLATIONS {
            token += 2;
            let begin = format!("begin isolation level {isolation}");
            let mut a = holder(&bed, gateway, token).await;
            say(&mut a, &[&begin, "select * from orders"]).await;
            // An advance that has done its work and has not committed yet.
            let advance = format!(
                "begin; select status from fence.admit(array['orders/1'], array[{}::bigint],
                   null, null, null, 1, 200)",
                token + 1
            );
            admin.batch_execute(&advance).await.unwrap();
            a.send(&query(&write("a"))).await;
            let blocked = "select exists (select from pg_stat_activity
                where wait_event_type = 'Lock' and query like 'update orders%'
                  and datname = current_database())";
            while !watcher
                .query_one(blocked, &[])
                .await
                .unwrap()
                .get::<_, bool>(0)
            {}
            admin.batch_execute("commit").await.unwrap();
            let said = a.outcome(b"", 1).await;
            assert!(is_stale(&said[0]), "{isolation}: {said:?}");
            say(&mut a, &["rollback"]).await;
        }
    }
    assert_eq!(bed.value("orders").await, "start");
}

/// Leak 2: going back to a savepoint gives up a lock that was taken behind it. Closed: each write
/// takes the lock again, or is refused.
#[tokio::test]
async fn going_back_to_a_savepoint_leaves_no_write_without_its_lock() {
    let bed = Bed::new().await;
    let both = Both::of(&bed).await;
    let mut token = 10;
    for gateway in both.addresses() {
        for begin in [
            "begin; savepoint s",
            "begin isolation level repeatable read; savepoint s",
        ] {
            token += 3;
            let mut a = holder(&bed, gateway, token).await;
            let said = say(&mut a, &[begin, &write("a"), "rollback to s"]).await;
            assert!(said.contains(&"done UPDATE 1".to_owned()), "{said:?}");
            // Nothing is held, and nobody has to be ended.
            let mut b = holder(&bed, gateway, token + 1).await;
            assert_eq!(say(&mut b, &[&write("b")]).await, ["done UPDATE 1"]);
            let said = say(&mut a, &[&write("late"), "commit"]).await;
            assert!(is_stale(&said[0]), "{said:?}");
            assert_eq!(said[1], "done ROLLBACK");
            assert_eq!(bed.value("orders").await, "b");
            // What was written before the savepoint keeps its lock over it.
            let mut c = holder(&bed, gateway, token + 2).await;
            let kept = [
                "begin",
                &write("c"),
                "savepoint s",
                &write("d"),
                "rollback to s",
            ];
            say(&mut c, &kept).await;
            let held = "select count(*) from pg_locks l join pg_database d on d.oid = l.database
                where l.locktype = 'advisory' and l.granted and d.datname = current_database()";
            let admin = bed.admin().await;
            assert!(admin.query_one(held, &[]).await.unwrap().get::<_, i64>(0) > 0);
            assert_eq!(say(&mut c, &["commit"]).await, ["done COMMIT"]);
        }
    }
}

/// Leak 3: a new holder that advances in its own writing transaction looks at an old snapshot.
/// Closed: the advance is committed, by the gateway, before the holder's transaction can begin.
#[tokio::test]
async fn a_new_holder_sees_what_its_predecessor_has_committed_in_every_isolation_level() {
    let bed = Bed::new().await;
    let both = Both::of(&bed).await;
    let mut token = 10;
    for gateway in both.addresses() {
        for isolation in ISOLATIONS {
            token += 2;
            let begin = format!("begin isolation level {isolation}");
            let mut a = holder(&bed, gateway, token).await;
            let value = format!("a{token}");
            say(&mut a, &[&begin, &write(&value)]).await;
            let mut b = bed.raw(gateway).await;
            // All at once, so that what follows the ticket has to be held back.
            let parts = [
                show(&[("orders/1", token + 1)]),
                begin,
                "select v from orders where id = 1".to_owned(),
                write("b"),
                "commit".to_owned(),
            ];
            let bytes: Vec<u8> = parts.iter().flat_map(|sql| query(sql)).collect();
            b.send(&bytes).await;
            // On a slow machine it may be ended before; then it has not written either.
            a.try_send(&query("commit")).await;
            let committed = a.until(1).await.contains(&"done COMMIT".to_owned());
            let said = b.until(parts.len()).await;
            let seen = said.iter().any(|word| word.ends_with(&value));
            assert_eq!(seen, committed, "{isolation}: {said:?}");
            assert!(said.contains(&"done UPDATE 1".to_owned()), "{said:?}");
            assert!(said.contains(&"done COMMIT".to_owned()), "{said:?}");
        }
    }
}

/// Leak 4: behind an inner COMMIT no check is left. Refused: what the transaction was told ends
/// with it, and the gateway, which could tell the next one, does not get to speak.
#[tokio::test]
async fn what_follows_an_inner_commit_is_refused() {
    let bed = Bed::new().await;
    let both = Both::of(&bed).await;
    let admin = bed.admin().await;
    admin
        .batch_execute(
            "create procedure twice() language plpgsql as $$ begin
               update orders set n = n + 1 where id = 1; commit;
               update orders set n = n + 100 where id = 1; end $$",
        )
        .await
        .unwrap();
    let one = "update orders set n = n + 1 where id = 1";
    let hundred = "update orders set n = n + 100 where id = 1";
    let mut token = 10;
    for gateway in both.addresses() {
        for text in [
            format!("begin; {one}; commit; {hundred}"),
            format!("{one}; commit; {hundred}"),
            format!("begin; {one}; commit and chain; {hundred}; commit"),
            format!("do $$ begin {one}; commit; {hundred}; end $$"),
            "call twice()".to_owned(),
        ] {
            token += 1;
            let mut a = holder(&bed, gateway, token).await;
            let said = say(&mut a, &[&text]).await;
            let refusal = said.last().unwrap();
            assert!(refusal.starts_with("FN002"), "{text}: {said:?}");
            say(&mut a, &["rollback"]).await;
            // The session itself has lost nothing.
            assert_eq!(say(&mut a, &[&write("a")]).await, ["done UPDATE 1"]);
        }
    }
    let n: i32 = admin
        .query_one("select n from orders where id = 1", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(
        n, 10,
        "what came before each inner commit, and nothing else"
    );
}

/// Leak 5, first half: a transaction that stays open keeps newer holders out. Closed: one that has
/// written is ended; one that has not is in nobody's way, and writes no more.
#[tokio::test]
async fn an_idle_transaction_blocks_nobody_and_comes_too_late() {
    let bed = Bed::new().await;
    let both = Both::of(&bed).await;
    let mut token = 10;
    for gateway in both.addresses() {
        token += 2;
        let mut idle = holder(&bed, gateway, token).await;
        say(&mut idle, &["begin", "select 1"]).await;
        let mut open = holder(&bed, gateway, token).await;
        say(&mut open, &["begin", &write("open")]).await;
        // Another session of the same holder is not held up by either.
        let mut same = holder(&bed, gateway, token).await;
        assert_eq!(
            say(&mut same, &["update orders set v = 'same' where id = 2"]).await,
            ["done UPDATE 1"]
        );
        let mut b = holder(&bed, gateway, token + 1).await;
        assert_eq!(say(&mut b, &[&write("b")]).await, ["done UPDATE 1"]);
        assert!(say(&mut idle, &[&write("late")]).await[0].starts_with("FN001"));
        open.try_send(&query("commit")).await;
        let said = open.until(1).await;
        assert_eq!(said.last().unwrap(), "closed", "{said:?}");
        assert_eq!(bed.value("orders").await, "b");
    }
}

/// Leak 5, second half: a prepared transaction keeps its locks when its session has ended. Refused
/// by its text; one that gets through keeps newer holders out until it is finished, and never
/// overtakes.
#[tokio::test]
async fn a_prepared_transaction_is_refused_and_one_that_gets_through_is_waited_for() {
    let bed = Bed::new().await;
    let both = Both::of(&bed).await;
    let admin = bed.admin().await;
    let mut token = 10;
    for gateway in both.addresses() {
        token += 2;
        let mut a = holder(&bed, gateway, token).await;
        let said = say(&mut a, &["begin", &write("a"), "prepare transaction 'p'"]).await;
        assert!(said[2].starts_with("error 0A000"), "{said:?}");
        say(&mut a, &["rollback"]).await;
        // Text that no gateway can see through: the server prepares it all the same.
        let long = format!(
            "begin; {}; select '{}'; prepare transaction 'p'",
            write("p"),
            "x".repeat(40_000)
        );
        let said = say(&mut a, &[&long]).await;
        assert_eq!(said.last().unwrap(), "done PREPARE TRANSACTION");
        let mut b = bed.raw(gateway).await;
        b.send(&query(&show(&[("orders/1", token + 1)]))).await;
        let early = tokio::time::timeout(Duration::from_millis(700), b.receive()).await;
        assert!(early.is_err(), "admitted while an older write was pending");
        admin.batch_execute("commit prepared 'p'").await.unwrap();
        assert_eq!(b.outcome(b"", 1).await, ["done SET"]);
        let said = b.ask("select v from orders where id = 1").await;
        assert!(said.iter().any(|word| word.ends_with('p')), "{said:?}");
        assert_eq!(say(&mut b, &[&write("b")]).await, ["done UPDATE 1"]);
    }
}

/// An advance takes away the registrations of both modes, whichever gateway asks for it.
#[tokio::test]
async fn gateways_of_both_modes_are_one_fence() {
    let bed = Bed::new().await;
    let both = Both::of(&bed).await;
    let rows = bed.gateway().await;
    let mut token = 10;
    for told in both.addresses() {
        for (old, new) in [(told, rows.address), (rows.address, told)] {
            token += 3;
            let (mut idle, mut open) = (
                holder(&bed, old, token).await,
                holder(&bed, old, token).await,
            );
            say(&mut open, &["begin", &write("open")]).await;
            // The same token through both is no conflict.
            let mut same = holder(&bed, new, token).await;
            let other_row = "update orders set v = 'same' where id = 2";
            assert_eq!(say(&mut same, &[other_row]).await, ["done UPDATE 1"]);
            let mut b = holder(&bed, new, token + 1).await;
            assert_eq!(say(&mut b, &[&write("b")]).await, ["done UPDATE 1"]);
            for stale in [&mut idle, &mut same] {
                let said = say(stale, &[&write("late")]).await;
                assert!(said[0].starts_with("FN001"), "{said:?}");
            }
            open.try_send(&query("commit")).await;
            let said = open.until(1).await;
            assert_eq!(said.last().unwrap(), "closed", "{said:?}");
            assert_eq!(bed.value("orders").await, "b");
        }
    }
}
