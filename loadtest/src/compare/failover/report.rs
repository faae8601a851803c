//! The result of the failovers: a table for people, and JSON with a version.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::Loss;
use crate::cluster::Timeouts;
use crate::compare::CompareArgs;
use crate::compare::peer::Peer;
use crate::machine::Machine;
use crate::oracle::Violation;

/// Version of the JSON. Fields may be added under the same version, never changed.
pub const SCHEMA: u32 = 1;

/// The result of all failovers.
#[derive(Clone, Debug, Serialize)]
pub struct Failovers {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of this program.
    pub version: &'static str,
    /// Where this was measured.
    pub machine: Machine,
    /// Clients, each with a connection and a lock of its own.
    pub clients: u64,
    /// TTL of the sessions, milliseconds.
    pub ttl_ms: f64,
    /// How often each leader was to be taken away.
    pub trials: u64,
    /// One for each cluster and way of losing its leader.
    pub rows: Vec<Row>,
    /// Whether a cluster that cannot be tried is a failure: it was asked for by its name.
    #[serde(skip)]
    all_asked_for: bool,
}

/// One way in which one cluster loses its leader.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The cluster.
    #[serde(serialize_with = "peer_name")]
    pub peer: Peer,
    /// How the leader was lost.
    #[serde(serialize_with = "loss_name")]
    pub loss: Loss,
    /// What the nodes wait for, and for how long.
    pub timeouts: &'static str,
    /// The longest time without any grant, of each trial, milliseconds.
    #[serde(rename = "gaps_ms", serialize_with = "milliseconds")]
    pub gaps: Vec<Duration>,
    /// Operations that failed, by description.
    pub errors: BTreeMap<String, u64>,
    /// Clients whose last cycle did not end.
    pub unfinished_clients: usize,
    /// Broken promises.
    pub violations: u64,
    /// The first of them, with their stories.
    pub violation_details: Vec<Violation>,
    /// Histories that no lock can have.
    pub not_linearizable: Vec<String>,
    /// Why there are not as many trials as were asked for, and what to do about it.
    pub not_measured: Option<String>,
}

fn peer_name<S: serde::Serializer>(peer: &Peer, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(peer.name())
}

fn loss_name<S: serde::Serializer>(loss: &Loss, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(loss.name())
}

fn milliseconds<S: serde::Serializer>(gaps: &[Duration], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(gaps.iter().map(|gap| gap.as_secs_f64() * 1e3))
}

impl Row {
    /// Nothing tried yet.
    #[must_use]
    pub fn new(peer: Peer, loss: Loss, timeouts: Timeouts) -> Row {
        Row {
            peer,
            loss,
            timeouts: describe(peer, timeouts),
            gaps: Vec::new(),
            errors: BTreeMap::new(),
            unfinished_clients: 0,
            violations: 0,
            violation_details: Vec::new(),
            not_linearizable: Vec::new(),
            not_measured: None,
        }
    }

    /// It cannot be tried.
    #[must_use]
    pub fn without(mut self, reason: String) -> Row {
        self.not_measured = Some(reason);
        self
    }

    /// The gap in the middle (of an even number, the lower one), the shortest and the longest.
    fn median_min_max(&self) -> Option<[Duration; 3]> {
        let mut sorted = self.gaps.clone();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len().saturating_sub(1) / 2)?;
        Some([*median, *sorted.first()?, *sorted.last()?])
    }
}

/// What a cluster waits for until it takes its leader to be gone, and what its clients wait for.
fn describe(peer: Peer, timeouts: Timeouts) -> &'static str {
    match (peer, timeouts) {
        (Peer::Lockd, _) => "a leader silent for 0.5 s is gone",
        (Peer::Etcd, Timeouts::Default) => {
            "heartbeat 0.1 s, election timeout 1 s; clients give an attempt up after 0.15 to 0.35 s"
        }
        (Peer::Etcd, Timeouts::LikeLockd) => {
            "heartbeat 0.05 s, election timeout 0.5 s; clients give an attempt up after 0.15 to \
             0.35 s"
        }
        (_, Timeouts::Default) => {
            "tickTime 2 s, syncLimit 5; clients give a connection up after 2/5 of the TTL"
        }
        (_, Timeouts::LikeLockd) => {
            "tickTime 0.1 s, syncLimit 5; clients give a connection up after 2/5 of the TTL"
        }
    }
}

impl Failovers {
    /// Of these rows. `all_asked_for`: whether clusters were chosen by name.
    #[must_use]
    pub fn new(
        rows: Vec<Row>,
        clients: u64,
        arguments: &CompareArgs,
        all_asked_for: bool,
    ) -> Failovers {
        Failovers {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            machine: Machine::describe(),
            clients,
            ttl_ms: arguments.ttl.as_secs_f64() * 1e3,
            trials: arguments.trials,
            rows,
            all_asked_for,
        }
    }

    /// Whether every promise was kept.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.rows.iter().all(|row| row.violations == 0)
    }

    /// Whether everything was tried that had to be, which is lockd and every cluster asked for by
    /// its name.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let needed = |row: &&Row| self.all_asked_for || row.peer == Peer::Lockd;
        let mut needed = self.rows.iter().filter(needed);
        needed.all(|row| row.not_measured.is_none())
    }
}

impl fmt::Display for Failovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (clients, trials) = (self.clients, self.trials);
        let seconds = self.ttl_ms / 1e3;
        writeln!(
            f,
            "longest time without any grant, {clients} clients, {trials} trials, TTL {seconds} s"
        )?;
        writeln!(
            f,
            "  {:<20} {:<6} {:>9} {:>9} {:>9} {:>10}",
            "", "leader", "median", "min", "max", "violations"
        )?;
        self.rows.iter().try_for_each(|row| row.write(f))?;
        writeln!(f)?;
        let mut told: Vec<&Peer> = Vec::new();
        for row in &self.rows {
            if !told.contains(&&row.peer) {
                writeln!(f, "  {}: {}", row.peer.name(), row.timeouts)?;
                told.push(&row.peer);
            }
        }
        self.write_verdict(f)
    }
}

impl Row {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (peer, loss) = (self.peer.name(), self.loss.name());
        if let Some(gaps) = self.median_min_max() {
            let [median, min, max] = gaps.map(|gap| format!("{:.2} s", gap.as_secs_f64()));
            let violations = self.violations;
            writeln!(
                f,
                "  {peer:<20} {loss:<6} {median:>9} {min:>9} {max:>9} {violations:>10}"
            )?;
        }
        if let Some(reason) = &self.not_measured {
            writeln!(f, "  {peer:<20} {loss:<6} not measured: {reason}")?;
        }
        for (what, count) in &self.errors {
            writeln!(f, "  {:<27} {count} x {what}", "")?;
        }
        if self.unfinished_clients > 0 {
            let unfinished = self.unfinished_clients;
            writeln!(
                f,
                "  {:<27} {unfinished} clients were still waiting at the end",
                ""
            )?;
        }
        Ok(())
    }
}

impl Failovers {
    fn write_verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let violations: u64 = self.rows.iter().map(|row| row.violations).sum();
        if violations == 0 {
            return write!(f, "0 violations");
        }
        write!(f, "FAILED: {violations} violations, the first of each:")?;
        for row in &self.rows {
            let (peer, loss) = (row.peer.name(), row.loss.name());
            if let Some(story) = row.violation_details.first() {
                write!(f, "\n{peer}, {loss}: {story}")?;
            }
            if let Some(story) = row.not_linearizable.first() {
                write!(f, "\n{peer}, {loss}, not linearizable: {story}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: CompareArgs,
    }

    fn of(rows: Vec<Row>, all_asked_for: bool) -> Failovers {
        let arguments = Line::parse_from(["compare", "--failover"]).arguments;
        Failovers::new(rows, 16, &arguments, all_asked_for)
    }

    fn row(gaps: &[u64]) -> Row {
        let mut row = Row::new(Peer::Etcd, Loss::Kill, Timeouts::Default);
        row.gaps = gaps.iter().copied().map(Duration::from_millis).collect();
        row
    }

    #[test]
    fn a_row_has_the_median_the_shortest_and_the_longest_gap() {
        let text = of(vec![row(&[1300, 990, 4560])], false).to_string();
        assert!(
            text.contains("   1.30 s    0.99 s    4.56 s          0"),
            "{text}"
        );
        assert!(text.contains("etcd: heartbeat 0.1 s"), "{text}");
        assert_eq!(row(&[]).median_min_max(), None);
        let even = row(&[1, 2, 3, 4]).median_min_max().map(|gaps| gaps[0]);
        assert_eq!(even, Some(Duration::from_millis(2)));
    }

    #[test]
    fn a_broken_promise_fails_and_so_does_what_was_asked_for_and_not_tried() {
        let mut broken = row(&[1]);
        broken.violations = 1;
        broken.not_linearizable.push("lock 0: no order".into());
        let broken = of(vec![broken], false);
        assert!(!broken.passed());
        assert!(broken.to_string().contains("lock 0: no order"), "{broken}");
        let missing = || row(&[]).without("no etcd".to_owned());
        let some = of(vec![missing()], false);
        assert!(some.passed() && some.is_complete());
        assert!(some.to_string().contains("not measured: no etcd"), "{some}");
        assert!(!of(vec![missing()], true).is_complete());
    }

    #[test]
    fn the_fields_of_the_json_keep_their_names() {
        let json = serde_json::to_value(of(vec![row(&[1300])], false)).unwrap();
        for (pointer, expected) in [
            ("/schema", 1.into()),
            ("/clients", 16.into()),
            ("/trials", 10.into()),
            ("/ttl_ms", 10_000.0.into()),
            ("/rows/0/peer", "etcd".into()),
            ("/rows/0/loss", "kill".into()),
            ("/rows/0/gaps_ms/0", 1300.0.into()),
            ("/rows/0/violations", 0.into()),
            ("/rows/0/unfinished_clients", 0.into()),
            ("/rows/0/not_measured", serde_json::Value::Null),
        ] {
            assert_eq!(json.pointer(pointer), Some(&expected), "{pointer}");
        }
        assert!(json["rows"][0]["timeouts"].is_string());
    }
}
