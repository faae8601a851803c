//! What is counted while a workload runs. Warm-up is not counted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;

use super::interval::{Interval, Intervals};
use super::latency::{self, Latency, Quantile};
use super::report::Fault;
use crate::driver::Trouble;
use crate::machine::{latencies, nanoseconds};
use crate::oracle::{ClientIndex, LockIndex};

/// Kinds of trouble that are told apart; the rest is counted together.
const TROUBLE_KINDS_MAX: usize = 16;

/// A request that begins so much after it was due is late.
pub const LATE: Duration = Duration::from_millis(1);

/// Counts of one run.
pub struct Measure {
    window: Option<Window>,
    acquire: Histogram<u64>,
    release: Histogram<u64>,
    keeps_histograms: bool,
    cycles_per_client: Vec<u64>,
    /// Who was the last to be granted each lock.
    last_holders: Vec<Option<ClientIndex>>,
    handovers: u64,
    schedule: Schedule,
    troubles: BTreeMap<String, u64>,
}

/// The time that counts.
struct Window {
    start: Instant,
    end: Option<Instant>,
    last_grant: Instant,
    longest_gap: Duration,
    /// The longest gap that ended after the mark.
    longest_gap_after_mark: Duration,
    marked: bool,
    intervals: Intervals,
    faults: Vec<Fault>,
}

/// What became of the requests that an open loop had on its schedule.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Requests that became due.
    pub due: u64,
    /// Of these: begun more than [`LATE`] after they were due.
    pub late: u64,
    /// Of these: never begun.
    pub skipped: u64,
    /// From when each was due to when it began, nanoseconds.
    delay: Histogram<u64>,
    /// From when each was due to when the generator noticed, nanoseconds.
    lag: Histogram<u64>,
}

impl Schedule {
    /// From when each request was due to when it began.
    #[must_use]
    pub fn delay(&self) -> Latency {
        latency::summary(&self.delay)
    }

    /// Of that, what the generator itself took to notice.
    #[must_use]
    pub fn lag(&self) -> Latency {
        latency::summary(&self.lag)
    }
}

impl Measure {
    /// Nothing counted yet, for so many clients and locks.
    #[must_use]
    pub fn new(clients: usize, locks: usize) -> Measure {
        Measure {
            window: None,
            acquire: latencies(),
            release: latencies(),
            keeps_histograms: false,
            cycles_per_client: vec![0; clients],
            last_holders: vec![None; locks],
            handovers: 0,
            schedule: Schedule {
                due: 0,
                late: 0,
                skipped: 0,
                delay: latencies(),
                lag: latencies(),
            },
            troubles: BTreeMap::new(),
        }
    }

    /// Has the histograms of each interval kept, too, from [`Measure::begin`] on.
    pub fn keep_histograms(&mut self) {
        self.keeps_histograms = true;
    }

    /// Warm-up is over: what ends from now on counts, for so long if all goes by plan.
    pub fn begin(&mut self, now: Instant, planned: Duration) {
        let mut intervals = Intervals::new(planned);
        if self.keeps_histograms {
            intervals.keep_histograms(SystemTime::now());
        }
        self.window = Some(Window {
            start: now,
            end: None,
            last_grant: now,
            longest_gap: Duration::ZERO,
            longest_gap_after_mark: Duration::ZERO,
            marked: false,
            intervals,
            faults: Vec::new(),
        });
    }

    /// Something was done to the cell: gaps from now on are also told by themselves.
    pub fn mark(&mut self, now: Instant, what: String) {
        if let Some(window) = &mut self.window {
            window.marked = true;
            let at_s = (now - window.start).as_secs_f64();
            window.faults.push(Fault { at_s, what });
        }
    }

    /// What ends from now on does not count any more.
    pub fn end(&mut self, now: Instant) {
        if let Some(window) = &mut self.window {
            window.gap_until(now);
            window.intervals.end(now - window.start);
            window.end = Some(now);
        }
    }

    /// A lock asked for at `asked` was granted.
    pub fn granted(&mut self, asked: Instant, now: Instant) {
        let took = nanoseconds(now.saturating_duration_since(asked));
        if let Some(window) = self.open_window(now) {
            window.gap_until(now);
            window.intervals.granted(took);
            self.acquire.saturating_record(took);
        }
    }

    /// A lock that nobody else may hold at the same time has come to this client.
    pub fn comes_to(&mut self, client: ClientIndex, lock: LockIndex, now: Instant) {
        let last = self.last_holders[lock.0].replace(client);
        if last.is_some_and(|last| last != client) && self.open_window(now).is_some() {
            self.handovers += 1;
        }
    }

    /// A release sent at `sent` was answered, and with it a cycle is complete.
    pub fn released(&mut self, client: ClientIndex, sent: Instant, now: Instant) {
        let took = nanoseconds(now - sent);
        if let Some(window) = self.open_window(now) {
            window.intervals.released(took);
            self.release.saturating_record(took);
            self.cycles_per_client[client.0] += 1;
        }
    }

    /// A request became due at `due`, and the generator noticed now.
    pub fn due(&mut self, due: Instant, now: Instant) {
        if self.open_window(now).is_some() {
            self.schedule.due += 1;
            let lag = nanoseconds(now.saturating_duration_since(due));
            self.schedule.lag.saturating_record(lag);
        }
    }

    /// A request that was due at `due` begins now.
    pub fn begins(&mut self, due: Instant, now: Instant) {
        if self.open_window(now).is_some() {
            let delay = now.saturating_duration_since(due);
            self.schedule.late += u64::from(delay > LATE);
            self.schedule.delay.saturating_record(nanoseconds(delay));
        }
    }

    /// So many requests that were due will not be begun.
    pub fn skipped(&mut self, count: u64, now: Instant) {
        if self.open_window(now).is_some() {
            self.schedule.skipped += count;
        }
    }

    /// An operation failed. Counted at all times: trouble in the warm-up is worth knowing too.
    pub fn trouble(&mut self, trouble: Trouble, now: Instant) {
        if let Some(window) = self.open_window(now) {
            window.intervals.failed();
        }
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

    /// The cycles of each client.
    #[must_use]
    pub fn cycles_of_clients(&self) -> &[u64] {
        &self.cycles_per_client
    }

    /// How often a lock came to another client than it had been with before.
    #[must_use]
    pub fn handovers(&self) -> u64 {
        self.handovers
    }

    /// What became of an open loop's schedule.
    #[must_use]
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// How long was counted.
    #[must_use]
    pub fn duration(&self) -> Duration {
        let end = |window: &Window| window.end.unwrap_or_else(Instant::now);
        let counted = |window: &Window| end(window) - window.start;
        self.window.as_ref().map_or(Duration::ZERO, counted)
    }

    /// The seconds that are over.
    #[must_use]
    pub fn intervals(&self) -> &[Interval] {
        let window = self.window.as_ref();
        window.map_or(&[], |window| window.intervals.done())
    }

    /// The histograms of each interval as an interval log, if they were kept.
    #[must_use]
    pub fn interval_log(&self) -> Option<&str> {
        self.window.as_ref()?.intervals.log()
    }

    /// What was done to the cell.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        let window = self.window.as_ref();
        window.map_or(&[], |window| &window.faults)
    }

    /// The longest time in which no client was granted anything.
    #[must_use]
    pub fn longest_gap(&self) -> Duration {
        let gap = |window: &Window| window.longest_gap;
        self.window.as_ref().map_or(Duration::ZERO, gap)
    }

    /// The same, of the time after the mark.
    #[must_use]
    pub fn longest_gap_after_mark(&self) -> Duration {
        let gap = |window: &Window| window.longest_gap_after_mark;
        self.window.as_ref().map_or(Duration::ZERO, gap)
    }

    /// From asking (in an open loop: from when it was due) to the grant.
    #[must_use]
    pub fn acquire(&self) -> Latency {
        latency::summary(&self.acquire)
    }

    /// All of that distribution.
    #[must_use]
    pub fn acquire_spectrum(&self) -> Vec<Quantile> {
        latency::spectrum(&self.acquire)
    }

    /// From sending the release to its answer.
    #[must_use]
    pub fn release(&self) -> Latency {
        latency::summary(&self.release)
    }

    /// What failed, and how often.
    #[must_use]
    pub fn troubles(&self) -> &BTreeMap<String, u64> {
        &self.troubles
    }

    /// The window, if it is open, with its intervals as far as they are over now.
    fn open_window(&mut self, now: Instant) -> Option<&mut Window> {
        let window = self.window.as_mut().filter(|window| window.end.is_none())?;
        let since = now.saturating_duration_since(window.start);
        window.intervals.pass(since);
        Some(window)
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

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: ClientIndex = ClientIndex(0);
    const OTHER: ClientIndex = ClientIndex(1);
    const LOCK: LockIndex = LockIndex(0);
    const PLANNED: Duration = Duration::from_millis(10);

    #[test]
    fn only_what_ends_in_the_window_counts() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut measure = Measure::new(2, 1);
        measure.granted(at(0), at(1));
        measure.released(CLIENT, at(1), at(2));
        measure.begin(at(10), PLANNED);
        measure.granted(at(9), at(12));
        measure.released(CLIENT, at(12), at(13));
        measure.end(at(20));
        measure.granted(at(19), at(21));
        measure.released(CLIENT, at(21), at(22));
        assert_eq!(measure.cycles(), 1);
        assert_eq!(measure.cycles_of_clients(), [1, 0]);
        assert_eq!(measure.duration(), PLANNED);
        assert!((2990.0..3010.0).contains(&measure.acquire().max));
        assert!((990.0..1010.0).contains(&measure.release().p50));
        let [interval] = measure.intervals() else {
            panic!("{:?}", measure.intervals());
        };
        assert_eq!(interval.cycles, 1);
        assert_eq!(measure.acquire_spectrum().last().unwrap().share, 1.0);
    }

    #[test]
    fn the_longest_gap_includes_both_ends_of_the_window() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let gap = |grants: &[u64]| {
            let mut measure = Measure::new(1, 1);
            measure.begin(at(0), PLANNED);
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
        let mut measure = Measure::new(1, 1);
        measure.begin(at(0), PLANNED);
        measure.granted(at(60), at(60));
        measure.mark(at(60), "node 1 was killed".to_owned());
        measure.granted(at(90), at(90));
        measure.end(at(100));
        assert_eq!(measure.longest_gap(), Duration::from_millis(60));
        assert_eq!(measure.longest_gap_after_mark(), Duration::from_millis(30));
        let [fault] = measure.faults() else {
            panic!("{:?}", measure.faults());
        };
        assert_eq!(
            (fault.at_s, fault.what.as_str()),
            (0.06, "node 1 was killed")
        );
    }

    #[test]
    fn a_handover_is_a_grant_to_another_client_than_the_last() {
        let now = Instant::now();
        let mut measure = Measure::new(2, 2);
        measure.comes_to(CLIENT, LOCK, now);
        measure.begin(now, PLANNED);
        measure.comes_to(OTHER, LOCK, now);
        measure.comes_to(OTHER, LOCK, now);
        measure.comes_to(OTHER, LockIndex(1), now);
        measure.comes_to(CLIENT, LOCK, now);
        assert_eq!(measure.handovers(), 2);
    }

    #[test]
    fn a_request_is_late_that_begins_long_after_it_was_due() {
        let start = Instant::now();
        let at = |us| start + Duration::from_micros(us);
        let mut measure = Measure::new(1, 1);
        measure.due(at(0), at(0));
        measure.begin(at(10), PLANNED);
        for (due, noticed, begun) in [(20, 30, 30), (40, 50, 1041), (60, 2000, 2000)] {
            measure.due(at(due), at(noticed));
            measure.begins(at(due), at(begun));
        }
        measure.due(at(2100), at(2100));
        measure.skipped(1, at(2100));
        let schedule = measure.schedule();
        assert_eq!((schedule.due, schedule.late, schedule.skipped), (4, 2, 1));
        assert!((1900.0..2000.0).contains(&schedule.delay().max));
        assert!(schedule.lag().p50 < 20.0 && schedule.lag().max > 1900.0);
    }

    #[test]
    fn kinds_of_trouble_are_limited() {
        let now = Instant::now();
        let mut measure = Measure::new(1, 1);
        for kind in 0..1000 {
            measure.trouble(Trouble(format!("kind {kind}")), now);
        }
        assert_eq!(measure.troubles().len(), TROUBLE_KINDS_MAX + 1);
        assert_eq!(measure.troubles().values().sum::<u64>(), 1000);
    }
}
