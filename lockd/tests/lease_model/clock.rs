//! Clocks: how long a tick is on each of them.
//!
//! Between two ticks nothing takes any time, so a tick need only be as fine as differences are
//! that matter: whether a timer ends before a deadline. There are two ways to let clocks differ.
//!
//! * By *rates*: one tick for all clocks, and in it every node's clock is as fast, and the client's
//!   as slow, as the protocol allows. A node's TTL and grace end exactly with a tick. So drift adds
//!   up for as long as there is any time; a slower node only expires later, a faster client only
//!   gives up earlier.
//! * By *leads*: a long tick for all clocks at once, and short ones, of a hundredth of the TTL, for
//!   each by itself, whose numbers never differ by more than one. So no rate is the same for long.

use lockd::limits::EXPIRY_GRACE;
use lockd_protocol::Millis;
use lockd_protocol::limits::CLOCK_RATE_BOUND_PER_MILLE;

/// TTL of the session.
pub(crate) const TTL: Millis = Millis(10_000);

/// A TTL and the grace after it are this many short ticks and a long one.
const SHORTS: u8 = 3;

const SHORT: u32 = TTL.0 as u32 * 1000 / 100;
const LIFE: u32 = TTL.0 as u32 * 1000 + EXPIRY_GRACE.as_micros() as u32;
const LONG: u32 = LIFE - SHORTS as u32 * SHORT;

/// The client's clock and those of three nodes.
const CLOCKS: usize = 4;

/// How clocks differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// By rates; so many ticks are a TTL and the grace after it.
    Rates { ticks: u8 },
    /// By leads; all nodes have one clock, or each has its own.
    Leads { each: bool },
}

/// A step of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tick {
    /// For all clocks.
    All,
    /// A short one, for these: bit 0 is the client's, the others the nodes'.
    Short { clocks: u8 },
}

/// How far the clocks are apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Clocks {
    /// Short ticks by which each is ahead of the last.
    ahead: [u8; CLOCKS],
    /// Short ticks since the last long one.
    shorts: [u8; CLOCKS],
}

impl Pace {
    /// What may pass now.
    pub(crate) fn offer(self, clocks: &Clocks, offer: &mut impl FnMut(Tick)) {
        offer(Tick::All);
        let groups: &[u8] = match self {
            Pace::Rates { .. } => &[],
            Pace::Leads { each: false } => &[0b0001, 0b1110],
            // The third node never leads: what its clock shows does not matter.
            Pace::Leads { each: true } => &[0b0001, 0b0010, 0b1100],
        };
        for group in groups {
            let first = group.trailing_zeros() as usize;
            if clocks.ahead[first] == 0 && clocks.shorts[first] < SHORTS {
                offer(Tick::Short { clocks: *group });
            }
        }
    }

    /// Microseconds that pass on a clock with this tick.
    pub(crate) fn micros(self, tick: Tick, clock: usize) -> u32 {
        match (self, tick) {
            (Pace::Rates { ticks }, Tick::All) => {
                let fast = LIFE / u32::from(ticks);
                let bound = CLOCK_RATE_BOUND_PER_MILLE;
                let slow = u64::from(fast) * (1000 - bound) / (1000 + bound);
                if clock == 0 { slow as u32 } else { fast }
            }
            (Pace::Leads { .. }, Tick::All) => LONG,
            (_, Tick::Short { clocks }) if clocks & 1 << clock != 0 => SHORT,
            (_, Tick::Short { .. }) => 0,
        }
    }
}

impl Clocks {
    pub(crate) fn pass(&mut self, tick: Tick) {
        match tick {
            Tick::All => self.shorts = [0; CLOCKS],
            Tick::Short { clocks } => {
                for clock in (0..CLOCKS).filter(|clock| clocks & 1 << clock != 0) {
                    self.ahead[clock] += 1;
                    self.shorts[clock] += 1;
                }
                let least = self.ahead.into_iter().min().unwrap_or(0);
                self.ahead.iter_mut().for_each(|ahead| *ahead -= least);
            }
        }
    }
}
