//! 15: once the holder of a token has been admitted, no write under a lower token of the same lock
//! takes effect in the database. The promise that everything serves.

use std::collections::BTreeMap;

use lockd_protocol::{LockName, Token};

use super::{Verdict, must};

pub(crate) const NAME: &str = "15 no stale write takes effect";

#[derive(Debug, Default)]
pub(crate) struct NoStaleWrite {
    admitted: BTreeMap<LockName, Token>,
    pub(crate) checked: u64,
}

impl NoStaleWrite {
    /// A gateway has admitted the holder.
    pub(crate) fn on_admitted(&mut self, lock: &LockName, token: Token) {
        let highest = self.admitted.entry(lock.clone()).or_default();
        *highest = token.max(*highest);
    }

    /// A write has been committed.
    pub(crate) fn on_effect(&mut self, lock: &LockName, token: Token) -> Verdict {
        self.checked += 1;
        let highest = self.admitted.get(lock).copied().unwrap_or_default();
        must(token >= highest, NAME, || {
            format!(
                "a write to the row of {lock} under token {token}, after {highest} was admitted"
            )
        })
    }
}
