//! 8: a client's own deadline ends before anyone else is granted the lock, at the same instant of
//! true time. A break "at once" forfeits that for the grant it ends.

use std::collections::BTreeSet;

use lockd_protocol::{LockName, SessionId, Token};

use super::{Verdict, must};
use crate::sim::ledger::Ledger;

pub(crate) const NAME: &str = "8 a client's deadline ends before anyone else is granted";

/// What a client believes that it holds just now.
#[derive(Clone, Debug)]
pub(crate) struct Believed {
    pub(crate) client: u64,
    pub(crate) session: SessionId,
    pub(crate) lock: LockName,
    pub(crate) token: Token,
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
        let holder = books.holder(&believed.lock);
        let other = holder.filter(|token| *token != believed.token);
        must(other.is_none(), NAME, || {
            let Believed {
                client,
                session,
                lock,
                token,
            } = believed;
            format!(
                "client {client} (session {session}) believes that it holds {lock} under {token}, \
                 while it is granted under {other:?}"
            )
        })
    }
}
