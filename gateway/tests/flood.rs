//! Pipelining writers under an old token, in every isolation level, with savepoints, COPY and a
//! procedure that commits inside, while a newer token is admitted through another gateway. No
//! write of theirs may take effect once the new holder has been admitted. The same flood against
//! a fence with one rule taken out has to find such writes, or it would prove nothing.
// Helpers are outside of test functions; a failed one fails its test.
#![allow(clippy::unwrap_used)]

mod common;

use common::flood::{BROKEN_ROUNDS, ROUNDS, Tally, flood, flooded_bed, mutate};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_below_a_token_takes_effect_once_it_is_admitted() {
    let bed = flooded_bed().await;
    let (one, two) = (bed.gateway().await, bed.gateway().await);
    let two_gateways = [one.address, two.address];
    let Tally {
        stale,
        kept,
        ended,
        written,
        slowest,
        ..
    } = flood(&bed, two_gateways, ROUNDS, false).await;
    eprintln!(
        "{ROUNDS} rounds: {stale} stale of {written} writes; sessions of old writers kept {kept}, \
         ended {ended}; slowest admission {slowest:?}"
    );
    assert_eq!(stale, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_row_lock_in_the_trigger_the_flood_finds_stale_writes() {
    let bed = flooded_bed().await;
    let (one, two) = (bed.gateway().await, bed.gateway().await);
    let two_gateways = [one.address, two.address];
    mutate(&bed, "guard", "for key share of s", "").await;
    let tally = flood(&bed, two_gateways, BROKEN_ROUNDS, true).await;
    eprintln!(
        "without the row lock: {} stale in {} rounds",
        tally.stale, tally.rounds
    );
    assert!(tally.stale > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_drain_the_flood_finds_stale_writes() {
    let bed = flooded_bed().await;
    let (one, two) = (bed.gateway().await, bed.gateway().await);
    let two_gateways = [one.address, two.address];
    mutate(&bed, "admit", "o.pid is distinct from session_pid", "false").await;
    let tally = flood(&bed, two_gateways, BROKEN_ROUNDS, true).await;
    eprintln!(
        "without the drain: {} stale in {} rounds",
        tally.stale, tally.rounds
    );
    assert!(tally.stale > 0);
}
