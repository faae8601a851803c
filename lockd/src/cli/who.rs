//! `lockd who`: the holders of one lock, and its queue.

use std::process::ExitCode;

use lockd_client::Mode;
use lockd_client::protocol::client::{HolderSummary, LockDetail};
use serde_json::{Value, json};

use super::exit::{self, Failure};
use super::output::{self, Table};
use super::reading::{self, ReadingArgs, age_to_text};
use super::watch::metadata_to_json;
use super::{labels, ls, run_async};

/// Shows who holds a lock and who waits for it, in order
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The lock
    name: String,
    /// At most so many holders and so many waiters; else all, page by page
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Leave out so many holders and so many waiters: those of the pages before
    #[arg(long, value_name = "N", default_value_t = 0, requires = "limit")]
    skip: u32,
    #[command(flatten)]
    reading: ReadingArgs,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let (detail, as_of) = run_async(async {
        let reader = args.reading.reader().await?;
        let page = args.limit.map(|limit| (args.skip, limit));
        let detail = reader.who(&args.name, page).await?;
        Ok((detail, reader.as_of().await))
    })?;
    let Some(detail) = detail else {
        let so_far = as_of.map_or_else(String::new, |stale| {
            format!(
                ", as far as node {} knows (slot {})",
                stale.node, stale.applied
            )
        });
        let message = format!("nobody holds or waits for {:?}{so_far}", args.name);
        return Err(Failure::new(exit::NOT_HELD, message));
    };
    if args.reading.json {
        let mut value = to_json(&detail);
        if let (Value::Object(object), Some(stale)) = (&mut value, as_of) {
            object.insert("stale".into(), reading::stale_to_json(stale));
        }
        output::print_json(&value)?;
    } else {
        output::print(&(to_text(&detail, args.skip) + &reading::note(as_of)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn to_text(detail: &LockDetail, skipped: u32) -> String {
    let mut table = Table::new([
        "",
        "SESSION",
        "IDENTITY",
        "DESCRIPTION",
        "LABELS",
        "OWNER",
        "FOR",
        "MODE",
        "TOKEN",
        "METADATA",
    ]);
    let mode = detail.summary.mode;
    for holder in &detail.holders {
        let mode = match mode {
            Some(Mode::Permit { of }) => format!("permit {} of {of}", holder.slot),
            Some(mode) => mode.to_string(),
            None => String::new(),
        };
        table.row([
            "holder".to_owned(),
            holder.session.to_string(),
            holder.identity.clone(),
            holder.about.description.clone(),
            labels::to_text(&holder.about.labels),
            ls::text(holder.owner.as_ref()),
            age_to_text(holder.age),
            mode,
            holder.token.to_string(),
            holder
                .metadata
                .as_ref()
                .map_or_else(String::new, |metadata| metadata.value.to_text()),
        ]);
    }
    for (at, waiter) in (skipped + 1..).zip(&detail.waiters) {
        table.row([
            format!("waiter {at}"),
            waiter.session.to_string(),
            waiter.identity.clone(),
            waiter.about.description.clone(),
            labels::to_text(&waiter.about.labels),
            ls::text(waiter.owner.as_ref()),
            age_to_text(waiter.age),
            waiter.mode.to_string(),
        ]);
    }
    let mut text = table.render();
    if detail.more_holders || detail.more_waiters {
        let (holders, waiters) = (detail.summary.holders, detail.summary.waiters);
        let shown = detail.holders.len().max(detail.waiters.len());
        let skip = skipped as usize + shown;
        text.push_str(&format!(
            "{holders} holders and {waiters} waiters in all: go on with --skip {skip}\n"
        ));
    }
    for holder in &detail.holders {
        if let Some(reason) = &holder.breaking {
            let session = holder.session;
            text.push_str(&format!("being broken for session {session}: {reason}\n"));
        }
    }
    if let Some(span) = detail.closed {
        let span = humantime::format_duration(span.into());
        text.push_str(&format!(
            "closed for {span}: the session of its last holder expired\n"
        ));
    }
    text
}

fn to_json(detail: &LockDetail) -> Value {
    let mut value = ls::to_json(&detail.summary);
    let holders: Vec<Value> = detail.holders.iter().map(holder_to_json).collect();
    let waiters: Vec<Value> = detail
        .waiters
        .iter()
        .map(|waiter| {
            json!({
                    "session": waiter.session.to_string(),
                    "identity": waiter.identity,
            "description": waiter.about.description,
            "labels": waiter.about.labels,
                    "owner": waiter.owner,
                    "waited": reading::age_to_json(waiter.age),
                    "mode": waiter.mode.to_string(),
                    "locks": waiter.locks,
                })
        })
        .collect();
    if let Value::Object(object) = &mut value {
        object.insert("closed_ms".into(), json!(detail.closed.map(|span| span.0)));
        object.insert("holders".into(), Value::Array(holders));
        object.insert("waiters".into(), Value::Array(waiters));
    }
    value
}

fn holder_to_json(holder: &HolderSummary) -> Value {
    json!({
        "session": holder.session.to_string(),
        "identity": holder.identity,
        "description": holder.about.description,
        "labels": holder.about.labels,
        "owner": holder.owner,
        "held": reading::age_to_json(holder.age),
        "token": holder.token.to_string(),
        "slot": holder.slot,
        "times": holder.times,
        "breaking": holder.breaking,
        "metadata": holder.metadata.as_ref().map(metadata_to_json),
    })
}
