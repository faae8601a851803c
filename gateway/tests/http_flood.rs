//! Writers under an old token, pipelining, uploading slowly and breaking off, in front of a real
//! nginx with WebDAV, while a newer token is admitted. Nothing of theirs may take effect once the
//! new holder has been admitted. The same flood against an order with one rule taken out has to
//! find such writes, or it would prove nothing.
//!
//! `HTTP_FLOOD_ATTEMPTS` says how many writes at least have to be tried.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::http::{HttpBed, Raw, call_until_ready, request};
use common::{Running, ticket};
use gateway::fence::order::Rule;
use gateway::http::private_server::PrivateServer;

/// Writes tried in an ordinary run, at least.
const ATTEMPTS_DEFAULT: u64 = 5_000;
/// Handovers in every run, at least.
const ROUNDS_MIN: u64 = 12;
/// In one round of so many, slow writers break off in the middle.
const BREAKING_OFF: u64 = 6;
/// Rounds within which a broken order has to be found out.
const BROKEN_ROUNDS: u64 = 100;
const PATH: &str = "/orders/1";
const LOCK: &str = "orders/1";

#[derive(Default, Debug)]
struct Tally {
    rounds: u64,
    tried: u64,
    done: u64,
    refused: u64,
    stale: u64,
    broken_off: u64,
    slowest: Duration,
}

/// What the writers of one round share.
struct Flood {
    gateway: SocketAddr,
    token: u64,
    stop: AtomicBool,
    breaks_off: bool,
    tried: AtomicU64,
    done: AtomicU64,
    refused: AtomicU64,
    broken_off: AtomicU64,
}

impl Flood {
    fn count(&self, status: u16) {
        match status {
            200..=299 => &self.done,
            412 => &self.refused,
            _ => return,
        }
        .fetch_add(1, Ordering::Relaxed);
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Sends several requests ahead of their answers.
    async fn pipeline(self: Arc<Flood>) {
        const AHEAD: usize = 8;
        let ticket = ticket(LOCK, self.token);
        let headers = [("Fencing-Token", ticket.as_str())];
        let write = request("PUT", PATH, &headers, &format!("old {}", self.token));
        let mut raw = Raw::connect(self.gateway).await;
        while self.goes_on() {
            self.tried.fetch_add(AHEAD as u64, Ordering::Relaxed);
            raw.send(write.repeat(AHEAD)).await;
            for _ in 0..AHEAD {
                match raw.reply().await {
                    Some(reply) => self.count(reply.status),
                    None => raw = Raw::connect(self.gateway).await,
                }
            }
        }
    }

    /// Sends one half of a body, and the other half after this time.
    async fn upload_slowly(self: Arc<Flood>, pause: Duration) {
        let ticket = ticket(LOCK, self.token);
        let body = format!("old {} {}", self.token, "x".repeat(100_000));
        let (head, tail) = body.split_at(body.len() / 2);
        while self.goes_on() {
            let mut raw = Raw::connect(self.gateway).await;
            self.tried.fetch_add(1, Ordering::Relaxed);
            raw.send(format!(
                "PUT {PATH} HTTP/1.1\r\nHost: g\r\nFencing-Token: {ticket}\r\n\
                 Content-Length: {}\r\n\r\n{head}",
                body.len()
            ))
            .await;
            tokio::time::sleep(pause).await;
            if self.breaks_off && !self.goes_on() {
                self.broken_off.fetch_add(1, Ordering::Relaxed);
                return;
            }
            raw.send(tail).await;
            if let Some(reply) = raw.reply().await {
                self.count(reply.status);
            }
        }
    }
}

/// What is in the file: the truth, whoever has written it.
fn content(file: &PathBuf) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

/// One handover: old writers, a new holder, and a look at what is there from then on.
async fn round(gateway: &Running, file: &PathBuf, tally: &mut Tally) {
    let token = 100 + 2 * tally.rounds;
    tally.rounds += 1;
    let flood = Arc::new(Flood {
        gateway: gateway.address,
        token,
        stop: AtomicBool::new(false),
        breaks_off: tally.rounds.is_multiple_of(BREAKING_OFF),
        tried: AtomicU64::new(0),
        done: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        broken_off: AtomicU64::new(0),
    });
    // What was broken off in the round before has settled then.
    call_until_ready(gateway.address, "PUT", PATH, &ticket(LOCK, token), "first").await;
    let mut writers = Vec::new();
    for pause in [3, 10, 30, 100].map(Duration::from_millis) {
        writers.push(tokio::spawn(Arc::clone(&flood).pipeline()));
        writers.push(tokio::spawn(Arc::clone(&flood).upload_slowly(pause)));
    }
    while flood.done.load(Ordering::Relaxed) < 20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(tally.rounds % 10)).await;
    if flood.breaks_off {
        // Some of them are in the middle of a body.
        flood.stop.store(true, Ordering::Relaxed);
    }
    let begun = Instant::now();
    let (new, body) = (ticket(LOCK, token + 1), format!("new {}", token + 1));
    let reply = call_until_ready(gateway.address, "PUT", PATH, &new, &body).await;
    assert!(
        (200..300).contains(&reply.status),
        "the valid holder was refused: {reply:?}"
    );
    tally.slowest = tally.slowest.max(begun.elapsed());
    // The new holder has been answered: from here on only it may write.
    let seen = flood.tried.load(Ordering::Relaxed);
    let patience = Instant::now() + Duration::from_secs(10);
    loop {
        if content(file) != body {
            tally.stale += 1;
            break;
        }
        let enough = flood.tried.load(Ordering::Relaxed) >= seen + 200;
        if enough || flood.breaks_off || Instant::now() > patience {
            break;
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    flood.stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    tally.stale += u64::from(content(file) != body);
    tally.tried += flood.tried.load(Ordering::Relaxed);
    tally.done += flood.done.load(Ordering::Relaxed);
    tally.refused += flood.refused.load(Ordering::Relaxed);
    tally.broken_off += flood.broken_off.load(Ordering::Relaxed);
}

/// Runs rounds until so many writes have been tried, or one that is stale has taken effect.
async fn flood(rule: Option<Rule>, attempts: u64, rounds: u64) -> Tally {
    let server = PrivateServer::start().unwrap_or_else(|error| panic!("{error}"));
    let address = SocketAddr::from(([127, 0, 0, 1], server.port()));
    let bed = HttpBed::before(address).with("settle = \"2s\"");
    let gateway = bed.gateway_without(rule).await;
    let file = server.files().join("orders/1");
    let mut tally = Tally::default();
    while tally.stale == 0
        && tally.rounds < rounds
        && (tally.rounds < ROUNDS_MIN || tally.tried < attempts)
    {
        round(&gateway, &file, &mut tally).await;
    }
    tally
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_below_a_token_takes_effect_once_it_is_admitted() {
    let attempts = match std::env::var("HTTP_FLOOD_ATTEMPTS") {
        Ok(number) => number.parse().unwrap(),
        Err(_) => ATTEMPTS_DEFAULT,
    };
    let tally = flood(None, attempts, u64::MAX).await;
    eprintln!("{tally:?}");
    assert_eq!(tally.stale, 0);
    assert!(tally.tried >= attempts && tally.refused > 0, "{tally:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_drain_the_flood_finds_stale_writes() {
    let tally = flood(Some(Rule::Drain), u64::MAX, BROKEN_ROUNDS).await;
    eprintln!("without the drain: {tally:?}");
    assert!(tally.stale > 0);
}
