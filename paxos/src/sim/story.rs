//! What is told of a run: a hash of every step always, and in words if somebody listens.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// How many of the last ordinary steps are told; the landmarks are told all.
const STEPS_TOLD: usize = 300;

/// What is told of a run. Shared with the caller, so that it survives a panic of the run.
#[derive(Clone, Debug)]
pub struct Story(Option<Rc<RefCell<Lines>>>);

#[derive(Debug, Default)]
struct Lines {
    number: u64,
    landmarks: Vec<(u64, String)>,
    steps: VecDeque<(u64, String)>,
}

impl Story {
    /// Nobody listens.
    #[must_use]
    pub fn silent() -> Story {
        Story(None)
    }

    /// To be told.
    #[must_use]
    pub fn told() -> Story {
        Story(Some(Rc::default()))
    }

    /// Tells an ordinary step, at this time in microseconds.
    pub fn step(&self, now: u64, line: impl FnOnce() -> String) {
        self.add(now, line, false);
    }

    /// Tells something that explains what follows: a fault, a change of role, a grant.
    pub fn landmark(&self, now: u64, line: impl FnOnce() -> String) {
        self.add(now, line, true);
    }

    /// All landmarks and the last steps, in order.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let Some(lines) = &self.0 else {
            return Vec::new();
        };
        let lines = lines.borrow();
        let mut all: Vec<_> = lines.landmarks.iter().chain(&lines.steps).collect();
        all.sort();
        all.into_iter().map(|(_, line)| line.clone()).collect()
    }

    fn add(&self, now: u64, line: impl FnOnce() -> String, landmark: bool) {
        let Some(lines) = &self.0 else { return };
        let mut lines = lines.borrow_mut();
        lines.number += 1;
        let text = format!("{:>12.6} s  {}", now as f64 / 1e6, line());
        let numbered = (lines.number, text);
        if landmark {
            lines.landmarks.push(numbered);
            return;
        }
        lines.steps.push_back(numbered);
        if lines.steps.len() > STEPS_TOLD {
            lines.steps.pop_front();
        }
    }
}

/// A hash over everything that happened, in order.
#[derive(Clone, Copy, Debug)]
pub struct TraceHash(u64);

impl Default for TraceHash {
    fn default() -> TraceHash {
        TraceHash(0xcbf2_9ce4_8422_2325)
    }
}

impl TraceHash {
    /// A number.
    pub fn add(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// Bytes.
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.add(u64::from_le_bytes(word.try_into().unwrap_or_default()));
        }
        for byte in words.remainder() {
            self.add(u64::from(*byte));
        }
    }

    /// The hash so far.
    #[must_use]
    pub fn value(self) -> u64 {
        self.0
    }
}
