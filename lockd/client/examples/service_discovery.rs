//! Service discovery: each instance holds the service's lock as shared, with its address as
//! metadata; whoever uses the service watches the lock. An instance that dies is gone with its
//! session.
//!
//! `cargo run -p lockd-client --example service_discovery` runs it against a cell of its own, three
//! nodes in this process. With a cell of yours, give the builder its `client.toml`.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

use lockd::dev::DevCell;
use lockd_client::{Client, Holders, LockGuard, Watch};

const SERVICE: &str = "services/billing";

#[tokio::main]
pub(crate) async fn main() -> Result<(), Box<dyn Error>> {
    let cell = DevCell::start(None)?;
    let config = cell.client_config();
    let user = Client::builder()
        .config_file(&config)?
        .without_session()
        .connect()
        .await?;
    let mut watch = user.watch(SERVICE);
    let mut known = Holders::default();

    let (_one, first) = instance(&config, "10.0.0.1:80").await?;
    let (two, _second) = instance(&config, "10.0.0.2:80").await?;
    until(&mut watch, &mut known, &["10.0.0.1:80", "10.0.0.2:80"]).await?;

    // An instance moves, in one step: it is never missing.
    first.set_metadata("10.0.0.9:80").await?;
    until(&mut watch, &mut known, &["10.0.0.2:80", "10.0.0.9:80"]).await?;

    // Another one is shut down.
    two.close().await;
    until(&mut watch, &mut known, &["10.0.0.9:80"]).await?;
    Ok(())
}

/// An instance of the service. It is found for as long as its session lives.
async fn instance(config: &Path, address: &str) -> Result<(Client, LockGuard), Box<dyn Error>> {
    let builder = Client::builder()
        .config_file(config)?
        .ttl(Duration::from_secs(5));
    let client = builder.connect().await?;
    let lock = client.rw_lock(SERVICE).read().without_ticket();
    let guard = lock.metadata(address).acquire().await?;
    Ok((client, guard))
}

/// Follows the service until these are its addresses.
async fn until(
    watch: &mut Watch,
    known: &mut Holders,
    expected: &[&str],
) -> Result<(), Box<dyn Error>> {
    loop {
        let addresses: BTreeSet<String> = known
            .iter()
            .filter_map(|instance| instance.metadata.as_ref())
            .map(|metadata| String::from_utf8_lossy(metadata.value.as_bytes()).into_owned())
            .collect();
        println!("instances: {addresses:?}");
        if addresses.iter().eq(expected) {
            return Ok(());
        }
        known.apply(&watch.next().await?);
    }
}
