//! `lockd who`: the holders of one lock, and its queue.

use std::process::ExitCode;

use lockd_client::Mode;
use lockd_client::protocol::client::{HolderSummary, LockDetail};
use serde_json::{Value, json};

use super::config::ConfigArgs;
use super::exit::{self, Failure};
use super::output::{self, Table};
use super::watch::metadata_to_json;
use super::{ls, run_async};

/// Shows who holds a lock and who waits for it, in order
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The lock
    name: String,
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let detail = run_async(async {
        let client = args.config.observer().await?;
        Ok(client.who(&args.name).await?)
    })?;
    let Some(detail) = detail else {
        let message = format!("nobody holds or waits for {:?}", args.name);
        return Err(Failure::new(exit::NOT_HELD, message));
    };
    match args.json {
        true => output::print_json(&to_json(&detail))?,
        false => output::print(&to_text(&detail))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn to_text(detail: &LockDetail) -> String {
    let mut table = Table::new(["", "SESSION", "LABEL", "OWNER", "MODE", "TOKEN", "METADATA"]);
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
            holder.label.clone(),
            holder.owner.clone().unwrap_or_default(),
            mode,
            holder.token.to_string(),
            holder
                .metadata
                .as_ref()
                .map_or_else(String::new, |metadata| metadata.value.to_text()),
        ]);
    }
    for (at, waiter) in detail.waiters.iter().enumerate() {
        table.row([
            format!("waiter {}", at + 1),
            waiter.session.to_string(),
            waiter.label.clone(),
            waiter.owner.clone().unwrap_or_default(),
            waiter.mode.to_string(),
        ]);
    }
    let mut text = table.render();
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
                "label": waiter.label,
                "owner": waiter.owner,
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
        "label": holder.label,
        "owner": holder.owner,
        "token": holder.token.to_string(),
        "slot": holder.slot,
        "times": holder.times,
        "breaking": holder.breaking,
        "metadata": holder.metadata.as_ref().map(metadata_to_json),
    })
}
