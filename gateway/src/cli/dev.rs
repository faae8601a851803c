//! `gateway dev`: a gateway for trying things out. Without flags, a lock service of three nodes
//! in this process and the embedded store; nothing has to be installed.

use std::net::SocketAddr;
use std::path::PathBuf;

use lockd::dev::DevCell;
use tempfile::TempDir;

use super::install::into_postgres;
use super::{CONFIG, DEV_LISTEN, Failure, UNREACHABLE};
use crate::config::{Config, Upstream};
use crate::server;

/// Flags of `gateway dev`.
#[derive(clap::Args)]
pub(super) struct DevArgs {
    /// Your PostgreSQL server in place of the embedded store; the fence is installed there, so
    /// this has to be an administrator: postgres://user:password@host:port/database.
    #[arg(long, value_name = "URL", requires = "guard", conflicts_with = "http")]
    postgres: Option<String>,
    /// Your HTTP server in place of the embedded store, as in http://127.0.0.1:9000.
    #[arg(long, value_name = "URL", requires = "guard")]
    http: Option<String>,
    /// With --postgres, a table and the locks that cover it, as in public.orders=orders/%; with
    /// --http, a path, as in /orders/{id}=orders/{id}.
    #[arg(long, value_name = "WHAT=LOCK")]
    guard: Vec<String>,
    /// A lock service that runs already (its client.toml), in place of one in this process.
    #[arg(long, value_name = "FILE")]
    cell: Option<PathBuf>,
    /// Where clients connect.
    #[arg(long, value_name = "ADDR", default_value_t = DEV_LISTEN)]
    listen: SocketAddr,
    /// Where to keep the data of store and lock service; a temporary directory unless given.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl DevArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let temporary = TempDir::with_prefix("lockd-gateway-").map_err(failed)?;
        let data = self
            .data
            .clone()
            .unwrap_or_else(|| temporary.path().to_path_buf());
        let (client_config, _cell) = match &self.cell {
            Some(file) => (std::path::absolute(file).map_err(failed)?, None),
            None => {
                let cell = start_cell(self.data.as_ref().map(|data| data.join("cell")))?;
                println!(
                    "lock service: lockd lock --config {} ..",
                    cell.client_config().display()
                );
                (cell.gateway_config(), Some(cell))
            }
        };
        let text = self.config_text(&client_config, &data)?;
        let config = Config::parse(&data.join("gateway.toml"), &text)?;
        if let Upstream::Postgres(postgres) = &config.upstream {
            into_postgres(postgres, None)?;
        }
        Ok(server::serve_config(&config)?)
    }

    /// The configuration that these flags stand for.
    fn config_text(
        &self,
        client_config: &std::path::Path,
        data: &std::path::Path,
    ) -> Result<String, Failure> {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let mut text = format!("listen = \"{}\"\n", self.listen);
        match (&self.postgres, &self.http) {
            (None, Some(url)) => {
                let control = data.join("gateway.sock");
                text += &format!(
                    "[http]\nurl = {}\nlock = \"gateways/dev\"\nsettle = \"2s\"\ncontrol = {}\n",
                    quoted(url),
                    quoted(&control.to_string_lossy())
                );
            }
            (None, None) => {
                let data = data.join("store");
                text += &format!("[store]\ndata = {}\n", quoted(&data.to_string_lossy()));
            }
            (Some(url), _) => {
                let url = quoted(url);
                text += &format!("[postgres]\nurl = {url}\nallow_superusers = true\n");
            }
        }
        let what = match (&self.postgres, &self.http) {
            (None, None) => "key",
            (None, Some(_)) => "path",
            (Some(_), _) => "table",
        };
        for guard in &self.guard {
            let (resource, lock) = guard.split_once('=').ok_or_else(|| Failure {
                code: CONFIG,
                message: format!("--guard {guard}: write WHAT=LOCK, as in public.orders=orders/%"),
            })?;
            text += &format!(
                "[[guard]]\n{what} = {}\nlock = {}\n",
                quoted(resource),
                quoted(lock)
            );
        }
        let client_config = quoted(&client_config.to_string_lossy());
        text += &format!("[cell]\nclient_config = {client_config}\n");
        Ok(text)
    }
}

fn start_cell(dir: Option<PathBuf>) -> Result<DevCell, Failure> {
    DevCell::start(dir).map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure {
        code: UNREACHABLE,
        message: error.to_string(),
    }
}
