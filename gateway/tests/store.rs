//! The embedded store over HTTP, as a client sees it.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::{ticket, verifier};
use gateway::rules::{KeyRules, LockPattern};
use gateway::store::engine::Store;
use gateway::store::http::{Service, serve};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

struct Server {
    addr: SocketAddr,
    _dir: TempDir,
}

async fn start(rules: KeyRules) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let service = Service {
        store,
        verifier: verifier(),
        rules,
        connections: 100,
        handshake_timeout: Duration::from_secs(5),
    };
    tokio::spawn(serve(listener, Arc::new(service), None));
    Server { addr, _dir: dir }
}

/// Status and everything that follows it.
async fn send(server: &Server, request: String) -> (u16, String) {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(30), read)
        .await
        .unwrap()
        .unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

async fn call(
    server: &Server,
    method: &str,
    path: &str,
    ticket: Option<&str>,
    body: &str,
) -> (u16, String) {
    let ticket = ticket
        .map(|t| format!("Fencing-Token: {t}\r\n"))
        .unwrap_or_default();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: s\r\nConnection: close\r\n{ticket}\
         Content-Length: {length}\r\n\r\n{body}"
    );
    send(server, request).await
}

#[tokio::test]
async fn a_paused_holder_cannot_overwrite_its_successor() {
    let server = start(KeyRules::Path).await;
    let (a, b) = (ticket("orders/42", 33), ticket("orders/42", 34));
    let (status, _) = call(&server, "PUT", "/kv/orders/42", Some(&a), "from A").await;
    assert_eq!(status, 204);
    let (status, _) = call(&server, "PUT", "/kv/orders/42", Some(&b), "from B").await;
    assert_eq!(status, 204);
    let (status, answer) = call(&server, "PUT", "/kv/orders/42", Some(&a), "late").await;
    assert_eq!(status, 412, "{answer}");
    for part in [
        "application/problem+json",
        "\"code\":\"FN001\"",
        "\"lock\":\"orders/42\"",
        "\"token_shown\":\"33\"",
        "\"token_needed\":\"34\"",
        "\"status\":412",
        "\"type\":\"urn:lockd:fence:stale\"",
    ] {
        assert!(answer.contains(part), "{part} is not in {answer}");
    }
    let (status, answer) = call(&server, "GET", "/kv/orders/42", None, "").await;
    assert!(status == 200 && answer.ends_with("from B"), "{answer}");
    let (_, answer) = call(&server, "GET", "/fences", None, "").await;
    assert!(
        answer.contains(r#"{"lock":"orders/42","token":"34"}"#),
        "{answer}"
    );
}

#[tokio::test]
async fn a_read_with_a_ticket_shuts_the_older_holder_out() {
    let server = start(KeyRules::Path).await;
    let (a, b) = (ticket("k", 1), ticket("k", 2));
    call(&server, "PUT", "/kv/k", Some(&a), "1").await;
    let (status, _) = call(&server, "GET", "/kv/k", Some(&b), "").await;
    assert_eq!(status, 200);
    assert_eq!(call(&server, "PUT", "/kv/k", Some(&a), "late").await.0, 412);
    assert_eq!(call(&server, "GET", "/kv/k", Some(&a), "").await.0, 412);
    assert_eq!(call(&server, "DELETE", "/kv/k", Some(&a), "").await.0, 412);
    assert_eq!(call(&server, "DELETE", "/kv/k", Some(&b), "").await.0, 204);
    assert_eq!(call(&server, "GET", "/kv/k", None, "").await.0, 404);
}

#[tokio::test]
async fn writes_need_a_genuine_ticket_of_a_lock_that_covers_the_key() {
    let orders = LockPattern::parse("orders/%").unwrap();
    let server = start(KeyRules::Prefixes(vec![("orders/".into(), orders)])).await;
    let (status, answer) = call(&server, "PUT", "/kv/orders/1", None, "x").await;
    assert!(status == 428 && answer.contains("FN002"), "{answer}");
    let other = ticket("stock/1", 9);
    let (status, answer) = call(&server, "PUT", "/kv/orders/1", Some(&other), "x").await;
    assert!(status == 428 && answer.contains("orders/%"), "{answer}");
    let (status, answer) = call(&server, "PUT", "/kv/orders/1", Some("lk1.xyz"), "x").await;
    assert!(status == 403 && answer.contains("FN003"), "{answer}");
    let good = ticket("orders/7", 9);
    assert_eq!(
        call(&server, "PUT", "/kv/orders/1", Some(&good), "x")
            .await
            .0,
        204
    );
    assert_eq!(
        call(&server, "PUT", "/kv/stock/1", Some(&other), "x")
            .await
            .0,
        428
    );
    let both = format!("{} {}", ticket("stock/1", 10), ticket("orders/7", 11));
    assert_eq!(
        call(&server, "PUT", "/kv/orders/1", Some(&both), "x")
            .await
            .0,
        204
    );
}

#[tokio::test]
async fn hostile_requests_get_an_answer_and_the_store_goes_on() {
    let server = start(KeyRules::Path).await;
    let good = ticket("k", 1);
    let long = format!("/kv/{}", "x".repeat(600));
    assert_eq!(call(&server, "PUT", &long, Some(&good), "x").await.0, 400);
    assert_eq!(
        call(&server, "PUT", "/kv/%ff", Some(&good), "x").await.0,
        400
    );
    assert_eq!(
        call(&server, "PUT", "/kv/%zz", Some(&good), "x").await.0,
        400
    );
    assert_eq!(call(&server, "PUT", "/kv/", Some(&good), "x").await.0, 400);
    assert_eq!(
        call(&server, "POST", "/kv/k", Some(&good), "x").await.0,
        405
    );
    assert_eq!(call(&server, "GET", "/nothing", None, "").await.0, 404);
    let bomb = format!(
        "PUT /kv/k HTTP/1.1\r\nHost: s\r\nConnection: close\r\nFencing-Token: {good}\r\n\
         Content-Length: 99999999999\r\n\r\nx"
    );
    assert_eq!(send(&server, bomb).await.0, 413);
    let headers = format!("GET /kv/k HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(100_000));
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    // The server may hang up before it has read all of this.
    let _ = stream.write_all(headers.as_bytes()).await;
    drop(stream);
    assert_eq!(
        call(&server, "PUT", "/kv/k", Some(&good), "fine").await.0,
        204
    );
}
