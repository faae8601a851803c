//! The transaction fence as applications see it, straight to the server and behind PgBouncer, whose
//! connections are everybody's. What it could leak, and does not, is in `transaction_leaks.rs`.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::pgbouncer::PrivatePooler;
use common::raw::{Raw, bind, execute, msg, parse, pbe, query, sync};
use common::{Bed, Running, connect, granted, refused, show};
use gateway::config::{FenceMode, PostgresConfig};
use gateway::findings::Severity;
use gateway::postgres::check;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const WRITE: &str = "update orders set v = 'x' where id = 1";

/// A gateway in transaction mode, and the pooler behind it, if there is one.
struct Way {
    name: &'static str,
    gateway: Running,
    _pooler: Option<PrivatePooler>,
}

/// Straight, and by way of a pooler with few connections.
async fn ways(bed: &Bed) -> [Way; 2] {
    let pooler = PrivatePooler::start(bed.server.port(), 3);
    [
        Way {
            name: "direct",
            gateway: bed.transaction_gateway(None).await,
            _pooler: None,
        },
        Way {
            name: "pooled",
            gateway: bed.transaction_gateway(Some(&pooler)).await,
            _pooler: Some(pooler),
        },
    ]
}

async fn holder(bed: &Bed, way: &Way, token: u64) -> Raw {
    let mut raw = bed.raw(way.gateway.address).await;
    let said = raw.outcome(&query(&show(&[("orders/1", token)])), 1).await;
    assert_eq!(said, ["done SET"], "{} {token}", way.name);
    raw
}

#[tokio::test]
async fn a_holder_writes_and_its_predecessor_is_refused_with_all_the_facts() {
    let bed = Bed::new().await;
    for (way, token) in ways(&bed).await.iter().zip([10, 20]) {
        let (a, b) = (bed.app(&way.gateway).await, bed.app(&way.gateway).await);
        a.batch_execute(&show(&[("orders/42 ü", token)]))
            .await
            .unwrap();
        a.batch_execute(WRITE).await.unwrap();
        b.batch_execute(&show(&[("orders/42 ü", token + 1)]))
            .await
            .unwrap();
        b.batch_execute("update orders set v = 'b' where id = 1")
            .await
            .unwrap();
        let late = a.batch_execute(WRITE).await.unwrap_err();
        let error = late.as_db_error().unwrap();
        assert_eq!(error.code().code(), "FN001", "{}", way.name);
        assert_eq!(
            error.message(),
            format!(
                "stale ticket: lock \"orders/42 ü\" was shown with token {token}, the fence needs \
                 {} or higher",
                token + 1
            )
        );
        assert!(error.hint().unwrap().contains("Acquire it again"));
        let again = a.batch_execute(&show(&[("orders/42 ü", token)])).await;
        assert_eq!(refused(again).0, "FN001");
        assert_eq!(bed.value("orders").await, "b");
        // The refused session is alive, reads, and goes on with a new grant.
        a.batch_execute("select 1").await.unwrap();
        a.batch_execute(&show(&[("orders/42 ü", token + 2)]))
            .await
            .unwrap();
        a.batch_execute(WRITE).await.unwrap();
    }
}

#[tokio::test]
async fn writes_without_a_ticket_are_refused_though_the_connection_is_shared_with_a_holder() {
    let bed = Bed::new().await;
    for pooler in [None, Some(PrivatePooler::start(bed.server.port(), 1))] {
        let gateway = bed.transaction_gateway(pooler.as_ref()).await;
        let (with, without) = (bed.app(&gateway).await, bed.app(&gateway).await);
        with.batch_execute(&show(&[("orders/1", 5)])).await.unwrap();
        for _ in 0..5 {
            with.batch_execute(WRITE).await.unwrap();
            let (code, message) = refused(without.batch_execute(WRITE).await);
            assert_eq!(code, "FN002", "{message}");
            assert!(message.contains("orders/%"), "{message}");
        }
        let told = "select coalesce(current_setting('fence.told', true), '') = ''";
        let rows = without.simple_query(told).await.unwrap();
        let clean = rows.iter().any(|row| match row {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0) == Some("t"),
            _ => false,
        });
        assert!(clean, "{rows:?}");
        // Another table needs another lock, and tickets that are given back cover nothing.
        let (code, _) = refused(with.batch_execute("update stock set v = 'x'").await);
        assert_eq!(code, "FN002");
        with.batch_execute("reset fence.ticket").await.unwrap();
        assert_eq!(refused(with.batch_execute(WRITE).await).0, "FN002");
    }
}

#[tokio::test]
async fn every_way_to_begin_a_transaction_is_told_and_the_session_is_idle_after_it() {
    let bed = Bed::new().await;
    let long = format!("{WRITE}; select '{}'", "x".repeat(300_000));
    let copy = [
        query("copy orders (id, v) from stdin"),
        msg(b'd', b"900\tx\n"),
        msg(b'c', b""),
        query("delete from orders where id = 900"),
    ]
    .concat();
    let early_copy = [
        pbe("copy orders (id, v) from stdin"),
        sync(),
        msg(b'd', b"900\tx\n"),
        msg(b'c', b""),
        sync(),
        query("delete from orders where id = 900"),
    ]
    .concat();
    let in_one = |statements: &[&str]| query(&statements.join("; "));
    let each = |statements: &[&str]| {
        statements
            .iter()
            .flat_map(|s| query(s))
            .collect::<Vec<u8>>()
    };
    let units = |statements: &[&str]| {
        let unit = |s: &&str| [pbe(s), sync()].concat();
        statements.iter().flat_map(unit).collect::<Vec<u8>>()
    };
    let one_unit = |statements: &[&str]| {
        let parts: Vec<u8> = statements.iter().flat_map(|s| pbe(s)).collect();
        [parts, sync()].concat()
    };
    let serializable = "begin isolation level serializable";
    let later = "set transaction isolation level repeatable read";
    let cases: Vec<(&str, Vec<u8>, usize, usize)> = vec![
        ("query", query(WRITE), 1, 1),
        ("long query", query(&long), 1, 1),
        ("unit", units(&[WRITE]), 1, 1),
        ("pipelined queries", query(WRITE).repeat(50), 50, 50),
        ("pipelined units", units(&[WRITE]).repeat(50), 50, 50),
        ("block", each(&["begin", WRITE, WRITE, "commit"]), 4, 2),
        (
            "block of units",
            units(&["begin", WRITE, WRITE, "commit"]),
            4,
            2,
        ),
        ("block in one", in_one(&["begin", WRITE, "commit"]), 1, 1),
        (
            "block in one unit",
            one_unit(&["begin", WRITE, "commit"]),
            1,
            1,
        ),
        ("isolation", each(&[serializable, WRITE, "commit"]), 3, 1),
        (
            "isolation, unit",
            units(&[serializable, WRITE, "commit"]),
            3,
            1,
        ),
        (
            "isolation in one",
            in_one(&[serializable, WRITE, "commit"]),
            1,
            1,
        ),
        (
            "isolation set later",
            each(&["begin", later, WRITE, "commit"]),
            4,
            1,
        ),
        (
            "chain",
            each(&["begin", WRITE, "commit and chain", WRITE, "commit"]),
            5,
            2,
        ),
        (
            "savepoint",
            each(&[
                "begin",
                "savepoint s",
                WRITE,
                "rollback to s",
                WRITE,
                "commit",
            ]),
            6,
            2,
        ),
        (
            "savepoint in the first message",
            each(&[
                "begin; savepoint s",
                WRITE,
                "rollback to s",
                WRITE,
                "commit",
            ]),
            5,
            2,
        ),
        (
            "error and savepoint",
            each(&[
                "begin",
                WRITE,
                "savepoint s",
                "select 1/0",
                "rollback to s",
                WRITE,
                "commit",
            ]),
            7,
            2,
        ),
        (
            "reset within",
            each(&["begin", "reset all", WRITE, "commit"]),
            4,
            1,
        ),
        ("copy", copy, 2, 2),
        ("copy with an early sync", early_copy, 2, 2),
        ("in a procedure", query("call write_once()"), 1, 0),
        (
            "what runs alone",
            each(&["vacuum orders", "discard all", WRITE]),
            3,
            1,
        ),
        (
            "error in a unit",
            [one_unit(&["select 1/0", WRITE]), query(WRITE)].concat(),
            2,
            1,
        ),
    ];
    let admin = bed.admin().await;
    admin
        .batch_execute(&format!(
            "create procedure write_once() language plpgsql as $$ begin {WRITE}; end $$;
             alter table orders owner to app"
        ))
        .await
        .unwrap();
    let mut token = 10;
    for way in ways(&bed).await {
        for (name, bytes, ready, writes) in &cases {
            token += 2;
            let mut raw = holder(&bed, &way, token).await;
            let said = raw.outcome(bytes, *ready).await;
            let context = format!("{}, {name}: {said:?}", way.name);
            let done = said.iter().filter(|word| {
                ["done UPDATE 1", "done COPY 1", "done DELETE 1"].contains(&word.as_str())
            });
            assert_eq!(done.count(), *writes, "{context}");
            let refusals = said.iter().filter(|word| word.starts_with("FN"));
            assert_eq!(refusals.count(), 0, "{context}");
            let unexpected = said.iter().filter(|word| word.starts_with("error"));
            assert!(
                unexpected.count() <= usize::from(name.contains("error")),
                "{context}"
            );
            // The next ticket is taken at once, and the old one is over.
            let said = raw
                .outcome(&query(&show(&[("orders/1", token + 1)])), 1)
                .await;
            assert_eq!(said, ["done SET"], "after {context}");
        }
    }
}

#[tokio::test]
async fn the_clients_own_unnamed_statement_and_portal_survive() {
    let bed = Bed::new().await;
    let [way, _pooled] = ways(&bed).await;
    let mut raw = holder(&bed, &way, 5).await;
    raw.outcome(&[parse("", WRITE), sync()].concat(), 1).await;
    let run = [bind(""), execute(), sync()].concat();
    for _ in 0..3 {
        assert_eq!(raw.outcome(&run, 1).await, ["done UPDATE 1"]);
    }
    // A portal that has stopped after one row goes on after the transaction was told once more.
    let first = [
        parse("", "select generate_series(1, 3)"),
        bind(""),
        msg(b'E', b"\0\0\0\0\x01"),
        sync(),
    ];
    let named = |name: &str, sql: &str| {
        let bound = format!("{name}\0{name}\0\0\0\0\0\0\0");
        let executed = format!("{name}\0\0\0\0\0");
        let (bound, executed) = (msg(b'B', bound.as_bytes()), msg(b'E', executed.as_bytes()));
        [parse(name, sql), bound, executed, sync()].concat()
    };
    let back = [named("s", "savepoint s"), named("r", "rollback to s")].concat();
    let rest = [execute(), sync()].concat();
    raw.send(&[query("begin"), first.concat(), back, rest].concat())
        .await;
    let said = raw.until(5).await;
    let rows = said.iter().filter(|word| word.starts_with("row")).count();
    assert_eq!(rows, 3, "{said:?}");
}

#[tokio::test]
async fn a_telling_that_fails_is_told_to_the_client_and_nothing_hangs() {
    let bed = Bed::new().await;
    let admin = bed.admin().await;
    // What a cancel request does now and then, every time.
    let revoke = "revoke execute on function pg_catalog.set_config from public";
    let grant = "grant execute on function pg_catalog.set_config to public";
    for way in ways(&bed).await {
        let mut raw = holder(&bed, &way, 5).await;
        admin.batch_execute(revoke).await.unwrap();
        let copy = [
            query("copy orders from stdin"),
            msg(b'd', b"x\n"),
            msg(b'c', b""),
        ]
        .concat();
        let long = query(&format!("{WRITE}; select '{}'", "x".repeat(300_000)));
        let unit = [pbe(WRITE), sync()].concat();
        for bytes in [query(WRITE), unit, copy, long] {
            let said = raw.outcome(&bytes, 1).await;
            assert_eq!(said.len(), 1, "{}: {said:?}", way.name);
            assert!(said[0].starts_with("error 42501"), "{said:?}");
        }
        // Told in the other way it is still.
        let block = [query("begin"), query(WRITE), query("commit")].concat();
        let said = raw.outcome(&block, 3).await;
        assert_eq!(said, ["done BEGIN", "done UPDATE 1", "done COMMIT"]);
        admin.batch_execute(grant).await.unwrap();
        let said = raw.outcome(&query(WRITE), 1).await;
        assert_eq!(said, ["done UPDATE 1"], "{}", way.name);
    }
}

#[tokio::test]
async fn what_is_made_up_passed_on_or_repeated_admits_nobody() {
    let bed = Bed::new().await;
    let gateway = bed.transaction_gateway(None).await;
    let (a, b) = (bed.app(&gateway).await, bed.app(&gateway).await);
    a.batch_execute(&show(&[("orders/1", 5)])).await.unwrap();
    let told: String = a
        .query_one("select current_setting('fence.told')", &[])
        .await
        .unwrap()
        .get(0);
    b.batch_execute(&show(&[("orders/1", 6)])).await.unwrap();
    let bypass = bed.bypass().await;
    let unknown = "{00000000-0000-4000-8000-000000000000} 6:6f72646572732f31";
    for (told, code) in [
        (told.as_str(), "FN001"),
        (unknown, "FN002"),
        ("{}", "FN002"),
        ("{null}", "FN002"),
        ("6", "22P02"),
        ("6:6f72646572732f31", "22P02"),
    ] {
        let sql = format!("set fence.told = '{told}'; {WRITE}");
        assert_eq!(refused(bypass.batch_execute(&sql).await).0, code, "{told}");
    }
    for sql in ["select * from fence.epoch", "delete from fence.epoch"] {
        assert_eq!(refused(bypass.batch_execute(sql).await).0, "42501");
    }
}

#[tokio::test]
async fn one_stale_ticket_of_several_ends_the_writes_under_all_of_them() {
    let bed = Bed::new().await;
    for (way, token) in ways(&bed).await.iter().zip([10, 20]) {
        let a = bed.app(&way.gateway).await;
        let set = [("orders/1", token), ("stock/1", token + 1)];
        a.batch_execute(&show(&set)).await.unwrap();
        a.batch_execute("update stock set v = 'a'").await.unwrap();
        let b = holder(&bed, way, token + 2).await;
        let (code, message) = refused(a.batch_execute("update stock set v = 'a'").await);
        assert!(
            code == "FN001" && message.contains("orders/1"),
            "{code} {message}"
        );
        a.batch_execute(&show(&set[1..])).await.unwrap();
        a.batch_execute("update stock set v = 'a'").await.unwrap();
        drop(b);
    }
}

#[tokio::test]
async fn tickets_come_with_the_login_too_and_stay_with_the_gateway() {
    let bed = Bed::new().await;
    for (way, token) in ways(&bed).await.iter().zip([10, 20]) {
        let ticket = common::ticket("orders/1", token);
        let options = format!("-c fence.ticket={ticket}");
        let parameters = [
            ("user", "app"),
            ("database", bed.database.as_str()),
            ("options", options.as_str()),
        ];
        let mut raw = Raw::connect(way.gateway.address, &parameters).await;
        assert_eq!(raw.outcome(&query(WRITE), 1).await, ["done UPDATE 1"]);
        // As a prepared statement the server sees a statement, but no ticket.
        let unit = [pbe(&show(&[("orders/1", token + 1)])), sync()].concat();
        assert_eq!(raw.outcome(&unit, 1).await, ["done SET"], "{}", way.name);
        assert_eq!(raw.outcome(&query(WRITE), 1).await, ["done UPDATE 1"]);
        let said = raw
            .ask("select coalesce(current_setting('fence.ticket', true), '') = ''")
            .await;
        assert!(said.iter().any(|word| word.ends_with('t')), "{said:?}");
    }
}

#[tokio::test]
async fn after_a_crash_of_the_server_tickets_are_shown_again() {
    let mut bed = Bed::on(Arc::new(common::start_server())).await;
    bed.cell = granted(&[("orders/1", 8)], 20);
    let pooler = PrivatePooler::start(bed.server.port(), 3);
    let gateway = bed.transaction_gateway(Some(&pooler)).await;
    let mut raw = bed.raw(gateway.address).await;
    let shown = query(&show(&[("orders/1", 8)]));
    assert_eq!(raw.outcome(&shown, 1).await, ["done SET"]);
    assert_eq!(raw.outcome(&query(WRITE), 1).await, ["done UPDATE 1"]);
    let url = bed.url("app", gateway.address);
    let Bed { server, .. } = bed;
    let mut server = Arc::into_inner(server).unwrap();
    server.crash().unwrap();
    server.run().unwrap();
    // The client's session is the pooler's, and may have outlived the crash.
    let said = raw.outcome(&query(WRITE), 1).await;
    assert!(
        said[0].starts_with("FN002") || said[0].starts_with("error") || said[0] == "closed",
        "{said:?}"
    );
    let app = connect(&url).await;
    let stale = app.batch_execute(&show(&[("orders/1", 7)])).await;
    assert_eq!(refused(stale).0, "FN001");
    app.batch_execute(&show(&[("orders/1", 8)])).await.unwrap();
    app.batch_execute(WRITE).await.unwrap();
}

#[tokio::test]
async fn what_is_below_the_floor_is_stale_though_nobody_newer_has_come() {
    let bed = Bed::new().await;
    let gateway = bed.transaction_gateway(None).await;
    let (app, open) = (bed.app(&gateway).await, bed.app(&gateway).await);
    app.batch_execute(&show(&[("orders/1", 5)])).await.unwrap();
    app.batch_execute(WRITE).await.unwrap();
    open.batch_execute(&show(&[("stock/1", 6)])).await.unwrap();
    let stock = "update stock set v = 'x'";
    open.batch_execute(&format!("begin; {stock}"))
        .await
        .unwrap();
    let admin = bed.admin().await;
    let raise = "select fence.raise_floor(8)";
    admin.query_one(raise, &[]).await.unwrap();
    let (code, message) = refused(app.batch_execute(WRITE).await);
    assert!(
        code == "FN001" && message.contains("needs 8"),
        "{code} {message}"
    );
    // What is in flight is not waited for, and ends as ever.
    open.batch_execute(stock).await.unwrap();
    open.batch_execute("commit").await.unwrap();
    app.batch_execute(&show(&[("orders/1", 8)])).await.unwrap();
    app.batch_execute(WRITE).await.unwrap();
}

#[tokio::test]
async fn the_fence_is_checked_and_installed_again_under_a_gateway_that_serves() {
    let bed = Bed::new().await;
    let pooler = PrivatePooler::start(bed.server.port(), 3);
    let mut config = bed.postgres();
    config.mode = FenceMode::Transaction;
    config.pooler = Some(pooler.config());
    let problems = async |config: &PostgresConfig| {
        let mut findings = check::check(config).await.unwrap();
        findings.retain(|finding| finding.severity == Severity::Problem);
        findings
    };
    assert_eq!(problems(&config).await, []);
    let gateway = bed.transaction_gateway(Some(&pooler)).await;
    let app = bed.app(&gateway).await;
    app.batch_execute(&show(&[("orders/1", 5)])).await.unwrap();
    bed.install().await;
    app.batch_execute(WRITE).await.unwrap();
    app.batch_execute(&show(&[("orders/1", 6)])).await.unwrap();
    app.batch_execute(WRITE).await.unwrap();
    drop(pooler);
    let [unreachable] = &problems(&config).await[..] else {
        panic!("a pooler that is not there is no problem")
    };
    assert!(unreachable.what.contains("pooler"), "{unreachable:?}");
    let admin = bed.admin().await;
    let nosy = "create role nosy login in role pg_write_all_data";
    admin.batch_execute(nosy).await.unwrap();
    let findings = check::check(&config).await.unwrap();
    let noted = findings
        .iter()
        .find(|finding| finding.what.contains("nosy"));
    let remedy = noted.and_then(|finding| finding.remedy.as_deref());
    assert_eq!(remedy, Some("revoke pg_write_all_data from nosy;"));
    admin.batch_execute(remedy.unwrap()).await.unwrap();
    let findings = check::check(&config).await.unwrap();
    assert!(
        !findings.iter().any(|finding| finding.what.contains("nosy")),
        "{findings:#?}"
    );
    // What an earlier version has installed is not taken for this one's.
    let older = "comment on schema fence is 'lockd fence, version 1'";
    admin.batch_execute(older).await.unwrap();
    config.pooler = None;
    let [older] = &problems(&config).await[..] else {
        panic!("an older fence is no problem")
    };
    assert!(older.remedy.as_ref().unwrap().contains("install"));
}

#[tokio::test]
async fn a_client_that_says_its_last_in_a_pipeline_gets_all_its_answers() {
    let bed = Bed::new().await;
    for (way, token) in ways(&bed).await.iter().zip([10, 20]) {
        let mut stream = holder(&bed, way, token).await.into_stream();
        let last = [query("select pg_sleep(0.2)"), query(WRITE).repeat(20)].concat();
        stream.write_all(&last).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answers = Vec::new();
        stream.read_to_end(&mut answers).await.unwrap();
        let text = String::from_utf8_lossy(&answers);
        assert_eq!(text.matches("UPDATE 1").count(), 20, "{}", way.name);
    }
}
