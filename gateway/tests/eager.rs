//! Eager fencing with a real lock service: an epoch is closed by the grant itself, before the new
//! holder has shown anything.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::raw::query;
use common::{Bed, connect, refused};
use gateway::config::{Config, FenceMode, Upstream};
use gateway::server;
use lockd::dev::DevCell;
use lockd_client::{Client, LockGuard, Wait};

const WRITE: &str = "update orders set v = 'x' where id = 1";

/// Grants that are measured.
const GRANTS: u32 = 50;

async fn client(config: &Path) -> Client {
    Client::builder()
        .config_file(config)
        .unwrap()
        .connect()
        .await
        .unwrap()
}

async fn acquire(client: &Client, lock: &str) -> LockGuard {
    let lock = client.lock(lock);
    lock.wait(Wait::For(Duration::from_secs(20)))
        .acquire()
        .await
        .unwrap()
}

fn show(guard: &LockGuard) -> String {
    format!("set fence.ticket = '{}'", guard.ticket().unwrap())
}

fn config(bed: &Bed, cell: &DevCell, mode: FenceMode) -> Config {
    let mut config = bed.config();
    config.cell = cell.gateway_config();
    let Upstream::Postgres(postgres) = &mut config.upstream else {
        panic!("not PostgreSQL")
    };
    postgres.eager = true;
    postgres.mode = mode;
    config
}

/// Waits until the mark of a lock is at this token, drained. Says nothing of how long that takes.
async fn closed(admin: &tokio_postgres::Client, lock: &str, token: u64) {
    let sql = "select drained from fence.hw where lock = $1";
    let token = i64::try_from(token).unwrap();
    let work = async {
        while admin
            .query_one(sql, &[&lock])
            .await
            .unwrap()
            .get::<_, i64>(0)
            < token
        {}
    };
    let patience = Duration::from_secs(60);
    let done = tokio::time::timeout(patience, work).await;
    done.expect("the epoch stays open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_closes_the_epoch_before_its_holder_has_shown_a_ticket() {
    let cell = DevCell::start(None).unwrap();
    let client = client(&cell.client_config()).await;
    for mode in [FenceMode::Row, FenceMode::Transaction] {
        let bed = Bed::new().await;
        let admin = bed.admin().await;
        let (address, serving) = server::bind(&config(&bed, &cell, mode)).await.unwrap();
        let serving = tokio::spawn(serving);
        let app = connect(&bed.url("app", address)).await;
        let mut open = bed.raw(address).await;
        let mut took = Vec::new();
        let mut held = acquire(&client, "orders/1").await;
        for round in 0..GRANTS {
            app.batch_execute(&show(&held)).await.unwrap();
            app.batch_execute(WRITE).await.unwrap();
            if round == 0 {
                // A transaction in the way is ended, as it would be by an admission.
                open.outcome(&query(&show(&held)), 1).await;
                open.outcome(&[query("begin"), query(WRITE)].concat(), 2)
                    .await;
            }
            held.release().await.unwrap();
            held = acquire(&client, "orders/1").await;
            let granted = Instant::now();
            closed(&admin, "orders/1", held.token().0).await;
            if round > 0 {
                took.push(granted.elapsed());
            }
            let (code, message) = refused(app.batch_execute(WRITE).await);
            assert_eq!(code, "FN001", "{message}");
        }
        assert_eq!(open.until(1).await.last().unwrap(), "closed");
        took.sort_unstable();
        eprintln!(
            "{mode:?}: {GRANTS} grants; from the grant to closed: median {:?}, slowest {:?}",
            took[took.len() / 2],
            took[took.len() - 1]
        );
        // The holder itself is let in as ever, and a lock that was never shown here leaves nothing.
        app.batch_execute(&show(&held)).await.unwrap();
        app.batch_execute(WRITE).await.unwrap();
        let other = acquire(&client, "orders/2").await;
        other.release().await.unwrap();
        let again = acquire(&client, "orders/1/never").await;
        again.release().await.unwrap();
        let marks = "select count(*) from fence.hw";
        let marks: i64 = admin.query_one(marks, &[]).await.unwrap().get(0);
        assert_eq!(marks, 1);
        held.release().await.unwrap();
        serving.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_granted_while_nobody_followed_is_closed_when_the_gateway_comes_back() {
    let cell = DevCell::start(None).unwrap();
    let client = client(&cell.client_config()).await;
    let bed = Bed::new().await;
    let admin = bed.admin().await;
    let plain = {
        let mut config = config(&bed, &cell, FenceMode::Row);
        if let Upstream::Postgres(postgres) = &mut config.upstream {
            postgres.eager = false;
        }
        config
    };
    let (address, serving) = server::bind(&plain).await.unwrap();
    let serving = tokio::spawn(serving);
    let app = connect(&bed.url("app", address)).await;
    let first = acquire(&client, "orders/1").await;
    app.batch_execute(&show(&first)).await.unwrap();
    first.release().await.unwrap();
    let second = acquire(&client, "orders/1").await;
    // Nobody has closed anything: it is what an admission does.
    app.batch_execute(WRITE).await.unwrap();
    let eager = config(&bed, &cell, FenceMode::Row);
    let (_, following) = server::bind(&eager).await.unwrap();
    let following = tokio::spawn(following);
    closed(&admin, "orders/1", second.token().0).await;
    assert_eq!(refused(app.batch_execute(WRITE).await).0, "FN001");
    following.abort();
    serving.abort();
}
