//! 11: a release takes effect only for the grants of the acquisition that it names, and only if it
//! names their lowest token.

use lockd_protocol::{Sequence, SessionId, Token};

use super::{Verdict, must};
use crate::sim::ledger::Ledger;

pub(crate) const NAME: &str = "11 a release takes effect only for its token";

#[derive(Debug, Default)]
pub(crate) struct ReleaseNamesItsToken {
    pub(crate) checked: u64,
}

impl ReleaseNamesItsToken {
    /// These grants of the locks that it was about have ended by a release of `named`. The books
    /// still have them.
    pub(crate) fn on_release(
        &mut self,
        (session, acquire): (SessionId, Sequence),
        named: Token,
        ended: &[Token],
        books: &Ledger,
    ) -> Verdict {
        self.checked += 1;
        let its_own = books
            .grants
            .iter()
            .filter(|(_, grant)| grant.session == session && grant.acquires.contains(&acquire));
        let its_own: Vec<Token> = its_own.map(|(token, _)| *token).collect();
        let right = ended.is_empty()
            || its_own.first() == Some(&named) && ended.iter().all(|token| its_own.contains(token));
        must(right, NAME, || {
            format!("a release of token {named} of {its_own:?} ended the grants of {ended:?}")
        })
    }
}
