//! 14: answers to questions are linearizable: true at some slot between question and answer.

use std::collections::BTreeMap;

use lockd_protocol::{LockName, Token};

use super::{Verdict, must};

pub(crate) const NAME: &str = "14 reads are linearizable";

/// Who held each lock from which slot on.
#[derive(Debug, Default)]
pub(crate) struct ReadsAreLinearizable {
    holders: BTreeMap<LockName, Vec<(u64, Option<Token>)>>,
    pub(crate) checked: u64,
}

impl ReadsAreLinearizable {
    /// After the entry of a slot.
    pub(crate) fn on_holder(&mut self, slot: u64, lock: &LockName, token: Option<Token>) {
        let history = self.holders.entry(lock.clone()).or_default();
        if history.last().and_then(|(_, token)| *token) != token {
            history.push((slot, token));
        }
    }

    /// Every lock that was ever held.
    pub(crate) fn locks(&self) -> impl Iterator<Item = &LockName> {
        self.holders.keys()
    }

    fn at(&self, lock: &LockName, slot: u64) -> Option<Token> {
        let history = self.holders.get(lock)?;
        let next = history.partition_point(|(at, _)| *at <= slot);
        history.get(next.checked_sub(1)?)?.1
    }

    /// An answer says of some locks who holds them; it was asked when `asked` was the last slot
    /// applied anywhere, and came when `answered` was.
    pub(crate) fn on_answer(
        &mut self,
        answer: &[(LockName, Option<Token>)],
        asked: u64,
        answered: u64,
    ) -> Verdict {
        self.checked += 1;
        let changes = self.holders.values().flatten().map(|(slot, _)| *slot);
        let mut candidates = changes
            .filter(|slot| *slot > asked && *slot <= answered)
            .chain([asked]);
        let fits = |slot| {
            answer
                .iter()
                .all(|(lock, token)| self.at(lock, slot) == *token)
        };
        must(candidates.any(fits), NAME, || {
            format!("{answer:?} was true at no slot from {asked} to {answered}")
        })
    }
}
