//! All chance of a simulation, from one seed.

/// A small generator (splitmix64: Steele, Lea, Flood, 2014).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Everything that it will throw follows from the seed.
    #[must_use]
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x9e37_79b9)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 if that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.any() % end.max(1)
    }

    /// An index below `count`.
    pub fn index(&mut self, count: usize) -> usize {
        self.below(count as u64) as usize
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.max(low) - low + 1)
    }

    /// Whether something happens that has this probability. What is impossible throws nothing.
    pub fn chance(&mut self, probability: f64) -> bool {
        let scale = (1_u64 << 53) as f64;
        probability > 0.0 && ((self.any() >> 11) as f64) < probability * scale
    }

    /// Whether something happens that happens so often in a thousand.
    pub fn per_mille(&mut self, probability: u64) -> bool {
        probability > 0 && self.below(1000) < probability
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }

    /// A number around `mean`, often smaller and sometimes much larger (at most 11 times).
    pub fn around(&mut self, mean: u64) -> u64 {
        let unit = (self.below(1 << 16) + 1) as f64 / f64::from(1 << 16);
        ((-unit.ln() * mean as f64) as u64).max(1)
    }
}
