//! One measurement of whichever lock service: its drivers in a closed loop, a warm-up, the window
//! that counts, and the report of it.

use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lockd_protocol::NodeId;

use super::progress;
use super::report::{self, Cpu, LeaderKill, Memory, Report, Spread};
use super::spending::{Meter, Spent};
use super::workload::{self, Phases, Shared, Workload};
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
    let shared = Shared::new(setup.workload, clients, &setup.prefix, setup.hold);
    let conductor = async {
        let mut conduct = pin!(conduct(setup, &shared, pids, cell.as_deref_mut()));
        tokio::select! {
            outcome = &mut conduct => outcome,
            () = progress::show(&shared, setup.phases) => conduct.await,
        }
    };
    let (outcome, unfinished) = workload::closed_loop(drivers, &shared, conductor).await;
    let (spent, killed) = outcome?;
    if let Some(cell) = cell {
        cell.check()?;
    }
    let outcome = Outcome {
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
    shared.measure.borrow_mut().begin(begin);
    let mut meter = Meter::begin(pids);
    let mut killed = None;
    if let (Some(at), Some(cell)) = (setup.kill_leader_at, cell) {
        tokio::time::sleep(at).await;
        let leader = cell.leader().await?;
        meter.look();
        cell.kill(leader);
        shared.measure.borrow_mut().mark();
        killed = Some((leader, begin.elapsed()));
    }
    tokio::time::sleep(setup.phases.duration.saturating_sub(begin.elapsed())).await;
    shared.measure.borrow_mut().end(Instant::now());
    Ok((meter.end(), killed))
}

/// What a measurement gave beside the counters.
struct Outcome {
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
    let seconds = measure.duration().as_secs_f64();
    let (min, max) = measure.cycles_of_clients();
    let per_cycle = |cpu: Duration| cpu.as_secs_f64() * 1e6 / cycles.max(1) as f64;
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
    Report {
        schema: report::SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        workload: setup.workload.name(),
        driver: setup.driver,
        clients: clients as u64,
        connections: setup.connections,
        tickets: setup.tickets,
        ttl_ms: milliseconds(setup.ttl),
        hold_ms: milliseconds(setup.hold),
        warmup_s: setup.phases.warmup.as_secs_f64(),
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
        disk_sync_us: setup.disk,
        longest_gap_ms: milliseconds(measure.longest_gap()),
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
    }
}
