//! The open loop: requests become due by a schedule, whatever became of those before. Whichever
//! client is free takes the one that has waited longest.
//!
//! A closed loop asks less often of a service that is slow, and so leaves out just those requests
//! that would have waited ("coordinated omission"). Here they wait, and their latency counts from
//! when they were due.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tokio::sync::Semaphore;

use super::timer::Timer;
use super::workload::Shared;

/// Most requests that wait for a client; those that become due then are skipped.
pub const WAITING_MAX: usize = 100_000;

/// Most requests that are made due at once, before clients have their turn.
const BURST_MAX: usize = 64;

/// Most requests per second.
const RATE_MAX: f64 = 1e7;

/// How requests are spread over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Spacing {
    /// At random, as those of very many clients who know nothing of each other.
    Poisson,
    /// Evenly.
    Uniform,
}

impl Spacing {
    /// Its name, on the command line too.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Spacing::Poisson => "poisson",
            Spacing::Uniform => "uniform",
        }
    }
}

/// When requests are due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Requests per second, on average.
    pub per_second: f64,
    /// How they are spread.
    pub spacing: Spacing,
}

/// The flags of an open loop.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct RateArgs {
    /// Open loop: requests per second, due by a schedule and taken by whichever client is free
    /// [default: a closed loop, each client asks when it is done].
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate)]
    pub rate: Option<f64>,
    /// How the requests of an open loop are spread over time.
    #[arg(long, value_enum, default_value = "poisson", requires = "rate")]
    pub arrivals: Spacing,
}

impl RateArgs {
    /// The open loop that they ask for; `None`: a closed one.
    #[must_use]
    pub fn rate(&self) -> Option<Rate> {
        self.rate.map(|per_second| Rate {
            per_second,
            spacing: self.arrivals,
        })
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text
        .parse()
        .map_err(|_| "give requests per second, such as 5000".to_owned())?;
    let allowed = rate > 0.0 && rate <= RATE_MAX;
    match allowed {
        true => Ok(rate),
        false => Err(format!(
            "give more than 0 and at most {RATE_MAX} requests per second"
        )),
    }
}

impl Rate {
    /// How long it is from one request to the next. `random` is drawn from [0, 1).
    #[must_use]
    pub fn gap(&self, random: f64) -> Duration {
        let mean = 1.0 / self.per_second;
        let seconds = match self.spacing {
            Spacing::Uniform => mean,
            Spacing::Poisson => -(1.0 - random).ln() * mean,
        };
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

/// Requests that are due and wait for a client.
pub struct Arrivals {
    rate: Rate,
    waiting: RefCell<VecDeque<Instant>>,
    /// As many permits as requests wait. Clients queue here, so that all have their turn.
    ready: Semaphore,
    over: Cell<bool>,
}

impl Arrivals {
    /// None are due yet.
    #[must_use]
    pub fn new(rate: Rate) -> Arrivals {
        Arrivals {
            rate,
            waiting: RefCell::new(VecDeque::new()),
            ready: Semaphore::new(0),
            over: Cell::new(false),
        }
    }

    /// How often they are due.
    #[must_use]
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// When the request was due that the client who asks is to begin now; `None`: there will be no
    /// more.
    pub async fn next(&self) -> Option<Instant> {
        self.ready.acquire().await.ok()?.forget();
        self.waiting.borrow_mut().pop_front()
    }

    /// There will be no more.
    pub fn stop(&self) {
        self.over.set(true);
        self.ready.close();
    }

    /// How many wait for a client.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.waiting.borrow().len() as u64
    }

    /// A request is due; `false`: too many wait already.
    fn add(&self, due: Instant) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let has_room = waiting.len() < WAITING_MAX;
        if has_room {
            waiting.push_back(due);
            self.ready.add_permits(1);
        }
        has_room
    }
}

/// Has requests become due, until they are stopped.
///
/// # Errors
/// If the kernel gives no timer.
pub async fn schedule(arrivals: &Arrivals, shared: &Shared) -> std::io::Result<()> {
    let timer = Timer::new()?;
    let mut due = Instant::now();
    let mut burst = 0;
    while !arrivals.over.get() {
        let Some(next) = due.checked_add(arrivals.rate.gap(rand::random())) else {
            return Ok(());
        };
        due = next;
        let mut now = Instant::now();
        burst += 1;
        if due > now || burst >= BURST_MAX {
            timer.sleep_until(due).await?;
            now = Instant::now();
            burst = 0;
        }
        let mut measure = shared.measure.borrow_mut();
        measure.due(due, now);
        if !arrivals.add(due) {
            measure.skipped(1, now);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: f64, spacing: Spacing) -> Rate {
        Rate {
            per_second,
            spacing,
        }
    }

    #[test]
    fn uniform_requests_are_evenly_spread_and_poisson_ones_on_average() {
        let uniform = rate(2000.0, Spacing::Uniform);
        assert_eq!(uniform.gap(0.0), Duration::from_micros(500));
        assert_eq!(uniform.gap(0.9), Duration::from_micros(500));
        let poisson = rate(2000.0, Spacing::Poisson);
        assert_eq!(poisson.gap(0.0), Duration::ZERO);
        let steps = 100_000;
        let sum: Duration = (0..steps)
            .map(|step| poisson.gap((f64::from(step) + 0.5) / f64::from(steps)))
            .sum();
        let mean = sum.as_secs_f64() / f64::from(steps);
        assert!((mean * 2000.0 - 1.0).abs() < 0.001, "{mean}");
        assert_eq!(rate(1e-300, Spacing::Uniform).gap(0.0), Duration::MAX);
    }

    #[tokio::test]
    async fn the_request_that_waited_longest_is_begun_first_and_too_many_are_skipped() {
        let arrivals = Arrivals::new(rate(1.0, Spacing::Uniform));
        let start = Instant::now();
        let at = |ms: usize| start + Duration::from_millis(ms as u64);
        assert!((0..WAITING_MAX).all(|ms| arrivals.add(at(ms))));
        assert!(!arrivals.add(at(WAITING_MAX)));
        assert_eq!(arrivals.next().await, Some(at(0)));
        assert_eq!(arrivals.next().await, Some(at(1)));
        assert!(arrivals.add(at(WAITING_MAX)));
        assert_eq!(arrivals.waiting(), WAITING_MAX as u64 - 1);
        arrivals.stop();
        assert_eq!(arrivals.next().await, None);
    }

    #[test]
    fn a_rate_that_is_none_is_refused() {
        for text in ["0", "-1", "NaN", "inf", "fast", "1e8"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
        assert_eq!(parse_rate("0.5"), Ok(0.5));
    }
}
