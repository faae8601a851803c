//! 12: waiters of a lock are served in the order in which they came.

use super::{Verdict, must};
use crate::sim::ledger::{Grant, Ledger};

pub(crate) const NAME: &str = "12 first in, first out";

#[derive(Debug, Default)]
pub(crate) struct FirstInFirstOut {
    pub(crate) checked: u64,
}

impl FirstInFirstOut {
    pub(crate) fn on_granted(&mut self, grant: &Grant, books: &Ledger) -> Verdict {
        let queue = books.queues.get(&grant.lock);
        let Some(first) = queue.and_then(|queue| queue.front()) else {
            return Ok(());
        };
        self.checked += 1;
        let served = (grant.session, grant.acquire);
        must(*first == served, NAME, || {
            format!("{grant:?} before {queue:?}")
        })
    }
}
