//! 10: a request takes effect once, however often it is sent: its answer stays the first one.

use std::collections::BTreeMap;

use lockd_protocol::client::Outcome;
use lockd_protocol::{Nonce, Sequence, SessionId};

use super::{Verdict, must};

pub(crate) const NAME: &str = "10 a retried request takes effect once";

#[derive(Debug, Default)]
pub(crate) struct TakesEffectOnce {
    answers: BTreeMap<(SessionId, Sequence), Outcome>,
    opened: BTreeMap<Nonce, SessionId>,
    pub(crate) checked: u64,
    /// Answers that were given again.
    pub(crate) repeated: u64,
}

impl TakesEffectOnce {
    /// `lives`: the session that was opened under this nonce before has not ended.
    pub(crate) fn on_opened(
        &mut self,
        nonce: Nonce,
        session: SessionId,
        lives: impl Fn(SessionId) -> bool,
    ) -> Verdict {
        self.checked += 1;
        let before = self.opened.insert(nonce, session);
        let other = before.filter(|before| *before != session && lives(*before));
        must(other.is_none(), NAME, || {
            format!("{nonce:?} has opened {other:?} and {session}")
        })
    }

    pub(crate) fn on_replied(
        &mut self,
        session: SessionId,
        sequence: Sequence,
        outcome: &Outcome,
    ) -> Verdict {
        let Some(first) = self.answers.get(&(session, sequence)) else {
            self.answers.insert((session, sequence), outcome.clone());
            return Ok(());
        };
        self.checked += 1;
        self.repeated += 1;
        let same = match (first, outcome) {
            // A wait ends; what was granted is given up; who has the answer needs no other.
            (Outcome::Queued { .. } | Outcome::Refused(_), _) | (_, Outcome::Over) => true,
            (first, now) => first == now,
        };
        must(same, NAME, || {
            format!("request {sequence:?} of {session} came to {first:?}, and again to {outcome:?}")
        })?;
        if !matches!(outcome, Outcome::Over) {
            self.answers.insert((session, sequence), outcome.clone());
        }
        Ok(())
    }
}
