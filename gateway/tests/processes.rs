//! Gateways that are killed or paused, servers that crash, and the commands around them.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use common::raw::query;
use common::{Bed, connect, granted, refused, show};
use rustix::process::Signal;

const WRITE: &str = "update orders set v = 'old' where id = 1";

#[tokio::test]
async fn a_killed_gateway_takes_its_writers_down_and_blocks_nobody() {
    let bed = Bed::new().await;
    let (first, second) = (bed.gateway_process(), bed.gateway_process());
    let mut old = bed.raw(first.address).await;
    old.outcome(&query(&show(&[("orders/1", 5)])), 1).await;
    let said = old
        .outcome(&[query("begin"), query(WRITE)].concat(), 2)
        .await;
    assert_eq!(said, ["done BEGIN", "done UPDATE 1"]);
    first.signal(Signal::KILL);
    let mut new = bed.raw(second.address).await;
    let said = new.outcome(&query(&show(&[("orders/1", 6)])), 1).await;
    assert_eq!(said, ["done SET"]);
    let said = new
        .outcome(&query("update orders set v = 'new' where id = 1"), 1)
        .await;
    assert_eq!(said, ["done UPDATE 1"]);
    old.try_send(&query("commit")).await;
    assert_eq!(old.until(1).await, ["closed"]);
    assert_eq!(bed.value("orders").await, "new");
}

#[tokio::test]
async fn a_paused_gateway_can_do_no_harm_when_it_goes_on() {
    let bed = Bed::new().await;
    let (first, second) = (bed.gateway_process(), bed.gateway_process());
    let (mut idle, mut busy) = (bed.raw(first.address).await, bed.raw(first.address).await);
    for raw in [&mut idle, &mut busy] {
        raw.outcome(&query(&show(&[("orders/1", 5)])), 1).await;
    }
    busy.outcome(&[query("begin"), query(WRITE)].concat(), 2)
        .await;
    first.signal(Signal::STOP);
    // Both have something on its way to the server when the lock moves.
    idle.send(&query("update orders set v = 'late' where id = 2"))
        .await;
    busy.send(&query("commit")).await;
    let mut new = bed.raw(second.address).await;
    let said = new.outcome(&query(&show(&[("orders/1", 6)])), 1).await;
    assert_eq!(said, ["done SET"]);
    let said = new.outcome(&query("update orders set v = 'new'"), 1).await;
    assert_eq!(said, ["done UPDATE 2"]);
    first.signal(Signal::CONT);
    let said = idle.until(1).await;
    assert!(said[0].starts_with("FN001"), "{said:?}");
    let said = busy.until(1).await;
    assert!(
        said.iter().any(|word| word.starts_with("error 57P01")),
        "{said:?}"
    );
    assert_eq!(bed.value("orders").await, "new");
    let admin = bed.admin().await;
    let row = admin
        .query_one("select v from orders where id = 2", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, String>(0), "new");
}

#[tokio::test]
async fn after_a_crash_of_the_server_only_what_the_cell_grants_is_admitted() {
    let mut bed = Bed::on(Arc::new(common::start_server())).await;
    bed.cell = granted(&[("orders/1", 8)], 20);
    let gateway = bed.gateway().await;
    let url = bed.url("app", gateway.address);
    let before = connect(&url).await;
    before
        .batch_execute(&show(&[("orders/1", 8)]))
        .await
        .unwrap();
    before
        .batch_execute("update orders set v = 'before' where id = 1")
        .await
        .unwrap();
    let Bed { server, .. } = bed;
    let mut server = Arc::into_inner(server).unwrap();
    for crash in [true, false] {
        if crash {
            server.crash().unwrap()
        } else {
            server.stop().unwrap()
        }
        server.run().unwrap();
        let app = connect(&url).await;
        assert_eq!(
            refused(app.batch_execute("update orders set v = 'x'").await).0,
            "FN002"
        );
        // Never admitted before, as far as the server knows; over, as far as the cell knows.
        assert_eq!(
            refused(app.batch_execute(&show(&[("orders/2", 9)])).await).0,
            "FN001"
        );
        app.batch_execute(&show(&[("orders/1", 8)])).await.unwrap();
        app.batch_execute("update orders set v = 'after' where id = 1")
            .await
            .unwrap();
        app.batch_execute(&show(&[("orders/3", 21)])).await.unwrap();
    }
}

#[tokio::test]
async fn a_prepared_transaction_in_the_way_is_waited_for_and_named() {
    let bed = Bed::new().await;
    let gateway = bed.gateway().await;
    let app = bed.app(&gateway).await;
    app.batch_execute(&show(&[("orders/1", 5)])).await.unwrap();
    // Text that no gateway can see through: the server prepares it all the same.
    let long = format!(
        "begin; {WRITE}; select '{}'; prepare transaction 'p'",
        "x".repeat(40_000)
    );
    app.batch_execute(&long).await.unwrap();
    let other = bed.app(&gateway).await;
    let ticket = show(&[("orders/1", 6)]);
    let waiting = tokio::spawn(async move { other.batch_execute(&ticket).await.map(|()| other) });
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(
        !waiting.is_finished(),
        "admitted while an older write was pending"
    );
    let admin = bed.admin().await;
    admin.batch_execute("rollback prepared 'p'").await.unwrap();
    let other = waiting.await.unwrap().unwrap();
    other
        .batch_execute("update orders set v = 'new' where id = 1")
        .await
        .unwrap();
    assert_eq!(bed.value("orders").await, "new");
}

fn gateway(bed: &Bed, arguments: &[&str]) -> (Option<i32>, String) {
    let file = bed.dir.path().join("gateway.toml");
    let output: Output = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args(arguments)
        .arg("--config")
        .arg(&file)
        .env("RUST_LOG", "error")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_say_what_is_missing_and_mend_it() {
    let bed = Bed::new().await;
    let write = |text: &str| std::fs::write(bed.dir.path().join("gateway.toml"), text).unwrap();
    write(&bed.config_text());
    let (code, text) = gateway(&bed, &["check"]);
    assert!(
        code == Some(0) && text.contains("holds for 2 guard rules"),
        "{text}"
    );
    assert!(
        text.contains("note: prepared transactions are possible"),
        "{text}"
    );

    let app = bed.gateway().await;
    bed.app(&app)
        .await
        .batch_execute(&show(&[("orders/1", 5)]))
        .await
        .unwrap();
    let (code, text) = gateway(&bed, &["fences", "--json"]);
    assert!(
        code == Some(0) && text.contains(r#""lock":"orders/1","#),
        "{text}"
    );
    assert!(text.contains(r#""token":"5""#), "{text}");
    let (_, text) = gateway(&bed, &["fences"]);
    assert!(
        text.contains("TOKEN") && text.contains("orders/1"),
        "{text}"
    );

    let admin = bed.admin().await;
    let spoil = "drop trigger fence_guard on orders; create table stock_7 () inherits (stock);
        grant execute on function fence.seed to public; alter role fence_owner login";
    let mend_roles = "alter role fence_owner nologin";
    admin.batch_execute(spoil).await.unwrap();
    let (code, text) = gateway(&bed, &["check"]);
    admin.batch_execute(mend_roles).await.unwrap();
    assert_eq!(code, Some(1), "{text}");
    for part in [
        "public.orders is not under guard",
        "public.stock_7 is not under guard",
        "revoke all on function fence.seed",
        "alter role fence_owner nologin;",
        "the fence does not hold: 4 problems",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let (code, text) = gateway(&bed, &["serve"]);
    assert!(code == Some(1) && text.contains("gateway check"), "{text}");
    let (code, printed) = gateway(&bed, &["install", "--print"]);
    assert_eq!(code, Some(0));
    admin.batch_execute(&printed).await.unwrap();
    assert_eq!(gateway(&bed, &["check"]).0, Some(0));

    let as_application = bed.config_text().replace("fence_gateway@", "app@");
    write(&as_application);
    let (code, text) = gateway(&bed, &["check"]);
    assert!(
        code == Some(1) && text.contains("grant execute on function fence.admit"),
        "{text}"
    );
    write(&bed.config_text().replace("lock =", "lok ="));
    let (code, text) = gateway(&bed, &["serve"]);
    assert!(code == Some(2) && text.contains("lok"), "{text}");
    write(
        &bed.config_text()
            .replace(&format!(":{}/", bed.server.port()), ":1/"),
    );
    let (code, text) = gateway(&bed, &["serve"]);
    assert!(code == Some(3) && text.contains("cannot connect"), "{text}");
    assert_eq!(gateway(&bed, &["nonsense"]).0, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrators_url_installs_for_a_role_that_may_not() {
    let bed = Bed::new().await;
    let admin = bed.admin().await;
    admin
        .batch_execute("drop schema fence cascade")
        .await
        .unwrap();
    std::fs::write(bed.dir.path().join("gateway.toml"), bed.config_text()).unwrap();
    let (code, text) = gateway(&bed, &["check"]);
    assert!(
        code == Some(1) && text.contains("gateway install"),
        "{text}"
    );
    let (code, _) = gateway(&bed, &["install"]);
    assert_ne!(code, Some(0));
    let url = bed.server.url("postgres", &bed.database);
    let (code, text) = gateway(&bed, &["install", "--admin", &url]);
    assert!(code == Some(0) && text.contains("2 tables"), "{text}");
    assert_eq!(gateway(&bed, &["check"]).0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_ends_cleanly_on_a_signal() {
    let bed = Bed::new().await;
    for signal in [Signal::TERM, Signal::INT] {
        let mut gateway = bed.gateway_process();
        gateway.signal(signal);
        assert_eq!(gateway.wait(), Some(0));
    }
}
