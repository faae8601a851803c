//! `lockd break`: takes a lock from its holder. For operators.

use std::process::ExitCode;

use serde_json::json;

use super::config::ConfigArgs;
use super::exit::Failure;
use super::{output, run_async};

/// Takes a lock from its holder; only with an operator's identity
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
        let client = args.config.client()?.description("lockd break");
        let client = client.connect().await?;
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
    let holders: Vec<_> = broken
        .holders
        .iter()
        .map(|(session, token)| {
            json!({ "session": session.to_string(), "token": token.to_string() })
        })
        .collect();
    if args.json {
        output::print_json(&json!({
            "lock": args.name,
            "holders": holders,
            "fence": broken.fence.to_string(),
            "moved": args.now,
        }))?;
    } else {
        let moves = match args.now {
            true => "the lock has moved",
            false => "the lock moves when it has let go or its lease must have ended",
        };
        let name = &args.name;
        let mut text = String::new();
        for (session, token) in &broken.holders {
            text.push_str(&format!(
                "session {session} loses {name} (token {token}): {moves}\n"
            ));
        }
        let fence = broken.fence;
        text.push_str(&format!(
            "to fence it off by hand, raise the mark at the storage to {fence}\n"
        ));
        output::print(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}
