//! The result of the accidents: a table for people, and JSON with a version.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::scene::Trial;
use super::system::{Accident, System, Way};
use crate::machine::Machine;

/// Version of the JSON. Fields may be added under the same version, never changed.
pub const SCHEMA: u32 = 1;

/// The result of all accidents.
#[derive(Clone, Debug, Serialize)]
pub struct Accidents {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of this program.
    pub version: &'static str,
    /// Where this was done.
    pub machine: Machine,
    /// Holders that met with each accident.
    pub trials: u64,
    /// TTL of sessions and of locks that have one, milliseconds.
    pub ttl_ms: f64,
    /// One for each accident of each system.
    pub rows: Vec<Row>,
    /// Whether a system that cannot be tried is a failure: it was asked for by its name.
    #[serde(skip)]
    all_asked_for: bool,
}

/// One accident of one system.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// How the lock was taken and the row reached.
    pub system: String,
    /// What happened to the holders.
    pub accident: &'static str,
    /// Holders whose lock was granted to the next one before they had written.
    pub granted_meanwhile: usize,
    /// Writes that were lost: two were accepted, and the counter is one higher.
    pub lost: i64,
    /// Of the holders whose lock was granted to the next one: how many had been told by their
    /// library, right before they wrote.
    pub told: usize,
    /// Writes that were refused, by code.
    pub refused: BTreeMap<String, usize>,
    /// Why there are no trials, and what to do about it.
    pub not_tried: Option<String>,
    /// What came of each holder.
    pub trials: Vec<Trial>,
    /// Whether a lost write is a broken promise.
    #[serde(skip)]
    promised: bool,
    /// Whether this cannot be tried at all.
    #[serde(skip)]
    impossible: bool,
    #[serde(skip)]
    kind: Accident,
}

impl Row {
    /// Of what was played.
    #[must_use]
    pub fn new(system: System, accident: Accident, played: Result<Vec<Trial>, String>) -> Row {
        let (trials, not_tried) = match played {
            Ok(trials) => (trials, None),
            Err(reason) => (Vec::new(), Some(reason)),
        };
        let mut refused = BTreeMap::new();
        for code in trials.iter().filter_map(|trial| trial.refused.clone()) {
            *refused.entry(code).or_default() += 1;
        }
        let granted = || trials.iter().filter(|trial| trial.granted_meanwhile);
        Row {
            system: system.name(),
            accident: accident.name(),
            granted_meanwhile: granted().count(),
            lost: trials.iter().map(|trial| trial.lost).sum(),
            told: granted().filter(|trial| trial.told).count(),
            refused,
            not_tried,
            promised: system.way == Way::Gateway,
            impossible: accident.impossible(system).is_some(),
            kind: accident,
            trials,
        }
    }
}

impl Accidents {
    /// Of these rows. `all_asked_for`: whether systems were chosen by name.
    #[must_use]
    pub fn new(rows: Vec<Row>, trials: u64, ttl: Duration, all_asked_for: bool) -> Accidents {
        Accidents {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            machine: Machine::describe(),
            trials,
            ttl_ms: ttl.as_secs_f64() * 1e3,
            rows,
            all_asked_for,
        }
    }

    /// Whether no write was lost behind the gateway. What others lose, they never promised to keep.
    #[must_use]
    pub fn passed(&self) -> bool {
        let mut promised = self.rows.iter().filter(|row| row.promised);
        promised.all(|row| row.lost == 0)
    }

    /// Whether everything was tried that had to be, which is lockd and every system asked for by
    /// its name.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let needed =
            |row: &&Row| !row.impossible && (self.all_asked_for || row.system.starts_with("lockd"));
        let mut needed = self.rows.iter().filter(needed);
        needed.all(|row| row.not_tried.is_none())
    }
}

impl fmt::Display for Accidents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rows in self.rows.chunk_by(|a, b| a.kind == b.kind) {
            self.write_table(f, rows)?;
        }
        if self.passed() {
            return write!(f, "no write was lost behind the gateway");
        }
        write!(f, "FAILED: writes were lost behind the gateway")
    }
}

impl Accidents {
    /// The rows of one accident.
    fn write_table(&self, f: &mut fmt::Formatter<'_>, rows: &[Row]) -> fmt::Result {
        let Some(first) = rows.first() else {
            return Ok(());
        };
        let (trials, seconds) = (self.trials, self.ttl_ms / 1e3);
        let what = first.kind.describe();
        writeln!(
            f,
            "{}: {what}; {trials} holders, TTL {seconds:.0} s",
            first.accident
        )?;
        writeln!(
            f,
            "  {:<34} {:>10} {:>10} {:>10}  refused",
            "", "passed on", "lost", "told"
        )?;
        for row in rows {
            if let Some(reason) = &row.not_tried {
                writeln!(f, "  {:<34} not tried: {reason}", row.system)?;
                continue;
            }
            let refused = row
                .refused
                .iter()
                .map(|(code, count)| format!("{count} x {code}"));
            let refused: Vec<String> = refused.collect();
            let line = format!(
                "  {:<34} {:>10} {:>10} {:>10}  {}",
                row.system,
                row.granted_meanwhile,
                row.lost,
                row.told,
                refused.join(", ")
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::peer::Peer;

    fn lost(count: i64) -> Trial {
        Trial {
            granted_meanwhile: true,
            told: count > 0,
            refused: (count == 0).then(|| "FN001".to_owned()),
            lost: count,
        }
    }

    fn of(rows: Vec<Row>, all_asked_for: bool) -> Accidents {
        Accidents::new(rows, 2, Duration::from_secs(2), all_asked_for)
    }

    fn row(peer: Peer, way: Way, played: Result<Vec<Trial>, String>) -> Row {
        Row::new(System { peer, way }, Accident::Pause, played)
    }

    #[test]
    fn a_write_lost_behind_the_gateway_fails_and_one_lost_elsewhere_is_a_result() {
        let safe = || row(Peer::Lockd, Way::Gateway, Ok(vec![lost(0), lost(0)]));
        let unsafe_row = || row(Peer::Redis, Way::Apart, Ok(vec![lost(1), lost(1)]));
        let good = of(vec![safe(), unsafe_row()], false);
        assert!(good.passed() && good.is_complete());
        let text = good.to_string();
        assert!(
            text.contains("2          0          0  2 x FN001"),
            "{text}"
        );
        assert!(text.contains("2          2          2\n"), "{text}");
        let broken = row(Peer::Lockd, Way::Gateway, Ok(vec![lost(0), lost(1)]));
        let bad = of(vec![broken], false);
        assert!(!bad.passed());
        assert!(bad.to_string().contains("FAILED"), "{bad}");
    }

    #[test]
    fn what_could_not_be_tried_is_in_the_table_and_fails_only_if_it_was_asked_for() {
        let missing = || row(Peer::Redis, Way::Apart, Err("no Redis".to_owned()));
        let some = of(vec![missing()], false);
        assert!(some.is_complete());
        assert!(some.to_string().contains("not tried: no Redis"), "{some}");
        assert!(!of(vec![missing()], true).is_complete());
        // What can never be tried is nobody's fault.
        let system = System {
            peer: Peer::Etcd,
            way: Way::Apart,
        };
        let why = Accident::ServerClock.impossible(system).unwrap();
        let never = Row::new(system, Accident::ServerClock, Err(why.to_owned()));
        assert!(of(vec![never], true).is_complete());
    }

    #[test]
    fn the_fields_of_the_json_keep_their_names() {
        let rows = vec![row(Peer::Lockd, Way::Gateway, Ok(vec![lost(0)]))];
        let json = serde_json::to_value(of(rows, false)).unwrap();
        for (pointer, expected) in [
            ("/schema", 1.into()),
            ("/trials", 2.into()),
            ("/ttl_ms", 2000.0.into()),
            ("/rows/0/system", "lockd+gateway".into()),
            ("/rows/0/accident", "pause".into()),
            ("/rows/0/granted_meanwhile", 1.into()),
            ("/rows/0/lost", 0.into()),
            ("/rows/0/told", 0.into()),
            ("/rows/0/refused/FN001", 1.into()),
            ("/rows/0/not_tried", serde_json::Value::Null),
            ("/rows/0/trials/0/granted_meanwhile", true.into()),
            ("/rows/0/trials/0/refused", "FN001".into()),
        ] {
            assert_eq!(json.pointer(pointer), Some(&expected), "{pointer}");
        }
    }
}
