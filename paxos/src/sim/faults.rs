//! Which faults happen when. How they act is the business of the network, the nodes and the disks.

use crate::sim::cluster::{Cluster, Event};
use crate::sim::invariants::Violation;

/// The kinds of faults; their order is that of the weights in a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Crash,
    CrashOfSeveral,
    Pause,
    OneWayCut,
    Partition,
    SlowDisk,
    StuckDisk,
}

pub(super) const KINDS: [Kind; 7] = [
    Kind::Crash,
    Kind::CrashOfSeveral,
    Kind::Pause,
    Kind::OneWayCut,
    Kind::Partition,
    Kind::SlowDisk,
    Kind::StuckDisk,
];

/// Probability that a write which was in flight at a crash is on the disk all the same.
const WRITTEN_ALL_THE_SAME: f64 = 0.3;

impl Cluster {
    pub(super) fn schedule_fault(&mut self) {
        let delay = self.dice.around(self.plan.fault_every_micros);
        self.schedule(self.now + delay, Event::Fault);
    }

    pub(super) fn inject_fault(&mut self) -> Result<(), Violation> {
        let Some(kind) = self.draw_kind() else {
            return Ok(());
        };
        // Leaders are worth most.
        let leader = self.draw_leader().filter(|_| self.dice.chance(0.7));
        let node = leader.unwrap_or_else(|| self.dice.index(self.nodes.len()));
        let lasts = self
            .dice
            .around(self.plan.timing.leader_timeout_micros * 3 / 2);
        let until = self.now + lasts;
        self.report.faults += 1;
        let id = self.nodes[node].id;
        self.story
            .landmark(self.now, || format!("{kind:?} at node {id} for {lasts} us"));
        match kind {
            Kind::Crash => self.crash(node, until)?,
            Kind::CrashOfSeveral => {
                for node in 0..self.nodes.len() {
                    if self.dice.chance(0.7) {
                        self.crash(node, until)?;
                    }
                }
            }
            Kind::Pause => {
                self.nodes[node].paused_until = until;
                self.schedule(until, Event::Wake { node });
            }
            Kind::OneWayCut => self.cut_some_links(node, until),
            Kind::Partition => self.partition(until),
            Kind::SlowDisk => self.nodes[node].disk_slow_until = until,
            Kind::StuckDisk => self.nodes[node].disk_stuck_until = until,
        }
        Ok(())
    }

    /// Ends all faults. Nodes that are down start again.
    pub(super) fn heal(&mut self) -> Result<(), Violation> {
        self.story
            .landmark(self.now, || "all faults end".to_owned());
        self.network.heal();
        for node in 0..self.nodes.len() {
            self.nodes[node].paused_until = 0;
            self.nodes[node].disk_slow_until = 0;
            self.nodes[node].disk_stuck_until = 0;
            if self.nodes[node].replica.is_none() {
                self.start(node)?;
            }
            if let Some(batch) = &self.nodes[node].writing {
                let (id, boot) = (batch.id, self.nodes[node].boot);
                self.schedule(self.now + 1, Event::Written { node, boot, id });
            }
        }
        Ok(())
    }

    fn crash(&mut self, node: usize, until: u64) -> Result<(), Violation> {
        if self.nodes[node].replica.is_none() {
            return Ok(());
        }
        self.report.crashes += 1;
        let id = self.nodes[node].id;
        let in_flight = self.nodes[node].crash();
        let kept = in_flight.is_some() && self.dice.chance(WRITTEN_ALL_THE_SAME);
        if let Some(batch) = in_flight.filter(|_| kept) {
            self.make_durable(node, &batch)?;
        }
        self.story
            .landmark(self.now, || format!("node {id} crashes"));
        self.schedule(until, Event::Restart { node });
        Ok(())
    }

    fn draw_kind(&mut self) -> Option<Kind> {
        let total: u64 = self.plan.fault_weights.iter().sum();
        let mut drawn = self.dice.between(1, total.max(1));
        for (kind, weight) in KINDS.into_iter().zip(self.plan.fault_weights) {
            if drawn <= weight {
                return Some(kind);
            }
            drawn -= weight;
        }
        None
    }

    fn cut_some_links(&mut self, node: usize, until: u64) {
        let outwards = self.dice.chance(0.5);
        for peer in 0..self.nodes.len() {
            if peer != node && self.dice.chance(0.6) {
                let (from, to) = if outwards { (node, peer) } else { (peer, node) };
                self.network
                    .cut(self.nodes[from].id, self.nodes[to].id, until);
            }
        }
    }

    fn partition(&mut self, until: u64) {
        let sides: Vec<bool> = self.nodes.iter().map(|_| self.dice.chance(0.5)).collect();
        for from in 0..self.nodes.len() {
            for to in 0..self.nodes.len() {
                if sides[from] != sides[to] {
                    self.network
                        .cut(self.nodes[from].id, self.nodes[to].id, until);
                }
            }
        }
    }
}
