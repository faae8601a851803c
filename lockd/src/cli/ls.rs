//! `lockd ls`: the locks that are held or waited for.

use std::process::ExitCode;

use lockd_client::protocol::client::LockSummary;
use serde_json::{Value, json};

use super::config::ConfigArgs;
use super::exit::Failure;
use super::output::{self, Table};
use super::run_async;

/// Lists the locks that are held or waited for, with holders, newest token and waiters
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only names that begin with this
    #[arg(default_value = "")]
    prefix: String,
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let locks = run_async(async {
        let client = args.config.observer().await?;
        Ok(client.locks(&args.prefix).await?)
    })?;
    if args.json {
        output::print_json(&Value::Array(locks.iter().map(to_json).collect()))?;
    } else {
        let mut table = Table::new(["LOCK", "HOLDER", "TOKEN", "MODE", "HOLDERS", "WAITERS"]);
        for lock in &locks {
            table.row([
                lock.lock.to_string(),
                text(lock.holder),
                text(lock.token),
                text(lock.mode),
                lock.holders.to_string(),
                lock.waiters.to_string(),
            ]);
        }
        output::print(&table.render())?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn to_json(lock: &LockSummary) -> Value {
    json!({
        "lock": lock.lock.as_str(),
        "holder": lock.holder.map(|holder| holder.to_string()),
        "token": lock.token.map(|token| token.to_string()),
        "mode": lock.mode.map(|mode| mode.to_string()),
        "holders": lock.holders,
        "waiters": lock.waiters,
    })
}

/// What there is, or a dash.
fn text(item: Option<impl ToString>) -> String {
    item.map_or_else(|| "-".to_owned(), |item| item.to_string())
}
