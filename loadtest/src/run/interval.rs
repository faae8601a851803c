//! What happened second by second, and the same as an interval log of HDR histograms.

use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use serde::{Deserialize, Serialize};

use super::latency::{Latency, summary};
use crate::machine::latencies;

/// How long an interval lasts.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// One second of a run. The last one may be longer or shorter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// When it began, seconds after counting began.
    pub at_s: f64,
    /// How long it lasted, seconds.
    pub for_s: f64,
    /// Cycles that ended in it.
    pub cycles: u64,
    /// Operations that failed in it.
    pub errors: u64,
    /// Of the grants that were received in it: the latency, microseconds.
    pub acquire_us: Latency,
}

/// The interval that is being counted, and those before it.
pub struct Intervals {
    acquire: Histogram<u64>,
    release: Histogram<u64>,
    cycles: u64,
    errors: u64,
    begun: Duration,
    /// How many there will be, if all goes by plan. The last one lasts as long as the run.
    planned: u64,
    done: Vec<Interval>,
    log: Option<HdrLog>,
}

impl Intervals {
    /// Of a run that is to last so long.
    #[must_use]
    pub fn new(planned: Duration) -> Intervals {
        let planned = planned.as_secs_f64().round();
        Intervals {
            acquire: latencies(),
            release: latencies(),
            cycles: 0,
            errors: 0,
            begun: Duration::ZERO,
            planned: (planned as u64).max(1),
            done: Vec::new(),
            log: None,
        }
    }

    /// Keeps the histograms of each interval, too. The run began at this time.
    pub fn keep_histograms(&mut self, at: SystemTime) {
        self.log = Some(HdrLog::new(at));
    }

    /// A grant was received after so many nanoseconds.
    pub fn granted(&mut self, nanoseconds: u64) {
        self.acquire.saturating_record(nanoseconds);
    }

    /// A cycle ended, the answer to its release came after so many nanoseconds.
    pub fn released(&mut self, nanoseconds: u64) {
        self.release.saturating_record(nanoseconds);
        self.cycles += 1;
    }

    /// An operation failed.
    pub fn failed(&mut self) {
        self.errors += 1;
    }

    /// Closes every interval that is over at this time, counted from the beginning.
    pub fn pass(&mut self, now: Duration) {
        while now >= self.begun + INTERVAL && (self.done.len() as u64) + 1 < self.planned {
            self.close(self.begun + INTERVAL);
        }
    }

    /// Closes the last one.
    pub fn end(&mut self, now: Duration) {
        self.pass(now);
        self.close(now);
    }

    /// Those that are over.
    #[must_use]
    pub fn done(&self) -> &[Interval] {
        &self.done
    }

    /// The histograms in the interval log's format, if they were kept.
    #[must_use]
    pub fn log(&self) -> Option<&str> {
        self.log.as_ref().map(|log| log.text.as_str())
    }

    fn close(&mut self, end: Duration) {
        let lasted = end.saturating_sub(self.begun);
        if let Some(log) = &mut self.log {
            log.add("acquire", &self.acquire, self.begun, lasted);
            log.add("release", &self.release, self.begun, lasted);
        }
        self.done.push(Interval {
            at_s: self.begun.as_secs_f64(),
            for_s: lasted.as_secs_f64(),
            cycles: self.cycles,
            errors: self.errors,
            acquire_us: summary(&self.acquire),
        });
        self.acquire.reset();
        self.release.reset();
        self.cycles = 0;
        self.errors = 0;
        self.begun = end;
    }
}

/// An interval log, as the tools of HdrHistogram read it.
struct HdrLog {
    text: String,
}

impl HdrLog {
    fn new(at: SystemTime) -> HdrLog {
        let mut log = HdrLog {
            text: String::new(),
        };
        let mut header = IntervalLogWriterBuilder::new();
        header
            .add_comment("[Histogram log format version 1.3]")
            .add_comment("[Values and Interval_Max: nanoseconds]")
            .with_start_time(at)
            .with_base_time(at);
        log.write(|lines| {
            let mut serializer = V2DeflateSerializer::new();
            let begun = header.begin_log_with(lines, &mut serializer);
            begun.is_ok()
        });
        log
    }

    fn add(&mut self, tag: &str, histogram: &Histogram<u64>, at: Duration, lasted: Duration) {
        self.write(|lines| {
            let mut serializer = V2DeflateSerializer::new();
            let line = IntervalLogWriterBuilder::new();
            let writer = line.begin_log_with(lines, &mut serializer);
            writer.is_ok_and(|mut writer| {
                let tag = Tag::new(tag);
                writer.write_histogram(histogram, at, lasted, tag).is_ok()
            })
        });
    }

    /// Writing to memory does not fail, and a histogram of ours fits the format.
    fn write(&mut self, lines: impl FnOnce(&mut Vec<u8>) -> bool) {
        let mut buffer = Vec::new();
        assert!(lines(&mut buffer), "a histogram could not be written");
        self.text.push_str(&String::from_utf8_lossy(&buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    const MS: u64 = 1_000_000;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// When each interval began, how long it lasted, milliseconds, and its cycles.
    fn spans(intervals: &Intervals) -> Vec<(u64, u64, u64)> {
        let ms = |seconds: f64| (seconds * 1e3).round() as u64;
        let done = intervals.done().iter();
        done.map(|one| (ms(one.at_s), ms(one.for_s), one.cycles))
            .collect()
    }

    #[test]
    fn a_second_without_anything_is_an_interval_too() {
        let mut intervals = Intervals::new(ms(3000));
        intervals.pass(ms(10));
        intervals.released(MS);
        intervals.pass(ms(2100));
        intervals.released(MS);
        intervals.failed();
        intervals.end(ms(3001));
        assert_eq!(
            spans(&intervals),
            [(0, 1000, 1), (1000, 1000, 0), (2000, 1001, 1)]
        );
        assert_eq!(intervals.done()[1].acquire_us, Latency::default());
        assert_eq!(intervals.done()[2].errors, 1);
    }

    #[test]
    fn the_last_interval_takes_what_is_left() {
        let of = |planned, end| {
            let mut intervals = Intervals::new(ms(planned));
            intervals.end(ms(end));
            spans(&intervals)
        };
        assert_eq!(of(300, 301), [(0, 301, 0)]);
        assert_eq!(of(1300, 1301), [(0, 1301, 0)]);
        assert_eq!(of(1700, 1701), [(0, 1000, 0), (1000, 701, 0)]);
        assert_eq!(of(1000, 4000), [(0, 4000, 0)]);
    }

    #[test]
    fn the_kept_histograms_are_read_back_as_they_were() {
        let mut intervals = Intervals::new(ms(2000));
        intervals.keep_histograms(SystemTime::UNIX_EPOCH + Duration::from_secs(7));
        intervals.granted(5 * MS);
        intervals.released(MS);
        intervals.pass(ms(1000));
        intervals.granted(9 * MS);
        intervals.end(ms(2000));
        let log = intervals.log().unwrap();
        let mut read = Vec::new();
        for entry in IntervalLogIterator::new(log.as_bytes()) {
            match entry.unwrap() {
                LogEntry::StartTime(at) => assert_eq!(at, Duration::from_secs(7)),
                LogEntry::BaseTime(at) => assert_eq!(at, Duration::from_secs(7)),
                LogEntry::Interval(interval) => read.push((
                    interval.tag().unwrap().as_str().to_owned(),
                    interval.start_timestamp(),
                    histogram(interval.encoded_histogram()),
                )),
            }
        }
        let tags: Vec<_> = read
            .iter()
            .map(|(tag, at, _)| (tag.as_str(), *at))
            .collect();
        let (first, second) = (Duration::ZERO, Duration::from_secs(1));
        assert_eq!(
            tags,
            [
                ("acquire", first),
                ("release", first),
                ("acquire", second),
                ("release", second)
            ]
        );
        assert_eq!((read[0].2.len(), read[0].2.max() / MS), (1, 5));
        assert_eq!((read[1].2.len(), read[1].2.max() / MS), (1, 1));
        assert_eq!((read[2].2.len(), read[2].2.max() / MS), (1, 9));
        assert!(read[3].2.is_empty());
    }

    fn histogram(encoded: &str) -> Histogram<u64> {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(encoded)
            .unwrap();
        Deserializer::new().deserialize(&mut &bytes[..]).unwrap()
    }
}
