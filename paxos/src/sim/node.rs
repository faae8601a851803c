//! One simulated node: its clock, its disk, and the driver around its replica.

use crate::interface::Role;
use crate::membership::Membership;
use crate::replica::Replica;
use crate::sim::cluster::Event;
use crate::sim::invariants::confirm::Question;
use crate::sim::machine::Machine;
use crate::sim::shadow::Shadow;
use crate::sim::storage::Storage;
use crate::types::{NodeId, PersistId, Time, WriteBatch};

/// A node, up or down.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) shadow: Shadow,
    pub(super) storage: Storage,
    /// What its store was created with.
    pub(super) founding: Membership,
    pub(super) replica: Option<Replica>,
    /// It never starts again: it was removed, or its disk cannot be trusted.
    pub(super) gone: bool,
    /// Counts starts, so that what was on its way to an earlier life is not delivered to this one.
    pub(super) boot: u32,
    pub(super) clock: Clock,
    pub(super) machine: Machine,
    /// What the replica last said that it is.
    pub(super) role: Role,
    /// It has fetched entries since it last became a candidate.
    pub(super) fetched: bool,
    /// The write given out and not done.
    pub(super) writing: Option<WriteBatch>,
    /// A write that a crash interrupted: it is there, or it is not.
    pub(super) torn: Option<WriteBatch>,
    /// The state of which a snapshot is being written.
    pub(super) snapshotting: Option<Machine>,
    pub(super) questions: Vec<Question>,
    /// It does nothing until then, though time goes on.
    pub(super) paused_until: u64,
    /// While it is paused, what is sent to it is lost.
    pub(super) suspended: bool,
    /// What came while it was paused.
    held: Vec<Event>,
    /// Until then the network keeps some of what is sent to it in `late`.
    pub(super) held_back_until: u64,
    /// What arrives when it leads again.
    pub(super) late: Vec<Event>,
    /// When it comes up in this time, it crashes again at once.
    pub(super) storm_until: u64,
    pub(super) disk_slow_until: u64,
    pub(super) disk_stuck_until: u64,
    /// The next write takes this much longer.
    pub(super) disk_spike_micros: u64,
    /// When the timer that is set goes off, true time.
    pub(super) timer: u64,
}

/// A clock with an offset and a rate of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// At this true time it showed `shown`.
    pub(super) since: u64,
    pub(super) shown: u64,
    pub(super) rate_ppm: i64,
}

impl Clock {
    pub(super) fn local(self, now: u64) -> Time {
        let passed = (now - self.since) as i64;
        Time(self.shown + (passed + passed / 1000 * self.rate_ppm / 1000) as u64)
    }

    /// A true time at which the clock shows at least `local`, and not much later than the first.
    pub(super) fn true_time(self, local: Time) -> u64 {
        let wanted = local.0.saturating_sub(self.shown) as i64;
        let rate = 1_000_000 + self.rate_ppm;
        let passed = wanted / rate * 1_000_000 + wanted % rate * 1_000_000 / rate;
        let rounding = 2 + self.rate_ppm.unsigned_abs() / 1000;
        self.since + passed as u64 + rounding
    }

    /// From now on it runs at another rate.
    pub(super) fn set_rate(&mut self, now: u64, rate_ppm: i64) {
        *self = Clock {
            since: now,
            shown: self.local(now).0,
            rate_ppm,
        };
    }
}

impl Node {
    pub(super) fn new(id: NodeId, shadow: Shadow, storage: Storage, clock: Clock) -> Node {
        Node {
            id,
            machine: Machine::new(shadow.membership().clone()),
            founding: shadow.membership().clone(),
            shadow,
            storage,
            replica: None,
            gone: false,
            boot: 0,
            clock,
            role: Role::Follower { leader: None },
            fetched: false,
            writing: None,
            torn: None,
            snapshotting: None,
            questions: Vec::new(),
            paused_until: 0,
            suspended: false,
            held: Vec::new(),
            held_back_until: 0,
            late: Vec::new(),
            storm_until: 0,
            disk_slow_until: 0,
            disk_stuck_until: 0,
            disk_spike_micros: 0,
            timer: u64::MAX,
        }
    }

    /// Loses everything but the disk. Whether the write in flight is on it is up to the caller.
    pub(super) fn crash(&mut self) -> Option<WriteBatch> {
        self.replica = None;
        self.snapshotting = None;
        self.role = Role::Follower { leader: None };
        // What waits in the sockets of a process is lost with it.
        self.wake();
        self.timer = u64::MAX;
        self.writing.take()
    }

    /// Keeps what came for a paused node.
    pub(super) fn hold(&mut self, event: Event) {
        if !(self.suspended && matches!(event, Event::Deliver { .. })) {
            self.held.push(event);
        }
    }

    /// The node goes on: what came meanwhile.
    pub(super) fn wake(&mut self) -> Vec<Event> {
        self.paused_until = 0;
        self.suspended = false;
        std::mem::take(&mut self.held)
    }

    pub(super) fn is_up(&self, boot: u32) -> bool {
        self.replica.is_some() && self.boot == boot
    }

    pub(super) fn leads(&self) -> bool {
        matches!(self.role, Role::Leader { .. })
    }

    pub(super) fn is_writing(&self, id: PersistId) -> bool {
        self.writing.as_ref().is_some_and(|batch| batch.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_never_goes_off_before_its_clock_shows_the_time() {
        for rate_ppm in [-50_000, -10_000, -100, -1, 0, 1, 100, 10_000, 50_000] {
            let clock = Clock {
                since: 17,
                shown: 1 << 40,
                rate_ppm,
            };
            for passed in [0, 1, 999, 1_000, 123_456, 99_999_999, 5_000_000_000] {
                let local = Time(clock.shown + passed);
                let at = clock.true_time(local);
                assert!(clock.local(at) >= local, "{rate_ppm} {passed}");
                let early = at.saturating_sub(2_500 + passed / 10_000).max(17);
                assert!(clock.local(early) <= local, "{rate_ppm} {passed}");
            }
        }
    }
}
