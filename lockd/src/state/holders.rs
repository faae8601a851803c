//! Who holds what, page by page: what a watch is told first.

use std::ops::Bound;

use lockd_protocol::client::{Holder, Scope};
use lockd_protocol::{LockName, Token};

use super::State;
use super::listing::{ITEM_BYTES, PAGE_BYTES, metadata_bytes};
use super::lock::Lock;
use crate::limits::LISTED_LOCKS_PER_PAGE_MAX;

/// Behind which grant a listing goes on. Grants are listed in order of lock and token.
pub type Place = (LockName, Token);

/// Some of the grants in a scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HoldersPage {
    /// The grants, in order.
    pub holders: Vec<Holder>,
    /// Where it goes on; `None` if these were the last ones.
    pub next: Option<Place>,
    bytes: usize,
}

impl State {
    /// The grants in `scope` behind a place: as many as fit a page, after a bounded look.
    #[must_use]
    pub fn holders_page(&self, scope: &Scope, after: Option<&Place>) -> HoldersPage {
        let mut page = HoldersPage::default();
        let of_first = |name: &LockName| match after {
            Some((lock, token)) if lock == name => *token,
            _ => Token(0),
        };
        match scope {
            Scope::Lock(name) => {
                if let Some(lock) = self.locks.get(name) {
                    page.take(name, lock, of_first(name));
                }
            }
            Scope::Prefix(prefix) => {
                let from = match after {
                    Some((name, _)) => Bound::Included(name.as_str()),
                    None => Bound::Included(prefix.as_str()),
                };
                let locks = self.locks.range::<str, _>((from, Bound::Unbounded));
                let matching = locks.take_while(|(name, _)| name.as_str().starts_with(prefix));
                for (seen, (name, lock)) in matching.enumerate() {
                    if seen >= LISTED_LOCKS_PER_PAGE_MAX {
                        // Before this lock, of which no grant has token 0.
                        page.next = Some((name.clone(), Token(0)));
                        break;
                    }
                    if !page.take(name, lock, of_first(name)) {
                        break;
                    }
                }
            }
        }
        page
    }
}

impl HoldersPage {
    /// Takes the grants of a lock behind a token. `false`: not all of them fit.
    fn take(&mut self, name: &LockName, lock: &Lock, after: Token) -> bool {
        let first = lock.holds.partition_point(|hold| hold.token <= after);
        let mut last = after;
        for hold in &lock.holds[first..] {
            let bytes = name.as_str().len() + metadata_bytes(hold) + ITEM_BYTES;
            if self.bytes + bytes > PAGE_BYTES {
                self.next = Some((name.clone(), last));
                return false;
            }
            self.bytes += bytes;
            self.holders.push(hold.holder(name));
            last = hold.token;
        }
        true
    }
}
