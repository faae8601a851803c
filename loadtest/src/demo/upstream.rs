//! What is behind the gateway in the demo, and the gateway itself, a process of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::target::Target;
use crate::cell::OwnCell;
use crate::process::{Process, ProcessError};

/// The hidden subcommand that runs a gateway.
pub const GATEWAY_COMMAND: &str = "__gateway";

/// How long the gateway may take until it serves.
const START_GRACE: Duration = Duration::from_secs(10);

/// What the user chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamChoice {
    /// The gateway's own store.
    Embedded,
    /// A PostgreSQL server of the demo's own.
    PrivatePostgres,
    /// A PostgreSQL server that exists.
    Postgres {
        /// Where it is, with a role that may create what the demo needs.
        url: String,
    },
}

impl UpstreamChoice {
    /// Its name in reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            UpstreamChoice::Embedded => "embedded",
            UpstreamChoice::PrivatePostgres | UpstreamChoice::Postgres { .. } => "postgres",
        }
    }
}

impl FromStr for UpstreamChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<UpstreamChoice, String> {
        match text.split_once('=') {
            None if text == "embedded" => Ok(UpstreamChoice::Embedded),
            None if text == "postgres" => Ok(UpstreamChoice::PrivatePostgres),
            Some(("postgres", url)) if !url.is_empty() => Ok(UpstreamChoice::Postgres {
                url: url.to_owned(),
            }),
            _ => Err("give embedded, postgres, or postgres=URL".to_owned()),
        }
    }
}

/// There is nothing to write to.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The gateway did not run.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A file could not be written, or no port be had.
    #[error("cannot set up the gateway: {0}")]
    Machine(#[from] std::io::Error),
    /// The database was not as it must be.
    #[error("cannot set up PostgreSQL: {0}")]
    Postgres(String),
}

/// A gateway with something behind it.
pub struct Upstream {
    gateway: Process,
    address: SocketAddr,
    target: Target,
    description: String,
}

impl Upstream {
    /// Starts what was chosen, and the gateway in front of it.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn start(
        choice: &UpstreamChoice,
        program: &Path,
        directory: &Path,
        cell: &OwnCell,
    ) -> Result<Upstream, UpstreamError> {
        let address = free_address()?;
        match choice {
            UpstreamChoice::Embedded => {
                let settings = "[store]\ndata = \"store\"\n";
                let config = write_config(directory, address, cell.gateway_config(), settings)?;
                Ok(Upstream {
                    gateway: start_gateway(program, directory, &config, address).await?,
                    address,
                    target: Target::Store {
                        address,
                        key: super::LOCK.to_owned(),
                    },
                    description: "guards its embedded store".to_owned(),
                })
            }
            _ => Err(UpstreamError::Postgres("not yet".to_owned())),
        }
    }

    /// Where the clients write.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// What it is, for the story.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("{}, on {}", self.description, self.address)
    }

    /// Ends it all, and removes what the demo made in a database that is not its own.
    ///
    /// # Errors
    /// [`UpstreamError::Postgres`], if something was left behind.
    pub async fn stop(mut self) -> Result<(), UpstreamError> {
        self.gateway.stop();
        Ok(())
    }
}

async fn start_gateway(
    program: &Path,
    directory: &Path,
    config: &Path,
    address: SocketAddr,
) -> Result<Process, UpstreamError> {
    let arguments = [
        GATEWAY_COMMAND.as_ref(),
        "--config".as_ref(),
        config.as_os_str(),
    ];
    let log = directory.join("gateway.log");
    let mut gateway = Process::start("the gateway", program, &arguments, &log)?;
    let start = Instant::now();
    while TcpStream::connect(address).await.is_err() {
        gateway.check()?;
        if start.elapsed() > START_GRACE {
            return Err(gateway.too_slow("serve", START_GRACE).into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(gateway)
}

fn write_config(
    directory: &Path,
    address: SocketAddr,
    cell: &Path,
    settings: &str,
) -> Result<PathBuf, UpstreamError> {
    let path = directory.join("gateway.toml");
    let text = format!(
        "listen = \"{address}\"\n\n{settings}\n[cell]\nclient_config = {:?}\n",
        cell.display().to_string()
    );
    std::fs::write(&path, text)?;
    Ok(path)
}

/// An address of this machine that nobody listens on.
fn free_address() -> Result<SocketAddr, UpstreamError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_are_chosen_by_name() {
        let choose = |text: &str| text.parse::<UpstreamChoice>();
        assert_eq!(choose("embedded"), Ok(UpstreamChoice::Embedded));
        assert_eq!(choose("postgres"), Ok(UpstreamChoice::PrivatePostgres));
        let url = "postgres://u:p@h:1/d?x=y".to_owned();
        let with_url = choose(&format!("postgres={url}"));
        assert_eq!(with_url, Ok(UpstreamChoice::Postgres { url }));
        for wrong in ["", "postgres=", "mysql", "embedded=x"] {
            assert!(choose(wrong).is_err(), "{wrong}");
        }
    }
}
