//! The tickets of a session: how they are shown, in which place, one or several, and how they are
//! given back, on a real PostgreSQL.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use common::raw::{bind, execute, parse, pbe, query, sync};
use common::{Bed, refused, show, ticket};

#[tokio::test]
async fn bad_and_misplaced_tickets_are_told_apart() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let app = bed.app(&gateway).await;
    for bad in [
        "hello",
        "lk1.AAAA",
        &ticket("orders/1", 1).replace("lk1.A", "lk1.B"),
    ] {
        let (code, _) = refused(
            app.batch_execute(&format!("set fence.ticket = '{bad}'"))
                .await,
        );
        assert_eq!(code, "FN003", "{bad}");
    }
    let good = show(&[("orders/1", 3)]);
    for misplaced in [
        format!("{good}; update orders set v = 'x'"),
        format!("select 1; {good}"),
        good.replace("set ", "set local "),
        format!(
            "select set_config('fence.ticket', '{}', false)",
            ticket("orders/1", 3)
        ),
    ] {
        assert_eq!(
            refused(app.batch_execute(&misplaced).await).0,
            "FN005",
            "{misplaced}"
        );
    }
    app.batch_execute("begin").await.unwrap();
    assert_eq!(refused(app.batch_execute(&good).await).0, "FN005");
    // The server itself raised it, so that the transaction has failed for the client as well.
    assert_eq!(refused(app.batch_execute("select 1").await).0, "25P02");
    app.batch_execute("rollback").await.unwrap();
    app.batch_execute(&good).await.unwrap();
    app.batch_execute("update orders set v = 'fine'")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_refused_showing_leaves_the_session_without_its_earlier_tickets() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let (app, other) = (bed.app(&gateway).await, bed.app(&gateway).await);
    other
        .batch_execute(&show(&[("orders/7", 50)]))
        .await
        .unwrap();
    app.batch_execute(&show(&[("orders/1", 3)])).await.unwrap();
    assert_eq!(
        refused(app.batch_execute(&show(&[("orders/7", 4)])).await).0,
        "FN001"
    );
    assert_eq!(
        refused(app.batch_execute("update orders set v = 'x'").await).0,
        "FN002"
    );
    app.batch_execute(&show(&[("orders/1", 3)])).await.unwrap();
    app.batch_execute("update orders set v = 'x'")
        .await
        .unwrap();
    assert_eq!(
        refused(app.batch_execute("set fence.ticket = 'nonsense'").await).0,
        "FN003"
    );
    assert_eq!(
        refused(app.batch_execute("update orders set v = 'y'").await).0,
        "FN002"
    );
}

#[tokio::test]
async fn one_stale_ticket_of_several_stops_the_whole_session() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let (a, b) = (bed.app(&gateway).await, bed.app(&gateway).await);
    a.batch_execute(&show(&[("orders/1", 5), ("orders/7", 6)]))
        .await
        .unwrap();
    a.batch_execute("update orders set v = 'a'").await.unwrap();
    b.batch_execute(&show(&[("orders/1", 8)])).await.unwrap();
    let (code, message) = refused(a.batch_execute("update orders set v = 'late'").await);
    assert_eq!(code, "FN001");
    assert!(
        message.contains("orders/1") && message.contains("token 5"),
        "{message}"
    );
    let (code, message) = refused(
        a.batch_execute(&show(&[("orders/1", 5), ("orders/7", 6)]))
            .await,
    );
    assert_eq!(code, "FN001");
    assert!(
        message.contains("orders/1") && message.contains("needs 8"),
        "{message}"
    );
    a.batch_execute(&show(&[("orders/7", 6)])).await.unwrap();
    a.batch_execute("update orders set v = 'under 7 alone'")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_set_with_a_stale_ticket_closes_nothing() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let (a, b, c) = (
        bed.app(&gateway).await,
        bed.app(&gateway).await,
        bed.app(&gateway).await,
    );
    a.batch_execute(&show(&[("orders/a", 10)])).await.unwrap();
    b.batch_execute(&show(&[("orders/b", 11)])).await.unwrap();
    let mixed = show(&[("orders/a", 20), ("orders/b", 9)]);
    assert_eq!(refused(c.batch_execute(&mixed).await).0, "FN001");
    a.batch_execute("update orders set v = 'still mine'")
        .await
        .unwrap();
}

#[tokio::test]
async fn tickets_given_back_do_not_cover_writes_any_more() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let app = bed.app(&gateway).await;
    for give_back in [
        "set fence.ticket = ''",
        "reset fence.ticket",
        "set fence.ticket to default",
    ] {
        app.batch_execute(&show(&[("orders/1", 3)])).await.unwrap();
        app.batch_execute("update orders set v = 'x'")
            .await
            .unwrap();
        app.batch_execute(give_back).await.unwrap();
        assert_eq!(
            refused(app.batch_execute("update orders set v = 'y'").await).0,
            "FN002"
        );
    }
    // Pools reset their connections; that does not take tickets away.
    app.batch_execute(&show(&[("orders/1", 3)])).await.unwrap();
    app.batch_execute("discard all").await.unwrap();
    app.batch_execute("update orders set v = 'z'")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_ticket_may_come_with_the_login() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let good = ticket("orders/1", 5);
    for (name, value) in [
        ("options", format!("-c fence.ticket={good}")),
        ("fence.ticket", good.clone()),
    ] {
        let parameters = [
            ("user", "app"),
            ("database", bed.database.as_str()),
            (name, value.as_str()),
        ];
        let mut raw = common::raw::Raw::connect(gateway.address, &parameters).await;
        let said = raw
            .outcome(&query("update orders set v = 'login'"), 1)
            .await;
        assert_eq!(said, ["done UPDATE 2"]);
    }
    let stale = ticket("orders/1", 4);
    for (value, code) in [(stale.as_str(), "FN001"), ("rubbish", "FN003")] {
        let parameters = [
            ("user", "app"),
            ("database", bed.database.as_str()),
            ("fence.ticket", value),
        ];
        let said = common::raw::Raw::try_connect(gateway.address, &parameters).await;
        let said = said.err().unwrap();
        assert!(said.starts_with(code), "{said}");
    }
}

#[tokio::test]
async fn what_is_pipelined_behind_a_ticket_waits_for_it() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let (a, b) = (show(&[("orders/1", 5)]), show(&[("orders/1", 7)]));
    let write = "update orders set v = 'x' where id = 1";
    let mut first = bed.raw(gateway.address).await;
    let said = first.outcome(&[query(&a), query(write)].concat(), 2).await;
    assert_eq!(said, ["done SET", "done UPDATE 1"]);
    let mut second = bed.raw(gateway.address).await;
    let unit = [pbe(&b), pbe(write), sync()].concat();
    assert_eq!(
        second.outcome(&unit, 1).await,
        ["done SET", "done UPDATE 1"]
    );
    // Stale, at the head of a unit: the server raises it and skips what follows.
    let unit = [pbe(&a), pbe(write), sync(), pbe("select 1"), sync()].concat();
    let said = first.outcome(&unit, 2).await;
    assert!(
        said[0].starts_with("FN001") && said[1] == "done SELECT 1",
        "{said:?}"
    );
    // Behind a read in the same unit, and in a transaction: not taken, nothing written.
    let unit = [
        pbe("select 1"),
        pbe(&show(&[("orders/1", 9)])),
        pbe(write),
        sync(),
    ]
    .concat();
    let said = second.outcome(&unit, 1).await;
    assert!(said[1].starts_with("FN005"), "{said:?}");
    let unit = [
        query("begin"),
        query(&show(&[("orders/1", 9)])),
        query(write),
        query("rollback"),
    ];
    let said = second.outcome(&unit.concat(), 4).await;
    assert!(
        said[1].starts_with("FN005") && said[2].starts_with("error 25P02"),
        "{said:?}"
    );
    // Units under way are finished under the old tickets before the new ones count.
    let unit = [
        query(write),
        query(write),
        query(&show(&[("orders/1", 9)])),
        query(write),
    ];
    let said = second.outcome(&unit.concat(), 4).await;
    assert_eq!(
        said,
        [
            "done UPDATE 1",
            "done UPDATE 1",
            "done SET",
            "done UPDATE 1"
        ]
    );
}

#[tokio::test]
async fn a_prepared_ticket_counts_each_time_it_is_executed() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let (a, b) = (show(&[("orders/1", 5)]), show(&[("stock/1", 6)]));
    let mut raw = bed.raw(gateway.address).await;
    let run = |name: &str| [bind(name), execute(), sync()].concat();
    let prepare = [parse("a", &a), sync()].concat();
    assert!(raw.outcome(&prepare, 1).await.is_empty());
    assert_eq!(raw.outcome(&run("a"), 1).await, ["done SET"]);
    assert_eq!(
        raw.outcome(&query("update orders set v = 'x'"), 1).await,
        ["done UPDATE 2"]
    );
    assert_eq!(raw.outcome(&query(&b), 1).await, ["done SET"]);
    let said = raw.outcome(&query("update orders set v = 'x'"), 1).await;
    assert!(said[0].starts_with("FN002"), "{said:?}");
    assert_eq!(raw.outcome(&run("a"), 1).await, ["done SET"]);
    assert_eq!(
        raw.outcome(&query("update orders set v = 'x'"), 1).await,
        ["done UPDATE 2"]
    );
    let said = raw.outcome(&query("update stock set v = 'x'"), 1).await;
    assert!(said[0].starts_with("FN002"), "{said:?}");
}
