//! Stale writers and a new one race at a service that compares tokens in the transaction of the
//! write: nothing stale may take effect once the new holder has been answered. A service that
//! compares them before its transaction is caught by the same flood.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

#[path = "../examples/orders.rs"]
#[allow(dead_code)]
mod orders;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, Path};
use axum::http::StatusCode;
use axum::routing::get;
use lockd_origin::{Fence, FenceLayer};
use lockd_protocol::ticket::{Signer, Verifier};
use lockd_protocol::types::{CellId, LockName, Mode, SessionId, Token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Handovers of one flood.
const ROUNDS: u64 = 20;
/// Handovers within which a broken service has to be found out.
const BROKEN_ROUNDS: u64 = 200;
/// Writers under an old token.
const WRITERS: usize = 6;

fn signer() -> Signer {
    Signer::from_seed(CellId([7; 16]), &[7; 32]).unwrap()
}

fn verifier() -> Verifier {
    Verifier::new(CellId([7; 16]), [signer().public_key()]).unwrap()
}

fn ticket(token: u64) -> String {
    let lock = LockName::new("orders/1").unwrap();
    signer()
        .sign(&lock, Token(token), Mode::Exclusive, SessionId(1))
        .to_string()
}

async fn start(service: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
    address
}

/// Status and everything that follows it.
async fn call(at: SocketAddr, method: &str, headers: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} /orders/1 HTTP/1.1\r\nHost: o\r\nConnection: close\r\n{headers}\
         Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

async fn put(at: SocketAddr, token: u64, body: &str) -> (u16, String) {
    call(
        at,
        "PUT",
        &format!("Fencing-Token: {}\r\n", ticket(token)),
        body,
    )
    .await
}

async fn content(at: SocketAddr) -> String {
    let (_, answer) = call(at, "GET", "", "").await;
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[derive(Debug, Default)]
struct Tally {
    rounds: u64,
    tried: u64,
    refused: u64,
    stale: u64,
}

async fn flood(at: SocketAddr, rounds: u64) -> Tally {
    let mut tally = Tally::default();
    while tally.rounds < rounds && tally.stale == 0 {
        let old = 10 + 2 * tally.rounds;
        tally.rounds += 1;
        let stop = Arc::new(AtomicBool::new(false));
        let (tried, done, refused) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicU64::new(0)),
        );
        let writer = || {
            let (stop, tried) = (Arc::clone(&stop), Arc::clone(&tried));
            let (done, refused) = (Arc::clone(&done), Arc::clone(&refused));
            async move {
                while !stop.load(Ordering::Relaxed) {
                    tried.fetch_add(1, Ordering::Relaxed);
                    match put(at, old, "old").await.0 {
                        204 => done.fetch_add(1, Ordering::Relaxed),
                        412 => refused.fetch_add(1, Ordering::Relaxed),
                        status => panic!("{status}"),
                    };
                }
            }
        };
        let writers: Vec<_> = (0..WRITERS).map(|_| tokio::spawn(writer())).collect();
        while done.load(Ordering::Relaxed) < 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let new = format!("new {}", old + 1);
        assert_eq!(put(at, old + 1, &new).await.0, 204);
        let enough = tried.load(Ordering::Relaxed) + 30;
        loop {
            let is_over = tried.load(Ordering::Relaxed) > enough;
            tally.stale += u64::from(content(at).await != new);
            if is_over || tally.stale > 0 {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        tally.stale += u64::from(content(at).await != new);
        tally.tried += tried.load(Ordering::Relaxed);
        tally.refused += refused.load(Ordering::Relaxed);
    }
    tally
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stale_takes_effect_once_a_newer_holder_has_written() {
    let dir = tempfile::tempdir().unwrap();
    let service = orders::service(&dir.path().join("orders.redb"), verifier()).unwrap();
    let tally = flood(start(service).await, ROUNDS).await;
    eprintln!("{tally:?}");
    assert_eq!(tally.stale, 0);
    assert!(tally.refused > 0 && tally.tried > ROUNDS * 30, "{tally:?}");
}

/// The mark and the value of a service without transactions.
type Careless = Arc<Mutex<(u64, Vec<u8>)>>;

/// Compares, and writes some time later.
async fn careless(
    Extension(state): Extension<Careless>,
    Extension(fence): Extension<Fence>,
    Path(_): Path<String>,
    body: axum::body::Bytes,
) -> StatusCode {
    let token = fence.tickets()[0].token.0;
    {
        let mut state = state.lock().unwrap();
        if token < state.0 {
            return StatusCode::PRECONDITION_FAILED;
        }
        state.0 = token;
    }
    tokio::time::sleep(Duration::from_millis(2)).await;
    state.lock().unwrap().1 = body.to_vec();
    StatusCode::NO_CONTENT
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_compares_before_its_transaction_is_caught() {
    let state = Arc::new(Mutex::new((0_u64, Vec::<u8>::new())));
    let read =
        |Extension(state): Extension<Careless>| async move { state.lock().unwrap().1.clone() };
    let service = Router::new()
        .route("/orders/{id}", get(read).put(careless))
        .layer(FenceLayer::optional(verifier()))
        .layer(Extension(state));
    let tally = flood(start(service).await, BROKEN_ROUNDS).await;
    eprintln!("compared too early: {tally:?}");
    assert!(tally.stale > 0);
}

#[tokio::test]
async fn the_layer_answers_what_is_no_ticket_and_a_route_may_require_one() {
    let dir = tempfile::tempdir().unwrap();
    let service = orders::service(&dir.path().join("orders.redb"), verifier()).unwrap();
    let at = start(service).await;
    let two = format!("Fencing-Token: {0}\r\nFencing-Token: {0}\r\n", ticket(5));
    for (headers, status, code) in [
        (String::new(), 428, "FN002"),
        ("Fencing-Token: lk1.x\r\n".into(), 403, "FN003"),
        (two, 400, "FN005"),
    ] {
        let (said, answer) = call(at, "PUT", &headers, "x").await;
        assert!(said == status && answer.contains(code), "{answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
    }
    assert_eq!(put(at, 6, "six").await.0, 204);
    let (status, answer) = put(at, 5, "five").await;
    assert_eq!(status, 412);
    for part in [
        "\"token_shown\":\"5\"",
        "\"token_needed\":\"6\"",
        "\"lock\":\"orders/1\"",
    ] {
        assert!(answer.contains(part), "{part} is not in {answer}");
    }
    assert_eq!(content(at).await, "six");

    let yes = |fence: Extension<Fence>| async move { fence.0.tickets().len().to_string() };
    let guarded = Router::new()
        .route("/orders/{id}", get(yes))
        .layer(FenceLayer::required(verifier()));
    let at = start(guarded).await;
    assert_eq!(call(at, "GET", "", "").await.0, 428);
    let shown = format!("Fencing-Token: {}\r\n", ticket(5));
    assert_eq!(call(at, "GET", &shown, "").await.0, 200);
}
