//! `lockd sessions`: the sessions that are open.

use std::process::ExitCode;
use std::time::Duration;

use lockd_client::protocol::Millis;
use lockd_client::protocol::client::SessionSummary;
use serde_json::{Value, json};

use super::config::ConfigArgs;
use super::exit::Failure;
use super::output::{self, Table};
use super::run_async;

/// Lists the open sessions, with what is left of their leases and what they hold
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let sessions = run_async(async {
        let client = args.config.observer().await?;
        Ok(client.sessions().await?)
    })?;
    if args.json {
        output::print_json(&Value::Array(sessions.iter().map(to_json).collect()))?;
    } else {
        let mut table = Table::new(["SESSION", "LABEL", "TTL", "LEFT", "HOLDS", "WAITS"]);
        for session in &sessions {
            table.row([
                session.session.to_string(),
                session.label.clone(),
                span(session.ttl),
                span(session.ttl_left),
                session.holds.to_string(),
                session.waits.to_string(),
            ]);
        }
        output::print(&table.render())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn span(millis: Millis) -> String {
    humantime::format_duration(Duration::from(millis)).to_string()
}

fn to_json(session: &SessionSummary) -> Value {
    json!({
        "session": session.session.to_string(),
        "label": session.label,
        "ttl_ms": session.ttl.0,
        "ttl_left_ms": session.ttl_left.0,
        "holds": session.holds,
        "waits": session.waits,
    })
}
