//! Several locks in one step: a transfer between accounts that cannot deadlock with another one.

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
    let other = client.session().open().await?;

    // In opposite orders, which with one lock after the other would be a deadlock.
    let (here, there) = tokio::join!(
        transfer(&client, ["account/1", "account/2"]),
        transfer(&other, ["account/2", "account/1"]),
    );
    here?;
    there
}

async fn transfer(client: &Client, accounts: [&str; 2]) -> Result<(), Box<dyn Error>> {
    let both = client.all_of(accounts).acquire().await?;
    println!("{} and {} under {}", accounts[0], accounts[1], both.token());
    // The tickets of both, as a gateway in front of the data takes them.
    assert_eq!(both.tickets().split(' ').count(), 2);
    both.release().await?;
    Ok(())
}
