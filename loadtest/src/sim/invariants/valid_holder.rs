//! 16: no valid holder is refused: who holds its locks when the refusal arrives has held them all
//! the time, because no token is granted twice.

use super::{Verdict, must};
use crate::sim::ledger::Ledger;
use gateway::fence::set::Shown;

pub(crate) const NAME: &str = "16 no valid holder is refused";

#[derive(Debug, Default)]
pub(crate) struct NoValidHolderRefused {
    pub(crate) checked: u64,
}

impl NoValidHolderRefused {
    /// Somebody was refused as stale, or as carrying no ticket, who was admitted under these.
    pub(crate) fn on_refused(&mut self, shown: &[Shown], books: &Ledger, why: &str) -> Verdict {
        self.checked += 1;
        let holds = |shown: &Shown| books.holds(&shown.lock, shown.token);
        let valid = !shown.is_empty() && shown.iter().all(holds);
        must(!valid, NAME, || format!("{shown:?} was refused: {why}"))
    }
}
