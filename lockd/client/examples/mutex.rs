//! A lock for one at a time, with a limit on the wait and the token that fences a late write off.

use std::error::Error;
use std::path::PathBuf;

use lockd::dev::DevCell;
use lockd_client::{AcquireError, Client, Wait};

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
    let rival = client.session().description("rival").open().await?;

    let guard = client.lock("orders/42").acquire().await?;
    println!("held under token {}", guard.token());

    let tried = rival.lock("orders/42").wait(Wait::Try).acquire().await;
    assert!(matches!(tried, Err(AcquireError::NotAvailable { .. })));

    let token = guard.token();
    guard.release().await?;
    let next = rival.lock("orders/42").acquire().await?;
    assert!(
        next.token() > token,
        "tokens rise: compare them where the data is"
    );
    Ok(())
}
