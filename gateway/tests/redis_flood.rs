//! Pipelining writers under an old token, plainly, in transactions, in scripts and in functions,
//! while a newer token is admitted, in turn through their own gateway and through another one. No
//! write of theirs may take effect once the new holder has been admitted. The same flood against a
//! fence with one rule taken out has to find such writes, or it would prove nothing.
//!
//! `REDIS_FLOOD_ATTEMPTS` says how many writes at least have to be tried.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::redis::{Client, RedisBed, command};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;

/// Writes tried in an ordinary run, at least.
const ATTEMPTS_DEFAULT: u64 = 100_000;
/// Handovers in every run, at least.
const ROUNDS_MIN: u64 = 12;
/// Most pieces of a flood that are sent and not yet answered.
const PIECES_AHEAD: u64 = 4;
/// Rounds within which a broken fence has to be found out.
const BROKEN_ROUNDS: u64 = 100;
const LOCK: &str = "orders/1";
/// A lock that does not move, carried by the old writers as well.
const OTHER: (&str, u64) = ("stock/1", 50);
/// Counts its calls, and among them those that come below a higher token that has written.
/// These tokens are small; real ones would not fit a number of Lua's.
const COUNT: &str = "local k = tonumber(ARGV[1]) \
    local h = tonumber(redis.call('hget', KEYS[1], 'hi') or 0) \
    redis.call('hincrby', KEYS[1], 'n:' .. k, 1) \
    if k < h then redis.call('hincrby', KEYS[1], 'bad', 1) \
    else redis.call('hset', KEYS[1], 'hi', k) end return 1";

#[derive(Default, Debug)]
struct Tally {
    rounds: u64,
    tried: u64,
    refused: u64,
    stale: u64,
    lost: u64,
    slowest: Duration,
}

/// What each of the writers sends again and again, and how many writes that tries.
fn floods(token: u64) -> Vec<(Vec<u8>, u64)> {
    let token = token.to_string();
    let plain = command(&["HINCRBY", "orders:w", &format!("n:{token}"), "1"]);
    let script = command(&["EVAL", COUNT, "1", "orders:w", &token]);
    let function = command(&["FCALL", "count", "1", "orders:w", &token]);
    let (multi, exec) = (command(&["MULTI"]), command(&["EXEC"]));
    let transaction = [&multi[..], &plain, &script, &function, &exec].concat();
    let other = command(&["INCR", "stock:n"]);
    vec![
        (plain.repeat(200), 200),
        (transaction.repeat(40), 120),
        (script.repeat(100), 100),
        (function.repeat(100), 100),
        ([other, plain].concat().repeat(100), 200),
    ]
}

/// Sends a flood until it is told to stop or the connection ends. Says how much of it was refused,
/// and whether the connection is still there.
async fn writer(
    client: Client,
    (bytes, tries): (Vec<u8>, u64),
    stop: Arc<AtomicBool>,
    tried: Arc<AtomicU64>,
) -> (u64, bool) {
    let (from_server, mut to_server) = client.stream.into_split();
    let answered = Arc::new(AtomicU64::new(0));
    let reader = tokio::spawn(read(from_server, Arc::clone(&answered)));
    let piece = [bytes, command(&["PING"])].concat();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) && !reader.is_finished() {
        if sent >= answered.load(Ordering::Relaxed) + PIECES_AHEAD {
            tokio::task::yield_now().await;
            continue;
        }
        if to_server.write_all(&piece).await.is_err() {
            break;
        }
        sent += 1;
        tried.fetch_add(tries, Ordering::Relaxed);
    }
    let _ = to_server
        .write_all(&command(&["EVAL", "return {ok = 'the end'}", "0"]))
        .await;
    reader.await.unwrap()
}

/// Counts refusals and answered pieces until the end of a flood or of the connection.
async fn read(mut from_server: OwnedReadHalf, answered: Arc<AtomicU64>) -> (u64, bool) {
    let (mut refused, mut buffer, mut lines) = (0, vec![0; 64 * 1024], Vec::new());
    loop {
        let Ok(count @ 1..) = from_server.read(&mut buffer).await else {
            return (refused, false);
        };
        lines.extend_from_slice(&buffer[..count]);
        let whole = lines
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |end| end + 1);
        for line in lines[..whole].split(|&byte| byte == b'\n') {
            match line {
                b"+PONG\r" => drop(answered.fetch_add(1, Ordering::Relaxed)),
                b"+the end\r" => return (refused, true),
                _ => refused += u64::from(line.starts_with(b"-FENCED ")),
            }
        }
        lines.drain(..whole);
    }
}

/// Runs rounds until so many writes have been tried, or one that is stale has taken effect.
/// `breaking` is the configuration of the gateway through which newer holders come.
async fn flood(bed: &RedisBed, attempts: u64, rounds: u64, breaking: Option<&str>) -> Tally {
    let one = bed.gateway().await;
    let other = match breaking {
        Some(text) => bed.gateway_of(text, |_| {}).await,
        None => bed.gateway().await,
    };
    let mut root = bed.root().await;
    let library =
        format!("#!lua name=l\nredis.register_function('count', function(KEYS, ARGV) {COUNT} end)");
    root.ask(&["FUNCTION", "LOAD", "REPLACE", &library]).await;
    let mut tally = Tally::default();
    let tried = Arc::new(AtomicU64::new(0));
    while tally.rounds < rounds
        && (tally.rounds < ROUNDS_MIN || tried.load(Ordering::Relaxed) < attempts)
    {
        let old = 100 + 2 * tally.rounds;
        let through_other = breaking.is_some() || tally.rounds % 2 == 1;
        let of_new = if through_other {
            other.address
        } else {
            one.address
        };
        tally.rounds += 1;
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = Vec::new();
        for flood in floods(old) {
            let client = bed.holder(one.address, &[(LOCK, old), OTHER]).await;
            writers.push(tokio::spawn(writer(
                client,
                flood,
                stop.clone(),
                tried.clone(),
            )));
        }
        let field = format!("n:{old}");
        while root.ask(&["HGET", "orders:w", &field]).await == "nil" {}
        tokio::time::sleep(Duration::from_millis(tally.rounds % 10)).await;
        let begun = Instant::now();
        let mut holder = bed.holder(of_new, &[(LOCK, old + 1)]).await;
        tally.slowest = tally.slowest.max(begun.elapsed());
        // What the new holder can see when it may first look is all that there may ever be.
        let before = number(&holder.ask(&["HGET", "orders:w", &field]).await);
        let token = (old + 1).to_string();
        let said = holder.ask(&["EVAL", COUNT, "1", "orders:w", &token]).await;
        if breaking.is_none() {
            assert_eq!(said, ":1", "the valid holder was refused");
        }
        let seen = tried.load(Ordering::Relaxed);
        let more = async {
            while tried.load(Ordering::Relaxed) < seen + 2000 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), more).await;
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            let (refused, kept) = writer.await.unwrap();
            tally.refused += refused;
            tally.lost += u64::from(!kept);
        }
        let said = holder.ask(&["EVAL", COUNT, "1", "orders:w", &token]).await;
        if breaking.is_none() {
            assert_eq!(said, ":1", "the valid holder was refused");
        }
        let after = number(&root.ask(&["HGET", "orders:w", &field]).await);
        let bad = number(&root.ask(&["HGET", "orders:w", "bad"]).await);
        tally.stale = tally.stale.max(bad) + (after - before);
        if tally.stale > 0 {
            break;
        }
    }
    tally.tried = tried.load(Ordering::Relaxed);
    tally
}

fn number(said: &str) -> u64 {
    said.trim_start_matches(['$', ':']).parse().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_below_a_token_takes_effect_once_it_is_admitted() {
    let attempts = match std::env::var("REDIS_FLOOD_ATTEMPTS") {
        Ok(number) => number.parse().unwrap(),
        Err(_) => ATTEMPTS_DEFAULT,
    };
    let bed = RedisBed::new().await;
    let tally = flood(&bed, attempts, u64::MAX, None).await;
    eprintln!("{tally:?}");
    assert_eq!(tally.stale, 0);
    assert!(tally.tried >= attempts && tally.refused > 0, "{tally:?}");
    assert_eq!(tally.lost, 0, "a connection was lost");
}

/// The gateway of the newer holders gives an older one back what an application may do without a
/// ticket; here that includes the keys of the old holder. So its writes are not taken away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_taking_rights_away_the_flood_finds_stale_writes() {
    let bed = RedisBed::new().await;
    let guard = "[[guard]]\nkeys = \"orders:*\"\nlock = \"orders/%\"\n";
    let text = bed
        .config_text()
        .replace(guard, "")
        .replace("\"free:*\"", "\"free:*\", \"orders:*\"");
    assert_ne!(text, bed.config_text());
    let tally = flood(&bed, u64::MAX, BROKEN_ROUNDS, Some(&text)).await;
    eprintln!("{tally:?}");
    assert!(tally.stale > 0);
}
