//! Two results side by side, or one by itself: a table, and which thresholds were passed.

use std::fmt;

use super::results::{Figure, Key, Measured, Results};
use super::threshold::{Metric, Threshold, change};

/// What a threshold says about a figure that got worse by too much.
#[derive(Clone, Debug, PartialEq)]
pub struct Passed {
    /// What was measured.
    pub key: Key,
    /// Which figure.
    pub metric: Metric,
    /// Its median before.
    pub from: f64,
    /// Its median now.
    pub to: f64,
    /// How far it might have changed, as a share.
    pub allowed: f64,
}

/// Why results cannot be held against each other.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CannotCompare {
    /// They have nothing in common.
    #[error("nothing was measured in both: the first has {first}; the second has {second}")]
    NothingInCommon {
        /// What the first has.
        first: String,
        /// What the second has.
        second: String,
    },
    /// A threshold cannot be looked at.
    #[error("{key} is not in the second result: measure it there too, or leave out --fail-if")]
    NotMeasured {
        /// What was measured only once.
        key: Key,
    },
    /// A figure is not known.
    #[error("{} of {key} is not known in both results: take it out of --fail-if", .metric.name())]
    Unknown {
        /// Of what.
        key: Key,
        /// Which figure.
        metric: Metric,
    },
}

/// The table of two results.
pub struct Difference<'a> {
    pairs: Vec<(&'a Measured, &'a Measured)>,
    /// Measured in one of them only.
    single: Vec<(&'static str, &'a Key)>,
}

impl<'a> Difference<'a> {
    /// What was measured in both.
    ///
    /// # Errors
    /// [`CannotCompare::NothingInCommon`].
    pub fn new(first: &'a Results, second: &'a Results) -> Result<Difference<'a>, CannotCompare> {
        let find = |results: &'a Results, key: &Key| {
            let mut measured = results.measured.iter();
            measured.find(|measured| measured.key == *key)
        };
        let mut difference = Difference {
            pairs: Vec::new(),
            single: Vec::new(),
        };
        for before in &first.measured {
            match find(second, &before.key) {
                Some(after) => difference.pairs.push((before, after)),
                None => difference.single.push(("first", &before.key)),
            }
        }
        for after in &second.measured {
            if find(first, &after.key).is_none() {
                difference.single.push(("second", &after.key));
            }
        }
        if difference.pairs.is_empty() {
            return Err(CannotCompare::NothingInCommon {
                first: keys(first),
                second: keys(second),
            });
        }
        Ok(difference)
    }

    /// Every figure that has changed further than it may.
    ///
    /// # Errors
    /// [`CannotCompare`], if that cannot be told.
    pub fn passed(&self, thresholds: &[Threshold]) -> Result<Vec<Passed>, CannotCompare> {
        let lacking = self.single.iter().find(|(only, _)| *only == "first");
        if let (Some((_, key)), false) = (lacking, thresholds.is_empty()) {
            return Err(CannotCompare::NotMeasured {
                key: (*key).clone(),
            });
        }
        let mut passed = Vec::new();
        for (before, after) in &self.pairs {
            for threshold in thresholds {
                let metric = threshold.metric;
                let key = before.key.clone();
                let figures = metric.of(before).zip(metric.of(after));
                let Some((from, to)) = figures else {
                    return Err(CannotCompare::Unknown { key, metric });
                };
                if threshold.is_passed(from.median, to.median) {
                    passed.push(Passed {
                        key,
                        metric,
                        from: from.median,
                        to: to.median,
                        allowed: threshold.change,
                    });
                }
            }
        }
        Ok(passed)
    }
}

/// How many rounds, in words.
pub(super) fn rounds(measured: &Measured) -> String {
    match measured.rounds.len() {
        1 => "1 round".to_owned(),
        count => format!("{count} rounds"),
    }
}

fn keys(results: &Results) -> String {
    let keys = results.measured.iter().map(|it| it.key.to_string());
    keys.collect::<Vec<_>>().join(" / ")
}

impl fmt::Display for Difference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (before, after) in &self.pairs {
            writeln!(f, "{}", before.key)?;
            let (first, second) = (rounds(before), rounds(after));
            writeln!(
                f,
                "  {:<18} {:>28} {:>28} {:>9}",
                "",
                format!("first ({first})"),
                format!("second ({second})"),
                "change"
            )?;
            for metric in Metric::ALL {
                write_line(f, metric, metric.of(before), metric.of(after))?;
            }
            writeln!(f)?;
        }
        for (only, key) in &self.single {
            writeln!(f, "only in the {only}: {key}")?;
        }
        write!(
            f,
            "Medians of the rounds (lowest to highest); ~: their ranges overlap, so the change may \
             be chance."
        )
    }
}

fn write_line(
    f: &mut fmt::Formatter<'_>,
    metric: Metric,
    from: Option<Figure>,
    to: Option<Figure>,
) -> fmt::Result {
    let text = |figure: Option<Figure>| figure.map_or("unknown".to_owned(), |it| it.to_string());
    let moved = match (from, to) {
        (Some(from), Some(to)) => {
            let overlap = from.min <= to.max && to.min <= from.max;
            let doubt = if overlap { "~" } else { "" };
            format!("{doubt}{:+.1} %", change(from.median, to.median) * 100.0)
        }
        _ => String::new(),
    };
    writeln!(
        f,
        "  {:<18} {:>28} {:>28} {moved:>9}",
        metric.describe(),
        text(from),
        text(to)
    )
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = match self.median.abs() {
            median if median < 10.0 => 2,
            median if median < 100.0 => 1,
            _ => 0,
        };
        write!(f, "{:.digits$}", self.median)?;
        if self.min < self.max {
            write!(f, " ({:.digits$} - {:.digits$})", self.min, self.max)?;
        }
        Ok(())
    }
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} went from {:.1} to {:.1}, by {:+.1} %, and {:+.1} % is allowed",
            self.key,
            self.metric.name(),
            self.from,
            self.to,
            change(self.from, self.to) * 100.0,
            self.allowed * 100.0
        )
    }
}

/// One result by itself.
pub struct Overview<'a>(pub &'a Results);

impl fmt::Display for Overview<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for measured in &self.0.measured {
            writeln!(f, "{} ({})", measured.key, rounds(measured))?;
            for metric in Metric::ALL {
                let figure = metric.of(measured);
                let text = figure.map_or("unknown".to_owned(), |it| it.to_string());
                writeln!(f, "  {:<18} {text:>28}", metric.describe())?;
            }
            writeln!(f)?;
        }
        for (key, why) in &self.0.missing {
            writeln!(f, "not measured: {key}: {why}")?;
        }
        write!(f, "Medians of the rounds (lowest to highest).")
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::measured;
    use super::*;

    fn results(measured: Vec<Measured>) -> Results {
        Results {
            measured,
            missing: Vec::new(),
        }
    }

    fn passed(from: &[f64], to: &[f64], threshold: &str) -> Vec<Passed> {
        let first = results(vec![measured("lockd", from)]);
        let second = results(vec![measured("lockd", to)]);
        let difference = Difference::new(&first, &second).unwrap();
        difference.passed(&[threshold.parse().unwrap()]).unwrap()
    }

    #[test]
    fn medians_are_held_against_the_threshold() {
        assert_eq!(passed(&[100.0], &[96.0], "cycles-5%"), []);
        let found = passed(&[100.0, 50.0, 150.0], &[94.0, 200.0, 1.0], "cycles-5%");
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].to_string(),
            "lockd, uncontended, 64 clients: cycles went from 100.0 to 94.0, by -6.0 %, and -5.0 % \
             is allowed"
        );
    }

    #[test]
    fn the_table_has_every_figure_with_its_change_and_whether_it_may_be_chance() {
        let first = results(vec![measured("lockd", &[100.0, 90.0, 110.0])]);
        let second = results(vec![measured("lockd", &[150.0]), measured("redis", &[1.0])]);
        let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let text = words(Difference::new(&first, &second).unwrap().to_string());
        for part in [
            "lockd, uncontended, 64 clients first (3 rounds) second (1 round) change",
            "cycles/s 100 (90 - 110) 150 +50.0 %",
            "CPU us/cycle 60.0 60.0 ~+0.0 %",
            "only in the second: redis, uncontended, 64 clients",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let alone = words(Overview(&first).to_string());
        assert!(
            alone.contains("64 clients (3 rounds) cycles/s 100 (90 - 110) acquire"),
            "{alone}"
        );
    }

    #[test]
    fn what_cannot_be_compared_is_refused_with_the_reason() {
        let lockd = results(vec![measured("lockd", &[1.0])]);
        let redis = results(vec![measured("redis", &[1.0])]);
        let both = results(vec![measured("lockd", &[1.0]), measured("redis", &[1.0])]);
        let error = Difference::new(&lockd, &redis).err().unwrap().to_string();
        assert!(
            error.ends_with("the second has redis, uncontended, 64 clients"),
            "{error}"
        );
        let threshold: Threshold = "cpu+1%".parse().unwrap();
        let difference = Difference::new(&both, &lockd).unwrap();
        assert_eq!(difference.passed(&[]), Ok(vec![]));
        let error = difference
            .passed(std::slice::from_ref(&threshold))
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("redis, uncontended, 64 clients is not in")
        );
        // The other way round nothing is lost that was there before.
        let difference = Difference::new(&lockd, &both).unwrap();
        assert_eq!(
            difference.passed(std::slice::from_ref(&threshold)),
            Ok(vec![])
        );
        let mut unknown = lockd.clone();
        unknown.measured[0].rounds[0].cpu_us_per_cycle.servers = None;
        let difference = Difference::new(&lockd, &unknown).unwrap();
        let error = difference.passed(&[threshold]).unwrap_err().to_string();
        assert!(
            error.starts_with("cpu of lockd, uncontended, 64 clients is not known"),
            "{error}"
        );
    }
}
