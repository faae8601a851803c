//! 6: at most one exclusive grant of a lock in the replicated state, and it is the one in the
//! books.

use lockd::state::State;
use lockd_protocol::LockName;

use super::{Verdict, must};
use crate::sim::ledger::{Grant, Ledger};

pub(crate) const NAME: &str = "6 at most one exclusive grant";

#[derive(Debug, Default)]
pub(crate) struct OneHolder {
    pub(crate) checked: u64,
}

impl OneHolder {
    pub(crate) fn on_granted(&mut self, grant: &Grant, books: &Ledger) -> Verdict {
        self.checked += 1;
        let holder = books.holder(&grant.lock);
        must(holder.is_none(), NAME, || {
            format!("{grant:?} while {holder:?} has not ended")
        })
    }

    /// After a command that was about this lock.
    pub(crate) fn compare(&mut self, lock: &LockName, state: &State, books: &Ledger) -> Verdict {
        self.checked += 1;
        let held = state
            .describe_lock(lock, 0, 1)
            .map(|detail| detail.summary.token);
        let booked = books.holder(lock);
        must(held == booked, NAME, || {
            format!("{lock} is held under {held:?} in the state, under {booked:?} in the books")
        })
    }
}
