//! What is counted while a workload runs. Warm-up is not counted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::driver::Trouble;
use crate::machine::{latencies, nanoseconds};
use crate::oracle::ClientIndex;

/// Kinds of trouble that are told apart; the rest is counted together.
const TROUBLE_KINDS_MAX: usize = 16;

/// Counts of one run.
pub struct Measure {
    window: Option<Window>,
    acquire: Histogram<u64>,
    release: Histogram<u64>,
    cycles_per_client: Vec<u64>,
    troubles: BTreeMap<String, u64>,
}

/// The time that counts.
#[derive(Clone, Copy)]
struct Window {
    start: Instant,
    end: Option<Instant>,
    last_grant: Instant,
    longest_gap: Duration,
    /// The longest gap that ended after the mark.
    longest_gap_after_mark: Duration,
    marked: bool,
}

/// A distribution of latencies, microseconds.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

impl Measure {
    /// Nothing counted yet, for so many clients.
    #[must_use]
    pub fn new(clients: usize) -> Measure {
        Measure {
            window: None,
            acquire: latencies(),
            release: latencies(),
            cycles_per_client: vec![0; clients],
            troubles: BTreeMap::new(),
        }
    }

    /// Warm-up is over: what ends from now on counts.
    pub fn begin(&mut self, now: Instant) {
        self.window = Some(Window {
            start: now,
            end: None,
            last_grant: now,
            longest_gap: Duration::ZERO,
            longest_gap_after_mark: Duration::ZERO,
            marked: false,
        });
    }

    /// Something was done to the cell: gaps from now on are also told by themselves.
    pub fn mark(&mut self) {
        if let Some(window) = &mut self.window {
            window.marked = true;
        }
    }

    /// What ends from now on does not count any more.
    pub fn end(&mut self, now: Instant) {
        if let Some(window) = &mut self.window {
            window.gap_until(now);
            window.end = Some(now);
        }
    }

    /// A lock asked for at `asked` was granted.
    pub fn granted(&mut self, asked: Instant, now: Instant) {
        if let Some(window) = self.open_window() {
            window.gap_until(now);
            let took = nanoseconds(now - asked);
            self.acquire.saturating_record(took);
        }
    }

    /// A release sent at `sent` was answered, and with it a cycle is complete.
    pub fn released(&mut self, client: ClientIndex, sent: Instant, now: Instant) {
        if self.open_window().is_some() {
            self.release.saturating_record(nanoseconds(now - sent));
            self.cycles_per_client[client.0] += 1;
        }
    }

    /// An operation failed. Counted at all times: trouble in the warm-up is worth knowing too.
    pub fn trouble(&mut self, trouble: Trouble) {
        let known = self.troubles.contains_key(&trouble.0);
        let kind = if known || self.troubles.len() < TROUBLE_KINDS_MAX {
            trouble.0
        } else {
            "other".to_owned()
        };
        *self.troubles.entry(kind).or_default() += 1;
    }

    /// Cycles that were completed.
    #[must_use]
    pub fn cycles(&self) -> u64 {
        self.cycles_per_client.iter().sum()
    }

    /// Fewest and most cycles of any client.
    #[must_use]
    pub fn cycles_of_clients(&self) -> (u64, u64) {
        let each = || self.cycles_per_client.iter().copied();
        (each().min().unwrap_or(0), each().max().unwrap_or(0))
    }

    /// How long was counted.
    #[must_use]
    pub fn duration(&self) -> Duration {
        let end = |window: Window| window.end.unwrap_or_else(Instant::now);
        self.window
            .map_or(Duration::ZERO, |window| end(window) - window.start)
    }

    /// The longest time in which no client was granted anything.
    #[must_use]
    pub fn longest_gap(&self) -> Duration {
        self.window
            .map_or(Duration::ZERO, |window| window.longest_gap)
    }

    /// The same, of the time after the mark.
    #[must_use]
    pub fn longest_gap_after_mark(&self) -> Duration {
        let gap = |window: Window| window.longest_gap_after_mark;
        self.window.map_or(Duration::ZERO, gap)
    }

    /// From asking to the grant.
    #[must_use]
    pub fn acquire(&self) -> Latency {
        summary(&self.acquire)
    }

    /// From sending the release to its answer.
    #[must_use]
    pub fn release(&self) -> Latency {
        summary(&self.release)
    }

    /// What failed, and how often.
    #[must_use]
    pub fn troubles(&self) -> &BTreeMap<String, u64> {
        &self.troubles
    }

    fn open_window(&mut self) -> Option<&mut Window> {
        self.window.as_mut().filter(|window| window.end.is_none())
    }
}

impl Window {
    fn gap_until(&mut self, now: Instant) {
        let gap = now - self.last_grant;
        self.longest_gap = self.longest_gap.max(gap);
        if self.marked {
            self.longest_gap_after_mark = self.longest_gap_after_mark.max(gap);
        }
        self.last_grant = now;
    }
}

/// What a histogram of nanoseconds says.
pub(crate) fn summary(histogram: &Histogram<u64>) -> Latency {
    if histogram.is_empty() {
        return Latency::default();
    }
    let microseconds = |nanoseconds: u64| nanoseconds as f64 / 1000.0;
    let at = |quantile| microseconds(histogram.value_at_quantile(quantile));
    Latency {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: microseconds(histogram.max()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: ClientIndex = ClientIndex(0);

    #[test]
    fn only_what_ends_in_the_window_counts() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut measure = Measure::new(2);
        measure.granted(at(0), at(1));
        measure.released(CLIENT, at(1), at(2));
        measure.begin(at(10));
        measure.granted(at(9), at(12));
        measure.released(CLIENT, at(12), at(13));
        measure.end(at(20));
        measure.granted(at(19), at(21));
        measure.released(CLIENT, at(21), at(22));
        assert_eq!(measure.cycles(), 1);
        assert_eq!(measure.cycles_of_clients(), (0, 1));
        assert_eq!(measure.duration(), Duration::from_millis(10));
        assert!((2990.0..3010.0).contains(&measure.acquire().max));
        assert!((990.0..1010.0).contains(&measure.release().p50));
    }

    #[test]
    fn the_longest_gap_includes_both_ends_of_the_window() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let gap = |grants: &[u64]| {
            let mut measure = Measure::new(1);
            measure.begin(at(0));
            grants
                .iter()
                .for_each(|ms| measure.granted(at(*ms), at(*ms)));
            measure.end(at(100));
            measure.longest_gap().as_millis()
        };
        assert_eq!(gap(&[]), 100);
        assert_eq!(gap(&[40, 50]), 50);
        assert_eq!(gap(&[60, 70]), 60);
        assert_eq!(gap(&[20, 90]), 70);
    }

    #[test]
    fn gaps_after_the_mark_are_told_by_themselves() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut measure = Measure::new(1);
        measure.begin(at(0));
        measure.granted(at(60), at(60));
        measure.mark();
        measure.granted(at(90), at(90));
        measure.end(at(100));
        assert_eq!(measure.longest_gap(), Duration::from_millis(60));
        assert_eq!(measure.longest_gap_after_mark(), Duration::from_millis(30));
    }

    #[test]
    fn kinds_of_trouble_are_limited() {
        let mut measure = Measure::new(1);
        for kind in 0..1000 {
            measure.trouble(Trouble(format!("kind {kind}")));
        }
        assert_eq!(measure.troubles().len(), TROUBLE_KINDS_MAX + 1);
        assert_eq!(measure.troubles().values().sum::<u64>(), 1000);
    }
}
