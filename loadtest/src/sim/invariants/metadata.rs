//! 21: on each grant is what its holder put there last, and nothing else; and only over the version
//! that the holder expected.

use std::collections::{BTreeMap, BTreeSet};

use lockd_protocol::client::{Acquire, Change, Event, HolderSummary, Metadata, Outcome, Value};
use lockd_protocol::{EventNumber, Sequence, SessionId, Token};

use super::{Verdict, must};
use crate::sim::ledger::Ledger;

pub(crate) const NAME: &str = "21 metadata is what its holder last put there";

/// What a holder asks to be put on its grant.
#[derive(Clone, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) by: (SessionId, Sequence),
    pub(crate) acquire: Sequence,
    pub(crate) token: Token,
    pub(crate) expect: Option<EventNumber>,
    pub(crate) value: &'a Value,
}

/// What has to be on each grant that has anything.
#[derive(Debug, Default)]
pub(crate) struct MetadataOfItsHolder {
    there: BTreeMap<Token, Metadata>,
    answered: BTreeSet<(SessionId, Sequence)>,
    pub(crate) checked: u64,
}

impl MetadataOfItsHolder {
    /// An acquisition has brought this about: a grant, or that it was entered again.
    pub(crate) fn on_acquired(&mut self, event: &Event, about: Option<&Acquire>) -> Verdict {
        self.checked += 1;
        let given = about.map(|about| &about.metadata);
        let given = given.filter(|value| !value.as_bytes().is_empty());
        let there = given.map(|value| Metadata {
            version: event.number,
            value: value.clone(),
        });
        must(event.holder.metadata == there, NAME, || {
            format!("{event:?}, but it was given {there:?}")
        })?;
        if let Some(there) = there {
            self.there.insert(event.holder.token, there);
        }
        Ok(())
    }

    /// A grant has ended, or was downgraded.
    pub(crate) fn on_other(&mut self, event: &Event) -> Verdict {
        let token = event.holder.token;
        let there = match event.change.is_end() {
            true => self.there.remove(&token),
            false => self.there.get(&token).cloned(),
        };
        must(event.holder.metadata == there, NAME, || {
            format!("{event:?}, but {there:?} was there")
        })
    }

    /// A holder's request was answered; `event` is what came of it. The books are of before.
    pub(crate) fn on_asked(
        &mut self,
        asked: &Asked<'_>,
        outcome: &Outcome,
        event: Option<&Event>,
        books: &Ledger,
    ) -> Verdict {
        if !self.answered.insert(asked.by) {
            return must(event.is_none(), NAME, || {
                format!("{asked:?} took effect twice")
            });
        }
        self.checked += 1;
        let grant = books.grants.get(&asked.token);
        let held = grant.is_some_and(|grant| {
            grant.session == asked.by.0 && grant.acquires.contains(&asked.acquire)
        });
        let version = self.there.get(&asked.token).map(|there| there.version);
        let version = version.unwrap_or_default();
        let expected = asked.expect.is_none_or(|expected| expected == version);
        let right = match (outcome, event) {
            (Outcome::MetadataSet { version }, Some(event)) => {
                let value = asked.value.clone();
                let (version, token) = (*version, asked.token);
                let there = Metadata { version, value };
                self.there.insert(token, there.clone());
                held && expected
                    && (event.change, event.holder.token) == (Change::MetadataSet, token)
                    && (event.number, &event.holder.metadata) == (version, &Some(there))
            }
            (Outcome::OtherMetadata { version: told }, None) => {
                held && !expected && *told == version
            }
            (Outcome::NotHeld, None) => !held,
            (Outcome::Refused(_) | Outcome::Over, None) => true,
            _ => false,
        };
        must(right, NAME, || {
            format!("{asked:?} came to {outcome:?} and {event:?}, where {version} was there")
        })
    }

    /// What the state has on a grant.
    pub(crate) fn compare(&self, holder: &HolderSummary) -> Verdict {
        let there = self.there.get(&holder.token);
        must(holder.metadata.as_ref() == there, NAME, || {
            format!("{holder:?}, but {there:?} was put there")
        })
    }
}
