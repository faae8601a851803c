//! `lockd sessions`: the sessions that are open.

use std::process::ExitCode;

use lockd_client::protocol::SessionId;
use lockd_client::protocol::client::SessionSummary;
use serde_json::{Value, json};

use super::exit::Failure;
use super::labels::{self, Label};
use super::ls::text;
use super::output::{self, Table};
use super::reading::{self, ReadingArgs, span_to_text};
use super::run_async;

/// Lists the open sessions: whose they are, where, and what they hold
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only sessions that have this label; of several, all of them
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = labels::parse)]
    labels: Vec<Label>,
    /// At most so many; else all, page by page
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Only sessions with a higher id
    #[arg(long, value_name = "SESSION")]
    after: Option<u64>,
    #[command(flatten)]
    reading: ReadingArgs,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let (page, as_of) = run_async(async {
        let reader = args.reading.reader().await?;
        let labels = args.labels.iter().cloned().collect();
        let after = args.after.map(SessionId);
        let page = reader.sessions(&labels, after, args.limit).await?;
        Ok((page, reader.as_of().await))
    })?;
    let sessions = page.items;
    if args.reading.json {
        let items = sessions.iter().map(to_json).collect();
        reading::print_list("sessions", items, as_of)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new([
        "SESSION",
        "IDENTITY",
        "ADDRESS",
        "DESCRIPTION",
        "LABELS",
        "TTL",
        "LEFT",
        "HOLDS",
        "WAITS",
    ]);
    for session in &sessions {
        table.row([
            session.session.to_string(),
            session.identity.clone(),
            text(session.address.as_ref()),
            session.about.description.clone(),
            labels::to_text(&session.about.labels),
            span_to_text(session.ttl),
            text(session.ttl_left.map(span_to_text)),
            session.holds.to_string(),
            session.waits.to_string(),
        ]);
    }
    let rest = reading::rest(page.more, sessions.last().map(|last| last.session));
    output::print(&(table.render() + &rest + &reading::note(as_of)))?;
    Ok(ExitCode::SUCCESS)
}

fn to_json(session: &SessionSummary) -> Value {
    json!({
        "session": session.session.to_string(),
        "identity": session.identity,
        "address": session.address,
        "description": session.about.description,
        "labels": session.about.labels,
        "ttl_ms": session.ttl.0,
        "ttl_left_ms": session.ttl_left.map(|left| left.0),
        "holds": session.holds,
        "waits": session.waits,
    })
}
