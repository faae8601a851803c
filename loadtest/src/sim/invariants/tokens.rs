//! 5: tokens strictly rise over all grants of the cell.

use std::collections::BTreeMap;

use lockd_protocol::{Sequence, SessionId, Token};

use super::{Verdict, must};

pub(crate) const NAME: &str = "5 tokens strictly rise";

/// Every token that was given out, and to which acquisition.
#[derive(Debug, Default)]
pub(crate) struct TokensRise {
    given: BTreeMap<Token, (SessionId, Sequence)>,
    pub(crate) checked: u64,
}

impl TokensRise {
    /// Whether this acquisition was granted this token before: a repeated answer is no grant.
    pub(crate) fn is_repeated(&self, token: Token, to: (SessionId, Sequence)) -> bool {
        self.given.get(&token) == Some(&to)
    }

    pub(crate) fn on_granted(&mut self, token: Token, to: (SessionId, Sequence)) -> Verdict {
        self.checked += 1;
        let last = self.given.last_key_value().map(|(token, _)| *token);
        self.given.insert(token, to);
        must(last < Some(token), NAME, || {
            format!("token {token} is granted to {to:?} after token {last:?}")
        })
    }
}
