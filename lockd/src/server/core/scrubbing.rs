//! When a node reads its store again, and how fast: its log and its snapshot, which hardly anybody
//! reads otherwise, so that damage is found while the other nodes still have a copy.

use std::time::Duration;

use crate::limits::{SCRUB_AGAIN, SCRUB_BYTES_PER_SECOND, SCRUB_EVERY};

/// How often everything is read, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubRate {
    /// Pause between two passes.
    pub every: Duration,
    /// Bytes in a second; at least 1.
    pub bytes_per_second: u64,
}

impl Default for ScrubRate {
    fn default() -> ScrubRate {
        ScrubRate {
            every: SCRUB_EVERY,
            bytes_per_second: SCRUB_BYTES_PER_SECOND,
        }
    }
}

/// What came of a step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// How much was read, bytes.
    pub bytes: u64,
    /// How many places are damaged.
    pub damaged: u64,
    /// Everything was read once.
    pub complete: bool,
}

/// A pass that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// How much was read, bytes.
    pub bytes: u64,
    /// How many damaged places were found.
    pub damaged: u64,
}

/// The pace of the passes.
#[derive(Clone, Copy, Debug)]
pub struct Pacer {
    rate: ScrubRate,
    pass: Pass,
}

impl Pacer {
    /// At this rate.
    #[must_use]
    pub fn new(rate: ScrubRate) -> Pacer {
        let pass = Pass {
            bytes: 0,
            damaged: 0,
        };
        Pacer { rate, pass }
    }

    /// The pause before the first pass: when a node starts it reads all of its store anyway.
    #[must_use]
    pub fn first_pause(&self) -> Duration {
        self.rate.every
    }

    /// Counts a step. The pause before the next one, and the pass if this completed it.
    pub fn stepped(&mut self, step: Step) -> (Duration, Option<Pass>) {
        self.pass.bytes += step.bytes;
        self.pass.damaged += step.damaged;
        if !step.complete {
            let micros = step.bytes.saturating_mul(1_000_000) / self.rate.bytes_per_second.max(1);
            return (Duration::from_micros(micros), None);
        }
        let pass = self.pass;
        *self = Pacer::new(self.rate);
        let every = self.rate.every;
        let pause = match pass.damaged {
            0 => every,
            _ => every.min(SCRUB_AGAIN),
        };
        (pause, Some(pass))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(bytes: u64, damaged: u64, complete: bool) -> Step {
        Step {
            bytes,
            damaged,
            complete,
        }
    }

    fn pacer() -> Pacer {
        Pacer::new(ScrubRate {
            every: Duration::from_secs(24 * 3600),
            bytes_per_second: 1000,
        })
    }

    #[test]
    fn no_more_is_read_in_a_second_than_is_allowed() {
        let mut pacer = pacer();
        assert_eq!(pacer.first_pause(), Duration::from_secs(24 * 3600));
        let half = (Duration::from_millis(500), None);
        assert_eq!(pacer.stepped(step(500, 0, false)), half);
        let nothing = (Duration::ZERO, None);
        assert_eq!(pacer.stepped(step(0, 1, false)), nothing);
        let (pause, _) = pacer.stepped(step(u64::MAX / 2, 0, false));
        assert!(pause > Duration::from_secs(3600));
    }

    #[test]
    fn a_pass_tells_what_it_found_and_the_next_one_begins_anew() {
        let mut pacer = pacer();
        pacer.stepped(step(700, 1, false));
        let found = Pass {
            bytes: 1000,
            damaged: 1,
        };
        assert_eq!(
            pacer.stepped(step(300, 0, true)),
            (SCRUB_AGAIN, Some(found))
        );
        let clean = Pass {
            bytes: 20,
            damaged: 0,
        };
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(pacer.stepped(step(20, 0, true)), (day, Some(clean)));
    }

    #[test]
    fn damage_never_makes_the_pause_longer() {
        let mut pacer = Pacer::new(ScrubRate {
            every: Duration::from_secs(1),
            bytes_per_second: 1000,
        });
        let (pause, _) = pacer.stepped(step(0, 1, true));
        assert_eq!(pause, Duration::from_secs(1));
    }
}
