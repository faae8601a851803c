//! A lock that is read by many or written by one; and a writer that becomes a reader.

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
    let report = client.rw_lock("report");

    let (one, two) = (
        report.read().acquire().await?,
        report.read().acquire().await?,
    );
    assert!(report.write().wait(Wait::Try).acquire().await.is_err());
    one.release().await?;
    two.release().await?;

    let writer = report.write().acquire().await?;
    println!("written under token {}", writer.token());
    let reader = writer.downgrade().await?; // nobody else writes in between
    let beside = report.read().acquire().await?;
    assert_ne!(reader.token(), beside.token());
    Ok(())
}
