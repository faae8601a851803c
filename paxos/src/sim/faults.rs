//! Which faults happen when. How they act is the business of the network, the nodes and the disks.

use crate::sim::cluster::{Cluster, Event};
use crate::sim::fault::Fault;
use crate::sim::invariants::Violation;

/// A clock's rate may be off by this much for a while, parts per million.
const RATE_PPM_MAX: i64 = 50_000;

impl Cluster {
    pub(super) fn schedule_fault(&mut self) {
        let delay = self.dice.around(self.plan.fault_every_micros);
        self.schedule(self.now + delay, Event::Fault);
    }

    pub(super) fn inject_fault(&mut self) -> Result<(), Violation> {
        let Some(fault) = self.draw_fault() else {
            return Ok(());
        };
        // Leaders are worth most.
        let leader = self.draw_leader().filter(|_| self.dice.chance(0.7));
        let node = leader.unwrap_or_else(|| self.dice.index(self.nodes.len()));
        let timeout = self.plan.timing.leader_timeout_micros;
        let lasts = self.dice.around(timeout * 3 / 2);
        self.report.faults += 1;
        let id = self.nodes[node].id;
        self.story.landmark(self.now, || {
            format!("{fault:?} at node {id} for {lasts} us")
        });
        self.cause(fault, node, lasts)
    }

    fn cause(&mut self, fault: Fault, node: usize, lasts: u64) -> Result<(), Violation> {
        let until = self.now + lasts;
        let timeout = self.plan.timing.leader_timeout_micros;
        if fault.is_of_disks() || fault.is_of_membership() {
            return self.cause_if_allowed(fault, node, until);
        }
        self.report.coverage.fault(fault);
        match fault {
            Fault::Crash => return self.crash(node, until),
            Fault::CrashOfSeveral | Fault::CrashOfAll => {
                let share = if fault == Fault::CrashOfAll { 1.0 } else { 0.6 };
                return self.crash_some(share, until);
            }
            Fault::RestartStorm => {
                self.nodes[node].storm_until = until + timeout;
                return self.crash(node, self.now + lasts / 8);
            }
            Fault::Pause => self.pause(node, until),
            Fault::LongPause => self.pause(node, until + timeout * 5),
            Fault::Suspend => self.suspend(node, until),
            Fault::FastClock | Fault::SlowClock => self.bend_clock(fault, node),
            Fault::OneWayCut => self.cut_some_links(node, until),
            Fault::Isolate => self.separate(until, |from, to| (from == node) != (to == node)),
            Fault::LonelyLeader => {
                // Long enough for the others to decide as much, and to cut their logs.
                let until = until + timeout * 2;
                self.separate(until, |from, to| (from == node) != (to == node));
                return self.propose_a_window(node);
            }
            Fault::Partition => {
                let sides = self.draw_sides();
                self.separate(until, |from, to| sides[from] != sides[to]);
            }
            Fault::Bridge => {
                let sides = self.draw_sides();
                let apart = |from: usize, to: usize| sides[from] != sides[to];
                self.separate(until, |from, to| {
                    apart(from, to) && from != node && to != node
                });
            }
            Fault::FlappingLink => {
                let peer = self.dice.index(self.nodes.len());
                let period = self.dice.between(timeout / 10, timeout * 2);
                self.network.flap(node, peer, until + 4 * timeout, period);
                if self.dice.chance(0.5) {
                    self.network.flap(peer, node, until + 4 * timeout, period);
                }
            }
            Fault::HeldBack => {
                self.nodes[node].held_back_until = until;
                // Also over a restart, which forgets what was sent and not durable.
                if self.dice.chance(0.5) {
                    let up_again = until + self.plan.timing.heartbeat_micros;
                    return self.crash(node, up_again);
                }
            }
            Fault::Congestion => {
                for peer in 0..self.nodes.len() {
                    self.network.congest(node, peer, until);
                    self.network.congest(peer, node, until);
                }
            }
            Fault::SlowDisk => self.nodes[node].disk_slow_until = until,
            Fault::StuckDisk => self.nodes[node].disk_stuck_until = until,
            Fault::LeaderDiskSpike => self.nodes[node].disk_spike_micros = lasts,
            Fault::ProposalBurst => return self.propose_a_window(node),
            Fault::OversizedProposal => return self.propose_too_much(node),
            // Conditions of a whole run: nothing to begin.
            _ => {}
        }
        Ok(())
    }

    /// Faults that need an occasion, or room in the budget.
    fn cause_if_allowed(&mut self, fault: Fault, node: usize, until: u64) -> Result<(), Violation> {
        let done = match fault {
            Fault::ShortWrite | Fault::WriteError | Fault::SyncError | Fault::DiskFull => {
                self.fail_operation(fault, node);
                true
            }
            Fault::InterruptedTransfer => self.interrupt_transfer(until)?,
            Fault::ChangeAsleep => {
                let wanted = self.want_change(Fault::ChangeQuorums, node)?;
                if wanted {
                    self.suspend(node, until);
                }
                wanted
            }
            _ if fault.is_of_membership() => self.want_change(fault, node)?,
            _ => self.damage(fault, node, until)?,
        };
        if done {
            self.report.coverage.fault(fault);
        }
        Ok(())
    }

    /// Ends all faults. Nodes that are down start again.
    pub(super) fn heal(&mut self) -> Result<(), Violation> {
        self.story
            .landmark(self.now, || "all faults end".to_owned());
        self.network.heal();
        for index in 0..self.nodes.len() {
            let node = &mut self.nodes[index];
            node.storm_until = 0;
            node.held_back_until = 0;
            node.disk_slow_until = 0;
            node.disk_stuck_until = 0;
            node.disk_spike_micros = 0;
            node.clock.set_rate(self.now, 0);
            node.storage.files.heal();
            let (waited, hidden) = (node.wake(), node.storage.hidden);
            if hidden {
                // A last time, so that whatever is wrong with the disk shows.
                self.crash(index, self.now)?;
                self.nodes[index].storage.close(true);
            }
            let node = &self.nodes[index];
            if node.replica.is_none() && !node.gone {
                self.start(index)?;
            }
            for event in waited {
                self.happen_at(index, event)?;
            }
            self.drain(index)?;
            if let Some(batch) = &self.nodes[index].writing {
                let (id, boot) = (batch.id, self.nodes[index].boot);
                let written = Event::Written {
                    node: index,
                    boot,
                    id,
                };
                self.schedule(self.now + 1, written);
            }
        }
        Ok(())
    }

    pub(super) fn restart(&mut self, node: usize) -> Result<(), Violation> {
        if self.nodes[node].replica.is_some() || self.nodes[node].gone {
            return Ok(());
        }
        self.start(node)?;
        if self.nodes[node].replica.is_some() && self.nodes[node].storm_until > self.now {
            self.report.coverage.fault(Fault::RestartStorm);
            let until = self.now + self.dice.between(1, self.plan.timing.heartbeat_micros);
            return self.crash(node, until);
        }
        Ok(())
    }

    /// A process goes on. What waits to be read is older than a question asked now.
    pub(super) fn wake(&mut self, node: usize) -> Result<(), Violation> {
        if self.nodes[node].paused_until > self.now {
            return Ok(());
        }
        self.confirm_at(node)?;
        for event in self.nodes[node].wake() {
            self.happen_at(node, event)?;
        }
        Ok(())
    }

    fn propose_a_window(&mut self, node: usize) -> Result<(), Violation> {
        let window = self.plan.bounds.window_slots.min(400);
        self.propose_at(node, window + 10)
    }

    fn crash_some(&mut self, share: f64, until: u64) -> Result<(), Violation> {
        for node in 0..self.nodes.len() {
            if self.dice.chance(share) {
                self.crash(node, until)?;
            }
        }
        Ok(())
    }

    fn pause(&mut self, node: usize, until: u64) {
        self.nodes[node].paused_until = until;
        self.schedule(until, Event::Wake { node });
    }

    /// Longer than it takes the others to elect another leader.
    fn suspend(&mut self, node: usize, until: u64) {
        self.nodes[node].suspended = true;
        let timeout = self.plan.timing.leader_timeout_micros;
        self.pause(node, until + timeout * 3);
    }

    fn bend_clock(&mut self, fault: Fault, node: usize) {
        let by = self.dice.between(1, RATE_PPM_MAX as u64) as i64;
        let rate_ppm = if fault == Fault::FastClock { by } else { -by };
        let now = self.now;
        self.nodes[node].clock.set_rate(now, rate_ppm);
        self.set_timer(node);
    }

    fn draw_fault(&mut self) -> Option<Fault> {
        let total: u64 = self.plan.weights.iter().sum();
        if total == 0 {
            return None;
        }
        let mut drawn = self.dice.between(1, total);
        for fault in Fault::ALL {
            let weight = self.plan.weights[*fault as usize];
            if drawn <= weight {
                return Some(*fault);
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
                self.network.cut(from, to, until);
            }
        }
    }

    fn draw_sides(&mut self) -> Vec<bool> {
        let count = self.nodes.len();
        (0..count).map(|_| self.dice.chance(0.5)).collect()
    }

    fn separate(&mut self, until: u64, apart: impl Fn(usize, usize) -> bool) {
        for from in 0..self.nodes.len() {
            for to in 0..self.nodes.len() {
                if apart(from, to) {
                    self.network.cut(from, to, until);
                }
            }
        }
    }
}
