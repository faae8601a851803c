//! `lockd who`: the holder of one lock, and its queue.

use std::process::ExitCode;

use lockd_client::protocol::client::LockDetail;
use serde_json::{Value, json};

use super::config::ConfigArgs;
use super::exit::{self, Failure};
use super::output::{self, Table};
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
    let mut table = Table::new(["", "SESSION", "LABEL", "TOKEN"]);
    let summary = &detail.summary;
    table.row([
        "holder".to_owned(),
        summary.holder.to_string(),
        detail.holder_label.clone(),
        summary.token.to_string(),
    ]);
    for (at, waiter) in detail.waiters.iter().enumerate() {
        table.row([
            format!("waiter {}", at + 1),
            waiter.session.to_string(),
            waiter.label.clone(),
        ]);
    }
    let mut text = table.render();
    if let Some(reason) = &detail.breaking {
        text.push_str(&format!("being broken: {reason}\n"));
    }
    text
}

fn to_json(detail: &LockDetail) -> Value {
    let mut value = ls::to_json(&detail.summary);
    let waiters: Vec<Value> = detail
        .waiters
        .iter()
        .map(|waiter| {
            json!({
                "session": waiter.session.to_string(),
                "label": waiter.label,
                "mode": waiter.mode.to_string(),
            })
        })
        .collect();
    if let Value::Object(object) = &mut value {
        object.insert("holder_label".into(), json!(detail.holder_label));
        object.insert("breaking".into(), json!(detail.breaking));
        object.insert("waiters".into(), Value::Array(waiters));
    }
    value
}
