//! All chance of a simulation, from one seed.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

pub(super) struct Dice(Pcg64Mcg);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(Pcg64Mcg::seed_from_u64(seed))
    }

    /// Whether something happens that has this probability.
    pub(super) fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.0.random_bool(probability.min(1.0))
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..=high.max(low))
    }

    /// An index below `count`.
    pub(super) fn index(&mut self, count: usize) -> usize {
        self.0.random_range(0..count)
    }

    /// One of several.
    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }

    /// A number around `mean`, often smaller and sometimes much larger.
    pub(super) fn around(&mut self, mean: u64) -> u64 {
        let unit: f64 = self.0.random_range(1e-6..1.0);
        ((-unit.ln() * mean as f64) as u64).max(1)
    }

    /// Any number.
    pub(super) fn any(&mut self) -> u64 {
        self.0.random()
    }
}
