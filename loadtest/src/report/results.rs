//! Results as they lie in files: one run, or a comparison with its rows and rounds. What reads them
//! need not know which it was.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::compare::report::{self as comparison, Comparison};
use crate::run::report::{self as run, Report};

/// Largest file that is read, bytes.
const FILE_MAX: u64 = 256 << 20;

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// Each thing that was measured, with its rounds.
    pub measured: Vec<Measured>,
    /// Rows of a comparison of which there is no round, and why.
    pub missing: Vec<(Key, String)>,
}

/// What was driven, and how: two results are compared where these are the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Which lock service.
    pub driver: String,
    /// Which locks the clients wanted.
    pub workload: String,
    /// How many clients.
    pub clients: u64,
    /// Requests per second of an open loop; `None`: a closed one.
    pub rate: Option<f64>,
}

/// One thing that was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What was driven, and how.
    pub key: Key,
    /// Where a grant is when its holder learns of it, if that is said.
    pub grant_is_in: Option<String>,
    /// The rounds, at least one.
    pub rounds: Vec<Report>,
}

/// A figure of several rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// The round in the middle (of an even number, the lower one).
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
}

/// Why a file is no result.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is too long.
    #[error("{path} is longer than {FILE_MAX} bytes: give a file that `--json` has written")]
    TooLong {
        /// Which.
        path: PathBuf,
    },
    /// It is not JSON, or its fields are others.
    #[error("{path} is no result of `loadtest run` or `loadtest compare`: {problem}")]
    NotAResult {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// It was written by another version.
    #[error(
        "{path} has schema {found}, and this program reads {known}: use the loadtest that \
             wrote it"
    )]
    Schema {
        /// Which.
        path: PathBuf,
        /// Its schema.
        found: Value,
        /// Ours.
        known: u32,
    },
    /// Nothing was measured.
    #[error("{path} has no rounds: {why}")]
    Empty {
        /// Which.
        path: PathBuf,
        /// Why not, as far as it says.
        why: String,
    },
}

/// A comparison as it lies in a file.
#[derive(Deserialize)]
struct ComparisonFile {
    rows: Vec<RowFile>,
}

/// A row of it.
#[derive(Deserialize)]
struct RowFile {
    peer: String,
    workload: String,
    clients: u64,
    grant_is_in: String,
    not_measured: Option<String>,
    rounds: Vec<Report>,
}

impl Results {
    /// Reads what `--json` has written.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(path: &Path) -> Result<Results, ReadError> {
        let failed = |source| ReadError::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let mut text = Vec::new();
        file.take(FILE_MAX + 1)
            .read_to_end(&mut text)
            .map_err(failed)?;
        if text.len() as u64 > FILE_MAX {
            return Err(ReadError::TooLong {
                path: path.to_owned(),
            });
        }
        Results::parse(&text, path)
    }

    fn parse(text: &[u8], path: &Path) -> Result<Results, ReadError> {
        let problem = |problem: String| ReadError::NotAResult {
            path: path.to_owned(),
            problem,
        };
        let value: Value =
            serde_json::from_slice(text).map_err(|error| problem(error.to_string()))?;
        let known = match (value.get("rows"), value.get("cycles")) {
            (Some(_), _) => comparison::SCHEMA,
            (None, Some(_)) => run::SCHEMA,
            (None, None) => return Err(problem("it has neither `rows` nor `cycles`".to_owned())),
        };
        if value["schema"] != known {
            return Err(ReadError::Schema {
                path: path.to_owned(),
                found: value["schema"].clone(),
                known,
            });
        }
        let results = if value.get("rows").is_some() {
            ComparisonFile::deserialize(value).map(Results::from)
        } else {
            Report::deserialize(value).map(Results::from)
        };
        let results = results.map_err(|error| problem(error.to_string()))?;
        if results.measured.is_empty() {
            let why = results.missing.first().map(|(_, why)| why.clone());
            return Err(ReadError::Empty {
                path: path.to_owned(),
                why: why.unwrap_or_else(|| "nothing was measured".to_owned()),
            });
        }
        Ok(results)
    }

    fn add(
        &mut self,
        key: Key,
        grant_is_in: &str,
        rounds: Vec<Report>,
        not_measured: Option<String>,
    ) {
        if let Some(why) = not_measured {
            self.missing.push((key.clone(), why));
        }
        if !rounds.is_empty() {
            self.measured.push(Measured {
                key,
                grant_is_in: Some(grant_is_in.to_owned()),
                rounds,
            });
        }
    }

    /// Every round of everything.
    pub fn rounds(&self) -> impl Iterator<Item = &Report> {
        self.measured.iter().flat_map(|it| &it.rounds)
    }

    /// How many promises were broken.
    #[must_use]
    pub fn violations(&self) -> u64 {
        self.rounds().map(|round| round.violations).sum()
    }
}

impl From<Report> for Results {
    fn from(report: Report) -> Results {
        let measured = Measured {
            key: Key {
                driver: report.driver.clone(),
                workload: report.workload.clone(),
                clients: report.clients,
                rate: report.open_loop.as_ref().map(|open| open.rate_per_s),
            },
            grant_is_in: None,
            rounds: vec![report],
        };
        Results {
            measured: vec![measured],
            missing: Vec::new(),
        }
    }
}

impl From<ComparisonFile> for Results {
    fn from(file: ComparisonFile) -> Results {
        let mut results = Results::default();
        for row in file.rows {
            let key = Key {
                driver: row.peer,
                workload: row.workload,
                clients: row.clients,
                rate: rate_of(&row.rounds),
            };
            results.add(key, &row.grant_is_in, row.rounds, row.not_measured);
        }
        results
    }
}

impl From<&Comparison> for Results {
    fn from(comparison: &Comparison) -> Results {
        let mut results = Results::default();
        for row in &comparison.rows {
            let key = Key {
                driver: row.peer.name().to_owned(),
                workload: row.workload.name().to_owned(),
                clients: row.clients,
                rate: rate_of(&row.rounds),
            };
            let rounds = row.rounds.clone();
            results.add(key, row.grant_is_in, rounds, row.not_measured.clone());
        }
        results
    }
}

fn rate_of(rounds: &[Report]) -> Option<f64> {
    let open = rounds.iter().find_map(|round| round.open_loop.as_ref());
    open.map(|open| open.rate_per_s)
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clients = match self.clients {
            1 => "1 client".to_owned(),
            clients => format!("{clients} clients"),
        };
        write!(f, "{}, {}, {clients}", self.driver, self.workload)?;
        match self.rate {
            Some(rate) => write!(f, ", open loop of {rate}/s"),
            None => Ok(()),
        }
    }
}

impl Measured {
    /// A figure over the rounds that have it.
    pub fn figure(&self, of: impl Fn(&Report) -> Option<f64>) -> Option<Figure> {
        let mut values: Vec<f64> = self.rounds.iter().filter_map(of).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        Some(Figure {
            median: values[(values.len() - 1) / 2],
            min,
            max,
        })
    }

    /// The round of median throughput, which stands for all where one has to be shown.
    #[must_use]
    pub fn median_round(&self) -> Option<&Report> {
        let mut rounds: Vec<&Report> = self.rounds.iter().collect();
        rounds.sort_by(|a, b| a.cycles_per_s.total_cmp(&b.cycles_per_s));
        rounds.get(rounds.len().saturating_sub(1) / 2).copied()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::run::report::tests::report;

    /// Rounds with these throughputs.
    pub(crate) fn measured(driver: &str, throughputs: &[f64]) -> Measured {
        let round = |&cycles_per_s: &f64| Report {
            driver: driver.to_owned(),
            cycles_per_s,
            ..report()
        };
        Measured {
            key: Key {
                driver: driver.to_owned(),
                workload: "uncontended".to_owned(),
                clients: 64,
                rate: None,
            },
            grant_is_in: None,
            rounds: throughputs.iter().map(round).collect(),
        }
    }

    fn parse(text: &str) -> Result<Results, String> {
        Results::parse(text.as_bytes(), Path::new("a.json")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_run_is_read_as_it_was_written() {
        let text = serde_json::to_string(&report()).unwrap();
        let results = parse(&text).unwrap();
        let [measured] = &results.measured[..] else {
            panic!("{results:?}");
        };
        assert_eq!(measured.key.to_string(), "lockd, uncontended, 64 clients");
        assert_eq!(serde_json::to_string(&measured.rounds[0]).unwrap(), text);
    }

    #[test]
    fn a_comparison_is_read_with_what_could_not_be_measured() {
        let round = serde_json::to_value(report()).unwrap();
        let row = |peer: &str, rounds: &[&Value], why: Value| {
            serde_json::json!({
                "peer": peer, "workload": "contended", "clients": 4, "grant_is_in": "memory",
                "tokens": false, "not_measured": why, "median_round": 0, "rounds": rounds,
            })
        };
        let rows = [
            row("lockd", &[&round, &round], Value::Null),
            row("redis", &[], "not installed".into()),
        ];
        let file = serde_json::json!({"schema": 1, "rows": rows});
        let results = parse(&file.to_string()).unwrap();
        assert_eq!(results.measured.len(), 1);
        assert_eq!(results.measured[0].rounds.len(), 2);
        assert_eq!(results.measured[0].grant_is_in.as_deref(), Some("memory"));
        let (key, why) = &results.missing[0];
        assert_eq!(
            (key.driver.as_str(), why.as_str()),
            ("redis", "not installed")
        );
        let nothing = serde_json::json!({"schema": 1, "rows": [rows[1]]});
        let error = parse(&nothing.to_string()).unwrap_err();
        assert_eq!(error, "a.json has no rounds: not installed");
    }

    #[test]
    fn what_is_no_result_is_refused_with_what_is_wrong() {
        let mut newer = serde_json::to_value(report()).unwrap();
        newer["schema"] = 2.into();
        let mut broken = serde_json::to_value(report()).unwrap();
        broken["cycles_per_s"] = "many".into();
        for (text, expected) in [
            (
                "",
                "a.json is no result of `loadtest run` or `loadtest compare`: EOF",
            ),
            ("{}", "it has neither `rows` nor `cycles`"),
            ("[1]", "it has neither `rows` nor `cycles`"),
            (
                &newer.to_string(),
                "a.json has schema 2, and this program reads 1",
            ),
            (&broken.to_string(), "invalid type: string \"many\""),
            (r#"{"schema":1,"rows":[{}]}"#, "missing field `peer`"),
            (r#"{"rows":[]}"#, "a.json has schema null"),
            (
                r#"{"schema":1,"rows":[]}"#,
                "a.json has no rounds: nothing was measured",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let missing = Results::read(Path::new("/nonexistent/a.json")).unwrap_err();
        assert!(
            missing
                .to_string()
                .starts_with("cannot read /nonexistent/a.json: ")
        );
    }

    #[test]
    fn a_figure_is_the_median_of_the_rounds_with_their_spread() {
        let cycles = |throughputs: &[f64]| {
            let figure = measured("lockd", throughputs).figure(|it| Some(it.cycles_per_s));
            let figure = figure.unwrap();
            (figure.median, figure.min, figure.max)
        };
        assert_eq!(cycles(&[30.0, 10.0, 20.0]), (20.0, 10.0, 30.0));
        assert_eq!(cycles(&[30.0, 10.0]), (10.0, 10.0, 30.0));
        let median = measured("lockd", &[30.0, 10.0, 20.0]);
        assert_eq!(median.median_round().unwrap().cycles_per_s, 20.0);
        assert_eq!(median.figure(|_| None), None);
    }
}
