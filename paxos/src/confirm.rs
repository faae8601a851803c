//! Confirm rounds: proof that a leadership was not deposed when a question came in.
//!
//! Every message of a leader carries the number of its newest round, and followers that have
//! promised nothing higher echo it. A quorum of echoes of round k means that no higher ballot had
//! a quorum of promises when k was sent: the quorums meet.

use crate::limits::INFLIGHT_CONFIRMS_MAX;
use crate::types::ConfirmNumber;

/// The confirm rounds of one leadership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Confirm {
    sent: ConfirmNumber,
    wanted: bool,
    echoed: ConfirmNumber,
    announced: ConfirmNumber,
}

impl Confirm {
    /// The newest round that messages carry.
    pub(crate) fn sent(&self) -> ConfirmNumber {
        self.sent
    }

    /// Asks for one more round; the number it will have. Never a round that was already sent:
    /// its echoes may be older than the question.
    pub(crate) fn ask(&mut self) -> ConfirmNumber {
        self.wanted = true;
        ConfirmNumber(self.sent.0 + 1)
    }

    /// Begins the round that was asked for, if not too many are on their way.
    pub(crate) fn begin(&mut self) -> bool {
        let begins = self.wanted && self.sent.0 - self.echoed.0 < INFLIGHT_CONFIRMS_MAX;
        if begins {
            self.wanted = false;
            self.sent.0 += 1;
        }
        begins
    }

    /// A quorum has echoed this round.
    pub(crate) fn reached(&mut self, round: ConfirmNumber) {
        self.echoed = self.echoed.max(round);
    }

    /// The newest round that a quorum has echoed and that was not announced before.
    pub(crate) fn announce(&mut self) -> Option<ConfirmNumber> {
        let news = self.echoed > self.announced;
        self.announced = self.echoed;
        news.then_some(self.announced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_never_answered_by_a_round_that_was_sent_before_it() {
        let mut confirm = Confirm::default();
        assert_eq!(confirm.ask(), ConfirmNumber(1));
        assert!(confirm.begin());
        assert_eq!(confirm.ask(), ConfirmNumber(2));
        confirm.reached(ConfirmNumber(1));
        assert_eq!(confirm.announce(), Some(ConfirmNumber(1)));
        assert_eq!(confirm.announce(), None);
    }

    #[test]
    fn rounds_on_their_way_are_limited() {
        let mut confirm = Confirm::default();
        for _ in 0..INFLIGHT_CONFIRMS_MAX {
            confirm.ask();
            assert!(confirm.begin());
        }
        confirm.ask();
        assert!(!confirm.begin());
        confirm.reached(ConfirmNumber(1));
        assert!(confirm.begin());
        assert!(!confirm.begin(), "nothing more was asked for");
    }
}
