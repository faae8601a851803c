//! The fence decision core: what tickets may do, and the steps of an admission.
//!
//! Pure: no sockets, no clock, no runtime. Time-outs, the database and the cell are inputs.

pub mod admission;
pub mod order;
pub mod refusal;
pub mod set;

use lockd_protocol::types::Token;

/// What a shown token means against a fence's mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Lower than the mark: a newer holder has been admitted.
    Stale {
        /// The mark.
        needed: Token,
    },
    /// The mark itself: admitted before.
    Current,
    /// Higher than the mark, or the first: the mark has to be raised before anything else.
    Newer,
}

/// Compares a shown token with the highest one admitted so far, if there is one.
#[must_use]
pub fn standing(mark: Option<Token>, shown: Token) -> Standing {
    match mark {
        Some(needed) if shown < needed => Standing::Stale { needed },
        Some(mark) if shown == mark => Standing::Current,
        _ => Standing::Newer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_mark_itself_is_current() {
        assert_eq!(standing(None, Token(1)), Standing::Newer);
        assert_eq!(standing(Some(Token(5)), Token(5)), Standing::Current);
        assert_eq!(standing(Some(Token(5)), Token(6)), Standing::Newer);
        let stale = Standing::Stale { needed: Token(5) };
        assert_eq!(standing(Some(Token(5)), Token(4)), stale);
    }
}
