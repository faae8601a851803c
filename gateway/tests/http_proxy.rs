//! The HTTP gateway as clients and servers see it, byte by byte: what passes, what is refused and
//! how, and that nothing which could be read in two ways reaches the server.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::http::{HttpBed, Raw, call, header, is_problem, plain, plain_with, ready, request};
use common::ticket;

#[tokio::test]
async fn reads_and_free_writes_pass_and_the_ticket_stays_here() {
    let (origin, _bed, gateway) = plain().await;
    let at = gateway.address;
    assert_eq!(call(at, "GET", "/orders/1", None, "").await.body, "ok");
    assert_eq!(call(at, "PUT", "/free/1", None, "a").await.status, 200);
    let current = ticket("orders/1", 100);
    let reply = call(at, "PUT", "/orders/1/lines?x=%2f", Some(&current), "b").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let requests = origin.requests();
    let last = requests.last().unwrap();
    assert!(
        last.starts_with("PUT /orders/1/lines?x=%2f HTTP/1.1\r\n"),
        "{last}"
    );
    assert_eq!(header(last, "host").unwrap(), origin.address.to_string());
    assert_eq!(header(last, "content-length").unwrap(), "1");
    assert!(
        !requests.iter().any(|text| text.contains("lk1.")),
        "{requests:?}"
    );
    assert_eq!(origin.effects(), ["a", "b"]);
}

#[tokio::test]
async fn a_stale_holder_is_refused_and_told_why() {
    let (origin, _bed, gateway) = plain().await;
    let at = gateway.address;
    let (old, new) = (ticket("orders/1", 100), ticket("orders/1", 101));
    assert_eq!(
        call(at, "PUT", "/orders/1", Some(&old), "a").await.status,
        200
    );
    // A read with a ticket shuts the older holder out as well.
    assert_eq!(
        call(at, "GET", "/orders/1", Some(&new), "").await.status,
        200
    );
    let reply = call(at, "PUT", "/orders/1", Some(&old), "late").await;
    is_problem(&reply, 412, "\"code\":\"FN001\"");
    for part in [
        "\"lock\":\"orders/1\"",
        "\"token_shown\":\"100\"",
        "\"token_needed\":\"101\"",
    ] {
        assert!(reply.body.contains(part), "{part} is not in {reply:?}");
    }
    is_problem(
        &call(at, "GET", "/orders/1", Some(&old), "").await,
        412,
        "FN001",
    );
    is_problem(&call(at, "PUT", "/orders/1", None, "x").await, 428, "FN002");
    let other = ticket("orders/2", 100);
    let reply = call(at, "DELETE", "/orders/1/lines", Some(&other), "").await;
    is_problem(&reply, 428, "the lock \\\"orders/1\\\"");
    is_problem(
        &call(at, "PUT", "/orders/1", Some("lk1.x"), "x").await,
        403,
        "FN003",
    );
    // Granted before this gateway became the active one, and not any more.
    let before = ticket("orders/3", 7);
    is_problem(
        &call(at, "PUT", "/orders/3", Some(&before), "x").await,
        412,
        "FN001",
    );
    assert_eq!(origin.effects(), ["a"]);
}

#[tokio::test]
async fn framing_that_two_readers_could_read_differently_smuggles_nothing() {
    let (origin, _bed, gateway) = plain().await;
    let ticket = ticket("orders/1", 100);
    let fence = format!("Host: g\r\nFencing-Token: {ticket}\r\n");
    let inner = "PUT /orders/1/smuggled HTTP/1.1\r\nHost: g\r\nContent-Length: 0\r\n\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    let heads = [
        format!("{chunked}Content-Length: 5\r\n"),
        format!("Content-Length: 5\r\n{chunked}"),
        "Content-Length: 5\r\nContent-Length: 6\r\n".into(),
        "Content-Length: 5, 6\r\n".into(),
        "Content-Length: +5\r\n".into(),
        "Content-Length : 5\r\n".into(),
        "Content-Length: 0x5\r\n".into(),
        format!("Transfer-Encoding: xchunked\r\n{chunked}Transfer-Encoding: identity\r\n"),
        "Transfer-Encoding: chunked, identity\r\n".into(),
        "Transfer-Encoding: \x0bchunked\r\n".into(),
        "Transfer-Encoding : chunked\r\n".into(),
        " Transfer-Encoding: chunked\r\n".into(),
        format!("X: y\r\n {chunked}"),
    ];
    for head in &heads {
        let mut raw = Raw::connect(gateway.address).await;
        let body = format!("0\r\n\r\n{inner}");
        raw.send(format!("PUT /orders/1 HTTP/1.1\r\n{fence}{head}\r\n{body}"))
            .await;
        // At most the first is answered, and nothing that comes behind it on this connection.
        if raw.reply().await.is_some_and(|reply| reply.status < 400) {
            assert!(raw.is_closed().await, "{head:?}");
        }
    }
    // What is not HTTP/1.1 has no chunks.
    let mut raw = Raw::connect(gateway.address).await;
    raw.send(format!(
        "PUT /orders/1 HTTP/1.0\r\n{fence}{chunked}\r\n0\r\n\r\n{inner}"
    ))
    .await;
    assert!(raw.reply().await.is_none_or(|reply| reply.status == 400));
    let requests = origin.requests();
    assert!(
        !requests.iter().any(|text| text.contains("smuggled\r\n")),
        "{requests:#?}"
    );
    let two = requests
        .iter()
        .filter(|text| text.matches("HTTP/1.1\r\n").count() != 1);
    assert_eq!(two.count(), 0, "{requests:#?}");
}

#[tokio::test]
async fn requests_behind_one_another_are_each_looked_at() {
    let (origin, _bed, gateway) = plain().await;
    let good = ticket("orders/1", 100);
    let mut raw = Raw::connect(gateway.address).await;
    let write = request("PUT", "/orders/1", &[("Fencing-Token", &good)], "fine");
    let bare = request("PUT", "/orders/1", &[], "bare");
    raw.send([write.as_str(), &bare, &write].concat()).await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(raw.reply().await.unwrap().status);
    }
    assert_eq!(statuses, [200, 428, 200]);
    assert_eq!(origin.effects(), ["fine", "fine"]);
}

#[tokio::test]
async fn tickets_come_in_one_header_and_nowhere_else() {
    let (origin, _bed, gateway) = plain().await;
    let good = ticket("orders/1", 100);
    let of = |headers: &[(&str, &str)]| request("PUT", "/orders/1", headers, "x");
    let two = of(&[("Fencing-Token", &good), ("Fencing-Token", &good)]);
    let listed = format!("{good}, {good}");
    for (text, status) in [
        (two, 400),
        (
            of(&[("Fencing-Token", &good), ("Connection", "fencing-token")]),
            400,
        ),
        (
            of(&[
                ("Fencing-Token", &good),
                ("Connection", "close, Fencing-Token"),
            ]),
            400,
        ),
        (of(&[("Fencing_Token", &good)]), 400),
        (of(&[("Fencing-Token", &good), ("Fencing_Token", "x")]), 400),
        (of(&[("X-Fencing-Token", &good)]), 428),
        (of(&[("Fencing-Token", &listed)]), 403),
        (of(&[("Fencing-Token", "")]), 428),
        (of(&[("Fencing-Token", "\u{e9}")]), 403),
    ] {
        let mut raw = Raw::connect(gateway.address).await;
        raw.send(&text).await;
        assert_eq!(raw.reply().await.unwrap().status, status, "{text}");
    }
    // In a trailer it admits nothing, and does not get through.
    let mut raw = Raw::connect(gateway.address).await;
    let trailer = |ticket: &str| {
        format!(
            "PUT /orders/1 HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\
             Trailer: Fencing-Token\r\n{ticket}\r\n1\r\nx\r\n0\r\nFencing-Token: {good}\r\n\r\n"
        )
    };
    raw.send(trailer("")).await;
    assert_eq!(raw.reply().await.unwrap().status, 428);
    assert!(origin.effects().is_empty());
    let mut raw = Raw::connect(gateway.address).await;
    raw.send(trailer(&format!("Fencing-Token: {good}\r\n")))
        .await;
    assert_eq!(raw.reply().await.unwrap().status, 200);
    let requests = origin.requests();
    assert!(
        !requests
            .iter()
            .any(|text| text.to_lowercase().contains("fencing")),
        "{requests:?}"
    );
}

#[tokio::test]
async fn no_spelling_of_a_protected_path_gets_around_its_rule() {
    let (origin, _bed, gateway) = plain().await;
    let put =
        |target: &str| format!("PUT {target} HTTP/1.1\r\nHost: g\r\nContent-Length: 1\r\n\r\nx");
    for target in [
        "//orders/1",
        "/x/../orders/1",
        "/./orders/1",
        "/x/%2e%2e/orders/1",
        "/orders%2f1",
        "/orders%5c1",
        "/orders\\1",
        "/orders;a=b/1",
        "/%2564rders/1",
        "/orders/1%00",
        "http://g/orders/1",
        "http://g/x",
        "orders/1",
        "*",
    ] {
        let mut raw = Raw::connect(gateway.address).await;
        raw.send(put(target)).await;
        let status = raw.reply().await.map(|reply| reply.status);
        assert!(
            status.is_none_or(|status| status == 400),
            "{target}: {status:?}"
        );
    }
    for target in [
        "/%6frders/1",
        "/orders/1/",
        "/orders/1/x",
        "/",
        "/orders",
        "/stock?x=1",
    ] {
        let mut raw = Raw::connect(gateway.address).await;
        raw.send(put(target)).await;
        assert_eq!(raw.reply().await.unwrap().status, 428, "{target}");
    }
    // Nor does another method, or another address, in a header.
    for (name, value) in [
        ("X-HTTP-Method-Override", "PUT"),
        ("X-Original-URL", "/orders/1"),
        ("Upgrade", "h2c"),
    ] {
        for method in ["GET", "POST"] {
            let mut raw = Raw::connect(gateway.address).await;
            raw.send(request(method, "/free", &[(name, value)], ""))
                .await;
            let status = raw.reply().await.unwrap().status;
            let passes = name == "Upgrade" && method == "GET";
            assert_eq!(status, if passes { 200 } else { 400 }, "{method} {name}");
        }
    }
    let mut raw = Raw::connect(gateway.address).await;
    raw.send("CONNECT g:80 HTTP/1.1\r\nHost: g\r\n\r\n").await;
    assert_eq!(raw.reply().await.unwrap().status, 400);
    let good = ticket("stock/1", 100);
    for (method, to, status) in [
        ("MOVE", "/orders/1", 428),
        ("MOVE", "http://gateway/orders/1", 428),
        ("COPY", "http://elsewhere/free", 400),
        ("COPY", "/x/../orders/1", 400),
        ("MOVE", "http://gateway/stock/9", 200),
        ("MOVE", "/free", 200),
    ] {
        let mut raw = Raw::connect(gateway.address).await;
        let headers = [("Fencing-Token", good.as_str()), ("Destination", to)];
        raw.send(request(method, "/stock/1", &headers, "")).await;
        assert_eq!(
            raw.reply().await.unwrap().status,
            status,
            "{method} to {to}"
        );
    }
    let writes: Vec<_> = origin.requests();
    let writes = writes
        .iter()
        .filter(|text| !text.starts_with("GET "))
        .count();
    assert_eq!(writes, 2, "only the two moves may have come through");
    assert!(
        !origin
            .requests()
            .iter()
            .any(|text| text.to_lowercase().contains("upgrade"))
    );
}

#[tokio::test]
async fn heads_without_end_are_refused_and_the_gateway_goes_on() {
    let (_origin, _bed, gateway) = plain().await;
    let long = "x".repeat(100_000);
    let many: String = (0..500).map(|at| format!("h{at}: x\r\n")).collect();
    for head in [
        format!("A: {long}\r\n"),
        many,
        format!("Fencing-Token: lk1.{long}\r\n"),
    ] {
        let mut raw = Raw::connect(gateway.address).await;
        raw.send(format!("GET / HTTP/1.1\r\nHost: g\r\n{head}\r\n"))
            .await;
        let status = raw.reply().await.map(|reply| reply.status);
        assert!(
            status.is_none_or(|status| status == 431 || status == 400),
            "{status:?}"
        );
    }
    let mut raw = Raw::connect(gateway.address).await;
    raw.send(format!("GET /{long} HTTP/1.1\r\nHost: g\r\n\r\n"))
        .await;
    let status = raw.reply().await.map(|reply| reply.status);
    assert!(
        status.is_none_or(|status| (400..=431).contains(&status)),
        "{status:?}"
    );
    assert_eq!(
        call(gateway.address, "GET", "/", None, "").await.status,
        200
    );
}

/// The most memory that this process has used, KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn bodies_without_end_are_passed_on_as_they_come() {
    const PIECE: usize = 1024 * 1024;
    const PIECES: usize = 200;
    let (origin, _bed, gateway) = plain().await;
    let good = ticket("orders/1", 100);
    let mut raw = Raw::connect(gateway.address).await;
    let head = format!(
        "PUT /orders/1 HTTP/1.1\r\nHost: g\r\nFencing-Token: {good}\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    );
    raw.send(head).await;
    let before = peak();
    let chunk = format!("{PIECE:x}\r\n{}\r\n", "x".repeat(PIECE));
    for _ in 0..PIECES {
        assert!(raw.send(&chunk).await);
    }
    raw.send("0\r\n\r\n").await;
    assert_eq!(raw.reply().await.unwrap().status, 200);
    let (passed, grown) = (origin.bytes(), peak() - before);
    assert!(passed > (PIECE * PIECES) as u64);
    assert!(grown < 64 * 1024, "{grown} KiB for {passed} bytes");
}

#[tokio::test]
async fn observing_refuses_nobody_and_requiring_preconditions_refuses_writes_without() {
    let (origin, _bed, gateway) = plain_with("settle = \"1ms\"", "policy = \"observe\"").await;
    let at = gateway.address;
    assert_eq!(call(at, "PUT", "/orders/1", None, "a").await.status, 200);
    assert_eq!(
        call(at, "PUT", "/orders/1", Some("lk1.x"), "b")
            .await
            .status,
        200
    );
    assert_eq!(
        call(at, "PUT", "/x/../orders/1", None, "c").await.status,
        400
    );
    assert_eq!(origin.effects(), ["a", "b"]);

    let settings = "settle = \"1ms\"\npreconditions = \"required\"\nforward_tickets = true\n\
                    hosts = [\"gateway\"]";
    let (origin, _bed, gateway) = plain_with(settings, "").await;
    let good = ticket("orders/1", 100);
    let reply = call(gateway.address, "PUT", "/orders/1", Some(&good), "a").await;
    assert!(
        reply.status == 428 && reply.body.contains("If-Match"),
        "{reply:?}"
    );
    let mut raw = Raw::connect(gateway.address).await;
    let headers = [("Fencing-Token", good.as_str()), ("If-None-Match", "*")];
    raw.send(request("PUT", "/orders/1", &headers, "b")).await;
    assert_eq!(raw.reply().await.unwrap().status, 200);
    let requests = origin.requests();
    let last = requests.last().unwrap();
    assert_eq!(header(last, "fencing-token").unwrap(), good);
    assert_eq!(header(last, "host").unwrap(), "gateway");
    assert_eq!(header(last, "if-none-match").unwrap(), "*");
}

#[tokio::test]
async fn in_front_of_a_store_that_compares_tokens_both_keep_stale_holders_out() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = gateway::store::engine::Store::open(dir.path()).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store_at = listener.local_addr().unwrap();
    let service = gateway::store::http::Service {
        store,
        verifier: common::verifier(),
        rules: gateway::rules::KeyRules::Path,
        connections: 100,
        handshake_timeout: std::time::Duration::from_secs(5),
    };
    tokio::spawn(gateway::store::http::serve(
        listener,
        Arc::new(service),
        None,
    ));
    let settings = "settle = \"1ms\"\nforward_tickets = true\n\
                    [[guard]]\npath = \"/kv/orders\"\nlock = \"orders/%\"";
    let bed = HttpBed::before(store_at).with(settings);
    let gateway = bed.gateway().await;
    ready(&gateway).await;
    let at = gateway.address;
    let tickets: Vec<_> = (100..104).map(|token| ticket("orders/1", token)).collect();
    let put = |at, token: usize| {
        let ticket = tickets[token].clone();
        async move { call(at, "PUT", "/kv/orders/1", Some(&ticket), &token.to_string()).await }
    };
    assert_eq!(put(at, 1).await.status, 204);
    is_problem(&put(at, 0).await, 412, "FN001");
    // Somebody gets around the gateway, which does no harm where tokens are compared.
    assert_eq!(put(store_at, 3).await.status, 204);
    is_problem(&put(at, 2).await, 412, "\"token_needed\":\"103\"");
    assert_eq!(call(at, "GET", "/kv/orders/1", None, "").await.body, "3");
}
