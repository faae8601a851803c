//! One lock of several, whichever is free first; and segments, where it does not matter which.

use std::error::Error;
use std::path::PathBuf;

use lockd::dev::DevCell;
use lockd_client::Client;

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

    let first = client.any_of(["gpu/0", "gpu/1"]).acquire().await?;
    let second = client.any_of(["gpu/0", "gpu/1"]).acquire().await?;
    println!("{} and {}", first.name(), second.name());
    assert_ne!(first.name(), second.name());

    // Sixteen parts of one import: any of them, or always the same one for the same key.
    let import = client.segments("import", 16);
    let mine = import.any().acquire().await?;
    assert!(mine.name().as_str().starts_with("import/"));
    mine.release().await?;
    let once = import.of(b"customer 7").acquire().await?.name().clone();
    let again = import.of(b"customer 7").acquire().await?.name().clone();
    assert_eq!(once, again);
    Ok(())
}
