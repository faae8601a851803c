//! What a seed makes of a run: each draws its own rates of faults, so that together they cover
//! combinations that no fixed mixture would ("swarm testing": Groce et al., ISSTA 2012).

use crate::interface::Timing;
use crate::limits::Bounds;
use crate::sim::dice::Dice;

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    pub(crate) timing: Timing,
    /// Tight ones reach chunked messages, full windows and reads from disk with little work.
    pub(crate) bounds: Bounds,
    /// How long faults go on, microseconds.
    pub(crate) faulty_micros: u64,
    pub(crate) loss: f64,
    pub(crate) duplication: f64,
    /// Messages of one link may overtake each other, and some come very late.
    pub(crate) reordering: bool,
    pub(crate) delay_micros: u64,
    /// Probability of a message to come so late, if there is any reordering.
    pub(crate) late: f64,
    pub(crate) disk_micros: u64,
    /// Mean time from one fault to the next, microseconds.
    pub(crate) fault_every_micros: u64,
    /// How often each kind of fault is chosen, in the order of `faults::KINDS`.
    pub(crate) fault_weights: [u64; 7],
    pub(crate) propose_every_micros: u64,
    pub(crate) proposals_at_once: u64,
    pub(crate) confirm_every_micros: u64,
    pub(crate) payload_bytes: u64,
    /// Probability that a driver takes more inputs before it drains the outputs.
    pub(crate) lazy_drain: f64,
    /// Clocks run faster or slower than true time by at most this, parts per million.
    pub(crate) clock_rate_ppm: u64,
}

impl Plan {
    pub(super) fn draw(dice: &mut Dice, nodes: Option<usize>) -> Plan {
        let sometimes = |dice: &mut Dice, value: f64| if dice.chance(0.5) { value } else { 0.0 };
        let loss = dice.between(0, 300) as f64 / 1000.0;
        let duplication = dice.between(0, 200) as f64 / 1000.0;
        let late = dice.between(0, 100) as f64 / 1000.0;
        let heartbeat_micros = dice.pick(&[5_000, 10_000, 20_000, 50_000]);
        let leader_timeout_micros = heartbeat_micros * dice.between(4, 10);
        Plan {
            nodes: nodes.unwrap_or(dice.pick(&[3, 3, 5])),
            timing: Timing {
                heartbeat_micros,
                leader_timeout_micros,
                round_micros: heartbeat_micros * dice.between(1, 4),
                jitter_micros: heartbeat_micros * dice.between(1, 4),
                disk_timeout_micros: dice.pick(&[200_000, 1_000_000]),
            },
            bounds: draw_bounds(dice),
            faulty_micros: leader_timeout_micros * dice.between(40, 120),
            loss: sometimes(dice, loss),
            duplication: sometimes(dice, duplication),
            reordering: dice.chance(0.5),
            delay_micros: dice.pick(&[50, 200, 1_000, heartbeat_micros / 3]),
            late: sometimes(dice, late),
            disk_micros: dice.pick(&[100, 300, 2_000, heartbeat_micros]),
            fault_every_micros: leader_timeout_micros * dice.between(1, 10) / 2,
            fault_weights: std::array::from_fn(|_| dice.pick(&[0, 1, 1, 4])),
            propose_every_micros: heartbeat_micros / dice.pick(&[1, 3, 10]),
            proposals_at_once: dice.pick(&[1, 1, 5, 20]),
            confirm_every_micros: heartbeat_micros / dice.pick(&[1, 3, 10]),
            payload_bytes: dice.pick(&[0, 20, 200]),
            lazy_drain: sometimes(dice, 0.3),
            clock_rate_ppm: dice.pick(&[0, 100, 10_000]),
        }
    }
}

fn draw_bounds(dice: &mut Dice) -> Bounds {
    if dice.chance(0.4) {
        return Bounds::default();
    }
    Bounds {
        message_entries_bytes: dice.pick(&[100, 300, 2_000]),
        window_slots: dice.pick(&[4, 20, 200]),
        tail_cache_entries: dice.pick(&[0, 10, 100]),
    }
}
