//! `lockd ls`: the locks that are held or waited for.

use std::process::ExitCode;

use lockd_client::protocol::LockName;
use lockd_client::protocol::client::LockSummary;
use serde_json::{Value, json};

use super::exit::Failure;
use super::output::{self, Table};
use super::reading::{self, ReadingArgs};
use super::run_async;

/// Lists the locks that are held or waited for, with holders, newest token and waiters
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only names that begin with this
    #[arg(default_value = "")]
    prefix: String,
    /// At most so many; else all, page by page
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Only names that come after this one
    #[arg(long, value_name = "NAME")]
    after: Option<LockName>,
    #[command(flatten)]
    reading: ReadingArgs,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let (page, as_of) = run_async(async {
        let reader = args.reading.reader().await?;
        let after = args.after.clone();
        let page = reader.locks(&args.prefix, after, args.limit).await?;
        Ok((page, reader.as_of().await))
    })?;
    let locks = page.items;
    if args.reading.json {
        let items = locks.iter().map(to_json).collect();
        reading::print_list("locks", items, as_of)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new([
        "LOCK", "HOLDER", "IDENTITY", "HELD", "TOKEN", "MODE", "HOLDERS", "WAITERS",
    ]);
    for lock in &locks {
        table.row([
            lock.lock.to_string(),
            text(lock.holder),
            text(lock.identity.as_ref()),
            reading::age_to_text(lock.held),
            text(lock.token),
            text(lock.mode),
            lock.holders.to_string(),
            lock.waiters.to_string(),
        ]);
    }
    let rest = reading::rest(page.more, locks.last().map(|last| &last.lock));
    output::print(&(table.render() + &rest + &reading::note(as_of)))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn to_json(lock: &LockSummary) -> Value {
    json!({
        "lock": lock.lock.as_str(),
        "holder": lock.holder.map(|holder| holder.to_string()),
        "identity": lock.identity,
        "held": reading::age_to_json(lock.held),
        "token": lock.token.map(|token| token.to_string()),
        "mode": lock.mode.map(|mode| mode.to_string()),
        "holders": lock.holders,
        "waiters": lock.waiters,
    })
}

/// What there is, or a dash.
pub(super) fn text(item: Option<impl ToString>) -> String {
    item.map_or_else(|| "-".to_owned(), |item| item.to_string())
}
