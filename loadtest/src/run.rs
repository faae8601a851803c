//! `loadtest run`: puts a workload on a cell, judges every answer, and reports what it cost.
//!
//! All clients share one thread: on a small machine that costs the least, and leaves the most to
//! the servers.

pub mod histories;
pub mod measure;
pub mod progress;
pub mod report;
pub mod spending;
pub mod workload;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, Instant};

use lockd_client::{ConfigError, ConnectError};
use lockd_protocol::NodeId;

use crate::cell::{CellError, OwnCell};
use crate::driver::lockd::{LockdDriver, LockdOptions};
use crate::machine::{self, Machine, SyncLatency};
use crate::terminal::print_line;
use report::{Cpu, LeaderKill, Memory, Report, Spread};
use spending::{Meter, Spent};
use workload::{Phases, Shared, Workload};

/// Most clients of one run.
const CLIENTS_MAX: u64 = 100_000;

/// Options of `loadtest run`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// Which locks the clients want.
    #[arg(long, value_enum, default_value = "uncontended")]
    pub workload: Workload,
    /// Clients, each with a session of its own, each doing one thing at a time.
    #[arg(long, default_value_t = 64,
          value_parser = clap::value_parser!(u64).range(1..=CLIENTS_MAX))]
    pub clients: u64,
    /// Connections that carry the sessions [default: one for each client].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=CLIENTS_MAX))]
    pub connections: Option<u64>,
    /// How long to measure.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// How long to run before measuring.
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    pub warmup: Duration,
    /// How long to hold each lock.
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub hold: Duration,
    /// TTL of the sessions.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub ttl: Duration,
    /// Have each grant come with its signed ticket.
    #[arg(long)]
    pub tickets: bool,
    /// Write the result as JSON to this file (`-`: to standard output, instead of the text).
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Drive the cell of this `client.toml` [default: start three nodes as processes].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Process ids of the given cell's nodes, to tell what they spend.
    #[arg(long, value_name = "PID", value_delimiter = ',', requires = "config")]
    pub pids: Vec<u32>,
    /// Kill the leader (as `kill -9`) so long after measuring began. Needs nodes started here.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration,
          conflicts_with = "config")]
    pub kill_leader_at: Option<Duration>,
    /// Where the nodes started here keep their data: a directory on the disk to be measured
    /// [default: the directory for temporary files].
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub dir: Option<PathBuf>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// More connections than clients.
    #[error("--connections {connections} is more than --clients {clients}: give at most as many")]
    Connections {
        /// Connections asked for.
        connections: u64,
        /// Clients asked for.
        clients: u64,
    },
    /// The time of the kill lies outside of the run.
    #[error("--kill-leader-at lies after the end of the run: give less than --duration")]
    KillTooLate,
    /// Nothing is measured.
    #[error("--duration is zero: give at least 1ms")]
    NoDuration,
    /// The cell could not be started.
    #[error(transparent)]
    Cell(#[from] CellError),
    /// A client could not connect.
    #[error("cannot connect to the cell: {0}")]
    Connect(#[from] ConnectError),
    /// The cell's description cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl RunArgs {
    fn connections(&self) -> u64 {
        self.connections.unwrap_or(self.clients)
    }

    fn phases(&self) -> Phases {
        Phases {
            warmup: self.warmup,
            duration: self.duration,
        }
    }

    fn check(&self) -> Result<(), RunError> {
        let (connections, clients) = (self.connections(), self.clients);
        if connections > clients {
            return Err(RunError::Connections {
                connections,
                clients,
            });
        }
        if self.duration.is_zero() {
            return Err(RunError::NoDuration);
        }
        if self.kill_leader_at.is_some_and(|at| at >= self.duration) {
            return Err(RunError::KillTooLate);
        }
        Ok(())
    }
}

/// Runs a workload. `program` is this program, of which nodes are started.
///
/// # Errors
/// [`RunError`], if it could not be run. Broken promises are in the report.
pub async fn run(arguments: &RunArgs, program: &Path) -> Result<Report, RunError> {
    arguments.check()?;
    let directory = temporary_directory(arguments.dir.as_deref())?;
    let data = arguments.dir.as_deref().unwrap_or(directory.path());
    let disk = machine::sync_latency(data).map_err(|source| RunError::Write {
        path: data.to_owned(),
        source,
    })?;
    let mut cell = match &arguments.config {
        Some(_) => None,
        None => Some(OwnCell::start(program, directory.path())?),
    };
    if let Some(cell) = &mut cell {
        cell.leader().await?;
    }
    let config = match (&arguments.config, &cell) {
        (Some(config), _) => config.clone(),
        (None, Some(cell)) => cell.client_config().to_owned(),
        (None, None) => PathBuf::new(),
    };
    let report = drive(arguments, &config, cell.as_mut(), disk).await?;
    if let Some(cell) = cell {
        cell.stop();
    }
    Ok(report)
}

/// Writes a report where it was asked for.
///
/// # Errors
/// [`RunError::Write`].
pub fn write_report(report: &Report, json: Option<&Path>) -> Result<(), RunError> {
    let Some(path) = json else {
        print_line(&report.to_string());
        return Ok(());
    };
    let failed = |source| RunError::Write {
        path: path.to_owned(),
        source,
    };
    let text = serde_json::to_string(report).map_err(|error| failed(error.into()))?;
    if path == Path::new("-") {
        print_line(&text);
        return Ok(());
    }
    print_line(&report.to_string());
    std::fs::write(path, text + "\n").map_err(failed)
}

fn temporary_directory(parent: Option<&Path>) -> Result<tempfile::TempDir, RunError> {
    let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
    tempfile::Builder::new()
        .prefix("loadtest-")
        .tempdir_in(&parent)
        .map_err(|source| RunError::Write {
            path: parent,
            source,
        })
}

async fn drive(
    arguments: &RunArgs,
    config: &Path,
    mut cell: Option<&mut OwnCell>,
    disk: SyncLatency,
) -> Result<Report, RunError> {
    let clients = usize::try_from(arguments.clients).unwrap_or(usize::MAX);
    let options = LockdOptions {
        clients,
        connections: usize::try_from(arguments.connections()).unwrap_or(usize::MAX),
        ttl: arguments.ttl,
        tickets: arguments.tickets,
    };
    let drivers = LockdDriver::connect_all(config, options).await?;
    let pids = cell
        .as_ref()
        .map_or(arguments.pids.clone(), |cell| cell.pids());
    let prefix = format!("loadtest/{}", std::process::id());
    let shared = Shared::new(arguments.workload, clients, &prefix, arguments.hold);
    let conductor = async {
        let mut conduct = pin!(conduct(arguments, &shared, &pids, cell.as_deref_mut()));
        tokio::select! {
            outcome = &mut conduct => outcome,
            () = progress::show(&shared, arguments.phases()) => conduct.await,
        }
    };
    let (outcome, unfinished) = workload::closed_loop(drivers, &shared, conductor).await;
    let (spent, killed) = outcome?;
    if let Some(cell) = cell {
        cell.check()?;
    }
    let measured = Measured {
        spent,
        killed,
        disk,
        unfinished,
    };
    Ok(report(arguments, &shared, measured))
}

/// Warm-up, then the window that counts, with a kill in it if one was asked for.
async fn conduct(
    arguments: &RunArgs,
    shared: &Shared,
    pids: &[u32],
    cell: Option<&mut OwnCell>,
) -> Result<(Spent, Option<(NodeId, Duration)>), RunError> {
    tokio::time::sleep(arguments.warmup).await;
    let begin = Instant::now();
    shared.measure.borrow_mut().begin(begin);
    let mut meter = Meter::begin(pids);
    let mut killed = None;
    if let (Some(at), Some(cell)) = (arguments.kill_leader_at, cell) {
        tokio::time::sleep(at).await;
        let leader = cell.leader().await?;
        meter.look();
        cell.kill(leader);
        shared.measure.borrow_mut().mark();
        killed = Some((leader, begin.elapsed()));
    }
    tokio::time::sleep(arguments.duration.saturating_sub(begin.elapsed())).await;
    shared.measure.borrow_mut().end(Instant::now());
    Ok((meter.end(), killed))
}

/// What a run gave beside the counters.
struct Measured {
    spent: Spent,
    killed: Option<(NodeId, Duration)>,
    disk: SyncLatency,
    unfinished: usize,
}

fn report(arguments: &RunArgs, shared: &Shared, measured: Measured) -> Report {
    let measure = shared.measure.borrow();
    let oracle = shared.oracle.borrow();
    let histories = shared.histories.borrow().judge();
    let spent = measured.spent;
    let cycles = measure.cycles();
    let seconds = measure.duration().as_secs_f64();
    let (min, max) = measure.cycles_of_clients();
    let per_cycle = |cpu: Duration| cpu.as_secs_f64() * 1e6 / cycles.max(1) as f64;
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
    Report {
        schema: report::SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        workload: arguments.workload.name(),
        driver: "lockd",
        clients: arguments.clients,
        connections: arguments.connections(),
        tickets: arguments.tickets,
        ttl_ms: milliseconds(arguments.ttl),
        hold_ms: milliseconds(arguments.hold),
        warmup_s: arguments.warmup.as_secs_f64(),
        duration_s: seconds,
        cycles,
        cycles_per_s: cycles as f64 / seconds.max(f64::MIN_POSITIVE),
        cycles_per_client: Spread { min, max },
        acquire_us: measure.acquire(),
        release_us: measure.release(),
        cpu_us_per_cycle: Cpu {
            servers: spent.servers_cpu.map(per_cycle),
            client: per_cycle(spent.client_cpu),
        },
        memory_bytes: Memory {
            servers: spent.servers_memory,
            client: spent.client_memory,
        },
        other_load_cores: spent.others_cpu.as_secs_f64() / seconds.max(f64::MIN_POSITIVE),
        disk_sync_us: measured.disk,
        longest_gap_ms: milliseconds(measure.longest_gap()),
        leader_killed: measured.killed.map(|(node, at)| LeaderKill {
            node: node.0,
            at_s: at.as_secs_f64(),
            longest_gap_after_ms: milliseconds(measure.longest_gap_after_mark()),
        }),
        errors: measure.troubles().clone(),
        unfinished_clients: measured.unfinished,
        violations: oracle.violations() + histories.refused.len() as u64,
        histories,
        violation_details: oracle.stories().to_vec(),
        machine: Machine::describe(),
    }
}
