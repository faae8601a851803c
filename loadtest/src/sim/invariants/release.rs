//! 11: a release takes effect only for the grant whose token it names.

use lockd_protocol::{LockName, Token};

use super::{Verdict, must};

pub(crate) const NAME: &str = "11 a release takes effect only for its token";

#[derive(Debug, Default)]
pub(crate) struct ReleaseNamesItsToken {
    pub(crate) checked: u64,
}

impl ReleaseNamesItsToken {
    /// A release of `named` found the lock held under `before` and left it under `after`.
    pub(crate) fn on_release(
        &mut self,
        lock: &LockName,
        named: Token,
        before: Option<Token>,
        after: Option<Token>,
    ) -> Verdict {
        self.checked += 1;
        must(before == after || before == Some(named), NAME, || {
            format!("a release of token {named} took {lock} from the grant of {before:?}")
        })
    }
}
