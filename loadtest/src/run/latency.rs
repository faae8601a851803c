//! What is told of a distribution of latencies: a few percentiles, and its spectrum.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Points of a spectrum each time that what is left of the distribution is halved.
const POINTS_PER_HALVING: u32 = 4;

/// A distribution of latencies, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
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

/// A point of a spectrum: this share of the distribution is not above that.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantile {
    /// Share, from 0 to 1.
    pub share: f64,
    /// Latency, microseconds.
    pub us: f64,
}

/// What a histogram of nanoseconds says.
#[must_use]
pub fn summary(histogram: &Histogram<u64>) -> Latency {
    if histogram.is_empty() {
        return Latency::default();
    }
    let at = |quantile| microseconds(histogram.value_at_quantile(quantile));
    Latency {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: microseconds(histogram.max()),
    }
}

/// The whole of a histogram of nanoseconds, ever more closely towards its longest latencies. The
/// last point has share 1.
#[must_use]
pub fn spectrum(histogram: &Histogram<u64>) -> Vec<Quantile> {
    let points = histogram.iter_quantiles(POINTS_PER_HALVING);
    points
        .map(|point| Quantile {
            share: point.quantile_iterated_to(),
            us: microseconds(point.value_iterated_to()),
        })
        .collect()
}

fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::latencies;

    #[test]
    fn a_spectrum_rises_to_the_longest_latency_and_is_dense_at_its_end() {
        let mut histogram = latencies();
        for us in 1..=10_000 {
            histogram.record(us * 1000).unwrap();
        }
        let spectrum = spectrum(&histogram);
        let mut pairs = spectrum.windows(2);
        assert!(pairs.all(|pair| pair[0].share <= pair[1].share && pair[0].us <= pair[1].us));
        let last = spectrum.last().unwrap();
        assert_eq!(last.share, 1.0);
        assert!((last.us / summary(&histogram).max - 1.0).abs() < 0.01);
        let behind = |share| spectrum.iter().filter(|point| point.share > share).count();
        assert!(behind(0.999) >= 4 && spectrum.len() < 100, "{spectrum:?}");
    }

    #[test]
    fn nothing_has_no_latency_and_no_spectrum() {
        assert_eq!(summary(&latencies()), Latency::default());
        assert_eq!(spectrum(&latencies()), []);
    }
}
