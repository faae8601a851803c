//! A snapshot on its way from a peer: asked for part by part, resumed where it was interrupted.
//!
//! The driver keeps the parts. Each question waits for the answer before, so a snapshot never
//! stands in the way of what a leader sends.

#[cfg(test)]
mod tests;

use bytes::Bytes;

use crate::core::Core;
use crate::interface::Output;
use crate::limits::CHUNKS_UNSTORED_MAX;
use crate::message::{Body, Chunk, FetchChunk};
use crate::types::{NodeId, SnapshotMeta, Time};

/// A snapshot that is being fetched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Transfer {
    from: NodeId,
    meta: SnapshotMeta,
    /// What came so far; unknown until the driver has said what it still has.
    fetched: Option<u64>,
    stored: u64,
    asked: bool,
    asked_at: Time,
    progress_at: Time,
}

impl Transfer {
    /// Asks the driver what it has of this snapshot.
    pub(crate) fn begin(core: &mut Core, from: NodeId, meta: SnapshotMeta) -> Transfer {
        let transfer = Transfer {
            from,
            meta,
            fetched: None,
            stored: 0,
            asked: false,
            asked_at: core.now,
            progress_at: core.now,
        };
        transfer.ask_what_is_stored(core);
        transfer
    }

    pub(crate) fn from(&self) -> NodeId {
        self.from
    }

    pub(crate) fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// Takes a part; whether the transfer can go on.
    #[must_use]
    pub(crate) fn on_chunk(&mut self, core: &mut Core, from: NodeId, chunk: Chunk) -> bool {
        let this = from == self.from && (chunk.slot, chunk.crc) == (self.meta.slot, self.meta.crc);
        let Some(fetched) = self.fetched.filter(|fetched| *fetched == chunk.offset) else {
            return true;
        };
        if !this || !self.asked {
            return true;
        }
        let end = fetched.saturating_add(chunk.bytes.len() as u64);
        if chunk.bytes.is_empty() || end > self.meta.bytes {
            return false;
        }
        self.asked = false;
        self.fetched = Some(end);
        self.progress_at = core.now;
        core.output(Output::StoreChunk {
            meta: self.meta.clone(),
            offset: fetched,
            bytes: chunk.bytes,
        });
        self.ask(core);
        true
    }

    /// The driver keeps so much. Where that is less than came, the rest is fetched again.
    pub(crate) fn on_stored(&mut self, core: &mut Core, meta: &SnapshotMeta, stored: u64) {
        if *meta != self.meta || stored > self.meta.bytes {
            return;
        }
        let fetched = self.fetched.unwrap_or(stored);
        if stored < self.stored || self.fetched.is_none() {
            self.fetched = Some(stored);
            self.asked = false;
        } else {
            self.fetched = Some(fetched.max(stored));
        }
        self.stored = stored;
        self.progress_at = core.now;
        if !self.asked {
            self.ask(core);
        }
    }

    pub(crate) fn next_timer(&self, core: &Core) -> Time {
        self.asked_at.plus_micros(core.timing.leader_timeout_micros)
    }

    /// Asks again when there is no answer; whether it is worth going on.
    #[must_use]
    pub(crate) fn tick(&mut self, core: &mut Core) -> bool {
        let timeout = core.timing.leader_timeout_micros;
        if core.now.micros_since(self.asked_at) < timeout {
            return true;
        }
        self.asked_at = core.now;
        let complete = self.fetched == Some(self.meta.bytes);
        let stands_still = core.now.micros_since(self.progress_at) > 4 * timeout;
        if self.asked && stands_still {
            return false;
        }
        if !complete && self.fetched.is_some() {
            self.ask(core);
        } else if stands_still {
            // The driver may take its time to store and to check, but it may have lost it, too.
            self.progress_at = core.now;
            (self.fetched, self.stored) = (None, 0);
            self.ask_what_is_stored(core);
        }
        true
    }

    fn ask_what_is_stored(&self, core: &mut Core) {
        core.output(Output::StoreChunk {
            meta: self.meta.clone(),
            offset: 0,
            bytes: Bytes::new(),
        });
    }

    fn ask(&mut self, core: &mut Core) {
        let Some(offset) = self.fetched.filter(|fetched| *fetched < self.meta.bytes) else {
            return;
        };
        if offset.saturating_sub(self.stored) > CHUNKS_UNSTORED_MAX {
            return;
        }
        self.asked = true;
        self.asked_at = core.now;
        let fetch = FetchChunk {
            slot: self.meta.slot,
            crc: self.meta.crc,
            offset,
        };
        core.send(self.from, Body::FetchChunk(fetch));
    }
}
