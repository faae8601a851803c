//! What a seed makes of a run: each draws its own kinds of faults and how strong they are, so that
//! together they cover combinations that no fixed mixture would ("swarm testing": Groce, Zhang,
//! Eide, Chen, Regehr, ISSTA 2012).

use crate::interface::Timing;
use crate::limits::Bounds;
use crate::sim::dice::Dice;
use crate::sim::fault::Fault;

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    pub(crate) timing: Timing,
    /// Tight ones reach chunked messages, full windows and reads from disk with little work.
    pub(crate) bounds: Bounds,
    /// How long faults go on, microseconds.
    pub(crate) faulty_micros: u64,
    /// Mean time from one fault to the next, microseconds.
    pub(crate) fault_every_micros: u64,
    /// How often each kind of fault is chosen, by [`Fault`].
    pub(crate) weights: [u64; Fault::COUNT],
    pub(crate) loss: f64,
    pub(crate) duplication: f64,
    /// Messages of one link may overtake each other.
    pub(crate) reordering: bool,
    pub(crate) delay_micros: u64,
    /// Probability of a message to come very late.
    pub(crate) late: f64,
    /// How late at most, microseconds. Long enough for its receiver to lead anew meanwhile.
    pub(crate) late_micros: u64,
    pub(crate) disk_micros: u64,
    /// Probability that a write which was in flight at a crash is on the disk all the same.
    pub(crate) kept: f64,
    /// Probability that it is torn instead.
    pub(crate) torn: f64,
    /// Probability that a machine loses power when its process ends.
    pub(crate) power_loss: f64,
    pub(crate) propose_every_micros: u64,
    pub(crate) proposals_at_once: u64,
    pub(crate) confirm_every_micros: u64,
    pub(crate) payload_bytes: u64,
    /// Probability that a driver takes more inputs before it drains the outputs.
    pub(crate) lazy_drain: f64,
    /// Not all quorums are majorities.
    pub(crate) flexible_quorums: bool,
    /// A node takes a snapshot after so many slots; never if 0.
    pub(crate) snapshot_every: u64,
    /// Bytes of a snapshot. Large ones are sent in several parts.
    pub(crate) snapshot_bytes: usize,
    /// How often a node reads a part of its disk again, microseconds.
    pub(crate) scrub_every_micros: u64,
    /// Clocks run faster or slower than true time by at most this, parts per million.
    pub(crate) clock_rate_ppm: u64,
}

impl Plan {
    pub(super) fn draw(dice: &mut Dice, nodes: Option<usize>) -> Plan {
        let timing = draw_timing(dice);
        let Timing {
            heartbeat_micros,
            leader_timeout_micros,
            ..
        } = timing;
        let snapshot_bytes = dice.pick(&[8, 8, 500, 150_000]);
        let snapshot_every = match snapshot_bytes {
            // As in a server, none is due while the log is still much shorter than the last one.
            150_000 => dice.pick(&[100, 500]),
            _ => dice.pick(&[0, 20, 100, 100, 500]),
        };
        let delay_micros = dice.pick(&[
            50,
            heartbeat_micros / 100,
            heartbeat_micros / 20,
            heartbeat_micros / 3,
        ]);
        Plan {
            nodes: nodes.unwrap_or_else(|| dice.pick(&[3, 3, 3, 4, 5])),
            timing,
            bounds: draw_bounds(dice),
            faulty_micros: leader_timeout_micros * dice.between(40, 120),
            fault_every_micros: leader_timeout_micros * dice.between(1, 10) / 2,
            weights: draw_weights(dice),
            loss: sometimes(dice, 0, 300),
            duplication: sometimes(dice, 0, 200),
            reordering: dice.chance(0.5),
            delay_micros,
            late: sometimes(dice, 0, 100),
            late_micros: dice.pick(&[100 * delay_micros, 5 * leader_timeout_micros]),
            disk_micros: dice.pick(&[
                100,
                heartbeat_micros / 50,
                heartbeat_micros / 10,
                heartbeat_micros,
            ]),
            kept: dice.pick(&[0.0, 0.3, 0.3, 1.0]),
            torn: sometimes(dice, 300, 700),
            power_loss: dice.pick(&[0.0, 0.5, 1.0]),
            propose_every_micros: heartbeat_micros / dice.pick(&[1, 3, 10]),
            proposals_at_once: dice.pick(&[1, 1, 5, 20]),
            confirm_every_micros: heartbeat_micros / dice.pick(&[1, 3, 10]),
            payload_bytes: dice.pick(&[0, 20, 200]),
            lazy_drain: sometimes(dice, 300, 300),
            flexible_quorums: dice.chance(0.3),
            snapshot_every,
            snapshot_bytes,
            scrub_every_micros: leader_timeout_micros * dice.pick(&[1, 3]),
            clock_rate_ppm: dice.pick(&[0, 100, 10_000]),
        }
    }

    /// A run without faults, the same for every seed but for the jitter.
    pub(super) fn calm(nodes: usize) -> Plan {
        let timing = Timing {
            heartbeat_micros: 20_000,
            leader_timeout_micros: 100_000,
            round_micros: 40_000,
            jitter_micros: 40_000,
            disk_timeout_micros: 200_000,
        };
        Plan {
            nodes,
            timing,
            bounds: Bounds::default(),
            faulty_micros: u64::MAX,
            fault_every_micros: u64::MAX,
            weights: [0; Fault::COUNT],
            loss: 0.0,
            duplication: 0.0,
            reordering: false,
            delay_micros: 500,
            late: 0.0,
            late_micros: 0,
            disk_micros: 1_000,
            kept: 0.0,
            torn: 0.0,
            power_loss: 0.0,
            propose_every_micros: 5_000,
            proposals_at_once: 2,
            confirm_every_micros: 20_000,
            payload_bytes: 20,
            lazy_drain: 0.0,
            flexible_quorums: false,
            snapshot_every: 0,
            snapshot_bytes: 8,
            scrub_every_micros: 10_000_000,
            clock_rate_ppm: 0,
        }
    }
}

/// A probability within these bounds, in thousandths, or none at all.
fn sometimes(dice: &mut Dice, low: u64, high: u64) -> f64 {
    let value = dice.between(low, high) as f64 / 1000.0;
    if dice.chance(0.5) { value } else { 0.0 }
}

/// Which faults happen in this run at all, and how often beside the others.
fn draw_weights(dice: &mut Dice) -> [u64; Fault::COUNT] {
    // Some runs have a few kinds of faults, some have nearly all.
    let share = dice.pick(&[0.1, 0.3, 0.3, 0.8]);
    let mut weights = [0; Fault::COUNT];
    for fault in Fault::ALL.iter().filter(|fault| fault.is_timed()) {
        if dice.chance(share) {
            weights[*fault as usize] = dice.pick(&[1, 2, 8]);
        }
    }
    weights
}

fn draw_timing(dice: &mut Dice) -> Timing {
    // A server's is 50 ms.
    let heartbeat_micros = dice.pick(&[20_000, 50_000, 50_000, 100_000]);
    Timing {
        heartbeat_micros,
        leader_timeout_micros: heartbeat_micros * dice.between(4, 10),
        round_micros: heartbeat_micros * dice.between(1, 4),
        jitter_micros: heartbeat_micros * dice.between(1, 4),
        disk_timeout_micros: dice.pick(&[200_000, 1_000_000]),
    }
}

fn draw_bounds(dice: &mut Dice) -> Bounds {
    // Logs that are never cut would only make restarts slow.
    let tail_slots = dice.pick(&[0, 10, 100, 500]);
    let log_slots = tail_slots + dice.pick(&[0, 20, 1_000]);
    let cut = Bounds {
        tail_slots,
        log_slots,
        ..Bounds::default()
    };
    if dice.chance(0.4) {
        return cut;
    }
    Bounds {
        message_entries_bytes: dice.pick(&[100, 300, 2_000]),
        window_slots: dice.pick(&[4, 20, 200]),
        tail_cache_entries: dice.pick(&[0, 10, 100]),
        ..cut
    }
}
