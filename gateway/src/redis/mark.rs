//! What the fence keeps of a lock: the highest token admitted, the era in which that was known
//! to be whole, and the registrations made under it. One field of the fence's key, as text:
//! `<token> <era>[ <token>=<registration>]...`. Tokens are decimal: a number in a script of the
//! server would lose digits above 2^53. Pure.

use std::fmt::Write;

use lockd_protocol::types::Token;

use crate::fence::admission::Era;
use crate::limits::REGISTRATIONS_PER_LOCK_MAX;

/// A lock's field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The highest token admitted.
    pub(super) token: Token,
    /// The era in which it was.
    pub(super) era: Era,
    /// Who was registered under this token, and in this era.
    pub(super) registered: Vec<Registered>,
}

/// A registration, by the name of its user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registered {
    pub(super) token: Token,
    pub(super) name: String,
}

/// A field that is not a mark.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a mark of the fence is damaged: {0:?}; delete the key, and the lock service is asked")]
pub(super) struct Damaged(String);

/// More registrations than one lock may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{REGISTRATIONS_PER_LOCK_MAX} connections carry tickets of this lock, and no more may")]
pub(super) struct Full;

impl Mark {
    pub(super) fn parse(text: &str) -> Result<Mark, Damaged> {
        let damaged = || Damaged(text.chars().take(100).collect());
        let mut words = text.split(' ');
        let number = |word: Option<&str>| word.and_then(|w| w.parse::<i64>().ok());
        let token = number(words.next()).and_then(|n| u64::try_from(n).ok());
        let (Some(token), Some(era)) = (token, number(words.next())) else {
            return Err(damaged());
        };
        let mut registered = Vec::new();
        for word in words {
            let (token, name) = word.split_once('=').ok_or_else(damaged)?;
            registered.push(Registered {
                token: Token(token.parse().map_err(|_| damaged())?),
                name: name.to_owned(),
            });
            if registered.len() > REGISTRATIONS_PER_LOCK_MAX {
                return Err(damaged());
            }
        }
        Ok(Mark {
            token: Token(token),
            era: Era(era),
            registered,
        })
    }

    /// The mark after this registration has been admitted in this era, and those whose writes
    /// have to be taken away for it. `earlier` is the same connection's last one.
    pub(super) fn admit(
        before: Option<Mark>,
        token: Token,
        era: Era,
        name: &str,
        earlier: Option<&str>,
    ) -> Result<(Mark, Vec<Registered>), Full> {
        // Registrations of another era are gone: whoever began this one has ended them.
        let known = before.filter(|mark| mark.era == era);
        let all = known.map_or_else(Vec::new, |mark| mark.registered);
        let (mut kept, below): (Vec<_>, Vec<_>) = all
            .into_iter()
            .filter(|one| one.name != name && Some(one.name.as_str()) != earlier)
            .partition(|one| one.token == token);
        if kept.len() >= REGISTRATIONS_PER_LOCK_MAX {
            return Err(Full);
        }
        kept.push(Registered {
            token,
            name: name.to_owned(),
        });
        let mark = Mark {
            token,
            era,
            registered: kept,
        };
        Ok((mark, below))
    }

    /// The same without a registration that has ended.
    pub(super) fn without(mut self, name: &str) -> Mark {
        self.registered.retain(|one| one.name != name);
        self
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("{} {}", self.token.0, self.era.0);
        for one in &self.registered {
            // Writing to a string does not fail.
            let _ = write!(text, " {}={}", one.token.0, one.name);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(text: &str) -> Mark {
        Mark::parse(text).unwrap()
    }

    #[test]
    fn a_mark_is_read_as_it_was_written_up_to_the_highest_token() {
        for text in [
            "9007199254740993 7",
            "9223372036854775807 -3 5=fence:app:1:00 9223372036854775807=fence:app:2:ff",
        ] {
            assert_eq!(mark(text).text(), text);
        }
    }

    #[test]
    fn whatever_is_not_a_mark_is_damaged() {
        for text in [
            "", "7", "x 1", "7 x", "-1 1", "7 1 x", "7 1 x=y", "7 1 ", "9e3 1",
        ] {
            assert!(Mark::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_admission_names_the_registrations_below_and_keeps_those_beside() {
        let before = mark("7 1 6=a 7=b 7=mine");
        let (after, below) =
            Mark::admit(Some(before), Token(7), Era(1), "new", Some("mine")).unwrap();
        assert_eq!(after.text(), "7 1 7=b 7=new");
        assert_eq!(below.len(), 1);
        let (after, below) = Mark::admit(Some(after), Token(8), Era(1), "next", None).unwrap();
        assert_eq!(after.text(), "8 1 8=next");
        assert_eq!(below.len(), 2);
    }

    #[test]
    fn registrations_of_another_era_are_gone() {
        let before = mark("7 1 7=b");
        let (after, below) = Mark::admit(Some(before), Token(9), Era(2), "new", None).unwrap();
        assert_eq!((after.text().as_str(), below.len()), ("9 2 9=new", 0));
    }

    #[test]
    fn a_lock_has_no_more_registrations_than_may_be() {
        let mut before = mark("7 1");
        for n in 0..REGISTRATIONS_PER_LOCK_MAX {
            let admitted = Mark::admit(Some(before), Token(7), Era(1), &n.to_string(), None);
            before = admitted.unwrap().0;
        }
        assert!(Mark::parse(&before.text()).is_ok());
        assert_eq!(
            Mark::admit(Some(before), Token(7), Era(1), "x", None),
            Err(Full)
        );
    }
}
