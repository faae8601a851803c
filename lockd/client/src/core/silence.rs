//! Whether a node that owes us something has fallen silent. Sends nothing itself.
//!
//! An idle connection may be silent as long as it likes. But a node that got a frame answers it,
//! or its transport at least acknowledges the packet, within milliseconds; if for half a second
//! nothing at all comes after a frame was sent, the node is dead, stopped or cut off, and waiting
//! for the connection's own timeout would only make a failover longer.

use std::time::Duration;

use super::time::Time;

/// How long a node may owe us any packet at all.
const SILENCE: Duration = Duration::from_millis(500);

/// What was heard of a node since something was sent to it.
#[derive(Debug, Default)]
pub struct Silence {
    /// When the oldest frame was sent that nothing came after, and how many packets had come
    /// from the node by then.
    owed: Option<(Time, u64)>,
}

impl Silence {
    /// Something was sent, when `packets` had come from the node.
    pub fn sent(&mut self, now: Time, packets: u64) {
        self.owed.get_or_insert((now, packets));
    }

    /// The node said something.
    pub fn heard(&mut self) {
        self.owed = None;
    }

    /// When to look next.
    #[must_use]
    pub fn due(&self) -> Time {
        self.owed
            .map_or(Time::MAX, |(since, _)| since.after(SILENCE))
    }

    /// Whether the node has been silent for too long, now that `packets` have come from it.
    pub fn is_too_long(&mut self, now: Time, packets: u64) -> bool {
        if now < self.due() {
            return false;
        }
        match self.owed {
            Some((_, before)) if before == packets => true,
            // It lives: it has our frame, and whatever takes so long is not the network.
            _ => {
                self.owed = None;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_micros(ms * 1000)
    }

    #[test]
    fn a_node_that_owes_nothing_may_be_silent() {
        let mut silence = Silence::default();
        assert_eq!(silence.due(), Time::MAX);
        assert!(!silence.is_too_long(at(99_999), 7));
        silence.sent(at(0), 7);
        silence.heard();
        assert!(!silence.is_too_long(at(99_999), 7));
    }

    #[test]
    fn a_node_from_which_nothing_comes_after_a_frame_was_sent_is_given_up() {
        let mut silence = Silence::default();
        silence.sent(at(0), 7);
        silence.sent(at(400), 7);
        assert!(!silence.is_too_long(at(499), 7));
        assert!(silence.is_too_long(at(500), 7));
    }

    #[test]
    fn a_node_that_acknowledges_but_does_not_answer_yet_is_alive() {
        let mut silence = Silence::default();
        silence.sent(at(0), 7);
        assert!(!silence.is_too_long(at(500), 8));
        assert_eq!(silence.due(), Time::MAX);
    }
}
