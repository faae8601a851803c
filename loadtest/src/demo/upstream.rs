//! What is behind the gateway in the demo, and the gateway itself, a process of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use gateway::postgres::install::install;

use super::database::Database;
use super::target::{TABLE, Target};
use crate::cell::OwnCell;
use crate::keeper::{KeepOptions, Keeper, Kept};
use crate::process::{Process, ProcessError};

/// The hidden subcommand that runs a gateway.
pub const GATEWAY_COMMAND: &str = "__gateway";

/// How long the gateway may take until it serves.
const START_GRACE: Duration = Duration::from_secs(20);

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
    /// The gateway did not say where it listens.
    #[error("the gateway said {0:?} where it should have told its address")]
    Announcement(String),
    /// A file could not be written.
    #[error("cannot set up the gateway: {0}")]
    Machine(#[from] std::io::Error),
    /// The database was not as it must be.
    #[error("cannot set up PostgreSQL: {0}")]
    Postgres(String),
}

/// A gateway with something behind it.
pub struct Upstream {
    // In this order they end.
    gateway: Process,
    database: Option<Database>,
    keeper: Option<Keeper>,
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
        let start = Start {
            program,
            directory,
            cell: cell.gateway_config(),
        };
        match choice {
            UpstreamChoice::Embedded => start.embedded().await,
            UpstreamChoice::PrivatePostgres => {
                let options = KeepOptions::default();
                let keeper = Keeper::start(program, directory, Kept::Postgres, &options).await?;
                let url = keeper.urls().first().cloned().unwrap_or_default();
                let what = "a PostgreSQL server of its own";
                let mut upstream = start.postgres(&url, what).await?;
                upstream.keeper = Some(keeper);
                Ok(upstream)
            }
            UpstreamChoice::Postgres { url } => start.postgres(url, "your PostgreSQL server").await,
        }
    }

    /// Where the clients write.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// What it is, for the story.
    #[must_use]
    pub fn describe(&self) -> &str {
        &self.description
    }

    /// Ends it all, and removes what the demo made in a database that is not its own.
    ///
    /// # Errors
    /// [`UpstreamError::Postgres`], if something was left behind.
    pub async fn stop(mut self) -> Result<(), UpstreamError> {
        self.gateway.stop();
        // A server of our own goes as a whole.
        match self.database.take() {
            Some(database) if self.keeper.is_none() => {
                database.remove().await.map_err(UpstreamError::Postgres)
            }
            _ => Ok(()),
        }
    }
}

/// What it takes to start a gateway.
struct Start<'a> {
    program: &'a Path,
    directory: &'a Path,
    cell: &'a Path,
}

impl Start<'_> {
    async fn embedded(&self) -> Result<Upstream, UpstreamError> {
        let config = self.write_config("[store]\ndata = \"store\"\n")?;
        let (gateway, address) = self.gateway(&config).await?;
        let key = super::LOCK.to_owned();
        Ok(Upstream {
            gateway,
            keeper: None,
            database: None,
            target: Target::Store { address, key },
            description: format!("on {address}, guards its embedded store"),
        })
    }

    async fn postgres(&self, admin_url: &str, what: &str) -> Result<Upstream, UpstreamError> {
        let created = Database::create(admin_url).await;
        let database = created.map_err(UpstreamError::Postgres)?;
        match self.guard(&database).await {
            Ok((gateway, address)) => Ok(Upstream {
                gateway,
                keeper: None,
                target: Target::Postgres {
                    application: database.application(address),
                },
                description: format!("on {address}, guards {TABLE} of {what}"),
                database: Some(database),
            }),
            Err(error) => {
                // The error that matters is the first.
                let _ = database.remove().await;
                Err(error)
            }
        }
    }

    /// Installs the fence, and starts the gateway in front of it.
    async fn guard(&self, database: &Database) -> Result<(Process, SocketAddr), UpstreamError> {
        let wrong = |error: &dyn std::fmt::Display| UpstreamError::Postgres(error.to_string());
        let path = self.write_config(&database.gateway_settings())?;
        let config = gateway::config::Config::load(&path).map_err(|error| wrong(&error))?;
        if let gateway::config::Upstream::Postgres(postgres) = &config.upstream {
            install(postgres, Some(database.admin_url()))
                .await
                .map_err(|error| wrong(&error))?;
        }
        self.gateway(&path).await
    }

    async fn gateway(&self, config: &Path) -> Result<(Process, SocketAddr), UpstreamError> {
        let config = config.as_os_str();
        let arguments = [GATEWAY_COMMAND.as_ref(), "--config".as_ref(), config];
        let log = self.directory.join("gateway.log");
        let mut gateway = Process::start("the gateway", self.program, &arguments, &log)?;
        let line = gateway.first_line(START_GRACE).await?;
        let address = line.rsplit(' ').next().and_then(|word| word.parse().ok());
        match address {
            Some(address) => Ok((gateway, address)),
            None => Err(UpstreamError::Announcement(line)),
        }
    }

    fn write_config(&self, settings: &str) -> Result<PathBuf, UpstreamError> {
        let path = self.directory.join("gateway.toml");
        let cell = self.cell.display().to_string();
        let text =
            format!("listen = \"127.0.0.1:0\"\n\n{settings}\n[cell]\nclient_config = {cell:?}\n");
        std::fs::write(&path, text)?;
        Ok(path)
    }
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
