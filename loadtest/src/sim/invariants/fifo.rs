//! 12: nobody overtakes a waiter who wants something incompatible, unless by barging.

use lockd_protocol::{Mode, Sequence};

use super::{Verdict, must};
use crate::sim::ledger::{Grant, Ledger};

pub(crate) const NAME: &str = "12 first in, first out";

#[derive(Debug, Default)]
pub(crate) struct FirstInFirstOut {
    pub(crate) checked: u64,
}

impl FirstInFirstOut {
    pub(crate) fn on_granted(
        &mut self,
        grant: &Grant,
        acquire: Sequence,
        books: &Ledger,
    ) -> Verdict {
        let Some(queue) = books
            .queues
            .get(&grant.lock)
            .filter(|queue| !queue.is_empty())
        else {
            return Ok(());
        };
        self.checked += 1;
        let served = (grant.session, acquire);
        let place = queue
            .iter()
            .position(|waiting| (waiting.session, waiting.acquire) == served);
        let about = books.acquisition(grant.session, acquire);
        let barges = place.is_none() && about.is_some_and(|about| about.barge);
        let mut ahead = queue.iter().take(place.unwrap_or(queue.len()));
        let overtaken =
            ahead.find(|waiting| (waiting.mode, grant.mode) != (Mode::Shared, Mode::Shared));
        must(barges || overtaken.is_none(), NAME, || {
            format!("{grant:?} before {overtaken:?} in {queue:?}")
        })
    }
}
