//! Every example, on a cell of its own. An example that is not here is found by the last test.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "their `main`s are for `cargo run --example`"
)]

use lockd::dev::DevCell;

#[path = "../examples/all_of.rs"]
mod all_of;
#[path = "../examples/any_of.rs"]
mod any_of;
#[path = "../examples/blocking.rs"]
mod blocking;
#[path = "../examples/leader_election.rs"]
mod leader_election;
#[path = "../examples/mutex.rs"]
mod mutex;
#[path = "../examples/run_until_lost.rs"]
mod run_until_lost;
#[path = "../examples/rw_lock.rs"]
mod rw_lock;
#[path = "../examples/semaphore.rs"]
mod semaphore;

#[path = "../examples/service_discovery.rs"]
mod service_discovery;

#[tokio::test]
async fn every_async_example_does_what_it_says() {
    let cell = DevCell::start(None).expect("a cell");
    let config = || cell.client_config();
    mutex::run(config()).await.expect("mutex");
    rw_lock::run(config()).await.expect("rw_lock");
    semaphore::run(config()).await.expect("semaphore");
    all_of::run(config()).await.expect("all_of");
    any_of::run(config()).await.expect("any_of");
    run_until_lost::run(config(), cell.operator_config())
        .await
        .expect("run_until_lost");
}

#[test]
fn the_blocking_example_does_what_it_says() {
    let cell = DevCell::start(None).expect("a cell");
    blocking::run(cell.client_config()).expect("blocking");
}

#[test]
fn leaders_are_elected() {
    leader_election::main().expect("it ends well");
}

#[test]
fn services_are_discovered() {
    service_discovery::main().expect("it ends well");
}

#[test]
fn there_is_no_example_that_is_not_run_here_and_named_in_the_guide() {
    let this = include_str!("examples.rs");
    let guide = include_str!("../../../docs/client.md");
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    for entry in std::fs::read_dir(dir).expect("readable") {
        let name = entry.expect("readable").file_name();
        let name = name.to_str().expect("text");
        assert!(this.contains(&format!("../examples/{name}")), "{name}");
        assert!(
            guide.contains(&format!("examples/{name}")),
            "{name} in docs/client.md"
        );
    }
}
