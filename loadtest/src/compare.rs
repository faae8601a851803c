//! `loadtest compare`: the same work on lockd and on what people use for locks, in rounds that
//! alternate between them, on servers that are started here; or the same accidents, or the loss of
//! their leaders.

pub mod accident;
pub mod bench;
pub mod failover;
pub mod outcome;
pub mod peer;
pub mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::cluster::Timeouts;
use crate::machine;
use crate::report::files::Files;
use crate::run::arrivals::RateArgs;
use crate::run::round::Setup;
use crate::run::workload::{Phases, Shape, Workload};
use crate::run::{self, CLIENTS_MAX, RunError};
use accident::system::Accident;
use bench::Bench;
use clap::ValueEnum;
use outcome::Outcome;
use peer::{Peer, Service};
use report::{Comparison, Row};

/// Most rounds.
const ROUNDS_MAX: u64 = 1000;

/// Most holders of one accident, each with a row of its own; and most leaders that are lost.
const TRIALS_MAX: u64 = 100;

/// Shortest TTL: the oldest recipe knows whole seconds only.
const TTL_MIN: Duration = Duration::from_secs(1);

/// Options of `loadtest compare`.
#[derive(Clone, Debug, clap::Args)]
pub struct CompareArgs {
    /// What lockd is compared with [default: everything].
    #[arg(long, value_enum, value_delimiter = ',')]
    pub peers: Vec<Peer>,
    /// Numbers of clients, each with a connection of its own, each doing one thing at a time.
    #[arg(long, value_delimiter = ',', default_value = "1,16",
          value_parser = clap::value_parser!(u64).range(1..=CLIENTS_MAX))]
    pub clients: Vec<u64>,
    /// Which locks the clients want.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "uncontended,contended"
    )]
    pub workloads: Vec<Workload>,
    /// The workloads' numbers.
    #[command(flatten)]
    pub shape: Shape,
    /// When requests are due.
    #[command(flatten)]
    pub rate: RateArgs,
    /// How often everything is measured; the table shows the round of median throughput.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=ROUNDS_MAX))]
    pub rounds: u64,
    /// How long to measure in each round.
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// How long to run before measuring.
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    pub warmup: Duration,
    /// How long to hold each lock.
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub hold: Duration,
    /// TTL of sessions and of locks that have one.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub ttl: Duration,
    /// Use this server instead of starting one: `redis=redis://...`, `postgres=postgres://...`,
    /// `mariadb=mysql://...`, `redlock=...` five times, `etcd=http://...` and `zookeeper=HOST:PORT`
    /// for each node, `lockd=client.toml`. Can be repeated.
    #[arg(long = "endpoint", value_name = "NAME=URL")]
    pub endpoints: Vec<Endpoint>,
    /// Instead of the cycles: have holders of a lock meet with accidents between reading a row and
    /// writing it, and count the writes that are lost by that.
    #[arg(long, conflicts_with_all = ["failover", "endpoints", "rate", "csv", "html"])]
    pub accident: bool,
    /// Which accidents [default: all].
    #[arg(long, value_enum, value_delimiter = ',', requires = "accident")]
    pub accidents: Vec<Accident>,
    /// Instead of the cycles: kill and pause the leaders of the clusters, and measure for how long
    /// nobody is granted a lock.
    #[arg(long, conflicts_with_all = ["endpoints", "rate", "csv", "html"])]
    pub failover: bool,
    /// Holders for each accident, or leaders that each cluster loses in each way.
    #[arg(long, default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=TRIALS_MAX))]
    pub trials: u64,
    /// How long nodes of other clusters wait for each other, with `--failover`.
    #[arg(long, value_enum, default_value = "default", requires = "failover")]
    pub timeouts: Timeouts,
    /// Write the result as JSON to this file (`-`: to standard output, instead of the table).
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Other files.
    #[command(flatten)]
    pub files: Files,
}

/// Somebody's own server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    service: Service,
    url: String,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpoint, String> {
        let mut services: Vec<Service> = Peer::ALL.iter().map(|peer| peer.service()).collect();
        services.sort_unstable();
        services.dedup();
        let (name, url) = text.split_once('=').unwrap_or((text, ""));
        let service = services.iter().find(|service| service.name() == name);
        match service {
            Some(&service) if !url.is_empty() => Ok(Endpoint {
                service,
                url: url.to_owned(),
            }),
            _ => {
                let names: Vec<&str> = services.iter().map(|service| service.name()).collect();
                Err(format!(
                    "give NAME=URL, with a NAME of {}",
                    names.join(", ")
                ))
            }
        }
    }
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// Nothing is measured.
    #[error("--duration is zero: give at least 1ms")]
    NoDuration,
    /// Locks would end before they are given back.
    #[error("--ttl is too short: at least {} s, and more than twice --hold", TTL_MIN.as_secs())]
    TtlTooShort,
    /// There is nothing that could be guarded.
    #[error("there is no database for the rows that holders write: {0}")]
    NoDatabase(String),
    /// A file could not be written.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl CompareArgs {
    fn check(&self) -> Result<(), CompareError> {
        if self.duration.is_zero() {
            return Err(CompareError::NoDuration);
        }
        if self.ttl < TTL_MIN || self.ttl <= self.hold.saturating_mul(2) {
            return Err(CompareError::TtlTooShort);
        }
        Ok(())
    }

    /// Who takes part, lockd first.
    fn peers(&self) -> Vec<Peer> {
        let everyone = Peer::value_variants().iter().copied();
        let chosen = |peer: &Peer| match self.peers.as_slice() {
            [] => Peer::ALL.contains(peer),
            named => *peer == Peer::Lockd || named.contains(peer),
        };
        everyone.filter(chosen).collect()
    }

    fn endpoints(&self) -> BTreeMap<Service, Vec<String>> {
        let mut endpoints: BTreeMap<Service, Vec<String>> = BTreeMap::new();
        for endpoint in &self.endpoints {
            let urls = endpoints.entry(endpoint.service).or_default();
            urls.push(endpoint.url.clone());
        }
        endpoints
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for &workload in &self.workloads {
            for &clients in &self.clients {
                let peers = self.peers();
                rows.extend(peers.iter().map(|&peer| Row::new(peer, workload, clients)));
            }
        }
        rows
    }
}

/// Compares in the way that was asked for. `program` is this program, of which nodes, holders and
/// keepers of servers are started.
///
/// # Errors
/// [`CompareError`], if nothing could be compared at all. A peer that cannot be measured is in the
/// result, with the reason, and so are broken promises.
pub async fn compare(arguments: &CompareArgs, program: &Path) -> Result<Outcome, CompareError> {
    arguments.check()?;
    if arguments.accident {
        let accidents = accident::compare(arguments, program).await?;
        return Ok(Outcome::Accidents(accidents));
    }
    if arguments.failover {
        let failovers = failover::compare(arguments, program).await?;
        return Ok(Outcome::Failovers(failovers));
    }
    cycles(arguments, program).await.map(Outcome::Cycles)
}

/// Puts the same work on all of them.
async fn cycles(arguments: &CompareArgs, program: &Path) -> Result<Comparison, CompareError> {
    let directory = run::temporary_directory(None)?;
    let disk = machine::sync_latency(directory.path()).map_err(|source| RunError::Write {
        path: directory.path().to_owned(),
        source,
    })?;
    let clients_max = arguments.clients.iter().max().copied().unwrap_or(1);
    let endpoints = arguments.endpoints();
    let mut bench = Bench::new(program, directory.path(), clients_max, endpoints);
    let mut rows = arguments.rows();
    for round in 1..=arguments.rounds {
        for (number, row) in rows.iter_mut().enumerate() {
            if row.not_measured.is_some() {
                continue;
            }
            let setup = Setup {
                driver: row.peer.name(),
                workload: row.workload,
                shape: arguments.shape,
                rate: arguments.rate.rate(),
                connections: row.clients,
                tickets: false,
                ttl: arguments.ttl,
                hold: arguments.hold,
                phases: Phases {
                    warmup: arguments.warmup,
                    duration: arguments.duration,
                },
                // A lock that one round has left behind is not waited for in the next.
                prefix: format!("loadtest/{}/{round}/{number}", std::process::id()),
                disk: disk.clone(),
                kill_leader_at: None,
                keep_histograms: false,
                cell: None,
            };
            eprintln!("round {round} of {}: {}", arguments.rounds, row.describe());
            let clients = usize::try_from(row.clients).unwrap_or(usize::MAX);
            match bench.round(row.peer, clients, &setup).await {
                Ok(report) => row.rounds.push(report),
                Err(reason) => row.not_measured = Some(reason),
            }
        }
    }
    let mut comparison = Comparison::new(rows, disk, !arguments.peers.is_empty());
    comparison.left_behind = bench.stop().await.err();
    Ok(comparison)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::Kept;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: CompareArgs,
    }

    fn arguments(words: &[&str]) -> CompareArgs {
        Line::parse_from([&["compare"], words].concat()).arguments
    }

    #[test]
    fn lockd_is_always_compared_and_always_first() {
        let some = arguments(&["--peers", "redlock,redis", "--clients", "1,4"]);
        assert_eq!(some.peers(), [Peer::Lockd, Peer::Redis, Peer::Redlock]);
        assert_eq!(arguments(&[]).peers(), Peer::ALL);
        let rows = some.rows();
        assert_eq!(rows.len(), 2 * 2 * 3);
        let lockd = rows.iter().step_by(3);
        assert!(lockd.into_iter().all(|row| row.peer == Peer::Lockd));
    }

    #[test]
    fn every_command_of_the_documents_is_understood() {
        let documents = [
            include_str!("../../docs/benchmark.md"),
            include_str!("../../docs/loadtest.md"),
        ];
        let command = "cargo run --release -p loadtest -- ";
        let lines = documents.iter().flat_map(|document| document.lines());
        let commands = lines.filter_map(|line| line.strip_prefix(command));
        let commands: Vec<&str> = commands
            .filter(|line| line.starts_with("compare"))
            .collect();
        assert!(commands.len() >= 5, "{commands:?}");
        for words in commands {
            let parsed = Line::try_parse_from(words.split_whitespace());
            assert!(
                parsed.is_ok_and(|line| line.arguments.check().is_ok()),
                "{words}"
            );
        }
    }

    #[test]
    fn every_peer_is_in_the_documents() {
        let benchmark = include_str!("../../docs/benchmark.md");
        let options = include_str!("../../docs/loadtest.md");
        for peer in Peer::ALL {
            let name = format!("`{}`", peer.name());
            assert!(benchmark.contains(&format!("| {name} |")), "{name}");
            assert!(options.contains(&name), "{name}");
        }
    }

    #[test]
    fn endpoints_are_gathered_by_service() {
        let given = arguments(&["--endpoint", "redlock=a", "--endpoint", "redlock=b=c"]);
        let expected = (Service::Kept(Kept::Redlock), vec!["a".into(), "b=c".into()]);
        assert_eq!(given.endpoints(), BTreeMap::from([expected]));
    }

    #[test]
    fn an_endpoint_of_an_unknown_name_is_refused_with_the_names() {
        for text in ["redis", "redis=", "oracle=tcp://x"] {
            let error = Endpoint::from_str(text).unwrap_err();
            for name in ["lockd", "postgres", "mariadb", "redis-always", "redlock"] {
                assert!(error.contains(name), "{error}");
            }
        }
    }

    #[test]
    fn a_ttl_that_a_holder_could_outlive_is_refused() {
        for words in [["--ttl", "999ms"], ["--hold", "5s"], ["--duration", "0s"]] {
            assert!(arguments(&words).check().is_err(), "{words:?}");
        }
        assert!(arguments(&["--hold", "4s"]).check().is_ok());
    }
}
