//! One measurement of whichever lock service: its drivers, a warm-up, the window that counts, and
//! the report of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use lockd_protocol::NodeId;

use super::arrivals::Rate;
use super::measure::Measure;
use super::progress;
use super::report::{self, Cpu, Generator, LeaderKill, Memory, OpenLoop, Report, Spread, jain};
use super::spending::{Meter, Spent};
use super::workload::{self, Phases, Plan, Shape, Shared, Workload};
use crate::cell::{CellError, OwnCell};
use crate::driver::Driver;
use crate::machine::{Machine, SyncLatency};

/// What is measured, as its report repeats it.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Name of what is driven.
    pub driver: &'static str,
    /// Which locks the clients want.
    pub workload: Workload,
    /// The workload's numbers.
    pub shape: Shape,
    /// When requests are due; `None`: a closed loop.
    pub rate: Option<Rate>,
    /// Connections that carry the sessions.
    pub connections: u64,
    /// Whether grants come with their tickets.
    pub tickets: bool,
    /// TTL of sessions or locks.
    pub ttl: Duration,
    /// How long each lock is held.
    pub hold: Duration,
    /// How long to warm up and to measure.
    pub phases: Phases,
    /// Beginning of the names of the locks.
    pub prefix: String,
    /// How fast the servers' disk is.
    pub disk: SyncLatency,
    /// When the leader of our own cell is killed, if it is.
    pub kill_leader_at: Option<Duration>,
    /// Whether to keep the histograms of each interval.
    pub keep_histograms: bool,
    /// The `client.toml` of a cell of somebody else's, to see who leads it.
    pub cell: Option<PathBuf>,
}

/// Runs one client for each of the drivers. `pids` are the processes whose spending counts as the
/// servers', with their children; `cell` is what they belong to, if it is a cell of our own.
///
/// # Errors
/// [`CellError`], if a node of the cell ended by itself. Broken promises are in the report.
pub async fn measure<D: Driver + 'static>(
    setup: &Setup,
    drivers: Vec<D>,
    pids: &[u32],
    mut cell: Option<&mut OwnCell>,
) -> Result<Report, CellError> {
    let clients = drivers.len();
    let shared = Shared::new(Plan {
        workload: setup.workload,
        shape: setup.shape,
        clients,
        prefix: setup.prefix.clone(),
        hold: setup.hold,
        rate: setup.rate,
    });
    if setup.keep_histograms {
        shared.measure.borrow_mut().keep_histograms();
    }
    let config = cell.as_ref().map(|cell| cell.client_config().to_owned());
    let config = config.or_else(|| setup.cell.clone());
    let measured_at = SystemTime::now();
    let conductor = async {
        let mut conduct = pin!(conduct(setup, &shared, pids, cell.as_deref_mut()));
        tokio::select! {
            outcome = &mut conduct => outcome,
            () = progress::show(&shared, setup, config.as_deref()) => conduct.await,
        }
    };
    let (outcome, unfinished) = workload::run_clients(drivers, &shared, conductor).await;
    let (spent, killed) = outcome?;
    if let Some(cell) = cell {
        cell.check()?;
    }
    let outcome = Outcome {
        measured_at,
        spent,
        killed,
        unfinished,
    };
    Ok(report(setup, clients, &shared, &outcome))
}

/// Warm-up, then the window that counts, with a kill in it if one was asked for.
async fn conduct(
    setup: &Setup,
    shared: &Rc<Shared>,
    pids: &[u32],
    cell: Option<&mut OwnCell>,
) -> Result<(Spent, Option<(NodeId, Duration)>), CellError> {
    tokio::time::sleep(setup.phases.warmup).await;
    let begin = Instant::now();
    let planned = setup.phases.duration;
    shared.measure.borrow_mut().begin(begin, planned);
    let mut meter = Meter::begin(pids);
    let mut killed = None;
    if let (Some(at), Some(cell)) = (setup.kill_leader_at, cell) {
        tokio::time::sleep(at).await;
        let leader = cell.leader().await?;
        meter.look();
        cell.kill(leader);
        let what = format!("node {}, the leader, was killed", leader.0);
        shared.measure.borrow_mut().mark(Instant::now(), what);
        killed = Some((leader, begin.elapsed()));
    }
    tokio::time::sleep(planned.saturating_sub(begin.elapsed())).await;
    shared.end(Instant::now());
    Ok((meter.end(), killed))
}

/// What a measurement gave beside the counters.
struct Outcome {
    measured_at: SystemTime,
    spent: Spent,
    killed: Option<(NodeId, Duration)>,
    unfinished: usize,
}

fn report(setup: &Setup, clients: usize, shared: &Shared, outcome: &Outcome) -> Report {
    let measure = shared.measure.borrow();
    let oracle = shared.oracle.borrow();
    let histories = shared.histories.borrow().judge();
    let spent = outcome.spent;
    let cycles = measure.cycles();
    let seconds = measure.duration().as_secs_f64().max(f64::MIN_POSITIVE);
    let per_cycle = |cpu: Duration| cpu.as_secs_f64() * 1e6 / cycles.max(1) as f64;
    let open_loop = setup.rate.map(|rate| open_loop(rate, &measure));
    let lag = open_loop.is_some().then(|| measure.schedule().lag());
    Report {
        schema: report::SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        measured_at: humantime::format_rfc3339_seconds(outcome.measured_at).to_string(),
        workload: setup.workload.name().to_owned(),
        shape: setup.shape,
        driver: setup.driver.to_owned(),
        kind: if open_loop.is_some() {
            "open"
        } else {
            "closed"
        }
        .to_owned(),
        open_loop,
        generator: Generator::new(spent.client_cpu.as_secs_f64() / seconds, lag),
        clients: clients as u64,
        connections: setup.connections,
        tickets: setup.tickets,
        ttl_ms: milliseconds(setup.ttl),
        hold_ms: milliseconds(setup.hold),
        warmup_s: setup.phases.warmup.as_secs_f64(),
        duration_s: seconds,
        cycles,
        cycles_per_s: cycles as f64 / seconds,
        cycles_per_client: spread(measure.cycles_of_clients()),
        fairness_jain: jain(measure.cycles_of_clients()),
        handovers_per_s: measure.handovers() as f64 / seconds,
        acquire_us: measure.acquire(),
        acquire_spectrum: measure.acquire_spectrum(),
        release_us: measure.release(),
        cpu_us_per_cycle: Cpu {
            servers: spent.servers_cpu.map(per_cycle),
            client: per_cycle(spent.client_cpu),
        },
        memory_bytes: Memory {
            servers: spent.servers_memory,
            client: spent.client_memory,
        },
        other_load_cores: spent.others_cpu.as_secs_f64() / seconds,
        disk_sync_us: setup.disk.clone(),
        longest_gap_ms: milliseconds(measure.longest_gap()),
        intervals: measure.intervals().to_vec(),
        faults: measure.faults().to_vec(),
        leader_killed: outcome.killed.map(|(node, at)| LeaderKill {
            node: node.0,
            at_s: at.as_secs_f64(),
            longest_gap_after_ms: milliseconds(measure.longest_gap_after_mark()),
        }),
        errors: measure.troubles().clone(),
        unfinished_clients: outcome.unfinished,
        violations: oracle.violations() + histories.refused.len() as u64,
        histories,
        violation_details: oracle.stories().to_vec(),
        machine: Machine::describe(),
        server_versions: BTreeMap::new(),
        interval_log: measure.interval_log().map(str::to_owned),
    }
}

fn open_loop(rate: Rate, measure: &Measure) -> OpenLoop {
    let schedule = measure.schedule();
    OpenLoop {
        rate_per_s: rate.per_second,
        arrivals: rate.spacing.name().to_owned(),
        due: schedule.due,
        late: schedule.late,
        skipped: schedule.skipped,
        delay_us: schedule.delay(),
    }
}

fn spread(cycles: &[u64]) -> Spread {
    let each = || cycles.iter().copied();
    Spread {
        min: each().min().unwrap_or(0),
        max: each().max().unwrap_or(0),
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
