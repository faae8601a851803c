//! `loadtest run`: puts a workload on a cell, judges every answer, and reports what it cost.
//!
//! All clients share one thread: on a small machine that costs the least, and leaves the most to
//! the servers.

pub mod arrivals;
pub mod choice;
pub mod histories;
pub mod interval;
pub mod latency;
pub mod measure;
pub mod progress;
pub mod report;
pub mod round;
pub mod spending;
pub mod timer;
pub mod workload;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockd_client::{ConfigError, ConnectError};
use serde::Serialize;

use crate::cell::{CellError, OwnCell};
use crate::driver::lockd::{LockdDriver, LockdOptions};
use crate::machine::{self, SyncLatency};
use crate::report::files::Files;
use crate::terminal::print_line;
use arrivals::RateArgs;
use report::Report;
use round::Setup;
use workload::{Phases, Shape, Workload};

/// Most clients of one run.
pub(crate) const CLIENTS_MAX: u64 = 100_000;

/// Options of `loadtest run`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// Which locks the clients want.
    #[arg(long, value_enum, default_value = "uncontended")]
    pub workload: Workload,
    /// The workload's numbers.
    #[command(flatten)]
    pub shape: Shape,
    /// When requests are due.
    #[command(flatten)]
    pub rate: RateArgs,
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
    /// Other files.
    #[command(flatten)]
    pub files: Files,
    /// Write the latencies of each second to this file, as an interval log of HDR histograms.
    #[arg(long, value_name = "FILE")]
    pub hdr: Option<PathBuf>,
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

/// Writes the interval log where it was asked for.
///
/// # Errors
/// [`RunError::Write`].
pub fn write_interval_log(report: &Report, path: Option<&Path>) -> Result<(), RunError> {
    let (Some(path), Some(log)) = (path, &report.interval_log) else {
        return Ok(());
    };
    std::fs::write(path, log).map_err(|source| RunError::Write {
        path: path.to_owned(),
        source,
    })
}

/// Writes a result where it was asked for: as text or JSON to standard output, or both.
///
/// # Errors
/// [`RunError::Write`].
pub fn write_report<R: Display + Serialize>(
    report: &R,
    json: Option<&Path>,
) -> Result<(), RunError> {
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

/// A directory in `parent`, or where temporary files belong. It goes when it is dropped.
///
/// # Errors
/// [`RunError::Write`].
pub(crate) fn temporary_directory(parent: Option<&Path>) -> Result<tempfile::TempDir, RunError> {
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
    cell: Option<&mut OwnCell>,
    disk: SyncLatency,
) -> Result<Report, RunError> {
    let options = LockdOptions {
        clients: usize::try_from(arguments.clients).unwrap_or(usize::MAX),
        connections: usize::try_from(arguments.connections()).unwrap_or(usize::MAX),
        ttl: arguments.ttl,
        tickets: arguments.tickets,
    };
    let drivers = LockdDriver::connect_all(config, options).await?;
    let pids = cell
        .as_ref()
        .map_or(arguments.pids.clone(), |cell| cell.pids());
    let setup = Setup {
        driver: "lockd",
        workload: arguments.workload,
        shape: arguments.shape,
        rate: arguments.rate.rate(),
        connections: arguments.connections(),
        tickets: arguments.tickets,
        ttl: arguments.ttl,
        hold: arguments.hold,
        phases: Phases {
            warmup: arguments.warmup,
            duration: arguments.duration,
        },
        prefix: format!("loadtest/{}", std::process::id()),
        disk,
        kill_leader_at: arguments.kill_leader_at,
        keep_histograms: arguments.hdr.is_some(),
        cell: arguments.config.clone(),
    };
    Ok(round::measure(&setup, drivers, &pids, cell).await?)
}
