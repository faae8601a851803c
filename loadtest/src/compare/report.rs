//! The result of a comparison: a table for people, and JSON with a version.

use std::fmt;

use serde::Serialize;

use super::peer::Peer;
use crate::machine::{Machine, SyncLatency};
use crate::run::report::{Report, milliseconds};
use crate::run::workload::Workload;

/// Version of the JSON. Fields may be added under the same version, never changed.
pub const SCHEMA: u32 = 1;

/// The result of a comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of this program.
    pub version: &'static str,
    /// Where this was measured.
    pub machine: Machine,
    /// Latency of a small append with `fdatasync`, measured before the first round, microseconds.
    pub disk_sync_us: SyncLatency,
    /// What was measured, and what was to be.
    pub rows: Vec<Row>,
    /// What could not be removed from servers that were given, and what to do about it.
    pub left_behind: Option<String>,
    /// Whether a peer that cannot be measured is a failure: it was asked for by its name.
    #[serde(skip)]
    all_asked_for: bool,
}

/// One peer with so many clients of one workload.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was driven.
    #[serde(rename = "peer", serialize_with = "peer_name")]
    pub peer: Peer,
    /// Which locks the clients wanted.
    #[serde(serialize_with = "workload_name")]
    pub workload: Workload,
    /// Clients, each with a connection of its own.
    pub clients: u64,
    /// Where a grant is when its holder learns of it.
    pub grant_is_in: &'static str,
    /// Whether the oracle could judge by the order of tokens, too.
    pub tokens: bool,
    /// Why there are not as many rounds as were asked for, and what to do about it.
    pub not_measured: Option<String>,
    /// Which of the rounds, from 0, has the median throughput (of an even number, the lower one).
    pub median_round: Option<usize>,
    /// Every round, as `loadtest run` reports it.
    pub rounds: Vec<Report>,
}

fn peer_name<S: serde::Serializer>(peer: &Peer, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(peer.name())
}

fn workload_name<S: serde::Serializer>(workload: &Workload, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(workload.name())
}

/// Why a peer is not put to a workload.
fn not_here(peer: Peer, workload: Workload) -> Option<String> {
    let has_it = workload.is_plain() || peer == Peer::Lockd;
    (!has_it).then(|| format!("{} is driven on lockd alone", workload.name()))
}

impl Row {
    /// Nothing measured yet.
    #[must_use]
    pub fn new(peer: Peer, workload: Workload, clients: u64) -> Row {
        Row {
            peer,
            workload,
            clients,
            grant_is_in: peer.grant_is_in(),
            tokens: peer.has_tokens(),
            not_measured: not_here(peer, workload),
            median_round: None,
            rounds: Vec::new(),
        }
    }

    /// What it is, for whoever watches.
    #[must_use]
    pub fn describe(&self) -> String {
        format!(
            "{}, {}, {} clients",
            self.peer.name(),
            self.workload.name(),
            self.clients
        )
    }

    fn find_median(&mut self) {
        let mut order: Vec<usize> = (0..self.rounds.len()).collect();
        let cycles = |&index: &usize| self.rounds[index].cycles_per_s;
        order.sort_by(|a, b| cycles(a).total_cmp(&cycles(b)));
        self.median_round = order.get(order.len().saturating_sub(1) / 2).copied();
    }

    fn median(&self) -> Option<&Report> {
        self.rounds.get(self.median_round?)
    }

    fn violations(&self) -> u64 {
        self.rounds.iter().map(|round| round.violations).sum()
    }
}

impl Comparison {
    /// Of these rows. `all_asked_for`: whether peers were chosen by name.
    #[must_use]
    pub fn new(mut rows: Vec<Row>, disk: SyncLatency, all_asked_for: bool) -> Comparison {
        rows.iter_mut().for_each(Row::find_median);
        Comparison {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            machine: Machine::describe(),
            disk_sync_us: disk,
            rows,
            left_behind: None,
            all_asked_for,
        }
    }

    /// Whether every promise was kept, and every round that was run came to something.
    #[must_use]
    pub fn passed(&self) -> bool {
        let mut rounds = self.rows.iter().flat_map(|row| &row.rounds);
        rounds.all(Report::passed)
    }

    /// Whether everything was measured that had to be, which is lockd and every peer asked for by
    /// its name, and nothing was left behind.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let needed = |row: &&Row| self.all_asked_for || row.peer == Peer::Lockd;
        let mut needed = self.rows.iter().filter(needed);
        needed.all(|row| row.not_measured.is_none()) && self.left_behind.is_none()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rows in self
            .rows
            .chunk_by(|a, b| (a.workload, a.clients) == (b.workload, b.clients))
        {
            write_table(f, rows)?;
        }
        let busiest = self.rows.iter().flat_map(|row| &row.rounds);
        let busiest = busiest
            .map(|round| round.other_load_cores)
            .fold(0.0, f64::max);
        writeln!(
            f,
            "machine: {} cores, at most {busiest:.2} of them busy with other work; disk sync p50 \
             {:.0} us, p99 {:.0} us",
            self.machine.cores, self.disk_sync_us.p50, self.disk_sync_us.p99
        )?;
        if let Some(left) = &self.left_behind {
            writeln!(f, "{left}")?;
        }
        self.write_verdict(f)
    }
}

impl Comparison {
    fn write_verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let violations: u64 = self.rows.iter().map(Row::violations).sum();
        if violations == 0 {
            return write!(f, "0 violations");
        }
        write!(f, "FAILED: {violations} violations, the first of each:")?;
        for row in &self.rows {
            let rounds = || row.rounds.iter();
            if let Some(story) = rounds().flat_map(|round| &round.violation_details).next() {
                write!(f, "\n{}: {story}", row.describe())?;
            }
            if let Some(story) = rounds().flat_map(|round| &round.histories.refused).next() {
                write!(f, "\n{}, not linearizable: {story}", row.describe())?;
            }
        }
        Ok(())
    }
}

/// The rows of one workload with one number of clients.
fn write_table(f: &mut fmt::Formatter<'_>, rows: &[Row]) -> fmt::Result {
    let Some(first) = rows.first() else {
        return Ok(());
    };
    writeln!(f, "{}, {} clients", first.workload.name(), first.clients)?;
    writeln!(
        f,
        "  {:<20} {:>9} {:>15}    {:<19} {:>18} {:>9}",
        "", "cycles/s", "all rounds", "acquire", "CPU us per cycle", "viola-"
    )?;
    writeln!(
        f,
        "  {:<20} {:>9} {:>15} {:>10} {:>10} {:>9} {:>8} {:>9}  a grant is in",
        "", "median", "min - max", "p50", "p99", "servers", "client", "tions"
    )?;
    rows.iter().try_for_each(|row| write_row(f, row))?;
    writeln!(f)
}

fn write_row(f: &mut fmt::Formatter<'_>, row: &Row) -> fmt::Result {
    if let Some(round) = row.median() {
        let all = || row.rounds.iter().map(|round| round.cycles_per_s);
        let range = format!(
            "{:.0} - {:.0}",
            all().fold(f64::INFINITY, f64::min),
            all().fold(0.0, f64::max)
        );
        let servers = round.cpu_us_per_cycle.servers;
        writeln!(
            f,
            "  {:<20} {:>9.0} {:>15} {:>10} {:>10} {:>9} {:>8.1} {:>9}  {}",
            row.peer.name(),
            round.cycles_per_s,
            range,
            milliseconds(round.acquire_us.p50),
            milliseconds(round.acquire_us.p99),
            servers.map_or_else(|| "unknown".to_owned(), |cpu| format!("{cpu:.1}")),
            round.cpu_us_per_cycle.client,
            row.violations(),
            row.grant_is_in
        )?;
    }
    if let Some(reason) = &row.not_measured {
        writeln!(f, "  {:<20} not measured: {reason}", row.peer.name())?;
    }
    for (index, round) in row.rounds.iter().enumerate() {
        for (what, count) in &round.errors {
            writeln!(f, "  {:<20} round {}: {count} x {what}", "", index + 1)?;
        }
        if round.unfinished_clients > 0 {
            let unfinished = round.unfinished_clients;
            writeln!(
                f,
                "  {:<20} round {}: {unfinished} clients were still waiting at the end",
                "",
                index + 1
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::Violation;
    use crate::run::report::tests::report;

    fn disk() -> SyncLatency {
        SyncLatency {
            p50: 100.0,
            p99: 200.0,
            filesystem: "ext4 on /dev/vda1".to_owned(),
        }
    }

    /// A row of rounds with these throughputs.
    fn row(peer: Peer, throughputs: &[f64]) -> Row {
        let round = |&cycles_per_s: &f64| Report {
            cycles_per_s,
            ..report()
        };
        Row {
            rounds: throughputs.iter().map(round).collect(),
            ..Row::new(peer, Workload::Contended, 16)
        }
    }

    fn of(rows: Vec<Row>) -> Comparison {
        Comparison::new(rows, disk(), false)
    }

    #[test]
    fn the_round_of_median_throughput_stands_for_all() {
        for (throughputs, median) in [
            (&[30.0, 10.0, 20.0][..], Some(2)),
            (&[30.0, 10.0], Some(1)),
            (&[7.0], Some(0)),
            (&[], None),
        ] {
            let comparison = of(vec![row(Peer::Redis, throughputs)]);
            assert_eq!(comparison.rows[0].median_round, median, "{throughputs:?}");
        }
        let text = of(vec![row(Peer::Redis, &[30.0, 10.0, 20.0])]).to_string();
        assert!(text.contains("20         10 - 30"), "{text}");
    }

    #[test]
    fn a_peer_that_cannot_be_measured_is_in_the_table_and_fails_only_if_it_was_asked_for() {
        let missing = || Row {
            not_measured: Some("no Redis server is installed".to_owned()),
            ..row(Peer::Redis, &[])
        };
        let comparison = of(vec![row(Peer::Lockd, &[1.0]), missing()]);
        let text = comparison.to_string();
        let line = "redis                not measured: no Redis server is installed";
        assert!(text.contains(line), "{text}");
        assert!(comparison.passed() && comparison.is_complete());
        let rows = vec![row(Peer::Lockd, &[1.0]), missing()];
        assert!(!Comparison::new(rows, disk(), true).is_complete());
        let without_lockd = Row {
            not_measured: Some("the cell elected no leader".to_owned()),
            ..row(Peer::Lockd, &[])
        };
        assert!(!of(vec![without_lockd]).is_complete());
    }

    #[test]
    fn one_violation_in_one_round_fails_with_its_story() {
        let mut violated = row(Peer::Redis, &[1.0, 2.0]);
        violated.rounds[1].violations = 3;
        violated.rounds[1].violation_details.push(Violation {
            what: "exclusion: broken".into(),
            history: vec!["an event".into()],
        });
        let comparison = of(vec![row(Peer::Lockd, &[1.0]), violated]);
        assert!(!comparison.passed());
        let text = comparison.to_string();
        assert!(text.contains("FAILED: 3 violations"), "{text}");
        let story = "redis, contended, 16 clients: exclusion: broken\n    an event";
        assert!(text.contains(story), "{text}");
        let mut refused = row(Peer::Redis, &[1.0]);
        refused.rounds[0].violations = 1;
        refused.rounds[0]
            .histories
            .refused
            .push("lock 0: no order".into());
        let text = of(vec![refused]).to_string();
        let story = "redis, contended, 16 clients, not linearizable: lock 0: no order";
        assert!(text.contains(story), "{text}");
    }

    #[test]
    fn the_fields_of_the_json_keep_their_names() {
        let json = serde_json::to_value(of(vec![row(Peer::Redlock, &[20.0])])).unwrap();
        for (pointer, expected) in [
            ("/schema", 1.into()),
            ("/disk_sync_us/p99", 200.0.into()),
            ("/disk_sync_us/filesystem", "ext4 on /dev/vda1".into()),
            ("/left_behind", serde_json::Value::Null),
            ("/rows/0/peer", "redlock".into()),
            ("/rows/0/workload", "contended".into()),
            ("/rows/0/clients", 16.into()),
            ("/rows/0/grant_is_in", "3 of 5 memories".into()),
            ("/rows/0/tokens", false.into()),
            ("/rows/0/not_measured", serde_json::Value::Null),
            ("/rows/0/median_round", 0.into()),
            ("/rows/0/rounds/0/cycles_per_s", 20.0.into()),
        ] {
            assert_eq!(json.pointer(pointer), Some(&expected), "{pointer}");
        }
        assert!(json.pointer("/machine/cores").is_some());
    }
}
