//! The flood against the transaction fence: straight to the server, behind PgBouncer, and with a
//! gateway of each mode in front of one server. With one rule taken out it has to find stale
//! writes.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;

use common::Bed;
use common::flood::{BROKEN_ROUNDS, ROUNDS, flood, flooded_bed, mutate};
use common::pgbouncer::PrivatePooler;

/// Enough for every writer of a round to have a transaction open at once.
const POOL: u32 = 20;

async fn expect_none_stale(name: &str, bed: &Bed, gateways: [SocketAddr; 2]) {
    let tally = flood(bed, gateways, ROUNDS, false).await;
    eprintln!(
        "{name}, {ROUNDS} rounds: {} stale of {} writes; sessions of old writers kept {}, ended \
         {}; slowest admission {:?}",
        tally.stale, tally.written, tally.kept, tally.ended, tally.slowest
    );
    assert_eq!(tally.stale, 0, "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_below_a_token_takes_effect_once_it_is_admitted() {
    let bed = flooded_bed().await;
    let one = bed.transaction_gateway(None).await;
    let two = bed.transaction_gateway(None).await;
    expect_none_stale("direct", &bed, [one.address, two.address]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_behind_a_pooler_that_shares_its_connections() {
    let bed = flooded_bed().await;
    let pooler = PrivatePooler::start(bed.server.port(), POOL);
    let one = bed.transaction_gateway(Some(&pooler)).await;
    let two = bed.transaction_gateway(Some(&pooler)).await;
    expect_none_stale("pooled", &bed, [one.address, two.address]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_where_both_modes_are_in_front_of_one_server() {
    let bed = flooded_bed().await;
    let pooler = PrivatePooler::start(bed.server.port(), POOL);
    let told = bed.transaction_gateway(Some(&pooler)).await;
    let rows = bed.gateway().await;
    expect_none_stale("told first", &bed, [told.address, rows.address]).await;
    let bed = flooded_bed().await;
    let told = bed.transaction_gateway(None).await;
    let rows = bed.gateway().await;
    expect_none_stale("rows first", &bed, [rows.address, told.address]).await;
}

/// The flood has to find what a fence without one of its rules lets through.
async fn expect_found(bed: &Bed, pooler: Option<&PrivatePooler>, rule: &str) {
    let one = bed.transaction_gateway(pooler).await;
    let two = bed.transaction_gateway(pooler).await;
    let tally = flood(bed, [one.address, two.address], BROKEN_ROUNDS, true).await;
    eprintln!(
        "without {rule}: {} stale in {} rounds",
        tally.stale, tally.rounds
    );
    assert!(tally.stale > 0, "without {rule}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_lock_on_the_epoch_the_flood_finds_stale_writes() {
    let bed = flooded_bed().await;
    mutate(&bed, "guard", "for key share of o", "").await;
    expect_found(&bed, None, "the lock").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_drain_of_the_epoch_it_does_so_behind_a_pooler() {
    let bed = flooded_bed().await;
    let delete = "delete from fence.epoch e where";
    mutate(&bed, "admit", delete, &format!("{delete} false and")).await;
    let pooler = PrivatePooler::start(bed.server.port(), POOL);
    expect_found(&bed, Some(&pooler), "the drain").await;
}
