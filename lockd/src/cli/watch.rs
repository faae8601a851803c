//! `lockd watch`: who holds what, and then each change, a line each.

use std::process::ExitCode;

use lockd_client::protocol::client::{Holder, Metadata};
use lockd_client::{Client, Snapshot, Update, Watch};
use serde_json::{Value, json};

use super::config::ConfigArgs;
use super::exit::{self, Failure};
use super::output;
use super::run_async;

/// Shows who holds a lock, and then each change of it, until it is interrupted
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The lock
    #[arg(required_unless_present = "prefix", conflicts_with = "prefix")]
    name: Option<String>,
    /// Every lock whose name begins with this; '' for all
    #[arg(long)]
    prefix: Option<String>,
    /// End after so many changes
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Print one JSON object on each line
    #[arg(long)]
    json: bool,
}

impl Args {
    fn begin(&self, client: &Client) -> Watch {
        match (&self.name, &self.prefix) {
            (Some(name), _) => client.watch(name),
            (None, prefix) => client.watch_prefix(prefix.as_deref().unwrap_or_default()),
        }
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    run_async(async {
        let client = args.config.observer().await?;
        let mut watch = args.begin(&client);
        let mut left = args.count.unwrap_or(u64::MAX);
        loop {
            let update = watch.next().await?;
            output::print(&match args.json {
                true => format!("{}\n", to_json(&update)),
                false => to_text(&update),
            })?;
            left -= u64::from(matches!(update, Update::Event(_)));
            if left == 0 {
                return Ok(ExitCode::SUCCESS);
            }
        }
    })
}

fn to_text(update: &Update) -> String {
    match update {
        Update::Snapshot(snapshot) => state_to_text("these hold it now", snapshot),
        Update::Resync(snapshot) => {
            state_to_text("something was missed; these hold it now", snapshot)
        }
        Update::Event(event) => {
            let holder = holder_to_text(&event.holder);
            format!("{}  {}  {holder}\n", event.number, event.change.word())
        }
        _ => String::new(),
    }
}

fn state_to_text(what: &str, snapshot: &Snapshot) -> String {
    let Snapshot { at, holders } = snapshot;
    let mut text = format!("{at}  {what}: {}\n", holders.len());
    for holder in holders {
        text.push_str(&format!("{at}  held  {}\n", holder_to_text(holder)));
    }
    text
}

fn holder_to_text(holder: &Holder) -> String {
    let Holder {
        lock,
        mode,
        token,
        session,
        slot,
        metadata,
    } = holder;
    let mode = match mode {
        lockd_client::Mode::Permit { of } => format!("permit {slot} of {of}"),
        mode => mode.to_string(),
    };
    let mut text = format!("{lock}  {mode}  token {token}  session {session}");
    if let Some(metadata) = metadata {
        text.push_str(&format!("  {}", metadata.value.to_text()));
    }
    text
}

fn to_json(update: &Update) -> Value {
    match update {
        Update::Event(event) => {
            let mut value = holder_to_json(&event.holder);
            if let Value::Object(object) = &mut value {
                object.insert("event".into(), json!(event.number.to_string()));
                object.insert("change".into(), json!(event.change.word()));
            }
            value
        }
        Update::Snapshot(Snapshot { at, holders }) | Update::Resync(Snapshot { at, holders }) => {
            let missed = matches!(update, Update::Resync(_));
            let holders: Vec<Value> = holders.iter().map(holder_to_json).collect();
            json!({
                "event": at.to_string(),
                "change": "state",
                "missed": missed,
                "holders": holders,
            })
        }
        _ => Value::Null,
    }
}

fn holder_to_json(holder: &Holder) -> Value {
    json!({
        "lock": holder.lock.as_str(),
        "session": holder.session.to_string(),
        "token": holder.token.to_string(),
        "mode": holder.mode.to_string(),
        "slot": holder.slot,
        "metadata": holder.metadata.as_ref().map(metadata_to_json),
    })
}

/// Metadata as text if it is text, or else in hexadecimal digits.
pub(super) fn metadata_to_json(metadata: &Metadata) -> Value {
    let version = metadata.version.to_string();
    let bytes = metadata.value.as_bytes();
    match std::str::from_utf8(bytes) {
        Ok(text) => json!({ "version": version, "text": text }),
        Err(_) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({ "version": version, "hex": hex })
        }
    }
}

impl From<lockd_client::WatchError> for Failure {
    fn from(error: lockd_client::WatchError) -> Failure {
        let code = match &error {
            lockd_client::WatchError::Name(_) => exit::USAGE,
            lockd_client::WatchError::Refused(_) => exit::REFUSED,
            _ => exit::OTHER,
        };
        Failure::new(code, error)
    }
}
