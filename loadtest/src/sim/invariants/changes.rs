//! 19: every change of who holds what is told once, under the next number: what was told, put
//! together, is what is held, and at no step do two hold what excludes each other.

use std::collections::BTreeMap;

use lockd::state::command::Command;
use lockd_protocol::Token;
use lockd_protocol::client::{Change, Event, Holder, Operation};

use super::{Verdict, must};
use crate::sim::ledger::{Grant, Ledger};

pub(crate) const NAME: &str = "19 each change is told once, in order";

/// Everything that was told, and what it comes to.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// All events, the one with number 1 first.
    pub(crate) log: Vec<Event>,
    holders: BTreeMap<Token, Holder>,
    pub(crate) checked: u64,
}

impl Changes {
    /// A command has brought this about.
    pub(crate) fn on_event(&mut self, event: &Event, command: &Command) -> Verdict {
        self.checked += 1;
        let last = self.log.len() as u64;
        must(event.number.0 == last + 1, NAME, || {
            format!("{event:?} comes after number {last}")
        })?;
        self.log.push(event.clone());
        let (token, holder) = (event.holder.token, &event.holder);
        let before = match event.change.is_end() {
            true => self.holders.remove(&token),
            false => self.holders.insert(token, holder.clone()),
        };
        let fits = match event.change {
            Change::Granted => {
                before.is_none()
                    && self
                        .others(holder)
                        .all(|it| as_grant(it).goes_with(&as_grant(holder)))
            }
            change if change.is_end() => before.as_ref() == Some(holder) && ends(command, change),
            Change::Downgraded => before.is_some_and(|it| it.mode != holder.mode),
            _ => before.is_some_and(|it| it.mode == holder.mode),
        };
        must(fits, NAME, || {
            format!("{event:?} of {command:?}, beside {:?}", self.holders)
        })
    }

    fn others(&self, holder: &Holder) -> impl Iterator<Item = &Holder> {
        let of_lock = self.holders.values().filter(|it| it.lock == holder.lock);
        of_lock.filter(|it| it.token != holder.token)
    }

    /// After a command the books have to say the same.
    pub(crate) fn compare(&self, books: &Ledger) -> Verdict {
        let told = self.holders.iter();
        let same = told.len() == books.grants.len()
            && told.clone().all(|(token, holder)| {
                let booked = books.grants.get(token);
                booked.is_some_and(|grant| {
                    (&grant.lock, grant.mode, grant.slot, grant.session)
                        == (&holder.lock, holder.mode, holder.slot, holder.session)
                })
            });
        must(same, NAME, || {
            format!("told: {:?}, in the books: {:?}", self.holders, books.grants)
        })
    }
}

/// Whether a command ends grants in this way.
fn ends(command: &Command, change: Change) -> bool {
    let expected = match command {
        Command::Expire { .. } => Change::Expired,
        Command::FinishBreak { .. } => Change::Broken,
        Command::Request {
            operation: Operation::Break { .. },
            ..
        } => Change::Broken,
        _ => Change::Released,
    };
    change == expected
}

fn as_grant(holder: &Holder) -> Grant {
    Grant {
        lock: holder.lock.clone(),
        mode: holder.mode,
        slot: holder.slot,
        session: holder.session,
        acquires: Vec::new(),
    }
}
