//! `lockd break`: takes a lock from its holder.

use std::process::ExitCode;

use serde_json::json;

use super::config::ConfigArgs;
use super::exit::Failure;
use super::{output, run_async};

/// Takes a lock from its holder
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The lock
    name: String,
    /// Why, for the holder and for the log
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Let the lock move at once. Otherwise the holder is told, and the lock moves when it has
    /// let go or its lease must have ended. With --now it may go on believing that it holds the
    /// lock for the rest of its lease: only the fence at the data protects you then
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let broken = run_async(async {
        let client = args.config.client()?.label("lockd break").connect().await?;
        let broken = client
            .break_lock(&args.name, &args.reason, args.now)
            .await
            .map_err(|error| match error {
                lockd_client::BreakError::NothingToBreak => {
                    let message = format!("nobody holds {:?}", args.name);
                    Failure::new(super::exit::NOT_HELD, message)
                }
                error => error.into(),
            })?;
        client.close().await;
        Ok(broken)
    })?;
    if args.json {
        output::print_json(&json!({
            "lock": args.name,
            "holder": broken.holder.to_string(),
            "token": broken.token.to_string(),
            "fence": broken.fence.to_string(),
            "moved": args.now,
        }))?;
    } else {
        let moves = match args.now {
            true => "the lock has moved",
            false => "the lock moves when it has let go or its lease must have ended",
        };
        output::print(&format!(
            "session {} loses {} (token {}): {moves}\n\
             to fence it off by hand, raise the mark at the storage to {}\n",
            broken.holder, args.name, broken.token, broken.fence
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
