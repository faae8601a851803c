//! At most so many at a time, each with a numbered slot and a fence of its own.

use std::error::Error;
use std::path::PathBuf;

use lockd::dev::DevCell;
use lockd_client::{Client, Wait};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A whole cell in this process, instead of the one that your configuration names.
    let cell = DevCell::start(None)?;
    run(cell.client_config()).await
}

/// What it shows, with the cell of a `client.toml`.
pub async fn run(client_toml: PathBuf) -> Result<(), Box<dyn Error>> {
    let client = Client::builder()
        .config_file(client_toml)?
        .connect()
        .await?;
    let workers = client.semaphore("workers", 2);

    let first = workers.acquire().acquire().await?;
    let second = workers.acquire().acquire().await?;
    println!("slots {} and {}", first.slot(), second.slot());
    assert!(workers.acquire().wait(Wait::Try).acquire().await.is_err());

    first.release().await?;
    let third = workers.acquire().acquire().await?;
    assert_eq!(third.slot(), 0, "the lowest free one");
    Ok(())
}
