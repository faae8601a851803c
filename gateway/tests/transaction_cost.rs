//! What the fence costs the server, in CPU time of the backend that serves one session: a row that
//! is updated again and again, each update a transaction of its own. A measurement, run by hand:
//! `cargo test --release -p gateway --test transaction_cost -- --ignored --nocapture`.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use common::raw::{Raw, pbe, query, sync};
use common::{Bed, show};

/// Updates in one run.
const UPDATES: u32 = 20_000;

/// CPU time of a process so far, in ticks of the kernel: 10 ms on every usual machine.
fn ticks(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Behind the name, which is in brackets and may hold anything: 12th and 13th.
    let fields = text.rsplit(')').next().unwrap().split_whitespace();
    fields
        .skip(11)
        .take(2)
        .map(|f| f.parse::<u64>().unwrap())
        .sum()
}

/// Microseconds of the server's CPU time for one update.
async fn cost(raw: &mut Raw, update: &[u8]) -> f64 {
    let before = ticks(raw.pid);
    for _ in 0..UPDATES {
        assert_eq!(raw.outcome(update, 1).await, ["done UPDATE 1"]);
    }
    (ticks(raw.pid) - before) as f64 * 10_000.0 / f64::from(UPDATES)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn what_an_update_costs_the_server() {
    let bed = Bed::new().await;
    let setup = "insert into free values (1, 'start')";
    bed.admin().await.batch_execute(setup).await.unwrap();
    let rows = bed.gateway().await;
    let told = bed.transaction_gateway(None).await;
    println!("| | query | prepared each time |\n|---|---|---|");
    for (name, gateway, table) in [
        ("registered, no guard", rows.address, "free"),
        ("registered, guarded", rows.address, "orders"),
        ("told, no guard", told.address, "free"),
        ("told, guarded", told.address, "orders"),
    ] {
        let mut raw = bed.raw(gateway).await;
        raw.outcome(&query(&show(&[("orders/1", 5)])), 1).await;
        let update = format!("update {table} set n = n + 1 where id = 1");
        let simple = cost(&mut raw, &query(&update)).await;
        let unit = [pbe(&update), sync()].concat();
        let extended = cost(&mut raw, &unit).await;
        println!("| {name} | {simple:.0} us | {extended:.0} us |");
    }
}
