//! What the fence in MariaDB holds against: every way to write to a guarded table that we know of,
//! in every isolation level, through the gateway and past it.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::granted;
use common::mysql::{MysqlBed, refused, run};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

const LEVELS: [&str; 3] = ["read committed", "repeatable read", "serializable"];

/// What the first row of a table holds, as somebody sees it.
async fn value(conn: &mut Conn, table: &str) -> String {
    let sql = format!("select v from {table} where id = 1");
    conn.query_first(sql).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_holder_writes_and_a_stale_one_is_refused_in_every_isolation_level() {
    let bed = MysqlBed::new().await;
    let gateway = bed.gateway().await;
    let (mut old, mut new) = (bed.app(&gateway).await, bed.app(&gateway).await);
    for (round, level) in LEVELS.iter().enumerate() {
        let token = 10 + 2 * round as u64;
        let set = format!("set session transaction isolation level {level}");
        run(&mut old, &set).await.unwrap();
        assert_eq!(
            refused(run(&mut new, "update orders set v = 'x'").await).0,
            if round == 0 { "FN002" } else { "FN001" }
        );
        run(&mut old, &bed.show(&[("orders/1", token)]))
            .await
            .unwrap();
        run(&mut old, "update orders set v = 'old'").await.unwrap();
        // A snapshot from before the newer holder does not help.
        run(&mut old, "begin").await.unwrap();
        assert_eq!(value(&mut old, "free").await, "start");
        run(&mut new, &bed.show(&[("orders/1", token + 1)]))
            .await
            .unwrap();
        run(&mut new, "update orders set v = 'new'").await.unwrap();
        let (code, message) = refused(run(&mut old, "update orders set v = 'late'").await);
        assert_eq!(code, "FN001", "{level}: {message}");
        for part in ["orders/1", &token.to_string(), &(token + 1).to_string()] {
            assert!(message.contains(part), "{message}");
        }
        run(&mut old, "rollback").await.unwrap();
        assert_eq!(
            refused(run(&mut old, "delete from orders").await).0,
            "FN001"
        );
        assert_eq!(bed.value("orders").await, "new");
        // The next round begins with the sessions changed.
        std::mem::swap(&mut old, &mut new);
    }
}

/// Forms of writing, each a few statements of one session, and the table they are after.
fn forms() -> Vec<(&'static str, Vec<String>)> {
    let all: Vec<(&'static str, Vec<&str>)> = vec![
        ("update", vec!["update orders set v = 'W'"]),
        (
            "insert",
            vec!["insert into orders (id, v) values (50, 'W')"],
        ),
        ("delete", vec!["delete from orders where id = 2"]),
        (
            "replace",
            vec!["replace into orders (id, v) values (1, 'W')"],
        ),
        (
            "insert or update",
            vec!["insert into orders (id, v) values (1, 'y') on duplicate key update v = 'W'"],
        ),
        (
            "insert ignore",
            vec!["insert ignore into orders (id, v) values (51, 'W')"],
        ),
        ("update ignore", vec!["update ignore orders set v = 'W'"]),
        (
            "insert select",
            vec!["insert into orders select id + 60, v, 0, 0, 0 from free"],
        ),
        (
            "multi-table update",
            vec!["update orders o join free f on f.id = o.id set o.v = 'W'"],
        ),
        (
            "multi-table delete",
            vec!["delete o from orders o join free f on f.id = o.id"],
        ),
        (
            "cte",
            vec!["insert into orders with x as (select 70) select *, 'W', 0, 0, 0 from x"],
        ),
        (
            "prepared in SQL",
            vec!["prepare p from 'update orders set v = ''W'''", "execute p"],
        ),
        (
            "immediate",
            vec!["execute immediate 'update orders set v = ''W'''"],
        ),
        ("view", vec!["update orders_view set v = 'W'"]),
        ("function", vec!["select write_function()"]),
        ("procedure with commits", vec!["call write_procedure()"]),
        (
            "block",
            vec!["begin not atomic update orders set v = 'W'; commit; end"],
        ),
        (
            "event",
            vec!["create event ev on schedule at now() do update orders set v = 'W'"],
        ),
        (
            "savepoint",
            vec![
                "begin",
                "savepoint s",
                "update orders set v = 'W'",
                "rollback to s",
                "update orders set v = 'W'",
                "commit",
            ],
        ),
        (
            "no foreign keys",
            vec!["set foreign_key_checks = 0", "update orders set v = 'W'"],
        ),
        (
            "no unique checks",
            vec!["set unique_checks = 0", "update orders set v = 'W'"],
        ),
        (
            "lax sql mode",
            vec!["set sql_mode = ''", "update orders set v = 'W'"],
        ),
        (
            "no binary log",
            vec!["set sql_log_bin = 0", "update orders set v = 'W'"],
        ),
        (
            "as a replica",
            vec!["set pseudo_slave_mode = 1", "update orders set v = 'W'"],
        ),
        (
            "under another number",
            vec!["set pseudo_thread_id = 1", "update orders set v = 'W'"],
        ),
        (
            "lock tables",
            vec![
                "lock tables orders write",
                "update orders set v = 'W'",
                "unlock tables",
            ],
        ),
        (
            "lock tables, no autocommit",
            vec![
                "set autocommit = 0",
                "lock tables orders write",
                "update orders set v = 'W'",
                "commit",
                "unlock tables",
            ],
        ),
        (
            "xa",
            vec![
                "execute immediate 'xa start ''x'''",
                "update orders set v = 'W'",
                "execute immediate 'xa end ''x'''",
                "execute immediate 'xa commit ''x'' one phase'",
            ],
        ),
        (
            "set statement",
            vec!["set statement foreign_key_checks = 0 for update orders set v = 'W'"],
        ),
        ("row events", vec!["binlog 'AAAA'"]),
        (
            "the fence's own tables",
            vec![
                "update fence.session set stale = 0",
                "delete from fence.hw",
                "insert into fence.boot values (1, 1, '', 1, 1)",
            ],
        ),
        (
            "the fence's procedures",
            vec![
                "call fence.admit('orders/1', '900', 1, connection_id(), 1, 1, 0)",
                "call fence.begin_era()",
            ],
        ),
        (
            "as the fence's owner",
            vec![
                "create definer = fence_owner@localhost procedure theft() \
                 sql security definer delete from fence.hw",
                "call theft()",
            ],
        ),
        (
            "another schema's name",
            vec!["rename table orders to mysql.orders"],
        ),
        (
            "a table that hides it",
            vec![
                "create temporary table orders (id int, v text)",
                "insert into orders values (1, 'W')",
            ],
        ),
        ("for update", vec!["select * from orders for update"]),
        (
            "handler",
            vec![
                "handler orders open",
                "handler orders read first",
                "handler orders close",
            ],
        ),
        (
            "without a WHERE that finds any",
            vec!["update orders set v = 'W' where id = 999"],
        ),
    ];
    all.into_iter()
        .map(|(name, form)| (name, form.into_iter().map(str::to_owned).collect()))
        .collect()
}

async fn contents(admin: &mut Conn) -> Vec<(i32, String)> {
    admin
        .query("select id, v from orders order by id")
        .await
        .unwrap()
}

#[tokio::test]
async fn no_form_of_writing_gets_past_the_fence_stale_or_without_a_ticket_or_beside_the_gateway() {
    let bed = MysqlBed::on(std::sync::Arc::new(common::mysql::start_server(&[]))).await;
    let gateway = bed.gateway().await;
    let mut admin = bed.admin().await;
    for sql in [
        "create sql security invoker view orders_view as select * from orders",
        "create function write_function() returns int deterministic \
         begin update orders set v = 'W'; return 1; end",
        "create procedure write_procedure() begin update orders set v = 'W'; commit; \
         update orders set v = 'W'; commit; end",
        "set global event_scheduler = on",
    ] {
        run(&mut admin, sql).await.unwrap();
    }
    let before = contents(&mut admin).await;
    for (name, form) in forms() {
        for who in ["stale", "without", "beside"] {
            let mut conn = match who {
                "beside" => bed.bypass().await,
                _ => bed.app(&gateway).await,
            };
            if who == "stale" {
                run(&mut conn, &bed.show(&[("orders/7", 5)])).await.unwrap();
                let mut newer = bed.app(&gateway).await;
                run(&mut newer, &bed.show(&[("orders/7", 6)]))
                    .await
                    .unwrap();
                run(
                    &mut admin,
                    "delete from fence.hw where lck like '%orders/7'",
                )
                .await
                .unwrap();
            }
            for sql in &form {
                // What matters is the table, whatever is said.
                if run(&mut conn, sql).await.is_err() && conn.is_disconnected() {
                    break;
                }
            }
            let after = contents(&mut admin).await;
            assert_eq!(after, before, "{name}, {who}");
            drop(conn);
        }
    }
    // The event has run by now, or runs in vain.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(contents(&mut admin).await, before);
}

#[tokio::test]
async fn what_no_trigger_sees_is_open_and_the_check_names_it() {
    let bed = MysqlBed::new().await;
    let mut stray = bed.bypass().await;
    // With the rights that GRANT ALL brings, these take effect: documented, and to be revoked.
    run(&mut stray, "truncate orders").await.unwrap();
    run(&mut stray, "alter table stock drop column n")
        .await
        .unwrap();
    let notes = gateway::mysql::check::check(&bed.mysql()).await.unwrap();
    let note = notes
        .iter()
        .find(|finding| finding.what.contains("'app'") && finding.what.contains(".orders"))
        .unwrap();
    let remedy = note.remedy.as_deref().unwrap();
    let mut admin = bed.admin().await;
    run(&mut admin, remedy.trim_end_matches(';')).await.unwrap();
    let mut again = bed.bypass().await;
    for sql in [
        "truncate orders",
        "drop trigger fence_u_orders",
        "alter table orders add x int",
    ] {
        let (code, message) = refused(run(&mut again, sql).await);
        assert!(
            code == "42000" || message.contains("SUPER"),
            "{sql}: {message}"
        );
    }
    run(
        &mut admin,
        &format!("grant all on {}.* to app@'%'", bed.database),
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn a_newer_holder_waits_for_a_short_writer_and_ends_a_long_one() {
    let bed = MysqlBed::new().await;
    let gateways = [bed.gateway().await, bed.gateway().await];
    for level in LEVELS {
        let mut old = bed.app(&gateways[0]).await;
        let mut new = bed.app(&gateways[1]).await;
        let token: u64 = 100 + LEVELS.iter().position(|l| *l == level).unwrap() as u64 * 10;
        run(
            &mut old,
            &format!("set session transaction isolation level {level}"),
        )
        .await
        .unwrap();
        run(&mut old, &bed.show(&[("orders/1", token)]))
            .await
            .unwrap();
        run(&mut old, "begin").await.unwrap();
        run(&mut old, "update orders set v = 'in flight'")
            .await
            .unwrap();
        let shown = bed.show(&[("orders/1", token + 1)]);
        let admitting = tokio::spawn(async move {
            run(&mut new, &shown).await.unwrap();
            value(&mut new, "orders").await
        });
        // It is waited for, and its commit comes before the new holder sees anything.
        run(&mut old, "commit").await.unwrap();
        assert_eq!(admitting.await.unwrap(), "in flight", "{level}");
        // One that does not end is ended.
        let mut new = bed.app(&gateways[1]).await;
        let mut slow = bed.app(&gateways[0]).await;
        run(&mut slow, &bed.show(&[("orders/1", token + 1)]))
            .await
            .unwrap();
        run(&mut slow, "begin").await.unwrap();
        run(&mut slow, "update orders set v = 'never'")
            .await
            .unwrap();
        run(&mut new, &bed.show(&[("orders/1", token + 2)]))
            .await
            .unwrap();
        assert_eq!(value(&mut new, "orders").await, "in flight");
        assert!(run(&mut slow, "commit").await.is_err());
        // The one that was merely connected is still there.
        assert_eq!(value(&mut old, "orders").await, "in flight");
        assert_eq!(bed.value("orders").await, "in flight");
    }
}

#[tokio::test]
async fn a_prepared_transaction_keeps_newer_holders_out_until_it_is_finished() {
    let bed = MysqlBed::new().await;
    let gateway = bed.gateway_with(|_| {}).await;
    let mut admin = bed.admin().await;
    let level = |level| format!("set session transaction isolation level {level}");
    for (round, isolation) in LEVELS.iter().enumerate() {
        let token = 200 + 10 * round as u64;
        let mut old = bed.app(&gateway).await;
        run(&mut old, &level(isolation)).await.unwrap();
        run(&mut old, &bed.show(&[("orders/1", token)]))
            .await
            .unwrap();
        for sql in [
            "execute immediate 'xa start ''held'''",
            "update orders set v = 'prepared'",
            "execute immediate 'xa end ''held'''",
            "execute immediate 'xa prepare ''held'''",
        ] {
            run(&mut old, sql).await.unwrap();
        }
        let connection = old.id();
        // The row of the connection stays locked: whoever drains has to wait.
        run(&mut admin, "set session innodb_lock_wait_timeout = 0")
            .await
            .unwrap();
        let drain = format!("update fence.session set stale = 1 where connection = {connection}");
        assert!(run(&mut admin, &drain).await.is_err(), "{isolation}");
        run(&mut old, "execute immediate 'xa commit ''held'''")
            .await
            .unwrap();
        run(&mut admin, &drain).await.unwrap();
    }
}

#[tokio::test]
async fn with_several_tickets_one_that_is_stale_ends_them_all() {
    let bed = MysqlBed::new().await;
    let gateway = bed.gateway().await;
    let (mut old, mut new) = (bed.app(&gateway).await, bed.app(&gateway).await);
    run(&mut old, &bed.show(&[("orders/1", 5), ("stock/1", 6)]))
        .await
        .unwrap();
    run(&mut old, "update orders set v = 'a'").await.unwrap();
    run(&mut old, "update stock set v = 'a'").await.unwrap();
    run(&mut new, &bed.show(&[("orders/1", 7)])).await.unwrap();
    let (code, message) = refused(run(&mut old, "update stock set v = 'b'").await);
    assert!(code == "FN001" && message.contains("orders/1"), "{message}");
    // It goes on with what is left to it.
    run(&mut old, &bed.show(&[("stock/1", 6)])).await.unwrap();
    run(&mut old, "update stock set v = 'c'").await.unwrap();
    assert_eq!(
        refused(run(&mut old, "update orders set v = 'c'").await).0,
        "FN002"
    );
    // Tokens above 2^53 are told apart.
    let high = (1 << 62) + 1;
    run(&mut old, &bed.show(&[("orders/9", high)]))
        .await
        .unwrap();
    let stale = refused(run(&mut new, &bed.show(&[("orders/9", high - 1)])).await);
    assert_eq!(stale.0, "FN001");
    assert!(stale.1.contains(&high.to_string()), "{}", stale.1);
}

#[tokio::test]
async fn a_restarted_server_asks_the_cell_and_no_connection_number_inherits_anything() {
    let mut bed = MysqlBed::on(std::sync::Arc::new(common::mysql::start_server(&[]))).await;
    let old_number = {
        let gateway = bed.gateway().await;
        let mut app = bed.app(&gateway).await;
        run(&mut app, &bed.show(&[("orders/1", 5), ("orders/2", 6)]))
            .await
            .unwrap();
        app.id()
    };
    let mut admin = bed.admin().await;
    // The registration is as it was, the server has crashed: InnoDB keeps it.
    let rows = format!(
        "insert ignore into fence.session values ({old_number}, (select nonce from fence.boot), 0, \
         '\\n{}/orders/1\\n', 1, null, null, null)",
        bed.database
    );
    run(&mut admin, &rows).await.unwrap();
    run(
        &mut admin,
        "delete from fence.hw where lck like '%orders/2'",
    )
    .await
    .unwrap();
    drop(admin);
    let server = std::sync::Arc::get_mut(&mut bed.server).unwrap();
    server.crash().unwrap();
    server.run().unwrap();
    // Some connection gets that number again, beside the gateway.
    let mut reused = loop {
        let mut conn = bed.bypass().await;
        if conn.id() >= old_number {
            break conn;
        }
        conn.query_drop("do 1").await.unwrap();
        conn.disconnect().await.unwrap();
    };
    assert_eq!(reused.id(), old_number);
    let (code, _) = refused(run(&mut reused, "update orders set v = 'x'").await);
    assert_eq!(code, "FN002");
    let lock = format!("{}/orders/1", bed.database);
    bed.cell = granted(&[(&lock, 8)], 20);
    let gateway = bed.gateway().await;
    let mut app = bed.app(&gateway).await;
    for (lock, token) in [("orders/2", 6), ("orders/1", 5)] {
        let (code, message) = refused(run(&mut app, &bed.show(&[(lock, token)])).await);
        assert_eq!(code, "FN001", "{message}");
    }
    run(&mut app, &bed.show(&[("orders/1", 8)])).await.unwrap();
    run(&mut app, "update orders set v = 'y'").await.unwrap();
    // Granted after the era began: nothing that was forgotten can be newer, nobody is asked.
    run(&mut app, &bed.show(&[("orders/2", 21)])).await.unwrap();
    assert_eq!(
        refused(run(&mut app, &bed.show(&[("orders/2", 20)])).await).0,
        "FN001"
    );
}

#[tokio::test]
async fn a_session_that_blocks_admissions_without_a_registration_is_ended() {
    let bed = MysqlBed::on(std::sync::Arc::new(common::mysql::start_server(&[]))).await;
    let gateway = bed.gateway().await;
    for block in [
        // A refused write leaves a lock on the gap where registrations go.
        vec![
            "set session transaction isolation level serializable",
            "begin",
            "update orders set v = 'x'",
        ],
        // LOCK TABLES without autocommit locks the fence's table along with the guarded one.
        vec!["set autocommit = 0", "lock tables orders write"],
    ] {
        let mut stray = bed.bypass().await;
        for sql in &block {
            let _ = run(&mut stray, sql).await;
        }
        let mut app = bed.app(&gateway).await;
        run(&mut app, &bed.show(&[("stock/1", 300)])).await.unwrap();
        run(&mut app, "update stock set v = 'x'").await.unwrap();
    }
}

#[tokio::test]
async fn without_the_fence_every_write_fails_closed() {
    let bed = MysqlBed::on(std::sync::Arc::new(common::mysql::start_server(&[]))).await;
    let gateway = bed.gateway().await;
    let mut app = bed.app(&gateway).await;
    run(&mut app, &bed.show(&[("orders/1", 5)])).await.unwrap();
    let mut admin = bed.admin().await;
    run(&mut admin, "drop database fence").await.unwrap();
    assert!(run(&mut app, "update orders set v = 'x'").await.is_err());
    let (code, message) = refused(run(&mut app, &bed.show(&[("orders/1", 6)])).await);
    assert!(
        code == "FN004" && message.contains("gateway install"),
        "{message}"
    );
    assert_eq!(bed.value("orders").await, "start");
    let findings = gateway::mysql::check::check(&bed.mysql()).await.unwrap();
    assert!(findings[0].what.contains("not installed"), "{findings:?}");
    bed.install().await;
    let mut app = bed.app(&gateway).await;
    run(&mut app, &bed.show(&[("orders/1", 6)])).await.unwrap();
    run(&mut app, "update orders set v = 'y'").await.unwrap();
}
