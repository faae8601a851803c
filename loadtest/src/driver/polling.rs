//! How clients wait for a lock of a service that does not tell them when it is free: they ask again
//! after a while.

use std::time::Duration;

/// Shortest pause before asking again, microseconds.
const PAUSE_MIN_US: u64 = 1_000;

/// Longest pause before asking again, microseconds.
const PAUSE_MAX_US: u64 = 5_000;

/// Waits for a random time, so that clients do not ask in step.
pub async fn pause() {
    let microseconds = rand::random_range(PAUSE_MIN_US..=PAUSE_MAX_US);
    tokio::time::sleep(Duration::from_micros(microseconds)).await;
}
