//! The simulated network: every directed link by itself delays, loses, repeats and is cut.

use crate::sim::coverage::Coverage;
use crate::sim::dice::Dice;
use crate::sim::fault::Fault;
use crate::sim::plan::Plan;

/// Most nodes that a run may ever have, those that came later included.
pub(super) const NODES_MAX: usize = 24;

/// Delay of a healthy link, microseconds.
const HEALTHY_DELAY_MICROS: u64 = 200;

#[derive(Clone, Copy, Default)]
struct Link {
    cut_until: u64,
    /// If not 0: within `cut_until` the link is cut in every other period of this length.
    flapping_micros: u64,
    /// What is sent before this arrives after it.
    congested_until: u64,
    /// When the last message of the link arrives; on an ordered link none overtakes it.
    last_arrival: u64,
    /// Cut for good, by a scenario.
    severed: bool,
}

pub(super) struct Network {
    links: Vec<Link>,
    healed: bool,
}

/// When copies of a message arrive: none, one or two.
#[derive(Clone, Copy, Default)]
pub(super) struct Arrivals {
    times: [u64; 2],
    count: usize,
}

impl Arrivals {
    pub(super) fn times(&self) -> &[u64] {
        &self.times[..self.count]
    }

    fn add(&mut self, at: u64) {
        self.times[self.count] = at;
        self.count += 1;
    }
}

impl Network {
    pub(super) fn new() -> Network {
        Network {
            links: vec![Link::default(); NODES_MAX * NODES_MAX],
            healed: false,
        }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * NODES_MAX + to]
    }

    pub(super) fn cut(&mut self, from: usize, to: usize, until: u64) {
        let link = self.link(from, to);
        link.cut_until = until.max(link.cut_until);
    }

    pub(super) fn flap(&mut self, from: usize, to: usize, until: u64, period_micros: u64) {
        self.cut(from, to, until);
        self.link(from, to).flapping_micros = period_micros.max(1);
    }

    pub(super) fn congest(&mut self, from: usize, to: usize, until: u64) {
        self.link(from, to).congested_until = until;
    }

    /// Cuts the link, or joins it again, whatever else happens.
    pub(super) fn sever(&mut self, from: usize, to: usize, severed: bool) {
        self.link(from, to).severed = severed;
    }

    pub(super) fn heal(&mut self) {
        for link in &mut self.links {
            link.cut_until = 0;
            link.flapping_micros = 0;
            link.congested_until = 0;
            link.last_arrival = 0;
        }
        self.healed = true;
    }

    pub(super) fn arrivals(
        &mut self,
        dice: &mut Dice,
        plan: &Plan,
        coverage: &mut Coverage,
        now: u64,
        (from, to): (usize, usize),
    ) -> Arrivals {
        let mut arrivals = Arrivals::default();
        let healed = self.healed;
        let link = self.link(from, to);
        if link.severed {
            return arrivals;
        }
        if healed {
            link.last_arrival = link.last_arrival.max(now + HEALTHY_DELAY_MICROS);
            arrivals.add(link.last_arrival);
            return arrivals;
        }
        let flaps = link.flapping_micros;
        let cut = link.cut_until > now && (flaps == 0 || (now / flaps).is_multiple_of(2));
        if cut {
            return arrivals;
        }
        if dice.chance(plan.loss) {
            coverage.fault(Fault::Loss);
            return arrivals;
        }
        let mut copies = 1;
        if dice.chance(plan.duplication) {
            coverage.fault(Fault::Duplication);
            copies = 2;
        }
        for _ in 0..copies {
            let mut delay = plan.delay_micros / 2 + dice.around(plan.delay_micros / 2 + 1);
            if dice.chance(plan.late) {
                coverage.fault(Fault::LateDelivery);
                delay += dice.between(0, plan.late_micros);
            }
            let mut arrival = (now + delay).max(link.congested_until);
            if plan.reordering && arrival < link.last_arrival {
                coverage.fault(Fault::Reordering);
            } else {
                arrival = arrival.max(link.last_arrival);
                link.last_arrival = arrival;
            }
            arrivals.add(arrival);
        }
        arrivals
    }
}
