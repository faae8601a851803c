//! 7: nothing is granted to a session that has ended.

use super::{Verdict, must};
use crate::sim::ledger::{Grant, Ledger};

pub(crate) const NAME: &str = "7 nothing is granted to an ended session";

#[derive(Debug, Default)]
pub(crate) struct NoGrantAfterTheEnd {
    pub(crate) checked: u64,
}

impl NoGrantAfterTheEnd {
    pub(crate) fn on_granted(&mut self, grant: &Grant, books: &Ledger) -> Verdict {
        self.checked += 1;
        let lives = books.sessions.contains_key(&grant.session);
        must(lives, NAME, || format!("{grant:?}"))
    }
}
