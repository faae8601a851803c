//! What a seed makes of a run: each draws its own rates of faults, so that together they cover
//! combinations that no fixed mixture would ("swarm testing": Groce et al., ISSTA 2012).

use lockd::server::core::compaction::CompactionBounds;
use lockd::server::core::history::HistoryBounds;
use paxos::Timing;
use paxos::limits::{Bounds, MESSAGE_ENTRIES_BYTES_MAX, WINDOW_SLOTS_MAX};
use paxos::sim::Dice;

use super::faults::{KINDS, Kind};

const MS: u64 = 1_000;

/// Everything that a run draws once. Times are in microseconds, probabilities per mille.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) nodes: usize,
    pub(super) users: usize,
    pub(super) gateways: usize,
    /// Tasks of each user, which share its session.
    pub(super) tasks: usize,
    pub(super) locks: u64,
    pub(super) ttl_ms: u64,
    pub(super) timing: Timing,
    /// How long faults go on.
    pub(super) faulty: u64,
    /// Mean time from one fault to the next; 0: none.
    pub(super) fault_every: u64,
    /// How often each kind of fault is chosen, in the order of `faults::KINDS`.
    pub(super) weights: [u64; KINDS.len()],
    /// The leader is cut off each time so much has passed; 0: never.
    pub(super) flap_every: u64,
    pub(super) loss: u64,
    pub(super) duplication: u64,
    pub(super) reordering: bool,
    /// Messages between nodes that come up to three TTLs late.
    pub(super) late: u64,
    /// Frames of a client's stream that hold it up for up to two TTLs.
    pub(super) stream_late: u64,
    pub(super) delay: u64,
    pub(super) disk: u64,
    /// Clocks are off by exactly this much, or by at most so much, parts per million.
    pub(super) rate_ppm: i64,
    pub(super) rate_extreme: bool,
    /// Mean time that a user's task rests, and holds a lock.
    pub(super) rest: u64,
    pub(super) hold: u64,
    /// How often it looks at its guard, then does something else for about this long.
    pub(super) think: u64,
    pub(super) think_long: u64,
    /// Out of a thousand of what a task does.
    pub(super) tickets: u64,
    pub(super) writes: u64,
    pub(super) two_locks: u64,
    /// Of what it acquires: other than one exclusive lock, for an owner, out of turn, with a delay.
    pub(super) kinds: u64,
    pub(super) owned: u64,
    pub(super) barges: u64,
    pub(super) delays: u64,
    pub(super) downgrades: u64,
    pub(super) breaks: u64,
    pub(super) breaks_at_once: u64,
    pub(super) gives_up: u64,
    pub(super) careless: u64,
    pub(super) pipelines: u64,
    pub(super) asks: u64,
    pub(super) closes: u64,
    /// How long a transaction takes; some take much longer.
    pub(super) transaction: u64,
    /// Tight ones reach snapshots, full windows and reads from disk with little work.
    pub(super) bounds: Bounds,
    /// When a node makes a snapshot.
    pub(super) compaction: CompactionBounds,
    /// How long a commit of a gateway stays volatile.
    pub(super) flush: u64,
    /// Watches of each user.
    pub(super) watches: usize,
    /// How often a holder puts something on what it holds, out of a thousand.
    pub(super) notes: u64,
    /// What nodes remember for watches.
    pub(super) history: HistoryBounds,
}

impl Plan {
    pub(super) fn draw(dice: &mut Dice) -> Plan {
        let sometimes = |dice: &mut Dice, most: u64| match dice.below(2) {
            0 => 0,
            _ => dice.below(most) + 1,
        };
        let ttl_ms = dice.pick(&[500, 1_000, 1_000, 2_000, 2_000, 5_000, 10_000]);
        let ttl = ttl_ms * MS;
        let heartbeat_micros = dice.pick(&[50, 50, 100]) * MS;
        let calm = dice.per_mille(60);
        let plan = Plan {
            nodes: dice.pick(&[3, 3, 3, 5]),
            users: dice.between(2, 6) as usize,
            gateways: dice.between(1, 3) as usize,
            tasks: dice.pick(&[1, 1, 2]),
            locks: dice.between(1, 3),
            ttl_ms,
            timing: Timing {
                heartbeat_micros,
                leader_timeout_micros: dice.pick(&[300, 500]) * MS,
                round_micros: 100 * MS,
                jitter_micros: 100 * MS,
                disk_timeout_micros: dice.pick(&[500, 3_000]) * MS,
            },
            faulty: (ttl * 10).clamp(12_000 * MS, 45_000 * MS),
            fault_every: if calm {
                0
            } else {
                dice.pick(&[300, 700, 1_500, 4_000]) * MS
            },
            weights: std::array::from_fn(|_| dice.pick(&[0, 0, 1, 1, 4])),
            flap_every: if dice.per_mille(120) { ttl / 2 } else { 0 },
            loss: sometimes(dice, 100),
            duplication: sometimes(dice, 100),
            reordering: dice.per_mille(500),
            late: sometimes(dice, 20),
            stream_late: sometimes(dice, 15),
            delay: dice.pick(&[200, 500, 2_000, 10_000]),
            disk: dice.pick(&[200, 1_000, 5_000]),
            rate_ppm: dice.pick(&[0, 100, 10_000, 10_000]),
            rate_extreme: dice.per_mille(400),
            rest: dice.pick(&[50, 200, 800]) * MS,
            hold: dice.pick(&[50, 300, ttl_ms]) * MS,
            think: dice.pick(&[1, 10, 50]) * MS,
            think_long: sometimes(dice, 150),
            tickets: dice.pick(&[0, 0, 100]),
            writes: dice.pick(&[300, 700, 1000]),
            two_locks: dice.pick(&[0, 0, 200]),
            kinds: dice.pick(&[0, 300, 700]),
            owned: dice.pick(&[0, 500, 1000]),
            barges: dice.pick(&[0, 0, 100]),
            delays: dice.pick(&[0, 0, 200]),
            downgrades: dice.pick(&[0, 0, 150]),
            breaks: sometimes(dice, 60),
            breaks_at_once: dice.pick(&[0, 300, 1000]),
            gives_up: sometimes(dice, 300),
            careless: sometimes(dice, 500),
            pipelines: sometimes(dice, 500),
            asks: sometimes(dice, 200),
            closes: sometimes(dice, 30),
            transaction: dice.pick(&[1, 5, 40]) * MS,
            bounds: Bounds {
                message_entries_bytes: dice.pick(&[300, 2_000, MESSAGE_ENTRIES_BYTES_MAX]),
                window_slots: dice.pick(&[20, 200, WINDOW_SLOTS_MAX]),
                tail_cache_entries: dice.pick(&[0, 10, 1_000]),
                tail_slots: dice.pick(&[0, 20, 1_000]),
                log_slots: dice.pick(&[20, 100, 10_000]),
            },
            compaction: CompactionBounds {
                entries: dice.pick(&[10, 50, 100_000]),
                bytes: 1 << 20,
            },
            flush: dice.pick(&[1, 50, 600]) * MS,
            watches: 0,
            notes: 0,
            history: HistoryBounds::default(),
        };
        plan.with_character(dice)
    }

    /// In every other run users watch, and put something on what they hold. Drawn apart, so that
    /// the others are what they are without.
    pub(super) fn draw_watches(&mut self, dice: &mut Dice) {
        if dice.below(2) == 0 {
            return;
        }
        self.watches = dice.pick(&[1, 2, 2]);
        self.notes = dice.pick(&[0, 300, 700]);
        self.history.events = dice.pick(&[4, 40, 100_000]);
    }

    /// Some runs are about one thing, which a general mixture would rarely let happen.
    fn with_character(mut self, dice: &mut Dice) -> Plan {
        match dice.below(10) {
            0 => self.about_leases(dice),
            1 => self.about_the_fence(dice),
            2 => self.about_members(dice),
            _ => {}
        }
        self
    }

    /// One leader all the time; clients cut off or asleep, with clocks as wrong as they may be.
    fn about_leases(&mut self, dice: &mut Dice) {
        self.ttl_ms = dice.pick(&[500, 2_000, 10_000, 10_000]);
        self.faulty = (self.ttl() * 8).max(20_000 * MS);
        (self.rate_ppm, self.rate_extreme) = (10_000, true);
        (self.flap_every, self.loss, self.late) = (0, 0, 0);
        (self.delay, self.disk) = (500, dice.pick(&[200, 20_000]));
        self.stream_late = dice.pick(&[0, 30]);
        self.timing.disk_timeout_micros = 3_000 * MS;
        (self.locks, self.closes, self.breaks) = (1, 0, 0);
        self.only_plain_locks();
        (self.rest, self.hold) = (50 * MS, self.ttl() / 8);
        self.fault_every = self.ttl() / 4;
        self.weights = KINDS.map(|kind| match kind {
            Kind::ClientCut => 4,
            Kind::SlowDisk if self.disk > 200 => 4,
            Kind::ClientPause | Kind::ClientSuspend => 1,
            _ => 0,
        });
    }

    fn only_plain_locks(&mut self) {
        (self.kinds, self.owned, self.barges) = (0, 0, 0);
        (self.delays, self.downgrades) = (0, 0);
    }

    /// A database that forgets, and holders that lost their locks and go on.
    fn about_the_fence(&mut self, dice: &mut Dice) {
        self.fault_every = dice.pick(&[300, 700]) * MS;
        (self.flush, self.transaction) = (600 * MS, 5 * MS);
        self.ttl_ms = dice.pick(&[500, 1_000]);
        (self.writes, self.careless, self.locks) = (1000, 800, 1);
        self.only_plain_locks();
        (self.breaks, self.breaks_at_once) = (200, 1000);
        (self.think, self.think_long) = (50 * MS, 300);
        self.weights = KINDS.map(|kind| match kind {
            Kind::DatabaseCrash => 4,
            Kind::ClientPause | Kind::GatewayPause | Kind::GatewayCrash => 1,
            Kind::AdminLinkBreak => 1,
            _ => 0,
        });
    }

    /// Nodes come and go, and those that were away need snapshots.
    fn about_members(&mut self, dice: &mut Dice) {
        self.compaction.entries = dice.pick(&[10, 50]);
        self.fault_every = dice.pick(&[300, 700]) * MS;
        self.flap_every = 0;
        self.loss = self.loss.min(20);
        self.weights = KINDS.map(|kind| match kind {
            Kind::MembershipChange => 8,
            Kind::NodeCrash | Kind::LongNodePause | Kind::ClientCut => 1,
            Kind::DiskDamage | Kind::OneWayCut => 1,
            _ => 0,
        });
    }

    /// The TTL, microseconds.
    pub(super) fn ttl(&self) -> u64 {
        self.ttl_ms * MS
    }
}
