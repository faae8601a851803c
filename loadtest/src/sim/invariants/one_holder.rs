//! 6: nobody holds a lock beside somebody whom that excludes: one exclusively, or any number as
//! shared, or as many permits as there are, each once. The replicated state and the books agree. An
//! owner that enters again what it holds gets the same token.

use lockd::state::State;
use lockd_protocol::{LockName, Sequence, Token};

use super::{Verdict, must};
use crate::sim::judge::all_of;
use crate::sim::ledger::{Grant, Ledger};

pub(crate) const NAME: &str = "6 nobody holds what another excludes";

#[derive(Debug, Default)]
pub(crate) struct OneHolder {
    pub(crate) checked: u64,
}

impl OneHolder {
    pub(crate) fn on_granted(&mut self, grant: &Grant, books: &Ledger) -> Verdict {
        self.checked += 1;
        let other = books
            .holders(&grant.lock)
            .find(|(_, other)| !grant.goes_with(other));
        must(other.is_none(), NAME, || {
            format!("{grant:?} while {other:?} has not ended")
        })
    }

    /// An acquisition got a token that was given out before.
    pub(crate) fn on_entered_again(
        &mut self,
        token: Token,
        acquire: Sequence,
        books: &Ledger,
    ) -> Verdict {
        self.checked += 1;
        let Some(grant) = books.grants.get(&token) else {
            return must(false, NAME, || format!("token {token} is held by nobody"));
        };
        let about = books.acquisition(grant.session, acquire);
        let owner = about.and_then(|about| about.owner.as_ref());
        let first = books.acquisition(grant.session, grant.acquires[0]);
        let same = first.and_then(|first| first.owner.as_ref());
        let same_name = owner.map(|owner| &owner.name) == same.map(|owner| &owner.name);
        let limit = owner.map_or(0, |owner| owner.reentries as usize);
        must(same_name && grant.acquires.len() < limit, NAME, || {
            format!("{owner:?} enters {grant:?} again")
        })
    }

    /// After a command that was about this lock.
    pub(crate) fn compare(&mut self, lock: &LockName, state: &State, books: &Ledger) -> Verdict {
        self.checked += 1;
        let detail = all_of(state, lock);
        let holders = detail.iter().flat_map(|detail| &detail.holders);
        let held: Vec<Token> = holders.map(|holder| holder.token).collect();
        let booked: Vec<Token> = books.holders(lock).map(|(token, _)| token).collect();
        must(held == booked, NAME, || {
            format!("{lock} is held under {held:?} in the state, under {booked:?} in the books")
        })
    }
}
