//! `loadtest demo`: the accident that a lock alone cannot prevent, and what the gateway makes of
//! it. Real processes throughout: three nodes, a gateway, and two clients, one of which is
//! paused past its lease between looking at its lock and writing.

pub mod actor;
pub mod database;
pub mod stage;
pub mod target;
pub mod timeline;
pub mod upstream;

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cell::{CellError, OwnCell};
use actor::{Answer, Order};
use stage::{Player, Setting, StageError};
use target::{TargetError, Writer};
use timeline::{Event, Style, Timeline, Tone, Who};
use upstream::{Upstream, UpstreamChoice, UpstreamError};

/// Version of the JSON. Fields may be added under the same version, never changed.
const SCHEMA: u32 = 1;

/// TTL of the clients' sessions: short, so that nobody has to wait for an accident.
const TTL: Duration = Duration::from_secs(1);

/// The lock of the story.
const LOCK: &str = "orders/42";

/// What each of the clients writes.
const FIRST_WRITE: &str = "packed by A";
const WRITE_OF_B: &str = "shipped by B";
const LATE_WRITE: &str = "cancelled by A";

/// Options of `loadtest demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// What is behind the gateway: `embedded` (its own store, nothing to install), `postgres` (a
    /// private server, started for the demo) or `postgres=URL` (yours, by the URL of a superuser;
    /// the demo makes a database `lockd_demo` there and removes it again).
    #[arg(long, value_name = "UPSTREAM", default_value = "embedded")]
    pub upstream: UpstreamChoice,
    /// Print one JSON document instead of the story.
    #[arg(long)]
    pub json: bool,
}

/// What the demo showed.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Version of this document.
    pub schema: u32,
    /// What was behind the gateway.
    pub upstream: &'static str,
    /// The lock of the story.
    pub lock: &'static str,
    /// Token under which A wrote, in time and late.
    pub token_a: String,
    /// Token under which B wrote.
    pub token_b: String,
    /// Code with which A's late write was refused; `null` if it was accepted.
    pub late_write_refused_with: Option<String>,
    /// What B had written.
    pub written_by_b: &'static str,
    /// What was there in the end.
    pub read_back: String,
    /// Whether A was refused as stale, and what B wrote stands.
    pub passed: bool,
    /// How long it all took, seconds.
    pub took_s: f64,
    /// What happened.
    pub events: Vec<Event>,
}

/// Why the demo came to no result.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// No cell.
    #[error(transparent)]
    Cell(#[from] CellError),
    /// No gateway, or nothing behind it.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// A client did not do as it should.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The data could not be read back.
    #[error("cannot read back what was written: {0}")]
    Target(#[from] TargetError),
    /// Someone ended it.
    #[error("interrupted")]
    Interrupted,
    /// No place for files.
    #[error("cannot make a temporary directory: {0}")]
    Directory(std::io::Error),
}

/// Runs the demo. `program` is this program, of which everything is started. When `interrupted`
/// ends, the story breaks off, and what it made in a database is removed all the same.
///
/// # Errors
/// [`DemoError`], if it came to no result. A late write that was accepted is a result.
pub async fn run(
    arguments: &DemoArgs,
    program: &Path,
    interrupted: impl Future<Output = ()>,
) -> Result<Outcome, DemoError> {
    let style = if arguments.json {
        Style::Quiet
    } else {
        Style::for_people()
    };
    let mut timeline = Timeline::begin(style);
    timeline.say("A holder is paused past its lease, and writes late\n");
    let directory = tempfile::Builder::new()
        .prefix("lockd-demo-")
        .tempdir()
        .map_err(DemoError::Directory)?;
    let directory = directory.path();

    let mut cell = OwnCell::start(program, directory)?;
    let leader = cell.leader().await?;
    let nodes = cell.pids().len();
    let up = format!("{nodes} nodes are up, a process each; node {leader} leads");
    timeline.tell(Who::Cell, Tone::Plain, None, up);
    let upstream = Upstream::start(&arguments.upstream, program, directory, &cell).await?;
    timeline.tell(Who::Gateway, Tone::Plain, None, upstream.describe());

    let setting = Setting {
        program,
        directory,
        config: cell.client_config(),
        lock: LOCK,
        ttl: TTL,
        target: upstream.target(),
    };
    let result = tokio::select! {
        result = accident(&mut timeline, &setting) => result,
        () = interrupted => Err(DemoError::Interrupted),
    };
    upstream.stop().await?;
    cell.stop();
    let mut outcome = result?;
    outcome.upstream = arguments.upstream.name();
    outcome.took_s = timeline.elapsed().as_secs_f64();
    outcome.events = timeline.events().to_vec();
    Ok(outcome)
}

/// The story itself.
async fn accident(timeline: &mut Timeline, setting: &Setting<'_>) -> Result<Outcome, DemoError> {
    let mut a = Player::start("A", setting).await?;
    a.tell(&Order::Acquire).await?;
    let token_a = a.granted().await?;
    let granted = format!(
        "is granted {LOCK} for {} s, renewed as long as it lives",
        TTL.as_secs()
    );
    timeline.tell(Who::A, Tone::Plain, Some(token_a), granted);
    write(timeline, Who::A, &mut a, token_a, FIRST_WRITE).await?;

    look(timeline, &mut a, token_a, "looks").await?;
    a.pause()?;
    let paused = Instant::now();
    timeline.tell(
        Who::A,
        Tone::Fault,
        None,
        format!("is paused (SIGSTOP) just before it writes {LATE_WRITE:?}"),
    );
    // It waits in A's pipe: the first thing that A does when it wakes.
    let value = LATE_WRITE.to_owned();
    a.tell(&Order::Write { value }).await?;

    let mut b = Player::start("B", setting).await?;
    timeline.tell(
        Who::B,
        Tone::Plain,
        None,
        format!("asks for {LOCK}, and waits"),
    );
    b.tell(&Order::Acquire).await?;
    let token_b = b.granted().await?;
    let waited = paused.elapsed().as_secs_f64();
    timeline.tell(
        Who::Cell,
        Tone::Plain,
        None,
        format!("has not heard of A for {waited:.1} s: A's lease has ended"),
    );
    timeline.tell(
        Who::B,
        Tone::Plain,
        Some(token_b),
        format!("is granted {LOCK}"),
    );
    write(timeline, Who::B, &mut b, token_b, WRITE_OF_B).await?;

    a.resume()?;
    timeline.tell(
        Who::A,
        Tone::Fault,
        None,
        "wakes (SIGCONT), still believes that it holds the lock, and writes",
    );
    let late = a.hear().await?;
    let refused_with = tell_write(timeline, Who::A, &a, token_a, LATE_WRITE, &late)?;
    look(timeline, &mut a, token_a, "looks again").await?;

    let read_back = Writer::connect(setting.target).await?.read().await?;
    timeline.tell(Who::Data, Tone::Plain, None, format!("is {read_back:?}"));
    Ok(Outcome {
        schema: SCHEMA,
        upstream: "",
        lock: LOCK,
        token_a: token_a.to_string(),
        token_b: token_b.to_string(),
        passed: refused_with.as_deref() == Some("FN001")
            && read_back == WRITE_OF_B
            && token_b > token_a,
        late_write_refused_with: refused_with,
        written_by_b: WRITE_OF_B,
        read_back,
        took_s: 0.0,
        events: Vec::new(),
    })
}

/// Writes in time: anything but acceptance ends the story.
async fn write(
    timeline: &mut Timeline,
    who: Who,
    player: &mut Player,
    token: u64,
    value: &str,
) -> Result<(), StageError> {
    let order = Order::Write {
        value: value.to_owned(),
    };
    let answer = player.order(&order).await?;
    match tell_write(timeline, who, player, token, value, &answer)? {
        None => Ok(()),
        Some(_) => Err(player.out_of_place(&answer)),
    }
}

/// Tells what came of a write, and returns the code of its refusal, if it was refused.
fn tell_write(
    timeline: &mut Timeline,
    who: Who,
    player: &Player,
    token: u64,
    value: &str,
    answer: &Answer,
) -> Result<Option<String>, StageError> {
    match answer {
        Answer::Accepted => {
            let what = format!("writes {value:?}: accepted");
            timeline.tell(who, Tone::Accepted, Some(token), what);
            Ok(None)
        }
        Answer::Refused { code, message } => {
            let what = format!("writes {value:?}: refused, {code}");
            timeline.tell(who, Tone::Refused, Some(token), what);
            timeline.tell(Who::Gateway, Tone::Plain, None, message.clone());
            Ok(Some(code.clone()))
        }
        other => Err(player.out_of_place(other)),
    }
}

async fn look(
    timeline: &mut Timeline,
    a: &mut Player,
    token: u64,
    text: &str,
) -> Result<(), StageError> {
    match a.order(&Order::Look).await? {
        Answer::Looked { held, detail } => {
            let holds = if held { "it holds" } else { "it does not hold" };
            let what = format!("{text}: {holds} the lock ({detail})");
            timeline.tell(Who::A, Tone::Plain, Some(token), what);
            Ok(())
        }
        other => Err(a.out_of_place(&other)),
    }
}

impl Outcome {
    /// What it comes to, in two lines.
    #[must_use]
    pub fn verdict(&self) -> String {
        let late = match &self.late_write_refused_with {
            Some(code) => format!(
                "A's late write was refused ({code}): token {} is older than B's token {}.",
                self.token_a, self.token_b
            ),
            None => "FAILED: A's late write was accepted.".to_owned(),
        };
        let data = if self.read_back == self.written_by_b {
            format!("What B wrote stands: {:?}.", self.read_back)
        } else {
            format!(
                "FAILED: B wrote {:?}, but {:?} is there now.",
                self.written_by_b, self.read_back
            )
        };
        format!("{late}\n{data}")
    }
}
