//! 4: replicas that applied the same slot have the same state, and the same entry in it.

use lockd::state::State;
use paxos::sim::TraceHash;
use paxos::{Ballot, Entry};

use super::{Verdict, must};

pub(crate) const NAME: &str = "4 same state on replicas";

/// What the first replica to apply each slot had.
#[derive(Debug, Default)]
pub(crate) struct SameState {
    digests: Vec<u64>,
    origins: Vec<Ballot>,
    pub(crate) checked: u64,
}

impl SameState {
    /// A digest of everything that is replicated, and its size in bytes.
    pub(crate) fn digest(&mut self, state: &State) -> (u64, usize) {
        let mut hash = TraceHash::default();
        let mut bytes = 0;
        for chunk in state.encode() {
            hash.add_bytes(&chunk);
            bytes += chunk.len();
        }
        (hash.value(), bytes)
    }

    /// The first replica has applied the entry of the next slot.
    pub(crate) fn first(&mut self, entry: &Entry, digest: u64) {
        self.digests.push(digest);
        self.origins.push(entry.origin);
    }

    /// Whether this is what was applied in its slot.
    pub(crate) fn is_decided(&self, entry: &Entry) -> bool {
        self.origins.get(entry.slot.0 as usize - 1) == Some(&entry.origin)
    }

    /// A replica applies an entry that another has applied before.
    pub(crate) fn again(&mut self, node: u64, entry: &Entry) -> Verdict {
        let first = self.origins.get(entry.slot.0 as usize - 1);
        must(first == Some(&entry.origin), NAME, || {
            let slot = entry.slot;
            format!("node {node} applies {entry:?} in {slot:?}, another applied {first:?}")
        })
    }

    /// A replica has come to a slot with this state.
    pub(crate) fn at(&mut self, node: u64, slot: u64, state: &State) -> Verdict {
        let (digest, _) = self.digest(state);
        self.checked += 1;
        let first = self.digests.get(slot as usize - 1).copied();
        must(first == Some(digest), NAME, || {
            format!(
                "node {node} has another state at slot {slot} than who applied it first: {state:?}"
            )
        })
    }
}
