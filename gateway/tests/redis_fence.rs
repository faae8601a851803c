//! The fence in Redis: who may write what, under which ticket, and what becomes of those whose
//! ticket goes stale.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::{Command, Output};

use common::redis::{Client, RedisBed, command, show};
use common::{granted, ticket};
use rustix::process::Signal;

fn assert_code(said: &str, code: &str) {
    assert!(
        said.starts_with(&format!("-FENCED {code} ")),
        "{said} is not {code}"
    );
}

const SCRIPT: &str = "return redis.call('set', KEYS[1], ARGV[1])";

#[tokio::test(flavor = "multi_thread")]
async fn without_a_ticket_everything_is_read_and_only_what_is_free_is_written() {
    let bed = RedisBed::new().await;
    let gateway = bed.gateway().await;
    bed.root().await.ask(&["SET", "orders:1", "old"]).await;
    let mut app = bed.app(gateway.address).await;
    assert_eq!(app.ask(&["GET", "orders:1"]).await, "$old");
    assert_eq!(app.ask(&["SET", "free:1", "v"]).await, "+OK");
    assert_eq!(app.ask(&["COPY", "orders:1", "free:2"]).await, ":1");
    for words in [
        &["SET", "orders:1", "x"][..],
        &["DEL", "free:1", "orders:1"],
        &["RENAME", "free:1", "orders:1"],
        &["EVAL", SCRIPT, "1", "orders:1", "x"],
        &["EVAL", "return redis.call('set', 'orders:1', 'x')", "0"],
        &["GETEX", "orders:1", "EX", "1"],
        &["SORT", "free:s", "STORE", "orders:1"],
        &["XREADGROUP", "GROUP", "g", "c", "STREAMS", "orders:1", ">"],
        &["SET", "elsewhere", "x"],
        &["SET", "lockd:fence", "x"],
        &["HSET", "lockd:fence", "era", "1"],
    ] {
        assert_code(&app.ask(words).await, "FN002");
    }
    for words in [
        &["FLUSHALL"][..],
        &["FLUSHDB"],
        &["SWAPDB", "0", "1"],
        &["ACL", "LIST"],
    ] {
        assert!(app.ask(words).await.starts_with("-NOPERM"), "{words:?}");
    }
    assert_eq!(app.ask(&["MULTI"]).await, "+OK");
    assert_code(&app.ask(&["SET", "orders:1", "x"]).await, "FN002");
    assert!(app.ask(&["EXEC"]).await.starts_with("-EXECABORT"));
    assert_eq!(app.ask(&["GET", "orders:1"]).await, "$old");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_covers_the_keys_of_its_rule_and_with_an_id_its_own_only() {
    let bed = RedisBed::new().await;
    let gateway = bed.gateway().await;
    let mut app = bed
        .holder(gateway.address, &[("orders/1", 5), ("items/7", 6)])
        .await;
    for words in [
        &["SET", "orders:1", "x"][..],
        &["SET", "orders:anything", "x"],
        &["EVAL", SCRIPT, "1", "orders:1", "x"],
        &["SET", "item:7", "x"],
        &["SET", "item:7:part", "x"],
        &["RENAME", "orders:anything", "item:7:moved"],
        &["SET", "free:1", "x"],
    ] {
        assert_eq!(app.ask(words).await, "+OK", "{words:?}");
    }
    assert_eq!(app.ask(&["SUNIONSTORE", "orders:u", "stock:s"]).await, ":0");
    // A command that says of itself that it only reads its key.
    let group = |key| ["XGROUP", "CREATE", key, "g", "$", "MKSTREAM"];
    assert_eq!(app.ask(&group("orders:x")).await, "+OK");
    assert_eq!(bed.root().await.ask(&group("stock:x")).await, "+OK");
    let take = |key| ["XREADGROUP", "GROUP", "g", "c", "STREAMS", key, ">"];
    assert_eq!(app.ask(&take("orders:x")).await, "nil");
    assert_code(&app.ask(&take("stock:x")).await, "FN002");
    for key in [
        "stock:1",
        "item:8",
        "item:71",
        "item:",
        "elsewhere",
        "lockd:fence",
    ] {
        assert_code(&app.ask(&["SET", key, "x"]).await, "FN002");
    }
    // A lock below or beside the one that the rule wants covers nothing.
    for lock in ["orders", "orders2/1", "items/7:part", "items/", "a/b"] {
        let mut other = bed.holder(gateway.address, &[(lock, 7)]).await;
        for key in ["orders:1", "item:7", "item:7:part"] {
            assert_code(&other.ask(&["SET", key, "y"]).await, "FN002");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_holder_takes_the_writes_of_an_older_one_and_leaves_its_connection() {
    let bed = RedisBed::new().await;
    let (one, two) = (bed.gateway().await, bed.gateway().await);
    let mut old = bed.holder(one.address, &[("orders/1", 5)]).await;
    assert_eq!(old.ask(&["SET", "orders:1", "old"]).await, "+OK");
    let mut queued = bed.holder(one.address, &[("orders/1", 5)]).await;
    queued.ask(&["MULTI"]).await;
    assert_eq!(queued.ask(&["SET", "orders:1", "queued"]).await, "+QUEUED");
    assert_eq!(queued.ask(&["GET", "orders:1"]).await, "+QUEUED");
    let mut blocked = bed.holder(one.address, &[("orders/1", 5)]).await;
    blocked.send(&command(&["BLPOP", "orders:jobs", "0"])).await;
    blocked.send(&command(&["SET", "orders:1", "behind"])).await;
    let mut root = bed.root().await;
    while !root.ask(&["CLIENT", "LIST"]).await.contains("cmd=blpop") {}

    let mut new = bed.holder(two.address, &[("orders/1", 6)]).await;
    assert_eq!(new.ask(&["RPUSH", "orders:jobs", "job"]).await, ":1");
    assert_eq!(new.ask(&["SET", "orders:1", "new"]).await, "+OK");
    let said = old.ask(&["SET", "orders:1", "late"]).await;
    assert_code(&said, "FN001");
    assert!(
        said.contains("\"orders/1\" was shown with token 5, the fence needs 6"),
        "{said}"
    );
    assert_code(
        &old.ask(&["EVAL", SCRIPT, "1", "orders:1", "x"]).await,
        "FN001",
    );
    assert_eq!(old.ask(&["SET", "free:1", "x"]).await, "+OK");
    let said = queued.ask(&["EXEC"]).await;
    assert!(
        said.starts_with("[-FENCED FN001 ") && said.ends_with(" $new]"),
        "{said}"
    );
    assert!(blocked.reply().await.starts_with("-UNBLOCKED"));
    assert_code(&blocked.reply().await, "FN001");
    assert_eq!(root.ask(&["LLEN", "orders:jobs"]).await, ":1");
    assert_eq!(root.ask(&["GET", "orders:1"]).await, "$new");
    // It may show its old ticket again, or a newer one.
    assert_code(&old.show(&[("orders/1", 5)]).await, "FN001");
    assert_eq!(old.show(&[("orders/1", 7)]).await, "+OK");
    assert_eq!(old.ask(&["SET", "orders:1", "again"]).await, "+OK");
    assert_code(&new.ask(&["SET", "orders:1", "x"]).await, "FN001");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_carries_all_of_its_tickets_or_none() {
    let bed = RedisBed::new().await;
    let gateway = bed.gateway().await;
    let mut both = bed
        .holder(gateway.address, &[("orders/1", 5), ("stock/1", 6)])
        .await;
    assert_eq!(
        both.ask(&["MSET", "orders:1", "a", "stock:1", "a"]).await,
        "+OK"
    );
    bed.holder(gateway.address, &[("orders/1", 7)]).await;
    let said = both.ask(&["SET", "stock:1", "b"]).await;
    assert_code(&said, "FN001");
    assert!(said.contains("orders/1"), "{said}");
    assert_eq!(both.show(&[("stock/1", 6)]).await, "+OK");
    assert_eq!(both.ask(&["SET", "stock:1", "b"]).await, "+OK");
    assert_code(&both.ask(&["SET", "orders:1", "b"]).await, "FN002");
    // Newer holders of the lock that it has given up do not touch it.
    bed.holder(gateway.address, &[("orders/1", 8)]).await;
    assert_eq!(both.ask(&["SET", "stock:1", "c"]).await, "+OK");
    assert_eq!(both.ask(&["FENCE", "TICKET"]).await, "+OK");
    assert_code(&both.ask(&["SET", "stock:1", "d"]).await, "FN002");
    assert_eq!(both.show(&[("stock/1", 6)]).await, "+OK");
    assert_code(
        &both.show(&[("stock/1", 6), ("orders/1", 7)]).await,
        "FN001",
    );
    assert_code(&both.ask(&["SET", "stock:1", "d"]).await, "FN002");
    assert_code(
        &both.ask(&["FENCE", "TICKET", "lk1.nonsense"]).await,
        "FN003",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_taken_where_it_can_be_and_refused_in_its_place_where_not() {
    let bed = RedisBed::new().await;
    let gateway = bed.gateway().await;
    let text = ticket("orders/1", 5);
    let ours = ["FENCE", "TICKET", text.as_str()];
    // Behind what is under way and in front of what depends on it, in one packet.
    let mut app = bed.app(gateway.address).await;
    let set = command(&["SET", "orders:1", "v"]);
    let get = command(&["GET", "orders:1"]);
    app.send(&[get.clone(), set.clone(), command(&ours), set.clone(), get].concat())
        .await;
    assert_eq!(app.reply().await, "nil");
    assert_code(&app.reply().await, "FN002");
    for wanted in ["+OK", "+OK", "$v"] {
        assert_eq!(app.reply().await, wanted);
    }
    // In a transaction it spoils the transaction, as any command does that is refused there.
    app.ask(&["MULTI"]).await;
    assert_code(&app.ask(&ours).await, "FN005");
    assert!(app.ask(&["EXEC"]).await.starts_with("-EXECABORT"));
    assert_code(&app.ask(&["SET", "orders:1", "v"]).await, "FN002");
    assert_eq!(app.ask(&ours).await, "+OK");
    assert_code(&app.ask(&["FENCE"]).await, "FN005");
    assert_code(&app.ask(&["FENCE", "OFF"]).await, "FN005");
    // With replies off there is no answer; with one reply skipped, that one is.
    app.send(&command(&["CLIENT", "REPLY", "OFF"])).await;
    app.send(&command(&ours)).await;
    assert_eq!(app.ask(&["CLIENT", "REPLY", "ON"]).await, "+OK");
    assert_code(&app.ask(&["SET", "orders:1", "v"]).await, "FN002");
    app.send(&command(&["CLIENT", "REPLY", "SKIP"])).await;
    app.send(&command(&ours)).await;
    assert_eq!(app.ask(&["PING"]).await, "+PONG");
    // Waiting for whatever blocks.
    app.send(
        &[
            command(&["BLPOP", "free:q", "0"]),
            command(&ours),
            set.clone(),
        ]
        .concat(),
    )
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    bed.root().await.ask(&["RPUSH", "free:q", "x"]).await;
    for wanted in ["[$free:q $x]", "+OK", "+OK"] {
        assert_eq!(app.reply().await, wanted);
    }
    // RESP3, with things that the server says by itself in between.
    app.ask(&["HELLO", "3"]).await;
    app.ask(&["CLIENT", "TRACKING", "ON"]).await;
    app.ask(&["GET", "orders:1"]).await;
    assert_eq!(app.ask(&ours).await, "+OK");
    assert_eq!(app.ask(&["GET", "free:none"]).await, "nil");
    // Nobody is logged in; somebody subscribes; a login ends what was carried.
    let mut nobody = Client::connect(gateway.address).await;
    assert!(nobody.ask(&ours).await.starts_with("-NOAUTH"));
    assert!(nobody.ask(&["GET", "x"]).await.starts_with("-NOAUTH"));
    let mut listener = bed.app(gateway.address).await;
    listener.ask(&["SUBSCRIBE", "c"]).await;
    assert!(listener.ask(&ours).await.starts_with("-ERR Can't execute"));
    assert_eq!(listener.ask(&["PING"]).await, "[$pong $]");
    let mut again = bed.holder(gateway.address, &[("orders/1", 5)]).await;
    assert_eq!(again.ask(&["AUTH", "app", "app"]).await, "+OK");
    assert_code(&again.ask(&["SET", "orders:1", "v"]).await, "FN002");
    assert_eq!(again.ask(&ours).await, "+OK");
    assert_eq!(again.ask(&["SET", "orders:1", "v"]).await, "+OK");
    let mut root = Client::log_in(gateway.address, "root", "root").await;
    assert_code(&root.ask(&ours).await, "FN005");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_keep_their_last_digit() {
    let bed = RedisBed::new().await;
    let gateway = bed.gateway().await;
    for token in [
        (1 << 53) - 1,
        1 << 53,
        (1 << 53) + 1,
        (1 << 53) + 2,
        i64::MAX as u64 - 1,
    ] {
        let mut old = bed.holder(gateway.address, &[("orders/1", token)]).await;
        assert_eq!(old.ask(&["SET", "orders:1", "old"]).await, "+OK");
        let mut new = bed
            .holder(gateway.address, &[("orders/1", token + 1)])
            .await;
        assert_code(&old.ask(&["SET", "orders:1", "late"]).await, "FN001");
        assert_eq!(new.ask(&["SET", "orders:1", "new"]).await, "+OK");
        assert_code(&old.show(&[("orders/1", token)]).await, "FN001");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_forgotten_is_told_by_the_lock_service() {
    for persistent in [false, true] {
        let settings: &[&str] = if persistent {
            &["--appendonly", "yes"]
        } else {
            &[]
        };
        let mut bed = RedisBed::with(settings).await;
        bed.cell = granted(&[("orders/1", 6)], 100);
        let gateway = bed.gateway().await;
        // The first era asks as well: nobody knows what was there before.
        let mut app = bed.app(gateway.address).await;
        assert_code(&app.show(&[("orders/1", 5)]).await, "FN001");
        assert_eq!(app.show(&[("orders/1", 6)]).await, "+OK");
        assert_eq!(app.show(&[("stock/1", 101)]).await, "+OK");
        bed.server.crash().unwrap();
        bed.server.run().unwrap();
        bed.make_users().await;
        assert_eq!(app.ask(&["PING"]).await, "closed");
        let mut app = bed.app(gateway.address).await;
        assert_code(&app.show(&[("orders/1", 5)]).await, "FN001");
        assert_eq!(app.show(&[("orders/1", 6)]).await, "+OK");
        assert_eq!(app.ask(&["SET", "orders:1", "v"]).await, "+OK");
        // Above the token that was drawn when the era began, there is nothing to ask.
        assert_eq!(app.show(&[("orders/1", 150)]).await, "+OK");
        // What a server that keeps its data still knows is not asked for.
        assert_code(&app.show(&[("stock/1", 100)]).await, "FN001");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_that_was_deleted_closes_and_is_made_anew() {
    let mut bed = RedisBed::new().await;
    bed.cell = granted(&[("orders/1", 6)], 100);
    let gateway = bed.gateway().await;
    let mut old = bed.holder(gateway.address, &[("stock/1", 205)]).await;
    let mut root = bed.root().await;
    assert_eq!(root.ask(&["FLUSHALL"]).await, "+OK");
    // Nobody knows any more who was registered: whoever was is ended.
    let mut new = bed.holder(gateway.address, &[("orders/1", 6)]).await;
    assert_eq!(old.ask(&["SET", "stock:1", "late"]).await, "closed");
    assert_eq!(new.ask(&["SET", "orders:1", "v"]).await, "+OK");
    assert_eq!(root.ask(&["DEL", "lockd:fence"]).await, ":1");
    assert_code(&new.show(&[("orders/1", 5)]).await, "FN001");
    // A mark that somebody has meddled with closes too.
    assert_eq!(new.ask(&["PING"]).await, "closed");
    root.ask(&["HSET", "lockd:fence", "m:orders/9", "nonsense"])
        .await;
    let mut app = bed.app(gateway.address).await;
    let said = app.show(&[("orders/9", 300)]).await;
    assert_code(&said, "FN004");
    assert!(said.contains("damaged"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_was_killed_or_stopped_keeps_nobody_out_and_lets_nobody_in() {
    let bed = RedisBed::new().await;
    let file = bed.config_file();
    let two = bed.gateway().await;
    // The first admission draws a token, and the process has no lock service to draw it from.
    bed.holder(two.address, &[("orders/1", 1)]).await;
    let killed = common::start_gateway(&file);
    let stopped = common::start_gateway(&file);
    let mut first = bed.holder(killed.address, &[("orders/1", 5)]).await;
    let mut root = bed.root().await;
    let mark = root.ask(&["HGET", "lockd:fence", "m:orders/1"]).await;
    let left = mark.split_once('=').unwrap().1.to_owned();
    let flood = command(&["INCR", "orders:n"]).repeat(2000);
    first.send(&flood).await;
    killed.signal(Signal::KILL);
    let mut second = bed.holder(two.address, &[("orders/1", 6)]).await;
    let before = root.ask(&["GET", "orders:n"]).await;
    assert_eq!(second.ask(&["SET", "orders:1", "second"]).await, "+OK");
    assert_eq!(root.ask(&["GET", "orders:n"]).await, before);

    let mut third = bed.holder(stopped.address, &[("orders/1", 7)]).await;
    third.send(&flood).await;
    stopped.signal(Signal::STOP);
    third.send(&flood).await;
    let mut fourth = bed.holder(two.address, &[("orders/1", 8)]).await;
    let before = root.ask(&["GET", "orders:n"]).await;
    assert_eq!(fourth.ask(&["SET", "orders:1", "fourth"]).await, "+OK");
    stopped.signal(Signal::CONT);
    let mut said = String::new();
    for _ in 0..4000 {
        said = third.reply().await;
    }
    assert_code(&said, "FN001");
    assert_eq!(root.ask(&["GET", "orders:n"]).await, before);
    // What the killed one has left behind goes, once the server says that nobody is there.
    while root.ask(&["ACL", "USERS"]).await.contains(&left) {
        let sweeper = bed.gateway().await;
        bed.holder(sweeper.address, &[("stock/1", 9)]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_ends_with_its_connection() {
    let bed = RedisBed::new().await;
    let gateway = bed.gateway().await;
    let holder = bed.holder(gateway.address, &[("orders/1", 5)]).await;
    let mut root = bed.root().await;
    assert!(
        root.ask(&["HGET", "lockd:fence", "m:orders/1"])
            .await
            .contains("=fence:app:")
    );
    drop(holder);
    while root
        .ask(&["HGET", "lockd:fence", "m:orders/1"])
        .await
        .contains('=')
    {}
    assert!(!root.ask(&["ACL", "USERS"]).await.contains("fence:app:"));
}

fn gateway(bed: &RedisBed, arguments: &[&str]) -> (Option<i32>, String) {
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
    let bed = RedisBed::new().await;
    bed.config_file();
    let (code, text) = gateway(&bed, &["check"]);
    assert!(
        code == Some(0) && text.contains("holds for 3 guard rules"),
        "{text}"
    );
    assert!(
        text.contains("note: the user \"root\" can get around the fence"),
        "{text}"
    );
    let running = bed.gateway().await;
    bed.holder(running.address, &[("orders/1", 5)]).await;
    let (code, text) = gateway(&bed, &["fences", "--json"]);
    assert!(
        code == Some(0) && text.contains(r#""lock":"orders/1","#),
        "{text}"
    );
    assert!(text.contains(r#""token":"5""#), "{text}");

    let mut root = bed.root().await;
    for (spoil, named) in [
        (
            &["ACL", "SETUSER", "app", "~orders:*", "+set"][..],
            "gets around the fence",
        ),
        (
            &["ACL", "SETUSER", "app", "(+@all ~*)"],
            "gets around the fence",
        ),
        (&["ACL", "SETUSER", "app", "+flushall"], "flushall"),
        (
            &["ACL", "SETUSER", "app", "(+xreadgroup %R~*)"],
            "xreadgroup",
        ),
        (
            &["ACL", "SETUSER", "app", "clearselectors", "-echo"],
            "may not run ECHO",
        ),
        (&["ACL", "DELUSER", "app"], "there is no user \"app\""),
        (
            &["ACL", "SETUSER", "default", "on"],
            "the user \"default\" is on",
        ),
        (
            &["ACL", "SETUSER", "lockd-gateway", "-hset"],
            "may not run HSET",
        ),
        (
            &["ACL", "SETUSER", "lockd-gateway", "off"],
            "may not log in",
        ),
    ] {
        assert!(!root.ask(spoil).await.starts_with('-'), "{spoil:?}");
        let (code, text) = gateway(&bed, &["check"]);
        assert!(code == Some(1) && text.contains(named), "{spoil:?}: {text}");
        let (code, text) = gateway(&bed, &["serve"]);
        assert!(code == Some(1) && text.contains("gateway check"), "{text}");
        let (code, text) = gateway(&bed, &["install", "--admin", "redis://root:root@h"]);
        assert!(code == Some(0) && text.contains("3 guard rules"), "{text}");
        let (code, text) = gateway(&bed, &["check"]);
        assert_eq!(code, Some(0), "{text}");
    }
    // What is printed does the same.
    let (_, printed) = gateway(&bed, &["install", "--print"]);
    root.ask(&["ACL", "SETUSER", "app", "+flushall"]).await;
    root.send(printed.as_bytes()).await;
    for _ in printed.lines() {
        assert_eq!(root.reply().await, "+OK", "{printed}");
    }
    assert_eq!(gateway(&bed, &["check"]).0, Some(0));
    root.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"])
        .await;
    let (code, text) = gateway(&bed, &["check"]);
    assert!(
        code == Some(0) && text.contains("may evict the fence's key"),
        "{text}"
    );
    // Without an administrator, the gateway's own user may not give itself rights.
    root.ask(&["ACL", "SETUSER", "lockd-gateway", "-acl|setuser"])
        .await;
    assert_eq!(gateway(&bed, &["install"]).0, Some(1));
    let file = bed.dir.path().join("gateway.toml");
    let text = bed
        .config_text()
        .replace(&format!("port = {}", bed.server.port()), "port = 1");
    std::fs::write(&file, text).unwrap();
    assert_eq!(gateway(&bed, &["serve"]).0, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_do_not_log_in_can_be_an_application_too() {
    let mut bed = RedisBed::new().await;
    bed.server = gateway::redis::private_server::PrivateServer::start(&[]).unwrap();
    let text = bed
        .config_text()
        .replace("name = \"app\"\npassword = \"app\"", "name = \"default\"");
    let mut anybody = Client::connect(bed.direct()).await;
    assert_eq!(
        anybody
            .ask(&["ACL", "SETUSER", "root", "on", ">root", "~*", "+@all"])
            .await,
        "+OK"
    );
    let config = bed.redis_of(&text);
    let admin = Some("redis://root:root@h");
    gateway::redis::install::install(&config, admin)
        .await
        .unwrap();
    let running = bed.gateway_of(&text, |_| {}).await;
    let mut app = Client::connect(running.address).await;
    assert_code(&app.ask(&["SET", "orders:1", "x"]).await, "FN002");
    app.send(&show(&[("orders/1", 5)])).await;
    assert_eq!(app.reply().await, "+OK");
    assert_eq!(app.ask(&["SET", "orders:1", "x"]).await, "+OK");
}
