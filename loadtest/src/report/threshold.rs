//! The figures that two results are compared by, and how far they may get worse: `p99+10%`.

use std::str::FromStr;

use super::results::{Figure, Measured};
use crate::run::report::Report;

/// A figure of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Cycles per second.
    Cycles,
    /// Median latency of a grant, microseconds.
    P50,
    /// Its 99th percentile.
    P99,
    /// Its 99.9th percentile.
    P999,
    /// The longest.
    Max,
    /// CPU time of servers and clients for each cycle, microseconds.
    Cpu,
    /// Memory of the servers, bytes.
    Memory,
}

impl Metric {
    /// All of them, as they are shown.
    pub const ALL: [Metric; 7] = [
        Metric::Cycles,
        Metric::P50,
        Metric::P99,
        Metric::P999,
        Metric::Max,
        Metric::Cpu,
        Metric::Memory,
    ];

    /// Its name in a threshold.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Metric::Cycles => "cycles",
            Metric::P50 => "p50",
            Metric::P99 => "p99",
            Metric::P999 => "p99.9",
            Metric::Max => "max",
            Metric::Cpu => "cpu",
            Metric::Memory => "memory",
        }
    }

    /// What it is, with its unit.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Metric::Cycles => "cycles/s",
            Metric::P50 => "acquire p50, us",
            Metric::P99 => "acquire p99, us",
            Metric::P999 => "acquire p99.9, us",
            Metric::Max => "acquire max, us",
            Metric::Cpu => "CPU us/cycle",
            Metric::Memory => "servers' MiB",
        }
    }

    /// Its value over the rounds, in the unit in which it is shown; `None`: it is not known.
    #[must_use]
    pub fn of(self, measured: &Measured) -> Option<Figure> {
        measured.figure(|round| self.of_round(round))
    }

    fn of_round(self, round: &Report) -> Option<f64> {
        match self {
            Metric::Cycles => Some(round.cycles_per_s),
            Metric::P50 => Some(round.acquire_us.p50),
            Metric::P99 => Some(round.acquire_us.p99),
            Metric::P999 => Some(round.acquire_us.p999),
            Metric::Max => Some(round.acquire_us.max),
            Metric::Cpu => {
                let cpu = round.cpu_us_per_cycle;
                Some(cpu.servers? + cpu.client)
            }
            Metric::Memory => Some(round.memory_bytes.servers? as f64 / f64::from(1 << 20)),
        }
    }
}

/// How far a figure may move, and where to.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// Which figure.
    pub metric: Metric,
    /// The furthest change that is allowed, as a share: 0.1 for up to 10 % more, -0.05 for down to
    /// 5 % less.
    pub change: f64,
}

impl Threshold {
    /// Whether a change from one value to another goes too far.
    #[must_use]
    pub fn is_passed(&self, from: f64, to: f64) -> bool {
        let change = change(from, to);
        if self.change > 0.0 {
            change > self.change
        } else {
            change < self.change
        }
    }
}

/// A change as a share of what it was before.
#[must_use]
pub fn change(from: f64, to: f64) -> f64 {
    match from == to {
        true => 0.0,
        false => (to - from) / from,
    }
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Threshold, String> {
        let parse = || {
            let sign = text.find(['+', '-'])?;
            let (name, change) = text.split_at(sign);
            let metric = Metric::ALL
                .into_iter()
                .find(|metric| metric.name() == name)?;
            let percent: f64 = change.strip_suffix('%')?.parse().ok()?;
            let change = percent / 100.0;
            let usable = change.is_finite() && change != 0.0;
            usable.then_some(Threshold { metric, change })
        };
        parse().ok_or_else(|| {
            let names = Metric::ALL.map(Metric::name).join(", ");
            format!(
                "give a figure and how far it may change, such as `p99+10%` or `cycles-5%`; \
                 figures are {names}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threshold(text: &str) -> Threshold {
        text.parse().unwrap()
    }

    #[test]
    fn a_threshold_is_a_figure_and_how_far_it_may_rise_or_fall() {
        for (text, metric, change) in [
            ("p99+10%", Metric::P99, 0.1),
            ("cycles-5%", Metric::Cycles, -0.05),
            ("p99.9+2.5%", Metric::P999, 0.025),
            ("cpu+100%", Metric::Cpu, 1.0),
        ] {
            assert_eq!(threshold(text), Threshold { metric, change }, "{text}");
        }
    }

    #[test]
    fn what_is_no_threshold_is_refused_with_the_names() {
        for text in [
            "", "p99", "p99+10", "p98+10%", "+10%", "p99+%", "p99+0%", "p99++1%",
        ] {
            let error = text.parse::<Threshold>().unwrap_err();
            assert!(error.contains("p99.9, max, cpu"), "{text}: {error}");
        }
    }

    #[test]
    fn what_may_rise_by_a_tenth_passes_the_threshold_beyond_that_and_falls_freely() {
        let rise = threshold("p99+10%");
        assert!(!rise.is_passed(100.0, 110.0) && rise.is_passed(100.0, 110.1));
        assert!(!rise.is_passed(100.0, 1.0));
        let fall = threshold("cycles-5%");
        assert!(!fall.is_passed(100.0, 95.0) && fall.is_passed(100.0, 94.9));
        assert!(!fall.is_passed(100.0, 1000.0));
        assert!(!rise.is_passed(0.0, 0.0) && rise.is_passed(0.0, 1.0));
    }
}
