//! The network: links between nodes delay, lose, repeat, reorder and are cut, each direction by
//! itself; streams between clients and nodes are in order, but stand still while they are cut.

use std::collections::BTreeMap;

use paxos::sim::Dice;

use super::plan::Plan;

/// Delay of a healthy link, microseconds.
const HEALTHY_DELAY: u64 = 200;

/// One end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Node(usize),
    Client(usize),
}

#[derive(Debug, Default)]
pub(super) struct Network {
    /// From when and until when nothing gets through, by sender and receiver.
    cut: BTreeMap<(End, End), (u64, u64)>,
    /// When the last message of a link arrives.
    last: BTreeMap<(usize, usize), u64>,
    pub(super) healed: bool,
}

impl Network {
    pub(super) fn cut(&mut self, from: End, to: End, until: u64) {
        let cut = self.cut.entry((from, to)).or_default();
        *cut = (0, until.max(cut.1));
    }

    /// A cut that begins later.
    pub(super) fn cut_from(&mut self, from: End, to: End, since: u64, until: u64) {
        self.cut.insert((from, to), (since, until));
    }

    /// Until when a link is cut, if it is.
    pub(super) fn is_cut(&self, now: u64, from: End, to: End) -> Option<u64> {
        let (since, until) = self.cut.get(&(from, to)).copied()?;
        (since <= now && now < until).then_some(until)
    }

    pub(super) fn heal(&mut self) {
        self.cut.clear();
        self.healed = true;
    }

    /// When copies of a message between nodes arrive: at most two.
    pub(super) fn arrivals(
        &mut self,
        dice: &mut Dice,
        plan: &Plan,
        now: u64,
        (from, to): (usize, usize),
    ) -> [Option<u64>; 2] {
        if self.healed {
            return [Some(self.ordered((from, to), now + HEALTHY_DELAY)), None];
        }
        let cut = self.is_cut(now, End::Node(from), End::Node(to)).is_some();
        if cut || dice.per_mille(plan.loss) {
            return [None, None];
        }
        let first = self.arrival(dice, plan, now, (from, to));
        let twice = dice.per_mille(plan.duplication);
        let second = twice.then(|| self.arrival(dice, plan, now, (from, to)));
        [Some(first), second]
    }

    fn arrival(&mut self, dice: &mut Dice, plan: &Plan, now: u64, link: (usize, usize)) -> u64 {
        if dice.per_mille(plan.late) {
            // Later than everything that follows it, and later than any lease.
            return now + dice.between(plan.delay, 3 * plan.ttl());
        }
        let arrival = now + plan.delay / 2 + dice.around(plan.delay / 2);
        match plan.reordering {
            true => arrival,
            false => self.ordered(link, arrival),
        }
    }

    fn ordered(&mut self, link: (usize, usize), arrival: u64) -> u64 {
        let last = self.last.entry(link).or_default();
        *last = arrival.max(*last);
        *last
    }

    /// When what is written to a stream now arrives; `last` is when what was before it does.
    pub(super) fn on_stream(
        &self,
        dice: &mut Dice,
        plan: &Plan,
        now: u64,
        (from, to): (End, End),
        last: u64,
    ) -> u64 {
        if self.healed {
            return last.max(now + HEALTHY_DELAY);
        }
        let mut arrival = now + plan.delay / 2 + dice.around(plan.delay / 2);
        if let Some(until) = self.is_cut(now, from, to) {
            arrival += until - now;
        }
        if dice.per_mille(plan.stream_late) {
            arrival += dice.below(2 * plan.ttl());
        }
        last.max(arrival)
    }
}
