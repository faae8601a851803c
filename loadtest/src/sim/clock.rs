//! Clocks that begin anywhere and run slightly wrong. True time is microseconds of the simulation.

/// A clock with an offset and a rate of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// What it showed when true time began, microseconds.
    pub(super) offset: u64,
    /// How much too fast it is, parts per million.
    pub(super) rate_ppm: i64,
}

impl Clock {
    /// What it shows at a true time.
    pub(super) fn local(self, now: u64) -> u64 {
        let drift = now as i64 * self.rate_ppm / 1_000_000;
        self.offset + (now as i64 + drift) as u64
    }

    /// The first true time at which it shows at least `local`.
    pub(super) fn true_time(self, local: u64) -> u64 {
        if local <= self.offset {
            return 0;
        }
        if local > 1 << 62 {
            return u64::MAX;
        }
        let since = i128::from(local - self.offset);
        let rate = i128::from(1_000_000 + self.rate_ppm);
        let mut guess = (since * 1_000_000 / rate) as u64;
        guess = guess.saturating_sub(2);
        while self.local(guess) < local {
            guess += 1;
        }
        guess
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_true_time_of_what_a_clock_shows_is_the_first_at_which_it_shows_that() {
        for rate_ppm in [-10_000, -1, 0, 77, 10_000] {
            let clock = Clock {
                offset: 1_000_000,
                rate_ppm,
            };
            for now in [1, 999, 1_000_000, 123_456_789] {
                let local = clock.local(now);
                let first = clock.true_time(local);
                assert!(first <= now && clock.local(first) >= local);
                assert!(first == 0 || clock.local(first - 1) < local);
            }
        }
    }
}
