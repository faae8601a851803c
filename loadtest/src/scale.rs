//! `loadtest scale`: a cell of three real processes with very many sessions and held locks. What
//! they cost in memory, CPU time and disk; and what a change of leader costs them.

mod population;
pub mod report;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lockd_client::protocol::client::Status;
use lockd_client::{Client, ClientConfig, ConfigError, Wait, probe};
use lockd_protocol::NodeId;

use crate::cell::{CellError, OwnCell};
use crate::machine::{self, Machine};
use crate::run::latency::{self, Latency};
use crate::run::spending::Meter;
use population::{Population, PopulationError};
use report::{Failover, Memory, Renewals, Report, Snapshot};

/// How long the sessions are only renewed, to measure what that costs.
const WATCH: Duration = Duration::from_secs(20);

/// How often it is looked whether all sessions have been renewed.
const LOOK: Duration = Duration::from_millis(20);

/// How long a change of leader may take until every session is renewed or lost.
const FAILOVER_MAX: Duration = Duration::from_secs(300);

/// How long a node may take to answer how it is.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// How long snapshots that are being made are waited for, so that what they cost is not counted as
/// the cost of something else.
const SETTLE_MAX: Duration = Duration::from_secs(90);

/// No snapshot takes longer to be made, so that after such a time without a new one none is.
const QUIET: Duration = Duration::from_secs(12);

/// Options of `loadtest scale`.
#[derive(Clone, Debug, clap::Args)]
pub struct ScaleArgs {
    /// Locks to be held, spread evenly over the sessions.
    #[arg(long, default_value_t = 1_000_000,
          value_parser = clap::value_parser!(u64).range(1..=50_000_000))]
    pub locks: u64,
    /// Sessions.
    #[arg(long, default_value_t = 100_000,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub sessions: u64,
    /// Connections that carry the sessions.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub connections: u64,
    /// TTL of the sessions, each of which is renewed three times in it.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub ttl: Duration,
    /// Requests under way at the same time while the cell is filled.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub in_flight: u64,
    /// Write the result as JSON to this file (`-`: to standard output, instead of the table).
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Where the nodes keep their data [default: the directory for temporary files].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum ScaleError {
    /// There are fewer sessions than connections, or fewer locks than sessions.
    #[error(
        "--locks {locks} --sessions {sessions} --connections {connections}: give at least as \
             many locks as sessions, and as many sessions as connections"
    )]
    Shape {
        /// Locks asked for.
        locks: u64,
        /// Sessions asked for.
        sessions: u64,
        /// Connections asked for.
        connections: u64,
    },
    /// The cell could not be run.
    #[error(transparent)]
    Cell(#[from] CellError),
    /// The cell's description cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The cell could not be filled.
    #[error(transparent)]
    Population(#[from] PopulationError),
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A node does not say how it is.
    #[error("node {node} does not answer how it is: {reason}")]
    Silent {
        /// Which node.
        node: u64,
        /// What its probe met.
        reason: String,
    },
    /// The first lock after the kill was not granted.
    #[error("no lock could be had after the leader was killed: {0}")]
    NoGrant(String),
}

/// A cell that is being filled and measured.
struct Bench<'a> {
    arguments: &'a ScaleArgs,
    cell: OwnCell,
    config: ClientConfig,
}

/// Fills a cell, measures it, and kills its leader. `program` is this program, of which nodes are
/// started.
///
/// # Errors
/// [`ScaleError`], if it could not be run. What was lost is in the report.
pub async fn run(arguments: &ScaleArgs, program: &Path) -> Result<Report, ScaleError> {
    let ScaleArgs {
        locks,
        sessions,
        connections,
        ..
    } = *arguments;
    if locks < sessions || sessions < connections {
        return Err(ScaleError::Shape {
            locks,
            sessions,
            connections,
        });
    }
    let parent = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let directory = tempfile::Builder::new()
        .prefix("loadtest-")
        .tempdir_in(&parent);
    let directory = directory.map_err(|source| ScaleError::Write {
        path: parent,
        source,
    })?;
    let mut cell = OwnCell::start(program, directory.path())?;
    cell.leader().await?;
    let config = ClientConfig::load(cell.client_config())?;
    let mut bench = Bench {
        arguments,
        cell,
        config,
    };
    let report = bench.measure().await?;
    bench.cell.stop();
    Ok(report)
}

impl Bench<'_> {
    async fn measure(&mut self) -> Result<Report, ScaleError> {
        let asked = self.arguments;
        let empty = self.memory();
        tell(&format!("opening {} sessions", asked.sessions));
        let path = self.cell.client_config().to_owned();
        let opened = Instant::now();
        let mut population = Population::open(&path, asked).await?;
        let opening = opened.elapsed();
        self.settle().await?;
        let with_sessions = self.memory();
        tell(&format!("acquiring {} locks", asked.locks));
        let filled = Instant::now();
        let acquired = population.acquire(asked).await?;
        let acquiring = filled.elapsed();
        self.settle().await?;
        let with_locks = self.memory();
        let peak = self.peak_memory();
        tell("renewing only");
        let renewals = self.watch_renewals(&population).await?;
        let snapshots = self.snapshots();
        let before = self.status_of_leader().await?;
        tell("killing the leader");
        let failover = self.fail_over(&path, &population).await?;
        let after = self.status_of_leader().await?;
        let restarted = self.restart().await?;
        Ok(Report {
            schema: report::SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            locks: asked.locks,
            sessions: asked.sessions,
            connections: asked.connections,
            ttl_ms: asked.ttl.as_secs_f64() * 1e3,
            opened_per_s: per_second(asked.sessions, opening),
            acquired_per_s: per_second(asked.locks, acquiring),
            acquire_us: acquired,
            memory: Memory::of(&empty, &with_sessions, &with_locks, &peak, asked),
            client_memory_bytes: machine::own_memory_of(std::process::id()),
            snapshots,
            renewals,
            failover,
            restart_s: restarted.as_secs_f64(),
            before: before.into(),
            after: after.into(),
            lost: population.lost() as u64,
            machine: Machine::describe(),
        })
    }

    fn memory(&self) -> Vec<u64> {
        self.cell
            .pids()
            .into_iter()
            .map(machine::memory_of)
            .collect()
    }

    fn peak_memory(&self) -> Vec<u64> {
        let pids = self.cell.pids().into_iter();
        pids.map(machine::peak_memory_of).collect()
    }

    /// Waits until the nodes have applied the same, and until no snapshot is being made.
    async fn settle(&mut self) -> Result<(), ScaleError> {
        let (begun, mut last) = (Instant::now(), Vec::new());
        let mut changed = begun;
        while begun.elapsed() < SETTLE_MAX {
            let mut now = Vec::new();
            for node in 1..=self.config.nodes.len() as u64 {
                let status = self.status(NodeId(node)).await?;
                now.push((status.applied, status.snapshot));
            }
            let applied = |(applied, _): &(u64, u64)| *applied;
            let same = now == last && now.iter().all(|one| applied(one) == applied(&now[0]));
            if same && changed.elapsed() > QUIET {
                break;
            }
            if !same {
                changed = Instant::now();
            }
            last = now;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(self.cell.check()?)
    }

    async fn status(&self, node: NodeId) -> Result<Status, ScaleError> {
        let index = usize::try_from(node.0.saturating_sub(1)).unwrap_or(usize::MAX);
        let address = self.config.nodes.get(index).map_or("", String::as_str);
        let status = probe(&self.config, address, ANSWER_MAX).await;
        status.map_err(|error| ScaleError::Silent {
            node: node.0,
            reason: error.to_string(),
        })
    }

    async fn status_of_leader(&mut self) -> Result<Status, ScaleError> {
        let leader = self.cell.leader().await?;
        self.status(leader).await
    }

    /// What the sessions cost when nothing is done but to renew them.
    async fn watch_renewals(&mut self, population: &Population) -> Result<Renewals, ScaleError> {
        let meter = Meter::begin(&self.cell.pids());
        let begun = Instant::now();
        tokio::time::sleep(WATCH).await;
        let (spent, seconds) = (meter.end(), begun.elapsed().as_secs_f64());
        self.cell.check()?;
        let renewals = population.len() as f64 * seconds / (self.arguments.ttl / 3).as_secs_f64();
        let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / renewals;
        Ok(Renewals {
            per_s: renewals / seconds,
            servers_us: each(spent.servers_cpu.unwrap_or_default()),
            client_us: each(spent.client_cpu),
            servers_cores: spent.servers_cpu.unwrap_or_default().as_secs_f64() / seconds,
            other_load_cores: spent.others_cpu.as_secs_f64() / seconds,
        })
    }

    async fn fail_over(
        &mut self,
        config: &Path,
        population: &Population,
    ) -> Result<Failover, ScaleError> {
        let prober = population::connect(config, self.arguments.ttl).await;
        let prober: Client = prober.map_err(PopulationError::Connect)?;
        let leader = self.cell.leader().await?;
        let meter = Meter::begin(&self.cell.pids());
        let killed_at = lockd_client::now();
        let killed = Instant::now();
        self.cell.kill(leader);
        let probed = async {
            let lock = prober
                .lock("scale/after")
                .wait(Wait::Forever)
                .without_ticket();
            let guard = lock.acquire().await;
            let first = killed.elapsed();
            drop(guard.map_err(|error| ScaleError::NoGrant(error.to_string()))?);
            Ok::<Duration, ScaleError>(first)
        };
        let renewed = async {
            let mut left = population.len();
            while left > 0 && killed.elapsed() < FAILOVER_MAX {
                left = population.not_renewed_since(killed_at);
                tokio::time::sleep(LOOK).await;
            }
            (left == 0).then(|| killed.elapsed())
        };
        let (first_grant, renewed) = tokio::join!(probed, renewed);
        let spent = meter.end();
        prober.close().await;
        Ok(Failover {
            killed: leader.0,
            first_grant_ms: first_grant?.as_secs_f64() * 1e3,
            all_renewed_ms: renewed.map(|after| after.as_secs_f64() * 1e3),
            cpu_s: spent.servers_cpu.unwrap_or_default().as_secs_f64(),
            client_cpu_s: spent.client_cpu.as_secs_f64(),
            lost: population.lost() as u64,
        })
    }

    /// Starts the killed node again; how long until it has all that the others have.
    async fn restart(&mut self) -> Result<Duration, ScaleError> {
        let begun = Instant::now();
        self.cell.restart()?;
        loop {
            let mut applied = Vec::new();
            for node in 1..=self.config.nodes.len() as u64 {
                let status = self.status(NodeId(node)).await;
                applied.push(status.map_or(0, |status| status.applied));
            }
            let (least, most) = (applied.iter().min(), applied.iter().max());
            if least == most || begun.elapsed() > FAILOVER_MAX {
                self.cell.check()?;
                return Ok(begun.elapsed());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The snapshots that the nodes have made, by their own account.
    fn snapshots(&self) -> Vec<Snapshot> {
        let nodes = 1..=self.config.nodes.len();
        let logs = nodes.map(|node| self.cell.directory().join(format!("node-{node}.log")));
        let texts = logs.map(|log| std::fs::read_to_string(log).unwrap_or_default());
        texts.flat_map(|text| Snapshot::all_in(&text)).collect()
    }
}

fn per_second(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64().max(f64::MIN_POSITIVE)
}

fn tell(what: &str) {
    eprintln!("loadtest: {what}");
}

fn latency(histogram: &hdrhistogram::Histogram<u64>) -> Latency {
    latency::summary(histogram)
}
