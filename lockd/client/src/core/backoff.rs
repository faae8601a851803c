//! How long to hold off before the next try. Draws its jitter from a seed given from outside.

use std::time::Duration;

/// Doubling delays between two bounds, each shortened by up to half at random, so that clients
/// which failed together do not come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    shortest: Duration,
    longest: Duration,
    tries: u32,
    random: u64,
}

impl Backoff {
    /// Delays from `shortest` to `longest`.
    #[must_use]
    pub fn new(shortest: Duration, longest: Duration, seed: u64) -> Backoff {
        Backoff {
            shortest,
            longest,
            tries: 0,
            random: seed,
        }
    }

    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        let factor = 1u32 << self.tries.min(16);
        self.tries = self.tries.saturating_add(1);
        let full = self.shortest.saturating_mul(factor).min(self.longest);
        let per_mille = 500 + (self.draw() % 501) as u32;
        full / 1000 * per_mille
    }

    /// Starts again at the shortest delay.
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    /// splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_lose_at_most_half_to_jitter() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(20), ms(500), 7);
        for full in [20, 40, 80, 160, 320, 500, 500, 500] {
            let delay = backoff.next_delay();
            assert!(delay <= ms(full) && delay >= ms(full) / 2, "{delay:?}");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= ms(20));
    }
}
