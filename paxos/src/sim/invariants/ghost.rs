//! No entry of a ballot comes behind the start of a later leadership, on any disk; so what only a
//! minority had of an old leader cannot come back behind what a newer one decided.
//!
//! (Haridi, Kroll, Carbone, *Lecture Notes on Leader-based Sequence Paxos*, 2020, section 3: an
//! acceptor's sequence is replaced as a whole. The ghosts of other protocols are described in
//! Liu et al., *PALF: Replicated Write-Ahead Logging for Distributed Databases*, VLDB 2024.)

use crate::sim::coverage::Check;
use crate::sim::invariants::Violation;
use crate::sim::shadow::Shadow;
use crate::types::{Ballot, EntryKind, NodeId, Slot, WriteBatch};

/// Looks at what is written.
#[derive(Debug, Default)]
pub struct NoGhost;

impl NoGhost {
    /// A node writes: the ballots of its entries only rise along the log, and each begins with its
    /// `NewLeader`.
    pub(crate) fn on_batch(
        &self,
        node: NodeId,
        batch: &WriteBatch,
        disk: &Shadow,
    ) -> Result<(), Violation> {
        let Some(first) = batch.entries.first() else {
            return Ok(());
        };
        let before = first.slot.previous();
        let after_snapshot = batch.snapshot.as_ref().filter(|meta| meta.slot == before);
        let known = after_snapshot
            .map(|meta| meta.origin)
            .or(disk.origin(before));
        let unknown = before > Slot::NONE && known.is_none();
        // What lies before the first is not there any more: it is repaired, or sent again.
        let mut before = if unknown {
            first.origin
        } else {
            known.unwrap_or(Ballot::NONE)
        };
        for entry in batch.entries.iter().skip(usize::from(unknown)) {
            let starts = entry.kind == EntryKind::NewLeader;
            if entry.origin < before || starts != (entry.origin > before) {
                let detail = format!("node {node} writes {entry:?} behind an entry from {before}");
                return Err(Violation::of(Check::NoGhost, detail));
            }
            before = entry.origin;
        }
        Ok(())
    }
}
