//! The same for a program that is not async: nothing but waiting is different.

use std::error::Error;
use std::path::PathBuf;

use lockd::dev::DevCell;
use std::time::Duration;

use lockd_client::{Client, Wait};

fn main() -> Result<(), Box<dyn Error>> {
    // A whole cell in this process, instead of the one that your configuration names.
    let cell = DevCell::start(None)?;
    run(cell.client_config())
}

/// What it shows, with the cell of a `client.toml`.
pub fn run(client_toml: PathBuf) -> Result<(), Box<dyn Error>> {
    let client = Client::builder()
        .config_file(client_toml)?
        .connect_blocking()?;
    let wait = Wait::For(Duration::from_secs(5));

    let guard = client.lock("orders/42").wait(wait).acquire()?;
    for step in 1..=3 {
        guard.check()?; // an error once the lock must not be relied on any more
        println!("step {step} under token {}", guard.token());
    }
    assert_eq!(guard.wait_lost_timeout(Duration::from_millis(10))?, None);
    guard.release()?;

    let both = client.all_of(["account/1", "account/2"]).acquire()?;
    both.release()?;
    client.close()?;
    Ok(())
}
