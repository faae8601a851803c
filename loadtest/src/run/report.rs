//! The result of a run, for people and as JSON with a version.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::histories::Judged;
use super::measure::Latency;
use crate::machine::{Machine, SyncLatency};
use crate::oracle::Violation;

/// Version of the JSON. Fields may be added under the same version, never changed.
pub const SCHEMA: u32 = 1;

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of this program.
    pub version: &'static str,
    /// Which locks the clients wanted.
    pub workload: &'static str,
    /// Which lock service was driven.
    pub driver: &'static str,
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
    /// From asking for a lock to the grant, microseconds.
    pub acquire_us: Latency,
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
    /// What was done to the cell, if anything.
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
}

/// Fewest and most.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    /// Fewest.
    pub min: u64,
    /// Most.
    pub max: u64,
}

/// CPU time for each cycle, microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cpu {
    /// All nodes together; unknown if they were not started here and no pids were given.
    pub servers: Option<f64>,
    /// This process.
    pub client: f64,
}

/// Memory, bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// All nodes together.
    pub servers: Option<u64>,
    /// This process.
    pub client: u64,
}

/// The leader was killed during the run.
#[derive(Clone, Copy, Debug, Serialize)]
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
        let tickets = if self.tickets { "on" } else { "off" };
        writeln!(
            f,
            "{} {}: {} clients over {} connections, tickets {tickets}, {:.1} s after {:.1} s \
             of warm-up",
            self.driver,
            self.workload,
            self.clients,
            self.connections,
            self.duration_s,
            self.warmup_s
        )?;
        writeln!(f)?;
        writeln!(
            f,
            "  cycles      {:>10.0} /s    {} in all, {} to {} per client",
            self.cycles_per_s, self.cycles, self.cycles_per_client.min, self.cycles_per_client.max
        )?;
        writeln!(f, "  acquire     {}", self.acquire_us)?;
        writeln!(f, "  release     {}", self.release_us)?;
        self.write_costs(f)?;
        self.write_events(f)?;
        self.write_verdict(f)
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
            "  disk sync   p50 {:.0} us, p99 {:.0} us (128 bytes, before the run)",
            self.disk_sync_us.p50, self.disk_sync_us.p99
        )?;
        writeln!(
            f,
            "  machine     {} cores, {:.2} of them busy with other work",
            self.machine.cores, self.other_load_cores
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
            "histories     {} operations on {} locks are linearizable",
            self.histories.operations, self.histories.locks
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
            version: "0.0.0",
            workload: "uncontended",
            driver: "lockd",
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
            acquire_us: Latency::default(),
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
            },
            longest_gap_ms: 1.0,
            leader_killed: None,
            errors: BTreeMap::new(),
            unfinished_clients: 0,
            violations: 0,
            histories: Judged::default(),
            violation_details: Vec::new(),
            machine: Machine {
                cores: 2,
                kernel: "6".into(),
            },
        }
    }

    #[test]
    fn the_json_has_the_fields_that_others_rely_on() {
        let json = serde_json::to_value(report()).unwrap();
        for (pointer, expected) in [
            ("/schema", serde_json::json!(1)),
            ("/workload", "uncontended".into()),
            ("/driver", "lockd".into()),
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
            "lockd uncontended: 64 clients",
            "nodes 40.0 us",
            "0 violations",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
