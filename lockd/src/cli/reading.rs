//! Where a listing comes from: the cell, or one node of it, which may be behind.

use std::time::Duration;

use lockd_client::protocol::client::{Age, Labels, LockDetail, LockSummary, SessionSummary, Stale};
use lockd_client::protocol::limits::PAGE_ITEMS_MAX;
use lockd_client::protocol::{LockName, Millis, SessionId};
use lockd_client::{Client, NodeReader, Page, QueryError};
use serde_json::{Value, json};

use super::config::ConfigArgs;
use super::exit::Failure;
use super::output;

/// How long one node gets to connect, and to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The flags of every listing.
#[derive(Debug, clap::Args)]
pub(super) struct ReadingArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Let one node answer from what it has applied: needs no leader, and may be behind the cell
    #[arg(long)]
    stale: bool,
    /// The node that is to answer with --stale, as host:port; else the first that is reached
    #[arg(long, value_name = "ADDR", requires = "stale")]
    node: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Whoever answers.
pub(super) enum Reader {
    Cell(Client),
    Node(Box<NodeReader>),
}

impl ReadingArgs {
    /// Connects.
    pub(super) async fn reader(&self) -> Result<Reader, Failure> {
        if !self.stale {
            return Ok(Reader::Cell(self.config.observer().await?));
        }
        let config = self.config.load()?;
        let reader = match &self.node {
            Some(address) => NodeReader::connect(&config, address, PATIENCE).await?,
            None => NodeReader::connect_any(&config, PATIENCE).await?,
        };
        Ok(Reader::Node(Box::new(reader)))
    }
}

impl Reader {
    /// Whose the answers were, if they were one node's.
    pub(super) async fn as_of(&self) -> Option<Stale> {
        match self {
            Reader::Cell(_) => None,
            Reader::Node(node) => node.as_of().await,
        }
    }

    /// The locks whose names begin with `prefix`, after one of them.
    pub(super) async fn locks(
        &self,
        prefix: &str,
        after: Option<LockName>,
        limit: Option<u32>,
    ) -> Result<Page<LockSummary>, QueryError> {
        let page = async |after, limit| match self {
            Reader::Cell(cell) => cell.locks_page(prefix, after, limit).await,
            Reader::Node(node) => node.locks_page(prefix, after, limit).await,
        };
        collect(after, limit, |lock: &LockSummary| lock.lock.clone(), page).await
    }

    /// The sessions that have these labels, after one of them.
    pub(super) async fn sessions(
        &self,
        labels: &Labels,
        after: Option<SessionId>,
        limit: Option<u32>,
    ) -> Result<Page<SessionSummary>, QueryError> {
        let page = async |after, limit| match self {
            Reader::Cell(cell) => cell.sessions_page(labels, after, limit).await,
            Reader::Node(node) => node.sessions_page(labels, after, limit).await,
        };
        collect(
            after,
            limit,
            |session: &SessionSummary| session.session,
            page,
        )
        .await
    }

    /// One lock: all holders and waiters; or of each, after so many, at most so many.
    pub(super) async fn who(
        &self,
        name: &str,
        page: Option<(u32, u32)>,
    ) -> Result<Option<LockDetail>, QueryError> {
        match (self, page) {
            (Reader::Cell(cell), None) => cell.who(name).await,
            (Reader::Cell(cell), Some((skip, limit))) => {
                cell.who_page(name, skip, skip, limit).await
            }
            (Reader::Node(node), None) => node.who(name).await,
            (Reader::Node(node), Some((skip, limit))) => {
                node.who_page(name, skip, skip, limit).await
            }
        }
    }
}

/// Puts pages together until there are enough.
async fn collect<T, K>(
    mut after: Option<K>,
    limit: Option<u32>,
    key: impl Fn(&T) -> K,
    page: impl AsyncFn(Option<K>, u32) -> Result<Page<T>, QueryError>,
) -> Result<Page<T>, QueryError> {
    let limit = limit.unwrap_or(u32::MAX);
    let (mut items, mut more) = (Vec::new(), true);
    while more && items.len() < limit as usize {
        let left = limit - items.len() as u32;
        let next = page(after, left.min(PAGE_ITEMS_MAX)).await?;
        more = next.more && !next.items.is_empty();
        items.extend(next.items);
        after = items.last().map(&key);
    }
    Ok(Page { items, more })
}

/// What is printed below a table whose answers are one node's.
pub(super) fn note(as_of: Option<Stale>) -> String {
    as_of.map_or_else(String::new, |Stale { node, applied }| {
        format!(
            "stale: what node {node} knew when it had applied slot {applied}; the cell may have \
             gone on\n"
        )
    })
}

/// What is printed below a table that was cut off.
pub(super) fn rest(more: bool, last: Option<impl std::fmt::Display>) -> String {
    match last.filter(|_| more) {
        Some(last) => format!("there are more: go on with --after {last}\n"),
        None => String::new(),
    }
}

/// A listing as JSON: an array, and with `--stale` an object that says so around it.
pub(super) fn print_list(
    name: &str,
    items: Vec<Value>,
    as_of: Option<Stale>,
) -> Result<(), Failure> {
    let items = Value::Array(items);
    output::print_json(&match as_of {
        None => items,
        Some(stale) => json!({ "stale": stale_to_json(stale), name: items }),
    })
}

pub(super) fn stale_to_json(stale: Stale) -> Value {
    json!({ "node": stale.node.0, "applied": stale.applied })
}

/// A span of time for people: milliseconds only of short ones.
pub(super) fn span_to_text(span: Millis) -> String {
    let exact = Duration::from(span);
    let span = match exact.as_secs() {
        0..10 => exact,
        seconds => Duration::from_secs(seconds),
    };
    humantime::format_duration(span).to_string()
}

/// For how long something has been.
pub(super) fn age_to_text(age: Option<Age>) -> String {
    let Some(Age { span, at_least }) = age else {
        return "-".to_owned();
    };
    let sign = if at_least { ">=" } else { "" };
    format!("{sign}{}", span_to_text(span))
}

pub(super) fn age_to_json(age: Option<Age>) -> Value {
    let at_least = |age: Age| json!({ "ms": age.span.0, "at_least": age.at_least });
    age.map_or(Value::Null, at_least)
}
