//! 8: a client's own deadline ends before anyone else is granted the lock, at the same instant of
//! true time. A break "at once" forfeits that for the grant it ends.

use std::collections::BTreeSet;

use lockd_protocol::Token;

use super::{Verdict, must};
use crate::sim::ledger::{Grant, Ledger};

pub(crate) const NAME: &str = "8 a client's deadline ends before anyone else is granted";

/// What a client believes that it holds just now.
#[derive(Clone, Debug)]
pub(crate) struct Believed {
    pub(crate) client: u64,
    pub(crate) token: Token,
    /// The grant, as it knows it.
    pub(crate) grant: Grant,
}

#[derive(Debug, Default)]
pub(crate) struct BeliefEnds {
    forfeited: BTreeSet<Token>,
    pub(crate) checked: u64,
}

impl BeliefEnds {
    pub(crate) fn forfeit(&mut self, token: Token) {
        self.forfeited.insert(token);
    }

    /// Somebody believes in this grant.
    pub(crate) fn check(&mut self, believed: &Believed, books: &Ledger) -> Verdict {
        self.checked += 1;
        if self.forfeited.contains(&believed.token) {
            return Ok(());
        }
        // What the cell has downgraded already is believed in for a moment as it was before.
        let grant = books.grants.get(&believed.token).unwrap_or(&believed.grant);
        let mut others = books.holders(&grant.lock);
        let other =
            others.find(|(token, other)| *token != believed.token && !grant.goes_with(other));
        must(other.is_none(), NAME, || {
            let (client, token) = (believed.client, believed.token);
            format!(
                "client {client} believes that it holds {grant:?} under {token}, while {other:?} \
                 is granted"
            )
        })
    }
}
