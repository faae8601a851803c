//! What a very full cell costs, as a table and as JSON with a version.

use std::fmt;
use std::path::Path;

use lockd_client::protocol::client::Status;
use serde::Serialize;

use super::{ScaleArgs, ScaleError};
use crate::machine::Machine;
use crate::run::latency::Latency;
use crate::terminal::print_line;

/// Version of the JSON. Fields may be added under the same version, never changed.
pub const SCHEMA: u32 = 1;

/// The result.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of this program.
    pub version: &'static str,
    /// Locks that were held.
    pub locks: u64,
    /// Sessions that held them.
    pub sessions: u64,
    /// Connections that carried them.
    pub connections: u64,
    /// TTL of the sessions, milliseconds.
    pub ttl_ms: f64,
    /// Sessions opened per second while the cell was filled.
    pub opened_per_s: f64,
    /// Locks acquired per second while the cell was filled.
    pub acquired_per_s: f64,
    /// From asking for a lock to its grant while the cell was filled, microseconds.
    pub acquire_us: Latency,
    /// Memory of the nodes.
    pub memory: Memory,
    /// Memory of this process, with all its sessions and guards, bytes.
    pub client_memory_bytes: u64,
    /// Snapshots that the nodes made.
    pub snapshots: Vec<Snapshot>,
    /// What renewals cost.
    pub renewals: Renewals,
    /// What became of the sessions when the leader was killed.
    pub failover: Failover,
    /// From the start of the killed node to its having all that the others have, seconds.
    pub restart_s: f64,
    /// The cell before its leader was killed.
    pub before: Counts,
    /// And after.
    pub after: Counts,
    /// Guards that were lost at any time.
    pub lost: u64,
    /// Where this was measured.
    pub machine: Machine,
}

/// Memory of a node, the mean of all nodes, bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// Of an empty node.
    pub empty: u64,
    /// With all sessions.
    pub with_sessions: u64,
    /// With all sessions and locks.
    pub with_locks: u64,
    /// The most that any node had, while it made a snapshot.
    pub peak: u64,
    /// What a session adds.
    pub per_session: f64,
    /// What a held lock adds.
    pub per_lock: f64,
}

/// A snapshot, as the node that made it logged it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Snapshot {
    /// The last slot of the log in it.
    pub slot: u64,
    /// Its size.
    pub bytes: u64,
    /// How long the thread that made it took, with its pauses, milliseconds.
    pub took_ms: u64,
}

/// What renewals cost while nothing else was done.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Renewals {
    /// Renewals per second, by their interval.
    pub per_s: f64,
    /// CPU time of all nodes for each, microseconds.
    pub servers_us: f64,
    /// CPU time of this process for each, microseconds.
    pub client_us: f64,
    /// Processors that the nodes used.
    pub servers_cores: f64,
    /// Processors that everything else on this machine used.
    pub other_load_cores: f64,
}

/// A change of leader.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Failover {
    /// The node that was killed.
    pub killed: u64,
    /// From the kill to the first grant, milliseconds.
    pub first_grant_ms: f64,
    /// From the kill to the last answer to a first renewal of each session; `null`: there were
    /// sessions that were neither renewed nor lost.
    pub all_renewed_ms: Option<f64>,
    /// CPU time of the nodes meanwhile, seconds.
    pub cpu_s: f64,
    /// CPU time of this process meanwhile, seconds.
    pub client_cpu_s: f64,
    /// Guards that were lost.
    pub lost: u64,
}

/// What is in the cell.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Counts {
    /// Sessions.
    pub sessions: u64,
    /// Locks.
    pub locks: u64,
    /// The highest token.
    pub last_token: u64,
}

impl From<Status> for Counts {
    fn from(status: Status) -> Counts {
        Counts {
            sessions: status.sessions,
            locks: status.locks,
            last_token: status.last_token.0,
        }
    }
}

impl Memory {
    pub(super) fn of(
        empty: &[u64],
        with_sessions: &[u64],
        with_locks: &[u64],
        peak: &[u64],
        asked: &ScaleArgs,
    ) -> Memory {
        let mean = |nodes: &[u64]| nodes.iter().sum::<u64>() / nodes.len().max(1) as u64;
        let (empty, with_sessions, with_locks) =
            (mean(empty), mean(with_sessions), mean(with_locks));
        let each =
            |more: u64, less: u64, count: u64| more.saturating_sub(less) as f64 / count as f64;
        Memory {
            empty,
            with_sessions,
            with_locks,
            peak: peak.iter().copied().max().unwrap_or(0),
            per_session: each(with_sessions, empty, asked.sessions),
            per_lock: each(with_locks, with_sessions, asked.locks),
        }
    }
}

impl Snapshot {
    /// Every snapshot that a node's log tells of.
    pub(super) fn all_in(log: &str) -> Vec<Snapshot> {
        let lines = log.lines().filter(|line| line.contains("made a snapshot"));
        let plain = lines.map(without_colours);
        plain.filter_map(|line| Snapshot::in_line(&line)).collect()
    }

    fn in_line(line: &str) -> Option<Snapshot> {
        let field = |name: &str| {
            let value = line.split_once(&format!("{name}="))?.1;
            value.split_whitespace().next()?.parse().ok()
        };
        Some(Snapshot {
            slot: field("slot")?,
            bytes: field("bytes")?,
            took_ms: field("took_ms")?,
        })
    }
}

/// A line of a log without what makes terminals colour it.
fn without_colours(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    let rest = parts.map(|part| part.split_once('m').map_or("", |(_, text)| text));
    first + &rest.collect::<String>()
}

impl Report {
    /// Whether nothing was lost.
    #[must_use]
    pub fn passed(&self) -> bool {
        let all = |counts: &Counts| (counts.sessions, counts.locks) >= (self.sessions, self.locks);
        let renewed = self.failover.all_renewed_ms.is_some();
        self.lost == 0 && renewed && all(&self.before) && all(&self.after)
    }

    /// Writes it where it was asked for.
    ///
    /// # Errors
    /// [`ScaleError::Write`].
    pub fn write(&self, json: Option<&Path>) -> Result<(), ScaleError> {
        let Some(path) = json else {
            print_line(&self.to_string());
            return Ok(());
        };
        let failed = |source| ScaleError::Write {
            path: path.to_owned(),
            source,
        };
        let text = serde_json::to_string(self).map_err(|error| failed(error.into()))?;
        if path == Path::new("-") {
            print_line(&text);
            return Ok(());
        }
        print_line(&self.to_string());
        std::fs::write(path, text + "\n").map_err(failed)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let Report {
            memory,
            renewals,
            failover,
            ..
        } = self;
        writeln!(
            f,
            "{} locks held by {} sessions over {} connections, TTL {} ms",
            self.locks, self.sessions, self.connections, self.ttl_ms
        )?;
        writeln!(
            f,
            "filling       {:.0} sessions/s, {:.0} locks/s; a lock took {:.0} us (p50), {:.0} us \
             (p99), {:.0} us (longest)",
            self.opened_per_s,
            self.acquired_per_s,
            self.acquire_us.p50,
            self.acquire_us.p99,
            self.acquire_us.max
        )?;
        writeln!(
            f,
            "a node        {:.0} bytes for each session, {:.0} for each lock; {:.0} MiB in all, at \
             most {:.0} MiB",
            memory.per_session,
            memory.per_lock,
            mib(memory.with_locks),
            mib(memory.peak)
        )?;
        writeln!(f, "this client   {:.0} MiB", mib(self.client_memory_bytes))?;
        if let Some(last) = self.snapshots.iter().max_by_key(|snapshot| snapshot.bytes) {
            writeln!(
                f,
                "snapshots     {} made; the largest {:.1} MiB in {} ms of a thread of its own",
                self.snapshots.len(),
                mib(last.bytes),
                last.took_ms
            )?;
        }
        writeln!(
            f,
            "renewals      {:.0}/s; CPU {:.1} us each at the nodes ({:.2} cores), {:.1} us at the \
             client",
            renewals.per_s, renewals.servers_us, renewals.servers_cores, renewals.client_us
        )?;
        let renewed = failover.all_renewed_ms.map_or_else(
            || "not all sessions renewed".to_owned(),
            |ms| format!("all sessions renewed after {ms:.0} ms"),
        );
        writeln!(
            f,
            "leader killed first grant after {:.0} ms, {renewed}, {} guards lost; CPU {:.1} s at \
             the nodes, {:.1} s at the client",
            failover.first_grant_ms, failover.lost, failover.cpu_s, failover.client_cpu_s
        )?;
        writeln!(
            f,
            "restart       the killed node was up to date after {:.1} s",
            self.restart_s
        )?;
        writeln!(
            f,
            "the cell      {} sessions and {} locks before, {} and {} after",
            self.before.sessions, self.before.locks, self.after.sessions, self.after.locks
        )?;
        write!(
            f,
            "machine       other load {:.1} cores",
            renewals.other_load_cores
        )?;
        match self.passed() {
            true => write!(f, "\nnothing was lost"),
            false => write!(f, "\nFAILED: {} guards were lost", self.lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_read_from_a_nodes_log() {
        let log = "2026 INFO lockd: took a snapshot slot=7 bytes=9\n\
                   2026 INFO lockd: made a snapshot slot\u{1b}[0m\u{1b}[2m=\u{1b}[0m7 \
                   bytes=1234 took_ms=56\nother\n";
        let snapshot = Snapshot {
            slot: 7,
            bytes: 1234,
            took_ms: 56,
        };
        assert_eq!(Snapshot::all_in(log), [snapshot]);
    }
}
