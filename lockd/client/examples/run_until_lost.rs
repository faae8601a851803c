//! Work that stops at the moment at which its lock is lost: here because an operator takes it.

use std::error::Error;
use std::path::PathBuf;

use lockd::dev::DevCell;
use lockd_client::{Client, LostReason};
use tokio::sync::oneshot;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A whole cell in this process, instead of the one that your configuration names.
    let cell = DevCell::start(None)?;
    run(cell.client_config(), cell.operator_config()).await
}

/// What it shows, with the cell of a `client.toml`, and with that of an operator, who alone may
/// break locks.
pub async fn run(client_toml: PathBuf, operator_toml: PathBuf) -> Result<(), Box<dyn Error>> {
    let client = Client::builder()
        .config_file(client_toml)?
        .connect()
        .await?;
    let operator = Client::builder()
        .config_file(operator_toml)?
        .connect()
        .await?;

    let guard = client.lock("nightly").acquire().await?;
    let (begun, has_begun) = oneshot::channel();
    let work = async move {
        let _ = begun.send(());
        std::future::pending::<()>().await // a long night
    };
    let (worked, broken) = tokio::join!(guard.run(work), async {
        let _ = has_begun.await;
        operator.break_lock("nightly", "maintenance", false).await
    });
    broken?;
    let reason = worked.expect_err("the work never ends by itself");
    println!("stopped: {reason}");
    assert!(matches!(reason, LostReason::Broken { .. }));

    // The holder has stopped: only now does the lock move.
    guard.release().await?;
    let moved = operator.lock("nightly").acquire().await?;
    println!("moved under token {}", moved.token());
    Ok(())
}
