//! The row fence through the gateway, as applications see it.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use common::raw::query;
use common::{Bed, connect, granted, refused, show, try_connect};

#[tokio::test]
async fn a_holder_writes_and_its_predecessor_is_refused_with_all_the_facts() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let (a, b) = (bed.app(&gateway).await, bed.app(&gateway).await);
    a.batch_execute(&show(&[("orders/42", 5)])).await.unwrap();
    a.execute("update orders set v = 'a' where id = 1", &[])
        .await
        .unwrap();
    b.batch_execute(&show(&[("orders/42", 7)])).await.unwrap();
    b.execute("update orders set v = 'b' where id = 1", &[])
        .await
        .unwrap();
    let late = a
        .execute("update orders set v = 'late' where id = 1", &[])
        .await
        .unwrap_err();
    let error = late.as_db_error().unwrap();
    assert_eq!(error.code().code(), "FN001");
    assert_eq!(
        error.message(),
        "stale ticket: lock \"orders/42\" was shown with token 5, the fence needs 7 or higher"
    );
    assert_eq!(
        error.detail(),
        Some("lock=orders/42 token_shown=5 token_needed=7")
    );
    assert!(error.hint().unwrap().contains("Acquire it again"));
    let again = refused(a.batch_execute(&show(&[("orders/42", 5)])).await);
    assert_eq!(again.0, "FN001");
    assert!(
        again.1.contains("token 5") && again.1.contains("needs 7"),
        "{}",
        again.1
    );
    assert_eq!(bed.value("orders").await, "b");
    // The refused session is alive, reads, and goes on with a new grant.
    a.batch_execute(&show(&[("orders/42", 9)])).await.unwrap();
    a.execute("update orders set v = 'a again' where id = 1", &[])
        .await
        .unwrap();
    assert_eq!(bed.value("orders").await, "a again");
}

#[tokio::test]
async fn writes_without_a_ticket_are_refused_and_reads_are_free() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let app = bed.app(&gateway).await;
    for sql in [
        "insert into orders values (9)",
        "update orders set v = 'x'",
        "delete from orders",
        "truncate orders",
        "with w as (update orders set v = 'x' returning 1) select * from w",
    ] {
        let (code, message) = refused(app.batch_execute(sql).await);
        assert_eq!(code, "FN002", "{sql}: {message}");
        assert!(message.contains("orders/%"), "{message}");
    }
    app.query("select * from orders", &[]).await.unwrap();
    app.batch_execute("update free set v = 'x'").await.unwrap();
    app.batch_execute(&show(&[("stock/1", 3)])).await.unwrap();
    app.batch_execute("update stock set v = 'x'").await.unwrap();
    let (code, _) = refused(app.batch_execute("update orders set v = 'x'").await);
    assert_eq!(code, "FN002");
}

#[tokio::test]
async fn a_writer_that_goes_past_the_gateway_is_refused() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let app = bed.app(&gateway).await;
    app.batch_execute(&show(&[("orders/1", 3)])).await.unwrap();
    let bypass = bed.bypass().await;
    assert_eq!(
        refused(bypass.batch_execute("update orders set v = 'x'").await).0,
        "FN002"
    );
    bypass
        .batch_execute(&show(&[("orders/1", 3)]))
        .await
        .unwrap();
    assert_eq!(
        refused(bypass.batch_execute("update orders set v = 'x'").await).0,
        "FN002"
    );
    for sql in [
        "select * from fence.session",
        "insert into fence.session select * from fence.session",
        "select fence.admit('{a}', '{1}', 1, now(), 1, 1, 1)",
        "select fence.seed(1, 'orders/1', 99)",
        "alter table orders disable trigger all",
        "drop trigger fence_guard on orders",
    ] {
        assert_eq!(refused(bypass.batch_execute(sql).await).0, "42501", "{sql}");
    }
    let replica = refused(
        bypass
            .batch_execute("set session_replication_role = replica")
            .await,
    );
    assert_eq!(replica.0, "42501");
}

#[tokio::test]
async fn old_snapshots_and_open_transactions_do_not_outlive_their_ticket() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let mut token = 10;
    for isolation in ["read committed", "repeatable read", "serializable"] {
        let (a, b) = (bed.app(&gateway).await, bed.app(&gateway).await);
        token += 2;
        a.batch_execute(&show(&[("orders/1", token)]))
            .await
            .unwrap();
        a.batch_execute(&format!(
            "begin isolation level {isolation}; select * from orders"
        ))
        .await
        .unwrap();
        b.batch_execute(&show(&[("orders/1", token + 1)]))
            .await
            .unwrap();
        b.batch_execute("update orders set v = 'b' where id = 1")
            .await
            .unwrap();
        let (code, _) = refused(
            a.batch_execute("update orders set v = 'a' where id = 2")
                .await,
        );
        assert!(code == "FN001" || code == "40001", "{isolation}: {code}");
        a.batch_execute("rollback").await.unwrap();
        assert_eq!(
            refused(a.batch_execute("update orders set v = 'a'").await).0,
            "FN001"
        );
        // A writer that stays in its transaction is ended, and what it wrote is undone.
        a.batch_execute(&show(&[("orders/1", token + 1)]))
            .await
            .unwrap();
        a.batch_execute(&format!("begin isolation level {isolation}"))
            .await
            .unwrap();
        a.batch_execute("update orders set v = 'open' where id = 2")
            .await
            .unwrap();
        token += 2;
        b.batch_execute(&show(&[("orders/1", token)]))
            .await
            .unwrap();
        b.batch_execute("update orders set v = 'b' where id = 2")
            .await
            .unwrap();
        assert!(a.batch_execute("commit").await.is_err());
    }
    let admin = bed.admin().await;
    let row = admin
        .query_one("select v from orders where id = 2", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, String>(0), "b");
}

#[tokio::test]
async fn a_guard_covers_partitions_and_whatever_writes_to_them() {
    let bed = Bed::new().await;
    let admin = bed.admin().await;
    admin
        .batch_execute(
            "drop table orders;
             create table orders (id int, v text) partition by range (id);
             create table orders_1 partition of orders for values from (0) to (10);
             create table orders_2 partition of orders for values from (10) to (20);
             create view orders_view as select * from orders_1;
             create function hidden() returns int language sql as
               'insert into orders_1 values (3, ''h'') returning 1';
             grant all on orders, orders_1, orders_2, orders_view to public",
        )
        .await
        .unwrap();
    bed.install().await;
    let gateway = bed.gateway().await;
    let app = bed.app(&gateway).await;
    let writes = [
        "insert into orders values (1, 'x')",
        "insert into orders_1 values (2, 'x')",
        "insert into orders_2 values (12, 'x')",
        "insert into orders_view values (4, 'x')",
        "select hidden()",
        "do $$ begin delete from orders_2; end $$",
        "truncate orders_1",
    ];
    for sql in writes {
        assert_eq!(refused(app.batch_execute(sql).await).0, "FN002", "{sql}");
    }
    app.batch_execute(&show(&[("orders/1", 3)])).await.unwrap();
    for sql in writes {
        app.batch_execute(sql).await.unwrap();
    }
}

#[tokio::test]
async fn two_gateways_in_front_of_one_server_are_one_fence() {
    let bed = Bed::new().await;
    let (one, two) = (bed.gateway().await, bed.gateway().await);
    let (a, b) = (bed.app(&one).await, bed.app(&two).await);
    for token in (10..40).step_by(2) {
        a.batch_execute(&show(&[("orders/1", token)]))
            .await
            .unwrap();
        a.batch_execute("update orders set v = 'a'").await.unwrap();
        b.batch_execute(&show(&[("orders/1", token + 1)]))
            .await
            .unwrap();
        b.batch_execute("update orders set v = 'b'").await.unwrap();
        assert_eq!(
            refused(a.batch_execute("update orders set v = 'late'").await).0,
            "FN001"
        );
    }
    assert_eq!(bed.value("orders").await, "b");
    // Several sessions of one holder, through both.
    let (c, d) = (bed.app(&one).await, bed.app(&two).await);
    for app in [&c, &d] {
        app.batch_execute(&show(&[("orders/1", 50)])).await.unwrap();
        app.batch_execute("update orders set v = 'both'")
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn superusers_prepared_transactions_replication_and_other_databases_are_refused() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let error = try_connect(&bed.url("postgres", gateway.address)).await;
    let (code, message) = refused(error);
    assert!(
        code == "28000" && message.contains("superuser"),
        "{code} {message}"
    );
    let other = format!("postgres://app@{}/postgres", gateway.address);
    assert_eq!(refused(try_connect(&other).await).0, "3D000");
    let parameters = [
        ("user", "app"),
        ("database", bed.database.as_str()),
        ("replication", "database"),
    ];
    let said = common::raw::Raw::try_connect(gateway.address, &parameters)
        .await
        .err()
        .unwrap();
    assert!(said.starts_with("error 0A000"), "{said}");
    let app = bed.app(&gateway).await;
    app.batch_execute("begin").await.unwrap();
    let (code, message) = refused(app.batch_execute("prepare transaction 'x'").await);
    assert!(
        code == "0A000" && message.contains("prepared"),
        "{code} {message}"
    );
    app.batch_execute("rollback").await.unwrap();
    assert_eq!(
        refused(app.execute("commit prepared 'x'", &[]).await).0,
        "0A000"
    );
    let allowed = bed
        .gateway_with(|config| {
            if let gateway::config::Upstream::Postgres(postgres) = &mut config.upstream {
                postgres.allow_superusers = true;
            }
        })
        .await;
    connect(&bed.url("postgres", allowed.address)).await;
}

#[tokio::test]
async fn a_backend_number_that_is_used_again_inherits_nothing() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let app = bed.app(&gateway).await;
    app.batch_execute(&show(&[("orders/1", 3)])).await.unwrap();
    let admin = bed.admin().await;
    // The registration of an earlier backend that had the number which this one has now.
    let bypass = bed.bypass().await;
    let pid: i32 = bypass
        .query_one("select pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    let forge = format!(
        "insert into fence.session select {pid}, lock, stale, token, started, addr, port, number
           from fence.session"
    );
    admin.batch_execute(&forge).await.unwrap();
    assert_eq!(
        refused(bypass.batch_execute("update orders set v = 'x'").await).0,
        "FN002"
    );
    // Even one with the same client port is gone once a gateway has met the new backend.
    let mut raw = bed.raw(gateway.address).await;
    let forge = format!(
        "insert into fence.session select {pid}, lock, stale, token, started, addr, a.client_port,
           number from fence.session, pg_stat_activity a where a.pid = {pid} limit 1",
        pid = raw.pid
    );
    admin.batch_execute(&forge).await.unwrap();
    let identify = format!("select fence.identify({})", raw.pid);
    admin.batch_execute(&identify).await.unwrap();
    let said = raw.outcome(&query("update orders set v = 'x'"), 1).await;
    assert!(said[0].starts_with("FN002"), "{said:?}");
}

#[tokio::test]
async fn registrations_of_ended_sessions_go() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let admin = bed.admin().await;
    for token in 1..6 {
        let app = bed.app(&gateway).await;
        app.batch_execute(&show(&[("orders/1", token)]))
            .await
            .unwrap();
    }
    for _ in 0..500 {
        let left: i64 = admin
            .query_one("select count(*) from fence.session", &[])
            .await
            .unwrap()
            .get(0);
        if left == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("registrations stay");
}

#[tokio::test]
async fn tokens_below_the_floor_are_stale_though_their_marks_are_gone() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let app = bed.app(&gateway).await;
    app.batch_execute(&show(&[("orders/1", 5)])).await.unwrap();
    let admin = bed.admin().await;
    let removed: i64 = admin
        .query_one("select fence.raise_floor(8)", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(removed, 1);
    let (code, message) = refused(app.batch_execute(&show(&[("orders/1", 7)])).await);
    assert!(code == "FN001" && message.contains("needs 8"), "{message}");
    app.batch_execute(&show(&[("orders/1", 8)])).await.unwrap();
    app.batch_execute("update orders set v = 'x'")
        .await
        .unwrap();
}

#[tokio::test]
async fn an_unseeded_server_asks_the_cell_and_believes_only_what_it_grants_now() {
    let mut bed = Bed::new().await;
    let admin = bed.admin().await;
    {
        let gateway = bed.gateway().await;
        let app = bed.app(&gateway).await;
        app.batch_execute(&show(&[("orders/1", 5), ("orders/2", 6)]))
            .await
            .unwrap();
    }
    // What a crash leaves: unlogged tables empty, and the last marks perhaps lost.
    admin
        .batch_execute(
            "truncate fence.boot, fence.session; delete from fence.hw where lock = 'orders/2'",
        )
        .await
        .unwrap();
    bed.cell = granted(&[("orders/1", 8)], 20);
    let gateway = bed.gateway().await;
    let app = bed.app(&gateway).await;
    let (code, message) = refused(app.batch_execute(&show(&[("orders/2", 6)])).await);
    assert!(
        code == "FN001" && message.contains("does not grant"),
        "{message}"
    );
    assert_eq!(
        refused(app.batch_execute(&show(&[("orders/1", 5)])).await).0,
        "FN001"
    );
    app.batch_execute(&show(&[("orders/1", 8)])).await.unwrap();
    app.batch_execute("update orders set v = 'x'")
        .await
        .unwrap();
    // Granted after the era began: nothing that was forgotten can be newer, nobody is asked.
    app.batch_execute(&show(&[("orders/2", 21)])).await.unwrap();
    app.batch_execute("update orders set v = 'y'")
        .await
        .unwrap();
    assert_eq!(
        refused(app.batch_execute(&show(&[("orders/2", 20)])).await).0,
        "FN001"
    );
}
