//! Writers of an old token that pipeline in every way there is while a newer one is admitted, and a
//! count of what of theirs takes effect after that.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::raw::{Raw, msg, pbe, query, sync};
use super::{Bed, show};

/// Rounds of the flood against the whole fence.
pub const ROUNDS: u64 = 30;
/// Rounds within which a broken fence has to be found out.
pub const BROKEN_ROUNDS: u64 = 200;
/// The lock that moves, and covers the table of the row.
const LOCK: &str = "orders/1";
/// A lock that does not move, carried by the old writers as well; it covers the ledger. What they
/// write there under a current ticket must end with their other one.
const OTHER: (&str, u64) = ("stock/1", 50);

const SETUP: &str = "
    create table ledger (token bigint not null);
    create procedure inner_commits(k bigint) language plpgsql as $$ begin
      for i in 1..20 loop
        insert into ledger values (k);
        update orders set n = n + 1, bad = bad + (k < hi)::int, hi = greatest(hi, k) where id = 1;
        commit;
      end loop;
    end $$;
    grant all on ledger to public;";

/// A write that says its token: the row itself counts those that come below a higher one.
fn write(token: u64) -> String {
    format!(
        "update orders set n = n + 1, bad = bad + ({token} < hi)::int, hi = greatest(hi, {token}) \
         where id = 1"
    )
}

fn insert(token: u64) -> String {
    format!("insert into ledger values ({token})")
}

/// What each of the writers sends again and again, with the number of answers.
fn floods(token: u64) -> Vec<(Vec<u8>, usize)> {
    let (write, insert) = (write(token), insert(token));
    let simple = [query(&write), query(&insert)].concat();
    let transaction = |isolation: &str| {
        let begin = format!("begin isolation level {isolation}");
        let parts = [
            begin.as_str(),
            &insert,
            "savepoint s",
            &write,
            "rollback to s",
            &insert,
            &write,
            "commit",
        ];
        (
            parts
                .iter()
                .flat_map(|sql| query(sql))
                .collect::<Vec<u8>>()
                .repeat(4),
            parts.len() * 4,
        )
    };
    let units = [pbe(&write), pbe(&insert), sync()].concat();
    let mut copy = query("copy ledger from stdin");
    for _ in 0..50 {
        copy.extend(msg(b'd', format!("{token}\n").as_bytes()));
    }
    copy.extend(msg(b'c', b""));
    vec![
        (simple.repeat(10), 20),
        transaction("repeatable read"),
        transaction("serializable"),
        (units.repeat(20), 20),
        (copy.repeat(4), 4),
        (query(&format!("call inner_commits({token})")), 1),
    ]
}

/// What came of a flood.
#[derive(Debug, Default)]
pub struct Tally {
    pub stale: u64,
    /// Sessions of old writers that outlived the admission of the next holder, and that did not.
    pub kept: u64,
    pub ended: u64,
    pub written: u64,
    pub rounds: u64,
    /// The slowest admission.
    pub slowest: Duration,
}

async fn admitted(bed: &Bed, gateway: SocketAddr, tickets: &[(&str, u64)]) -> Raw {
    let mut raw = bed.raw(gateway).await;
    let said = raw.outcome(&query(&show(tickets)), 1).await;
    assert_eq!(said, ["done SET"], "{tickets:?}");
    raw
}

/// Runs rounds until one has found a stale write, at most so many. Old writers are behind the first
/// gateway, the new holder is behind one and the other in turns.
pub async fn flood(bed: &Bed, gateways: [SocketAddr; 2], rounds: u64, until_found: bool) -> Tally {
    let admin = bed.admin().await;
    let mut tally = Tally::default();
    let mut overwritten = 0;
    for round in 0..rounds {
        let old = 100 + round * 2;
        tally.rounds = round + 1;
        let (of_old, of_new) = (gateways[0], gateways[round as usize % 2]);
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let mut writers = Vec::new();
        for (bytes, ready) in floods(old) {
            let mut raw = admitted(bed, of_old, &[(LOCK, old), OTHER]).await;
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            writers.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    if !raw.try_send(&bytes).await {
                        return false;
                    }
                    let said = raw.until(ready).await;
                    if said.last().is_some_and(|word| word == "closed") {
                        return false;
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                true
            }));
        }
        let mut quiet = admitted(bed, of_old, &[(LOCK, old), OTHER]).await;
        while done.load(Ordering::Relaxed) < 12 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let begun = std::time::Instant::now();
        let mut holder = admitted(bed, of_new, &[(LOCK, old + 1)]).await;
        tally.slowest = tally.slowest.max(begun.elapsed());
        // What the new holder can see when it may first look is all that there may ever be.
        let sql = format!("select count(*) from ledger where token = {old}");
        let before: i64 = admin.query_one(&sql, &[]).await.unwrap().get(0);
        let said = holder.outcome(&query(&write(old + 1)), 1).await;
        assert_eq!(said, ["done UPDATE 1"], "a well-behaved holder was refused");
        let seen = done.load(Ordering::Relaxed);
        let some_more = tokio::time::timeout(Duration::from_millis(60), async {
            while done.load(Ordering::Relaxed) < seen + 12 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let _ = some_more.await;
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            let kept = writer.await.unwrap();
            tally.kept += u64::from(kept);
            tally.ended += u64::from(!kept);
        }
        let after: i64 = admin.query_one(&sql, &[]).await.unwrap().get(0);
        let row = admin
            .query_one("select bad, n from orders where id = 1", &[])
            .await
            .unwrap();
        let bad = row.get::<_, i32>(0);
        tally.written = row.get::<_, i32>(1) as u64 + after as u64;
        tally.stale += (after - before) as u64 + (bad - overwritten) as u64;
        overwritten = bad;
        // Nobody who was not in the way has lost a session.
        assert_eq!(
            quiet.outcome(&query("select 1"), 1).await,
            ["done SELECT 1"]
        );
        let said = holder.outcome(&query(&write(old + 1)), 1).await;
        assert_eq!(said, ["done UPDATE 1"], "a well-behaved holder was lost");
        if until_found && tally.stale > 0 {
            break;
        }
    }
    tally
}

/// A bed with what the floods write to.
pub async fn flooded_bed() -> Bed {
    let bed = Bed::new().await;
    let admin = bed.admin().await;
    admin.batch_execute(SETUP).await.unwrap();
    let guard = "create trigger fence_guard before insert or update or delete or truncate on ledger
          for each statement execute function fence.guard('prefix', 'stock/');
        alter table ledger enable always trigger fence_guard";
    admin.batch_execute(guard).await.unwrap();
    bed
}

/// Takes something out of a function of the fence, in this test's own database.
pub async fn mutate(bed: &Bed, function: &str, from: &str, to: &str) {
    let admin = bed.admin().await;
    let sql = format!("select pg_get_functiondef('fence.{function}'::regproc)");
    let source: String = admin.query_one(&sql, &[]).await.unwrap().get(0);
    assert_eq!(source.matches(from).count(), 1, "{from} in {source}");
    admin
        .batch_execute(&source.replace(from, to))
        .await
        .unwrap();
}
