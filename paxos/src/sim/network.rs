//! The simulated network: every directed link by itself delays, loses, repeats and is cut.

use std::collections::BTreeMap;

use crate::sim::dice::Dice;
use crate::sim::plan::Plan;
use crate::types::NodeId;

pub(super) struct Network {
    /// Until when a link is cut, by sender and receiver.
    cut_until: BTreeMap<(NodeId, NodeId), u64>,
    /// When the last message of a link arrives; with ordered links none overtakes it.
    last_arrival: BTreeMap<(NodeId, NodeId), u64>,
    healed: bool,
}

/// Delay of a healthy link, microseconds.
const HEALTHY_DELAY_MICROS: u64 = 200;

impl Network {
    pub(super) fn new() -> Network {
        Network {
            cut_until: BTreeMap::new(),
            last_arrival: BTreeMap::new(),
            healed: false,
        }
    }

    pub(super) fn cut(&mut self, from: NodeId, to: NodeId, until: u64) {
        let cut = self.cut_until.entry((from, to)).or_default();
        *cut = until.max(*cut);
    }

    pub(super) fn heal(&mut self) {
        self.cut_until.clear();
        self.healed = true;
    }

    /// When copies of a message arrive: none, one or two.
    pub(super) fn arrivals(
        &mut self,
        dice: &mut Dice,
        plan: &Plan,
        now: u64,
        (from, to): (NodeId, NodeId),
    ) -> Vec<u64> {
        if self.healed {
            return vec![self.ordered((from, to), now + HEALTHY_DELAY_MICROS)];
        }
        let cut = self
            .cut_until
            .get(&(from, to))
            .is_some_and(|until| *until > now);
        if cut || dice.chance(plan.loss) {
            return Vec::new();
        }
        let copies = if dice.chance(plan.duplication) { 2 } else { 1 };
        let mut arrivals = Vec::with_capacity(copies);
        for _ in 0..copies {
            let mut delay = plan.delay_micros / 2 + dice.around(plan.delay_micros / 2 + 1);
            if dice.chance(plan.late) {
                delay += dice.between(0, 100 * plan.delay_micros);
            }
            let arrival = now + delay;
            let in_any_order = plan.reordering;
            arrivals.push(if in_any_order {
                arrival
            } else {
                self.ordered((from, to), arrival)
            });
        }
        arrivals
    }

    fn ordered(&mut self, link: (NodeId, NodeId), arrival: u64) -> u64 {
        let last = self.last_arrival.entry(link).or_default();
        *last = arrival.max(*last);
        *last
    }
}
