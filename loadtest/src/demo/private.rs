//! A PostgreSQL server of the demo's own, kept by a process of its own: that one ends the server
//! and removes its files whatever becomes of the demo.

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use gateway::postgres::private_server::{Options, PrivateServer};

use crate::process::{Process, ProcessError};
use crate::terminal::print_line;

/// The hidden subcommand that keeps a server.
pub const KEEPER_COMMAND: &str = "__postgres";

/// How long the server may take to be made and to start.
const START_GRACE: Duration = Duration::from_secs(90);

/// The process that keeps the server.
pub struct Keeper {
    process: Process,
    url: String,
}

impl Keeper {
    /// Starts a server, by starting `program` with [`KEEPER_COMMAND`].
    ///
    /// # Errors
    /// [`ProcessError`], with what is wrong in the keeper's log.
    pub async fn start(program: &Path, directory: &Path) -> Result<Keeper, ProcessError> {
        let log = directory.join("postgres.log");
        let mut keeper = Keeper {
            process: Process::start("the keeper of PostgreSQL", program, &[KEEPER_COMMAND], &log)?,
            url: String::new(),
        };
        keeper.url = keeper.process.first_line(START_GRACE).await?;
        Ok(keeper)
    }

    /// URL of the server, for its superuser.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.process.close();
    }
}

/// Keeps a server until standard input is closed.
///
/// # Errors
/// Why the server did not start.
pub async fn keep() -> Result<(), String> {
    let options = Options {
        durable: true,
        ..Options::default()
    };
    // Ctrl-C reaches this process too. It waits for its parent to close its input all the same.
    let ignore_interrupts = tokio::spawn(async { while tokio::signal::ctrl_c().await.is_ok() {} });
    let server = PrivateServer::start(&options).map_err(|error| error.to_string())?;
    print_line(&server.url("postgres", "postgres"));
    let closed = tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new()));
    let _ = closed.await;
    drop(server);
    ignore_interrupts.abort();
    Ok(())
}
