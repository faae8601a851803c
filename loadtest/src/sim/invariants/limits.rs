//! 17: memory, queues and logs stay within their limits: the state holds nothing that has ended,
//! what is remembered of a session is bounded, and so is what a node has not decided yet.

use std::collections::BTreeSet;

use lockd::state::State;
use lockd_protocol::limits::SESSION_WINDOW;
use paxos::Entry;
use paxos::limits::PAYLOAD_BYTES_MAX;

use super::{Verdict, must};
use crate::sim::ledger::Ledger;

pub(crate) const NAME: &str = "17 memory, queues and logs within limits";

/// Bytes of a session, a lock or an acquisition in the encoded state, at most.
const ITEM_BYTES: usize = 512;

/// Bytes of a remembered answer in the encoded state, at most.
const ANSWER_BYTES: usize = 64;

/// Locks that may be closed at the same time: all that a simulation has.
const CLOSED_LOCKS: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct WithinLimits {
    pub(crate) checked: u64,
}

impl WithinLimits {
    /// After the entry of a slot, with the size of the encoded state.
    pub(crate) fn on_applied(
        &mut self,
        entry: &Entry,
        state: &State,
        bytes: usize,
        books: &Ledger,
    ) -> Verdict {
        self.checked += 1;
        must(entry.payload.len() <= PAYLOAD_BYTES_MAX, NAME, || {
            format!("an entry of {} bytes", entry.payload.len())
        })?;
        let (sessions, locks) = (state.session_count(), state.lock_count());
        let held = books.grants.values().map(|grant| &grant.lock);
        let queues = books.queues.iter().filter(|(_, queue)| !queue.is_empty());
        let used: BTreeSet<_> = held.chain(queues.map(|(lock, _)| lock)).collect();
        let booked = (books.sessions.len(), used.len());
        must((sessions, locks) == booked, NAME, || {
            format!("{sessions} sessions and {locks} locks in the state, {booked:?} in the books")
        })?;
        let waiting: usize = books.queues.values().map(|queue| queue.len()).sum();
        // Beside them there are locks that are closed for a while, each of which was held once.
        let items = 1 + sessions + locks + books.grants.len() + waiting + CLOSED_LOCKS;
        let most = items * ITEM_BYTES + sessions * SESSION_WINDOW as usize * ANSWER_BYTES;
        must(bytes <= most, NAME, || {
            format!("{bytes} bytes of state for {items} items")
        })
    }
}
