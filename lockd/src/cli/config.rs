//! Finding `client.toml`, and connecting with it.

use std::path::PathBuf;

use lockd_client::{Client, ClientBuilder, ClientConfig};

use super::exit::Failure;

/// Names the configuration if there is no `--config`.
const VARIABLE: &str = "LOCKD_CONFIG";

/// Where the configuration is if nothing names it.
const DEFAULT: &str = "client.toml";

/// The flag of every subcommand that talks to a cell.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ConfigArgs {
    /// The client's configuration; else $LOCKD_CONFIG, else ./client.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    /// Reads the configuration.
    pub(super) fn load(&self) -> Result<ClientConfig, Failure> {
        let (path, source) = match &self.config {
            Some(path) => (path.clone(), "--config"),
            None => match std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
                Some(path) => (path.into(), VARIABLE),
                None => (DEFAULT.into(), ""),
            },
        };
        if source.is_empty() && !path.exists() {
            let message = format!(
                "no client configuration: give --config FILE, set {VARIABLE}, or run where there \
                 is a {DEFAULT} (`lockd init` and `lockd dev` write one)"
            );
            return Err(Failure::usage(message));
        }
        ClientConfig::load(&path).map_err(Failure::usage)
    }

    /// The set-up of a client.
    pub(super) fn client(&self) -> Result<ClientBuilder, Failure> {
        Ok(Client::builder().config(self.load()?))
    }

    /// A client that only asks questions.
    pub(super) async fn observer(&self) -> Result<Client, Failure> {
        let client = self.client()?.without_session();
        Ok(client.connect().await?)
    }
}
