//! Writers under an old token, in every isolation level, with savepoints and a procedure that
//! commits inside, hammering while a newer token is admitted through another gateway. No write of
//! theirs may take effect once the new holder has been admitted. The same flood against a fence
//! with one rule taken out has to find such writes, or it would prove nothing.
//!
//! `LOCKD_FLOOD_ATTEMPTS` says how many stale writes are tried at least; some thousands otherwise.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::mysql::{MysqlBed, Running, run, start_server};
use gateway::mysql::install;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};

/// Stale writes tried in an ordinary run.
const ATTEMPTS: u64 = 4000;
/// Stale writes that a round waits for before it ends.
const ATTEMPTS_PER_ROUND: u64 = 500;
/// Rounds within which a broken fence has to be found out.
const BROKEN_ROUNDS: u64 = 60;
/// The lock that moves, and covers the row.
const LOCK: &str = "orders/1";
/// A lock that does not move, carried by the old writers as well; it covers the ledger. What they
/// write there under a current ticket must end with their other one.
const OTHER: (&str, u64) = ("stock/1", 50);

/// A write that says its token: the row itself counts those that come below a higher one.
fn write(token: u64) -> String {
    format!(
        "update orders set n = n + 1, bad = bad + ({token} < hi), hi = greatest(hi, {token}) \
         where id = 1"
    )
}

/// What each of the writers sends again and again.
fn floods(token: u64) -> Vec<Vec<String>> {
    let (write, insert) = (write(token), format!("insert into ledger values ({token})"));
    let transaction = |isolation: &str| {
        let level = format!("set transaction isolation level {isolation}");
        [
            level.as_str(),
            "begin",
            &insert,
            "savepoint s",
            &write,
            "rollback to s",
            &insert,
            &write,
            "commit",
        ]
        .map(str::to_owned)
        .to_vec()
    };
    vec![
        vec![write.clone(), insert.clone()],
        transaction("read committed"),
        transaction("repeatable read"),
        transaction("serializable"),
        vec![format!(
            "begin not atomic {insert}; {write}; commit; {insert}; {write}; end"
        )],
        vec![format!("call inner_commits({token})")],
    ]
}

#[derive(Default)]
struct Counts {
    /// Statements that were refused as stale.
    refused: AtomicU64,
    done: AtomicU64,
    stop: AtomicBool,
}

/// `true` if the session is still there at the end.
async fn hammer(mut conn: Conn, flood: Vec<String>, counts: Arc<Counts>) -> bool {
    while !counts.stop.load(Ordering::Relaxed) {
        for sql in &flood {
            match run(&mut conn, sql).await {
                Ok(()) => counts.done.fetch_add(1, Ordering::Relaxed),
                Err(Error::Server(error)) if error.state.starts_with("FN") => {
                    counts.refused.fetch_add(1, Ordering::Relaxed)
                }
                // A deadlock, or a snapshot that is too old: it goes on.
                Err(Error::Server(error)) if error.code < 1900 && error.code != 1317 => 0,
                Err(_) => return false,
            };
        }
    }
    true
}

#[derive(Debug, Default)]
struct Tally {
    stale: i64,
    refused: u64,
    written: u64,
    kept: u64,
    ended: u64,
    rounds: u64,
}

async fn admitted(bed: &MysqlBed, gateway: &Running, tickets: &[(&str, u64)]) -> Conn {
    let mut conn = bed.app(gateway).await;
    run(&mut conn, &bed.show(tickets)).await.unwrap();
    conn
}

async fn wait_until(counts: &Counts, enough: impl Fn(&Counts) -> bool) {
    while !enough(counts) {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

/// Runs rounds until so many stale writes were tried, or until one has taken effect.
async fn flood(bed: &MysqlBed, attempts: u64, broken: bool) -> Tally {
    let gateways = [bed.gateway().await, bed.gateway().await];
    let mut admin = bed.admin().await;
    let mut tally = Tally::default();
    let mut overwritten = 0;
    while tally.refused < attempts && (tally.stale == 0 || !broken) {
        assert!(
            !broken || tally.rounds < BROKEN_ROUNDS,
            "nothing was found: {tally:?}"
        );
        let old = 100 + tally.rounds * 2;
        tally.rounds += 1;
        let newer = &gateways[tally.rounds as usize % 2];
        let counts = Arc::new(Counts::default());
        let mut writers = Vec::new();
        for flood in floods(old) {
            let conn = admitted(bed, &gateways[0], &[(LOCK, old), OTHER]).await;
            writers.push(tokio::spawn(hammer(conn, flood, Arc::clone(&counts))));
        }
        let mut quiet = admitted(bed, &gateways[0], &[(LOCK, old), OTHER]).await;
        wait_until(&counts, |c| c.done.load(Ordering::Relaxed) >= 40).await;
        let mut holder = admitted(bed, newer, &[(LOCK, old + 1)]).await;
        // What the new holder can see when it may first look is all that there may ever be.
        let sql = format!("select count(*) from ledger where token = {old}");
        let before: i64 = admin.query_first(&sql).await.unwrap().unwrap();
        // A valid holder is never refused.
        run(&mut holder, &write(old + 1)).await.unwrap();
        let all_gone = || writers.iter().all(tokio::task::JoinHandle::is_finished);
        let seen = counts.done.load(Ordering::Relaxed);
        wait_until(&counts, |c| {
            let enough = c.refused.load(Ordering::Relaxed) >= ATTEMPTS_PER_ROUND
                || (broken && c.done.load(Ordering::Relaxed) > seen + 100);
            enough || all_gone()
        })
        .await;
        counts.stop.store(true, Ordering::Relaxed);
        for writer in writers {
            let kept = writer.await.unwrap();
            tally.kept += u64::from(kept);
            tally.ended += u64::from(!kept);
        }
        let after: i64 = admin.query_first(&sql).await.unwrap().unwrap();
        let row = "select bad, n from orders where id = 1";
        let (bad, written): (i64, u64) = admin.query_first(row).await.unwrap().unwrap();
        tally.refused += counts.refused.load(Ordering::Relaxed);
        tally.written = written;
        tally.stale += (after - before) + (bad - overwritten);
        overwritten = bad;
        // Nobody who was not in the way has lost a session, and the holder still holds.
        run(&mut quiet, "do 1").await.unwrap();
        run(&mut holder, &write(old + 1)).await.unwrap();
    }
    tally
}

const LEDGER: &str = "\n[[guard]]\ntable = \"ledger\"\nlock = \"";

async fn flooded_bed(own_server: bool) -> MysqlBed {
    let mut bed = match own_server {
        true => MysqlBed::on(Arc::new(start_server(&[]))).await,
        false => MysqlBed::new().await,
    };
    let mut admin = bed.admin().await;
    for sql in [
        "create table ledger (token bigint not null, key (token)) engine = InnoDB",
        "create procedure inner_commits(k bigint) begin
           for i in 1..10 do
             insert into ledger values (k);
             update orders set n = n + 1, bad = bad + (k < hi), hi = greatest(hi, k) where id = 1;
             commit;
           end for;
         end",
    ] {
        run(&mut admin, sql).await.unwrap();
    }
    bed.rules = format!("{LEDGER}{}/stock/%\"\n", bed.database);
    bed.install().await;
    bed
}

/// Runs the fence's SQL again with something taken out. The server has to be one's own.
async fn mutate(bed: &MysqlBed, from: &str, to: &str) {
    let sql = install::sql(&bed.mysql());
    assert!(sql.contains(from), "{from}");
    let mut admin = bed.admin().await;
    let (_, body) = sql.split_once("delimiter //\n").unwrap();
    for statement in body.split("\n//\n").filter(|part| part.contains(from)) {
        run(&mut admin, &statement.replace(from, to)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_below_a_token_takes_effect_once_it_is_admitted() {
    let bed = flooded_bed(false).await;
    let attempts = std::env::var("LOCKD_FLOOD_ATTEMPTS");
    let attempts = attempts.map_or(ATTEMPTS, |text| text.parse().unwrap());
    let tally = flood(&bed, attempts, false).await;
    eprintln!("{tally:?}");
    assert_eq!(tally.stale, 0);
}

#[tokio::test]
async fn with_a_share_lock_in_the_trigger_a_prepared_transaction_lands_behind_the_newer_holder() {
    let bed = flooded_bed(true).await;
    mutate(&bed, "       for update;", "       lock in share mode;").await;
    let gateway = bed.gateway().await;
    let mut old = admitted(&bed, &gateway, &[(LOCK, 5)]).await;
    for sql in [
        "execute immediate 'xa start ''x'''",
        &write(5),
        "execute immediate 'xa end ''x'''",
        "execute immediate 'xa prepare ''x'''",
    ] {
        run(&mut old, sql).await.unwrap();
    }
    // It should have to wait, and does not.
    let mut new = admitted(&bed, &gateway, &[(LOCK, 6)]).await;
    let row = "select n from orders where id = 1";
    let seen: Option<u64> = new.query_first(row).await.unwrap();
    run(&mut old, "execute immediate 'xa commit ''x'''")
        .await
        .unwrap();
    let then: Option<u64> = new.query_first(row).await.unwrap();
    assert_eq!((seen, then), (Some(0), Some(1)), "no stale write was found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_drain_the_flood_finds_stale_writes() {
    let bed = flooded_bed(true).await;
    mutate(
        &bed,
        "where not s.stale and s.connection <> p",
        "where false",
    )
    .await;
    let tally = flood(&bed, u64::MAX, true).await;
    eprintln!("without the drain: {tally:?}");
    assert!(tally.stale > 0);
}
