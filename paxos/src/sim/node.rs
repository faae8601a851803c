//! One simulated node: its clock, its disk, and the driver around its replica.

use crate::interface::Config;
use crate::limits::Bounds;
use crate::planted::Planted;
use crate::replica::Replica;
use crate::sim::disk::Disk;
use crate::sim::invariants::confirm::Question;
use crate::sim::invariants::same_state::StateHash;
use crate::store::LogStore;
use crate::types::{NodeId, PersistId, Slot, Time, WriteBatch};

/// A node, up or down.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) disk: Disk,
    pub(super) replica: Option<Replica>,
    /// Counts starts, so that what was on its way to an earlier life is not delivered to this one.
    pub(super) boot: u64,
    pub(super) clock: Clock,
    pub(super) applied: Slot,
    pub(super) state: StateHash,
    /// The write given out and not done.
    pub(super) writing: Option<WriteBatch>,
    pub(super) questions: Vec<Question>,
    /// It does nothing until then, though time goes on.
    pub(super) paused_until: u64,
    pub(super) disk_slow_until: u64,
    pub(super) disk_stuck_until: u64,
    /// When the timer that is set goes off, true time.
    pub(super) timer: u64,
}

/// A clock with an offset and a rate of its own.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    pub(super) offset: u64,
    pub(super) rate_ppm: i64,
}

impl Clock {
    pub(super) fn local(self, now: u64) -> Time {
        let drift = i128::from(now) * i128::from(self.rate_ppm) / 1_000_000;
        Time((i128::from(self.offset) + i128::from(now) + drift) as u64)
    }

    /// The first true time at which the clock shows at least `local`.
    pub(super) fn true_time(self, local: Time) -> u64 {
        let since = i128::from(local.0) - i128::from(self.offset);
        let rate = 1_000_000 + i128::from(self.rate_ppm);
        u64::try_from((since * 1_000_000).div_euclid(rate) + 1).unwrap_or(0)
    }
}

impl Node {
    pub(super) fn new(id: NodeId, members: Vec<NodeId>, clock: Clock) -> Node {
        Node {
            id,
            disk: Disk::new(members),
            replica: None,
            boot: 0,
            clock,
            applied: Slot::NONE,
            state: StateHash::default(),
            writing: None,
            questions: Vec::new(),
            paused_until: 0,
            disk_slow_until: 0,
            disk_stuck_until: 0,
            timer: u64::MAX,
        }
    }

    /// Starts from what is on disk, as a driver does: replays what is decided, then goes on.
    pub(super) fn start(
        &mut self,
        now: u64,
        config: Config,
        bounds: Bounds,
        planted: Option<Planted>,
    ) {
        let Ok(mut recovered) = self.disk.load();
        if planted == Some(Planted::AcceptWithoutPromise) {
            // Else the replica would notice by itself, and refuse to start.
            recovered.promised = recovered.promised.max(recovered.accepted);
        }
        self.boot += 1;
        self.state = StateHash::default();
        self.applied = recovered.decided;
        for slot in 1..=recovered.decided.0 {
            let entry = self
                .disk
                .entry(Slot(slot))
                .expect("decided entries are on disk");
            self.state.apply(&entry);
        }
        let started = Replica::new(config, recovered, self.clock.local(now));
        let mut replica = started.expect("a disk that was written by a replica is consistent");
        replica.tighten(bounds);
        if let Some(bug) = planted {
            replica.plant(bug);
        }
        self.replica = Some(replica);
    }

    /// Loses everything but the disk. Whether the write in flight is on it is up to the caller.
    pub(super) fn crash(&mut self) -> Option<WriteBatch> {
        self.replica = None;
        self.questions.clear();
        self.paused_until = 0;
        self.timer = u64::MAX;
        self.writing.take()
    }

    pub(super) fn is_writing(&self, id: PersistId) -> bool {
        self.writing.as_ref().is_some_and(|batch| batch.id == id)
    }
}
