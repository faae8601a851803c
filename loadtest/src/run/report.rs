//! The result of a run, for people and as JSON with a version.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::choice::Shape;
use super::histories::Judged;
use super::interval::Interval;
use super::latency::{Latency, Quantile};
use crate::machine::{Machine, SyncLatency};
use crate::oracle::Violation;

/// Version of the JSON. Fields may be added under the same version, never changed.
pub const SCHEMA: u32 = 1;

/// The generator is saturated when it uses more than this of a processor: all clients share a
/// thread.
const GENERATOR_CORES_MAX: f64 = 0.9;

/// The generator is saturated when it notices one request in a hundred later than this after it
/// was due, microseconds.
const GENERATOR_LAG_MAX_US: f64 = 2000.0;

/// The result of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of this program.
    pub version: String,
    /// When it began, by the wall clock, RFC 3339.
    #[serde(default)]
    pub measured_at: String,
    /// Which locks the clients wanted.
    pub workload: String,
    /// The workload's numbers.
    #[serde(default)]
    pub shape: Shape,
    /// Which lock service was driven.
    pub driver: String,
    /// `closed`: each client asks when it is done with what it had. `open`: requests are due by a
    /// schedule, whatever became of those before.
    #[serde(default = "closed", rename = "loop")]
    pub kind: String,
    /// The schedule of an open loop, and what became of it.
    #[serde(default)]
    pub open_loop: Option<OpenLoop>,
    /// How busy the clients were themselves.
    #[serde(default)]
    pub generator: Generator,
    /// Sessions, each of which did one cycle after another.
    pub clients: u64,
    /// Connections that carried them.
    pub connections: u64,
    /// Whether each grant came with its signed ticket.
    pub tickets: bool,
    /// TTL of the sessions, milliseconds.
    pub ttl_ms: f64,
    /// How long each lock was held, milliseconds.
    pub hold_ms: f64,
    /// Time before counting began, seconds.
    pub warmup_s: f64,
    /// Time that was counted, seconds.
    pub duration_s: f64,
    /// Acquisitions with their releases.
    pub cycles: u64,
    /// Cycles per second.
    pub cycles_per_s: f64,
    /// Fewest and most cycles of any client.
    pub cycles_per_client: Spread,
    /// Jain's index of the cycles of the clients: 1 if all had as many, 1/n if one had them all.
    #[serde(default)]
    pub fairness_jain: f64,
    /// How often per second a lock came to another client than it had been with before.
    #[serde(default)]
    pub handovers_per_s: f64,
    /// From asking for a lock (in an open loop: from when that was due) to the grant, microseconds.
    pub acquire_us: Latency,
    /// The whole of that distribution.
    #[serde(default)]
    pub acquire_spectrum: Vec<Quantile>,
    /// From sending a release to its answer, microseconds.
    pub release_us: Latency,
    /// CPU time, user and system, microseconds for each cycle.
    pub cpu_us_per_cycle: Cpu,
    /// Proportional memory at the end, bytes.
    pub memory_bytes: Memory,
    /// What everything else on this machine used of its processors, in processors: above 0.3 or
    /// so, figures say little.
    pub other_load_cores: f64,
    /// Latency of a small append with `fdatasync`, measured before the run, microseconds.
    pub disk_sync_us: SyncLatency,
    /// The longest time in which no client was granted anything, milliseconds.
    pub longest_gap_ms: f64,
    /// The run second by second.
    #[serde(default)]
    pub intervals: Vec<Interval>,
    /// What was done to the cell, and when.
    #[serde(default)]
    pub faults: Vec<Fault>,
    /// The leader's end, if it was asked for.
    pub leader_killed: Option<LeaderKill>,
    /// Operations that failed, by description.
    pub errors: BTreeMap<String, u64>,
    /// Clients whose last cycle did not end.
    pub unfinished_clients: usize,
    /// Broken promises.
    pub violations: u64,
    /// What the histories of the locks came to.
    pub histories: Judged,
    /// The first of them, with their stories.
    pub violation_details: Vec<Violation>,
    /// Where this was measured.
    pub machine: Machine,
    /// Versions of the servers' programs, of another project than this.
    #[serde(default)]
    pub server_versions: BTreeMap<String, String>,
    /// The histograms of each interval as an interval log, if they were kept.
    #[serde(skip)]
    pub interval_log: Option<String>,
}

fn closed() -> String {
    "closed".to_owned()
}

/// The schedule of an open loop, and what became of it. Latencies of such a run count from when a
/// request was due, so that a service which stands still is not spared the requests that it kept
/// from being sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenLoop {
    /// Requests that were to become due per second.
    pub rate_per_s: f64,
    /// How they were spread: `uniform` or `poisson`.
    pub arrivals: String,
    /// Requests that became due.
    pub due: u64,
    /// Of these: begun more than a millisecond after they were due.
    pub late: u64,
    /// Of these: never begun, since no client was free for them.
    pub skipped: u64,
    /// From when each was due to when it began, microseconds.
    pub delay_us: Latency,
}

/// How busy the clients were themselves.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Generator {
    /// Processors that they used. All clients share one thread.
    pub cores: f64,
    /// Of an open loop: from when a request was due to when its schedule noticed, microseconds.
    pub lag_us: Option<Latency>,
    /// Whether the figures are those of the generator rather than of the service.
    pub saturated: bool,
}

impl Generator {
    /// Of so many processors used, and of what the schedule took to notice.
    #[must_use]
    pub fn new(cores: f64, lag_us: Option<Latency>) -> Generator {
        let lags = lag_us.is_some_and(|lag| lag.p99 > GENERATOR_LAG_MAX_US);
        Generator {
            cores,
            lag_us,
            saturated: lags || cores > GENERATOR_CORES_MAX,
        }
    }
}

/// Something that was done to the service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// When, seconds after counting began.
    pub at_s: f64,
    /// What.
    pub what: String,
}

/// Jain's index of fairness: 1 if all have as much, 1/n if one has it all.
#[must_use]
pub fn jain(shares: &[u64]) -> f64 {
    let sum: f64 = shares.iter().map(|&share| share as f64).sum();
    let squares: f64 = shares.iter().map(|&share| (share as f64).powi(2)).sum();
    if squares == 0.0 {
        return 1.0;
    }
    sum * sum / (shares.len() as f64 * squares)
}

/// Fewest and most.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Spread {
    /// Fewest.
    pub min: u64,
    /// Most.
    pub max: u64,
}

/// CPU time for each cycle, microseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Cpu {
    /// All nodes together; unknown if they were not started here and no pids were given.
    pub servers: Option<f64>,
    /// This process.
    pub client: f64,
}

/// Memory, bytes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Memory {
    /// All nodes together.
    pub servers: Option<u64>,
    /// This process.
    pub client: u64,
}

/// The leader was killed during the run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct LeaderKill {
    /// Which node it was.
    pub node: u64,
    /// When, seconds after counting began.
    pub at_s: f64,
    /// The longest time without any grant from then on, milliseconds.
    pub longest_gap_after_ms: f64,
}

impl Report {
    /// Whether every promise was kept, and something was measured at all.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.violations == 0 && self.cycles > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_head(f)?;
        writeln!(f)?;
        writeln!(
            f,
            "  cycles      {:>10.0} /s    {} in all, {} to {} per client (Jain's index {:.3})",
            self.cycles_per_s,
            self.cycles,
            self.cycles_per_client.min,
            self.cycles_per_client.max,
            self.fairness_jain
        )?;
        if self.handovers_per_s > 0.0 {
            writeln!(f, "  handovers   {:>10.0} /s", self.handovers_per_s)?;
        }
        writeln!(f, "  acquire     {}", self.acquire_us)?;
        writeln!(f, "  release     {}", self.release_us)?;
        self.write_load(f)?;
        self.write_costs(f)?;
        self.write_events(f)?;
        self.write_verdict(f)
    }
}

impl Report {
    fn write_head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tickets = if self.tickets { "on" } else { "off" };
        let load = match &self.open_loop {
            Some(open) => format!(
                "open loop, {} requests/s ({})",
                open.rate_per_s, open.arrivals
            ),
            None => format!("{} loop", self.kind),
        };
        writeln!(
            f,
            "{} {}: {load}, {} clients over {} connections, tickets {tickets}, {:.1} s after \
             {:.1} s of warm-up",
            self.driver,
            self.workload,
            self.clients,
            self.connections,
            self.duration_s,
            self.warmup_s
        )
    }

    fn write_load(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(open) = &self.open_loop {
            let OpenLoop {
                due, late, skipped, ..
            } = open;
            writeln!(
                f,
                "  schedule    {due} requests were due, {late} began late, {skipped} never began; \
                 acquire counts from when they were due"
            )?;
        }
        if self.generator.saturated {
            writeln!(
                f,
                "  SATURATED   the load generator itself ({:.2} cores{}): these are its figures, \
                 not the service's",
                self.generator.cores,
                self.generator.lag_us.map_or(String::new(), |lag| format!(
                    ", its schedule lags by p99 {}",
                    milliseconds(lag.p99)
                ))
            )?;
        }
        Ok(())
    }
}

impl Report {
    fn write_costs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = match (self.cpu_us_per_cycle.servers, self.memory_bytes.servers) {
            (Some(cpu), Some(memory)) => format!("nodes {cpu:.1} us ({})", mib(memory)),
            _ => "nodes unknown (not started here)".to_owned(),
        };
        writeln!(
            f,
            "  CPU/cycle   {servers}, client {:.1} us ({})",
            self.cpu_us_per_cycle.client,
            mib(self.memory_bytes.client)
        )?;
        writeln!(
            f,
            "  disk sync   p50 {:.0} us, p99 {:.0} us (128 bytes, before the run; {})",
            self.disk_sync_us.p50, self.disk_sync_us.p99, self.disk_sync_us.filesystem
        )?;
        writeln!(
            f,
            "  machine     {} cores ({}), {:.2} of them busy with other work; Linux {}",
            self.machine.cores, self.machine.cpu, self.other_load_cores, self.machine.kernel
        )
    }

    fn write_events(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  longest gap {:.1} ms without any grant",
            self.longest_gap_ms
        )?;
        if let Some(kill) = self.leader_killed {
            writeln!(
                f,
                "  failover    node {}, the leader, killed at {:.1} s: {:.0} ms without a grant",
                kill.node, kill.at_s, kill.longest_gap_after_ms
            )?;
        }
        for (what, count) in &self.errors {
            writeln!(f, "  error       {count} x {what}")?;
        }
        if self.unfinished_clients > 0 {
            writeln!(
                f,
                "  unfinished  {} clients were still waiting at the end",
                self.unfinished_clients
            )?;
        }
        Ok(())
    }

    fn write_verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        writeln!(
            f,
            "histories     {} operations on {} locks are {}linearizable",
            self.histories.operations,
            self.histories.locks,
            if self.histories.refused.is_empty() {
                ""
            } else {
                "not all "
            }
        )?;
        for story in &self.histories.refused {
            writeln!(f, "not linearizable: {story}")?;
        }
        if self.violations == 0 {
            return write!(f, "0 violations");
        }
        writeln!(
            f,
            "FAILED: {} violations, the first of them:",
            self.violations
        )?;
        self.violation_details
            .iter()
            .try_for_each(|violation| writeln!(f, "  {violation}"))
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "p50 {}, p99 {}, p99.9 {}, max {}",
            milliseconds(self.p50),
            milliseconds(self.p99),
            milliseconds(self.p999),
            milliseconds(self.max)
        )
    }
}

/// A latency in microseconds, for people.
pub(crate) fn milliseconds(microseconds: f64) -> String {
    let milliseconds = microseconds / 1000.0;
    match milliseconds {
        m if m < 10.0 => format!("{m:.2} ms"),
        m if m < 100.0 => format!("{m:.1} ms"),
        m => format!("{m:.0} ms"),
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report of a run that went well.
    pub(crate) fn report() -> Report {
        Report {
            schema: SCHEMA,
            version: "0.0.0".into(),
            measured_at: "2001-02-03T04:05:06Z".into(),
            workload: "uncontended".into(),
            shape: Shape::default(),
            driver: "lockd".into(),
            kind: "closed".into(),
            open_loop: None,
            generator: Generator::new(0.5, None),
            clients: 64,
            connections: 64,
            tickets: false,
            ttl_ms: 10_000.0,
            hold_ms: 0.0,
            warmup_s: 1.0,
            duration_s: 5.0,
            cycles: 100,
            cycles_per_s: 20.0,
            cycles_per_client: Spread { min: 1, max: 2 },
            fairness_jain: 1.0,
            handovers_per_s: 0.0,
            acquire_us: Latency::default(),
            acquire_spectrum: Vec::new(),
            release_us: Latency::default(),
            cpu_us_per_cycle: Cpu {
                servers: Some(40.0),
                client: 20.0,
            },
            memory_bytes: Memory {
                servers: Some(1 << 20),
                client: 1 << 20,
            },
            other_load_cores: 0.0,
            disk_sync_us: SyncLatency {
                p50: 100.0,
                p99: 200.0,
                filesystem: "ext4 on /dev/vda1".into(),
            },
            longest_gap_ms: 1.0,
            intervals: Vec::new(),
            faults: Vec::new(),
            leader_killed: None,
            errors: BTreeMap::new(),
            unfinished_clients: 0,
            violations: 0,
            histories: Judged::default(),
            violation_details: Vec::new(),
            machine: Machine {
                cores: 2,
                kernel: "6".into(),
                ..Machine::default()
            },
            server_versions: BTreeMap::new(),
            interval_log: None,
        }
    }

    #[test]
    fn the_json_has_the_fields_that_others_rely_on() {
        let json = serde_json::to_value(report()).unwrap();
        for (pointer, expected) in [
            ("/schema", serde_json::json!(1)),
            ("/workload", "uncontended".into()),
            ("/driver", "lockd".into()),
            ("/loop", "closed".into()),
            ("/open_loop", serde_json::Value::Null),
            ("/generator/saturated", false.into()),
            ("/fairness_jain", 1.0.into()),
            ("/handovers_per_s", 0.0.into()),
            ("/acquire_spectrum", serde_json::json!([])),
            ("/intervals", serde_json::json!([])),
            ("/faults", serde_json::json!([])),
            ("/disk_sync_us/filesystem", "ext4 on /dev/vda1".into()),
            ("/clients", 64.into()),
            ("/cycles_per_s", 20.0.into()),
            ("/acquire_us/p50", 0.0.into()),
            ("/acquire_us/p99", 0.0.into()),
            ("/acquire_us/p999", 0.0.into()),
            ("/acquire_us/max", 0.0.into()),
            ("/cpu_us_per_cycle/servers", 40.0.into()),
            ("/cpu_us_per_cycle/client", 20.0.into()),
            ("/violations", 0.into()),
        ] {
            assert_eq!(json.pointer(pointer), Some(&expected), "{pointer}");
        }
    }

    #[test]
    fn a_violation_or_an_empty_run_fails() {
        assert!(report().passed());
        let mut violated = report();
        violated.violations = 1;
        violated.violation_details.push(Violation {
            what: "order: broken".into(),
            history: vec!["an event".into()],
        });
        assert!(!violated.passed());
        let text = violated.to_string();
        assert!(text.contains("FAILED: 1 violations"), "{text}");
        assert!(text.contains("order: broken\n    an event"), "{text}");
        let mut empty = report();
        empty.cycles = 0;
        assert!(!empty.passed());
    }

    #[test]
    fn the_text_names_what_was_measured() {
        let text = report().to_string();
        for part in [
            "lockd uncontended: closed loop, 64 clients",
            "nodes 40.0 us",
            "0 violations",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_result_without_the_later_fields_is_still_read() {
        let mut json = serde_json::to_value(report()).unwrap();
        let later = [
            "measured_at",
            "shape",
            "loop",
            "open_loop",
            "generator",
            "fairness_jain",
            "handovers_per_s",
            "acquire_spectrum",
            "intervals",
            "faults",
        ];
        for field in later {
            assert!(json.as_object_mut().unwrap().remove(field).is_some());
        }
        let read: Report = serde_json::from_value(json).unwrap();
        assert_eq!((read.kind.as_str(), read.cycles), ("closed", 100));
    }

    #[test]
    fn an_open_loop_tells_what_became_of_its_schedule() {
        let lag = Latency {
            p99: 2001.0,
            ..Latency::default()
        };
        let open = Report {
            kind: "open".into(),
            open_loop: Some(OpenLoop {
                rate_per_s: 500.0,
                arrivals: "poisson".into(),
                due: 2500,
                late: 7,
                skipped: 1,
                delay_us: Latency::default(),
            }),
            generator: Generator::new(0.5, Some(lag)),
            ..report()
        };
        let text = open.to_string();
        for part in [
            "open loop, 500 requests/s (poisson), 64 clients",
            "2500 requests were due, 7 began late, 1 never began",
            "SATURATED   the load generator itself (0.50 cores, its schedule lags by p99 2.00 ms)",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!Generator::new(0.9, None).saturated && Generator::new(0.91, None).saturated);
        assert!(!report().to_string().contains("SATURATED"));
    }

    #[test]
    fn fairness_is_one_for_equals_and_a_share_for_one_who_has_it_all() {
        assert_eq!(jain(&[5, 5, 5, 5]), 1.0);
        assert_eq!(jain(&[0, 9, 0, 0]), 0.25);
        assert_eq!(jain(&[0, 0]), 1.0);
        assert_eq!(jain(&[]), 1.0);
    }
}
