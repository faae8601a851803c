//! How far one follower has come, as its leader knows, and what may be sent to it next.

use std::collections::VecDeque;

use crate::limits::INFLIGHT_MESSAGES_MAX;
use crate::types::{ConfirmNumber, Slot, Time};

/// One follower, seen from its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "model"), derive(Hash))]
pub(crate) struct Progress {
    /// Its log has come under the leader's ballot.
    pub(crate) synced: bool,
    /// Its last slot known to be durable under the leader's ballot.
    pub(crate) persisted: Slot,
    /// The next slot to be sent.
    pub(crate) next: Slot,
    /// While not synced: where the part of the log that is exchanged at once ends, once chosen.
    pub(crate) sync_end: Option<Slot>,
    /// The newest confirm round that it has echoed.
    pub(crate) echoed: ConfirmNumber,
    pub(crate) last_heard: Time,
    /// Something was sent to it since the last heartbeat was due.
    pub(crate) sent_lately: bool,
    mode: Mode,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Mode {
    /// What it has is not known for sure: one message at a time, sent again with every heartbeat.
    Probe { start: Slot, sent: bool },
    /// Messages follow each other without waiting; the last slots of those that are on their way.
    Replicate { inflight: VecDeque<Slot> },
}

impl Progress {
    pub(crate) fn new(next: Slot, now: Time) -> Progress {
        Progress {
            synced: false,
            persisted: Slot::NONE,
            next,
            sync_end: None,
            echoed: ConfirmNumber(0),
            last_heard: now,
            sent_lately: false,
            mode: Mode::Probe {
                start: next,
                sent: false,
            },
        }
    }

    pub(crate) fn may_send(&self) -> bool {
        match &self.mode {
            Mode::Probe { sent, .. } => !sent,
            Mode::Replicate { inflight } => inflight.len() < INFLIGHT_MESSAGES_MAX,
        }
    }

    /// Entries up to `last` were sent.
    pub(crate) fn sent(&mut self, last: Slot) {
        self.next = last.next();
        match &mut self.mode {
            Mode::Probe { sent, .. } => *sent = true,
            Mode::Replicate { inflight } => inflight.push_back(last),
        }
    }

    /// The follower says that it has everything up to `received`, of which `settled` needs no
    /// room on the way any more, and whether it misses something between that and what it got.
    pub(crate) fn heard(&mut self, received: Slot, settled: Slot, gap: bool) {
        match &mut self.mode {
            Mode::Replicate { inflight } => {
                while inflight.front().is_some_and(|last| *last <= settled) {
                    inflight.pop_front();
                }
                if received >= self.next {
                    // It has learnt from others what it was not sent.
                    self.replicate_from(received.next());
                } else if gap && received.next() < self.next {
                    self.probe_from(received.next());
                }
            }
            Mode::Probe { start, .. } => {
                if received.next() >= self.next {
                    self.replicate_from(received.next());
                } else if received.next() != *start && (gap || received >= *start) {
                    // It has lost something since, or taken a part of what was sent.
                    self.probe_from(received.next());
                }
            }
        }
    }

    /// Its log has come under the leader's ballot, and ends at `received`.
    pub(crate) fn came_under(&mut self, received: Slot) {
        self.synced = true;
        self.replicate_from(received.next());
    }

    /// It has all entries and its log is still an older ballot's: it learnt them from others. One
    /// message without entries brings it under the ballot; that may be lost too.
    pub(crate) fn lacks_only_the_ballot(&mut self) {
        self.probe_from(self.next);
    }

    /// Whether a message without entries is worth sending: see `lacks_only_the_ballot`.
    pub(crate) fn lacks_ballot(&self, end: Slot) -> bool {
        let probing = matches!(self.mode, Mode::Probe { start, .. } if start == end.next());
        !self.synced && probing
    }

    /// A heartbeat is due: what a probe sent may be lost, so it is sent again.
    pub(crate) fn retry(&mut self) {
        if let Mode::Probe { start, sent: true } = self.mode {
            self.probe_from(start);
        }
    }

    /// Whether it is being sent what it lacks one message at a time.
    #[cfg(test)]
    pub(crate) fn is_probing(&self) -> bool {
        matches!(self.mode, Mode::Probe { .. })
    }

    fn replicate_from(&mut self, next: Slot) {
        self.next = next;
        self.sync_end = self.sync_end.filter(|end| *end >= next);
        self.mode = Mode::Replicate {
            inflight: VecDeque::new(),
        };
    }

    fn probe_from(&mut self, next: Slot) {
        self.next = next;
        self.sync_end = None;
        self.mode = Mode::Probe {
            start: next,
            sent: false,
        };
    }
}

/// Not how many messages are on their way, since no model has as many slots as there may be; nor
/// what the next heartbeat would leave out, since a checker's heartbeats leave out nothing.
#[cfg(feature = "model")]
impl std::hash::Hash for Progress {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let probing = match self.mode {
            Mode::Probe { start, sent } => Some((start, sent)),
            Mode::Replicate { .. } => None,
        };
        (self.synced, self.persisted, self.next, self.sync_end).hash(state);
        (self.echoed, probing).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicating(next: u64) -> Progress {
        let mut progress = Progress::new(Slot(next), Time(0));
        progress.came_under(Slot(next - 1));
        progress
    }

    #[test]
    fn no_more_messages_than_the_limit_are_on_their_way() {
        let mut progress = replicating(1);
        for last in 1..=INFLIGHT_MESSAGES_MAX as u64 {
            assert!(progress.may_send());
            progress.sent(Slot(last));
        }
        assert!(!progress.may_send());
        progress.heard(Slot(1), Slot(1), false);
        assert!(progress.may_send());
    }

    #[test]
    fn a_gap_is_filled_one_message_at_a_time_until_it_closes() {
        let mut progress = replicating(1);
        progress.sent(Slot(4));
        progress.sent(Slot(8));
        progress.heard(Slot(2), Slot(2), true);
        assert!(progress.is_probing());
        assert_eq!(progress.next, Slot(3));
        progress.sent(Slot(8));
        assert!(!progress.may_send());
        progress.heard(Slot(2), Slot(2), true);
        assert!(
            !progress.may_send(),
            "the answer to an older message says nothing new"
        );
        progress.retry();
        assert!(progress.may_send(), "what was sent may be lost");
        progress.sent(Slot(8));
        progress.heard(Slot(8), Slot(8), false);
        assert!(!progress.is_probing());
    }

    #[test]
    fn a_follower_that_learnt_from_others_is_sent_what_follows() {
        let mut progress = replicating(1);
        progress.sent(Slot(4));
        progress.heard(Slot(9), Slot(2), false);
        assert_eq!(progress.next, Slot(10));
        let mut probing = Progress::new(Slot(5), Time(0));
        probing.heard(Slot(4), Slot(4), false);
        assert!(!probing.is_probing(), "it has all before");
        let mut probing = Progress::new(Slot(5), Time(0));
        probing.heard(Slot(8), Slot(8), false);
        assert_eq!((probing.is_probing(), probing.next), (false, Slot(9)));
    }

    #[test]
    fn an_answer_that_is_no_gap_sends_nothing_again() {
        let mut progress = replicating(1);
        progress.sent(Slot(4));
        progress.heard(Slot(2), Slot(2), false);
        assert_eq!((progress.is_probing(), progress.next), (false, Slot(5)));
        progress.sent(Slot(4));
        progress.heard(Slot(4), Slot(4), true);
        assert!(
            !progress.is_probing(),
            "there is no gap between what it has and what is next"
        );
    }

    #[test]
    fn a_probe_that_was_taken_in_part_goes_on_from_there() {
        let mut progress = Progress::new(Slot(5), Time(0));
        progress.sent(Slot(9));
        progress.heard(Slot(2), Slot(2), false);
        assert_eq!(progress.next, Slot(10), "that was said before it came");
        progress.heard(Slot(6), Slot(6), false);
        assert_eq!((progress.is_probing(), progress.next), (true, Slot(7)));
        assert!(progress.may_send());
        progress.sent(Slot(9));
        progress.retry();
        assert_eq!(progress.next, Slot(7));
    }

    #[test]
    fn the_end_of_an_exchange_is_kept_until_it_is_reached_or_anything_is_lost() {
        let mut progress = Progress::new(Slot(5), Time(0));
        progress.sync_end = Some(Slot(9));
        progress.heard(Slot(4), Slot(4), false);
        assert_eq!(progress.sync_end, Some(Slot(9)));
        progress.heard(Slot(9), Slot(9), false);
        assert_eq!(progress.sync_end, None);
        progress.sync_end = Some(Slot(12));
        progress.sent(Slot(12));
        progress.heard(Slot(3), Slot(3), true);
        assert_eq!(progress.sync_end, None);
    }

    #[test]
    fn a_log_lacks_its_ballot_until_it_came_under_it() {
        let mut progress = Progress::new(Slot(5), Time(0));
        assert!(progress.lacks_ballot(Slot(4)) && !progress.lacks_ballot(Slot(5)));
        progress.came_under(Slot(4));
        assert!(!progress.lacks_ballot(Slot(4)));
        progress.sent(Slot(8));
        progress.heard(Slot(4), Slot(4), true);
        assert!(!progress.lacks_ballot(Slot(4)));
        let mut other = Progress::new(Slot(5), Time(0));
        other.sent(Slot(7));
        other.heard(Slot(7), Slot(7), false);
        other.lacks_only_the_ballot();
        assert!(other.lacks_ballot(Slot(7)) && other.may_send());
    }

    #[test]
    fn a_follower_that_lost_what_it_had_is_probed_from_further_back() {
        let mut progress = replicating(10);
        progress.sent(Slot(12));
        progress.heard(Slot(9), Slot(9), true);
        progress.sent(Slot(12));
        progress.heard(Slot(5), Slot(5), true);
        assert_eq!(progress.next, Slot(6));
        assert!(progress.may_send());
    }
}
