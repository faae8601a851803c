//! The disk of a simulated node: simulated files, the real store on them while the node is up, and
//! what the simulator knows about its health.

use crate::membership::Membership;
use crate::planted::Planted;
use crate::sim::files::SimFiles;
use crate::store::{FileStore, IncomingSnapshot, LogStore, Scrub, StoreError};
use crate::types::{CellId, Identity, Incarnation, NodeId, Recovered, SnapshotMeta};

pub(super) type Store = FileStore<SimFiles>;

/// All nodes are of this cell.
const CELL: CellId = CellId(*b"simulated cell 1");

/// A segment of the log has this length, so that even a short run has several.
const SEGMENT_BYTES: u64 = 16 * 1024;

/// A disk.
pub(super) struct Storage {
    pub(super) files: SimFiles,
    /// Open while the node is up.
    pub(super) store: Option<Store>,
    /// A copy of the disk as it was once.
    pub(super) backup: Option<SimFiles>,
    pub(super) incoming: Option<IncomingSnapshot<SimFiles>>,
    pub(super) scrub: Scrub<SimFiles>,
    /// Something was done to it that it may not have got over.
    pub(super) doubtful: bool,
    /// Everything was read since then, and nothing was found.
    pub(super) scrubbed_since: bool,
    /// Writes that must be completed before a crash, so that the store can notice that one was
    /// lost; `None` if none was.
    pub(super) unnoticed: Option<u32>,
    /// What is wrong with it shows only after the machine has lost power.
    pub(super) hidden: bool,
    /// Faults have been asked for that make operations fail.
    pub(super) may_fail: bool,
}

impl Storage {
    /// A new node's disk.
    pub(super) fn create(
        node: NodeId,
        seed: u64,
        membership: &Membership,
    ) -> Result<Storage, StoreError> {
        let files = SimFiles::new(seed);
        let identity = Identity {
            cell: CELL,
            node,
            incarnation: Incarnation(seed),
        };
        drop(FileStore::create_in(files.clone(), identity, membership)?);
        Ok(Storage {
            files,
            store: None,
            backup: None,
            incoming: None,
            scrub: Scrub::default(),
            doubtful: false,
            scrubbed_since: false,
            unnoticed: None,
            hidden: false,
            may_fail: false,
        })
    }

    /// Opens the store, as a process does that starts.
    pub(super) fn open(
        &mut self,
        node: NodeId,
        planted: Option<Planted>,
    ) -> Result<Recovered, StoreError> {
        let files = self.files.clone();
        let store = match planted {
            Some(bug) => FileStore::open_planted(files, CELL, node, bug)?,
            None => FileStore::open_in(files, CELL, node)?,
        };
        let store = store.with_segment_bytes(SEGMENT_BYTES);
        let recovered = store.load()?;
        self.scrub = Scrub::default();
        self.store = Some(store);
        Ok(recovered)
    }

    /// The process ends. If the machine does too, what was not synced may be lost.
    pub(super) fn close(&mut self, power_lost: bool) {
        self.incoming = None;
        self.scrub = Scrub::default();
        self.store = None;
        if power_lost {
            self.files.crash();
            self.hidden = false;
        }
    }

    /// Something was done to it.
    pub(super) fn doubt(&mut self) {
        self.doubtful = true;
        self.scrubbed_since = false;
        self.scrub = Scrub::default();
    }

    /// The file that a peer's snapshot is put into.
    pub(super) fn incoming(
        &mut self,
        meta: &SnapshotMeta,
    ) -> Result<&mut IncomingSnapshot<SimFiles>, StoreError> {
        let this = |incoming: &IncomingSnapshot<SimFiles>| incoming.meta() == meta;
        if !self.incoming.as_ref().is_some_and(this) {
            self.incoming = None;
        }
        let store = self
            .store
            .as_ref()
            .ok_or(StoreError::Damaged { what: "store" })?;
        match &mut self.incoming {
            Some(incoming) => Ok(incoming),
            none => Ok(none.insert(store.snapshots().receive(meta.clone())?)),
        }
    }
}
