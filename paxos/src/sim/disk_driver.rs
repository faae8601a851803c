//! What the driver of a simulated node does with its disk: writes, reads, snapshots, scrubbing.

use bytes::Bytes;

use crate::interface::Input;
use crate::membership::Membership;
use crate::planted::Planted;
use crate::sim::cluster::{Cluster, Event};
use crate::sim::coverage::{Branch, Check};
use crate::sim::invariants::Violation;
use crate::sim::machine::Machine;
use crate::sim::observe;
use crate::store::{LogStore, StoreError};
use crate::types::{LoadId, PersistId, Slot, SnapshotMeta, WriteBatch};

/// Bytes of a store that a scrub reads at once.
const SCRUB_BYTES: usize = 16 * 1024;

/// As many if what is wrong with a disk is to be found within a bound.
const SCRUB_BYTES_HURRIED: usize = 256 * 1024;

impl Cluster {
    pub(super) fn begin_write(&mut self, node: usize, batch: WriteBatch) -> Result<(), Violation> {
        let (id, boot) = (self.nodes[node].id, self.nodes[node].boot);
        assert!(self.nodes[node].writing.is_none(), "one write at a time");
        self.story
            .step(self.now, || format!("node {id} writes {batch:?}"));
        observe::batch(&mut self.report.coverage, &batch);
        self.invariants
            .on_batch(id, &self.nodes[node].shadow, &batch)?;
        let delay = self.write_delay(node);
        let written = Event::Written {
            node,
            boot,
            id: batch.id,
        };
        self.schedule(self.now + delay, written);
        self.nodes[node].writing = Some(batch);
        Ok(())
    }

    fn write_delay(&mut self, node: usize) -> u64 {
        let node = &mut self.nodes[node];
        let stuck = node.disk_stuck_until.saturating_sub(self.now);
        let spike = std::mem::take(&mut node.disk_spike_micros);
        let slow = if node.disk_slow_until > self.now {
            20
        } else {
            1
        };
        stuck + spike + self.dice.around(slow * self.plan.disk_micros)
    }

    /// When a read, or a part of a snapshot, is done.
    fn read_delay(&mut self, node: usize) -> u64 {
        let stuck = self.nodes[node].disk_stuck_until.saturating_sub(self.now);
        self.now + stuck + self.dice.around(self.plan.disk_micros)
    }

    pub(super) fn written(&mut self, node: usize, id: PersistId) -> Result<(), Violation> {
        // A write may end twice in the queue: a healed disk finishes it early.
        if !self.nodes[node].is_writing(id) {
            return Ok(());
        }
        let Some(batch) = self.nodes[node].writing.take() else {
            return Ok(());
        };
        if self.make_durable(node, batch)? {
            return self.input(node, Input::Persisted(id));
        }
        Ok(())
    }

    /// Writes a batch to the node's store. Whether it is durable: if not, the process has ended.
    pub(super) fn make_durable(
        &mut self,
        node: usize,
        batch: WriteBatch,
    ) -> Result<bool, Violation> {
        self.report.writes += 1;
        let id = self.nodes[node].id;
        self.invariants
            .on_write(id, &self.nodes[node].shadow, &batch)?;
        let store = self.nodes[node].storage.store.as_ref();
        let written = store.map_or(Ok(()), |store| store.write(&batch));
        let ignored = self.options.planted == Some(Planted::WriteErrorIgnored);
        if let Err(error) = written
            && !ignored
        {
            self.nodes[node].torn = Some(batch);
            self.disk_failed(node, &error)?;
            return Ok(false);
        }
        let storage = &mut self.nodes[node].storage;
        storage.unnoticed = storage.unnoticed.map(|left| left.saturating_sub(1));
        let newest = batch.snapshot.as_ref().map_or(Slot::NONE, |meta| meta.slot);
        // The store has removed what was received of an older snapshot.
        storage
            .incoming
            .take_if(|incoming| incoming.meta().slot <= newest);
        self.note_durable(node, &batch)?;
        Ok(true)
    }

    /// A batch is known to be durable.
    pub(super) fn note_durable(
        &mut self,
        node: usize,
        batch: &WriteBatch,
    ) -> Result<(), Violation> {
        let id = self.nodes[node].id;
        self.nodes[node].shadow.write(batch);
        self.invariants.on_written(id, &self.nodes[node].shadow)
    }

    pub(super) fn load(
        &mut self,
        node: usize,
        id: LoadId,
        (first, last): (Slot, Slot),
        bytes_max: usize,
    ) -> Result<(), Violation> {
        self.report.loads += 1;
        self.report.coverage.branch(Branch::Loaded);
        let store = self.nodes[node].storage.store.as_ref();
        let read = store.map_or(Ok(Default::default()), |store| {
            store.read(first, last, bytes_max)
        });
        let read = match read {
            Ok(read) => read,
            Err(error) => return self.disk_failed(node, &error),
        };
        for entry in &read.entries {
            self.check_read(node, entry)?;
        }
        let (at, boot) = (self.read_delay(node), self.nodes[node].boot);
        if let Some(slot) = read.damaged {
            self.schedule(at, Event::FoundDamaged { node, boot, slot });
        }
        let entries = read.entries;
        self.schedule(
            at,
            Event::Loaded {
                node,
                boot,
                id,
                entries,
            },
        );
        Ok(())
    }

    /// What a store gives back is what was written.
    fn check_read(&mut self, node: usize, entry: &crate::types::Entry) -> Result<(), Violation> {
        self.invariants.coverage.check(Check::Store);
        let known = self.nodes[node].shadow.entry(entry.slot);
        if known.is_some_and(|known| known != entry) {
            let id = self.nodes[node].id;
            let detail = format!("node {id} reads {entry:?} where {known:?} was written");
            return Err(Violation::of(Check::Store, detail));
        }
        Ok(())
    }

    /// Begins a snapshot if enough was applied since the last one.
    pub(super) fn consider_snapshot(&mut self, node: usize) {
        let every = self.plan.snapshot_every;
        let this = &mut self.nodes[node];
        let last = this.shadow.covered();
        let unknown = this.machine.membership == Membership::none();
        let due = this.machine.applied.0 >= last.0 + every;
        if every == 0 || unknown || !due || this.snapshotting.is_some() {
            return;
        }
        this.snapshotting = Some(this.machine.clone());
        let boot = this.boot;
        let at = self.read_delay(node);
        self.schedule(at, Event::SnapshotDone { node, boot });
    }

    pub(super) fn snapshot_done(&mut self, node: usize) -> Result<(), Violation> {
        let Some(machine) = self.nodes[node].snapshotting.take() else {
            return Ok(());
        };
        match self.write_snapshot(node, &machine) {
            Ok(Some(meta)) => {
                self.report.coverage.branch(Branch::SnapshotTaken);
                self.input(node, Input::SnapshotTaken(meta))
            }
            Ok(None) => Ok(()),
            // What was written is not what is read: that snapshot is lost, and no more.
            Err(StoreError::Snapshot { .. }) if self.nodes[node].storage.doubtful => Ok(()),
            Err(error) => self.disk_failed(node, &error),
        }
    }

    pub(super) fn write_snapshot(
        &mut self,
        node: usize,
        machine: &Machine,
    ) -> Result<Option<SnapshotMeta>, StoreError> {
        let Some(store) = &self.nodes[node].storage.store else {
            return Ok(None);
        };
        let bytes = self.plan.snapshot_bytes;
        let membership = machine.membership.clone();
        if self.options.planted == Some(Planted::CutBeforeSnapshot) {
            let (mut length, mut crc) = (0, 0);
            machine.encode(bytes, |part| {
                length += part.len() as u64;
                crc = crc32c::crc32c_append(crc, part);
                Ok::<(), StoreError>(())
            })?;
            return Ok(Some(SnapshotMeta {
                slot: machine.applied,
                origin: machine.origin,
                membership,
                bytes: length,
                crc,
            }));
        }
        let mut writer = store
            .snapshots()
            .create(machine.applied, machine.origin, membership)?;
        machine.encode(bytes, |part| writer.append(part))?;
        writer.finish().map(Some)
    }

    pub(super) fn load_chunk(
        &mut self,
        node: usize,
        id: LoadId,
        slot: Slot,
        (offset, bytes): (u64, usize),
    ) -> Result<(), Violation> {
        self.report.coverage.branch(Branch::ChunkSent);
        let Some(store) = &self.nodes[node].storage.store else {
            return Ok(());
        };
        let snapshot = store.snapshots().open(slot);
        let read = snapshot.and_then(|snapshot| snapshot.read_at(offset, bytes));
        // A snapshot that is gone or damaged is answered by nothing.
        let bytes = read.unwrap_or_default();
        let (at, boot) = (self.read_delay(node), self.nodes[node].boot);
        let loaded = Event::ChunkLoaded {
            node,
            boot,
            id,
            bytes,
        };
        self.schedule(at, loaded);
        Ok(())
    }

    pub(super) fn store_chunk(
        &mut self,
        node: usize,
        meta: SnapshotMeta,
        offset: u64,
        bytes: &Bytes,
    ) -> Result<(), Violation> {
        let storage = &mut self.nodes[node].storage;
        let mut ready = false;
        let stored = storage.incoming(&meta).and_then(|incoming| {
            let before = incoming.stored();
            let stored = incoming.append(offset, bytes)?;
            ready = incoming.is_complete();
            Ok((before, stored))
        });
        let stored = match stored {
            Ok((before, stored)) => {
                if before > 0 && bytes.is_empty() {
                    self.report.coverage.branch(Branch::TransferResumed);
                }
                stored
            }
            Err(error) => return self.disk_failed(node, &error),
        };
        let (at, boot) = (self.read_delay(node), self.nodes[node].boot);
        let chunk = Event::ChunkStored {
            node,
            boot,
            meta,
            stored,
            ready,
        };
        self.schedule(at, chunk);
        Ok(())
    }

    pub(super) fn chunk_stored(
        &mut self,
        node: usize,
        meta: SnapshotMeta,
        stored: u64,
        ready: bool,
    ) -> Result<(), Violation> {
        let Some(incoming) = self.nodes[node].storage.incoming.take_if(|_| ready) else {
            // What was complete is not needed any more: a newer one is there.
            let stored = if ready { 0 } else { stored };
            return self.input(node, Input::ChunkStored { meta, stored });
        };
        if *incoming.meta() != meta {
            self.nodes[node].storage.incoming = Some(incoming);
            return Ok(());
        }
        let found = meta.clone();
        self.input(
            node,
            Input::ChunkStored {
                meta: found,
                stored,
            },
        )?;
        if self.nodes[node].replica.is_none() {
            return Ok(());
        }
        match incoming.finish() {
            Ok(meta) => self.input(node, Input::SnapshotReady(meta)),
            Err(StoreError::Snapshot { .. }) => {
                self.input(node, Input::ChunkStored { meta, stored: 0 })
            }
            Err(error) => self.disk_failed(node, &error),
        }
    }

    /// A peer's snapshot takes the place of the own state.
    pub(super) fn install(&mut self, node: usize, meta: &SnapshotMeta) -> Result<(), Violation> {
        let id = self.nodes[node].id;
        self.story
            .landmark(self.now, || format!("node {id} installs {meta:?}"));
        self.report.coverage.branch(Branch::SnapshotInstalled);
        let applied = self.nodes[node].machine.applied;
        let machine = match self.read_snapshot(node, meta) {
            Ok(machine) => machine,
            Err(error) => return self.disk_failed(node, &error),
        };
        self.nodes[node].machine = machine;
        let hash = self.nodes[node].machine.hash;
        self.invariants.on_install(id, applied, meta, hash)
    }

    pub(super) fn read_snapshot(
        &self,
        node: usize,
        meta: &SnapshotMeta,
    ) -> Result<Machine, StoreError> {
        let lost = StoreError::Damaged { what: "snapshot" };
        let store = self.nodes[node].storage.store.as_ref();
        let snapshot = store.ok_or(lost.clone())?.snapshots().open(meta.slot)?;
        let bytes = snapshot.read_at(0, meta.bytes as usize)?;
        Ok(Machine {
            applied: meta.slot,
            origin: meta.origin,
            membership: meta.membership.clone(),
            hash: Machine::decode(&bytes).ok_or(lost)?,
        })
    }

    /// Reads a part of the store again, to find damage.
    pub(super) fn scrub(&mut self, node: usize) -> Result<(), Violation> {
        let storage = &mut self.nodes[node].storage;
        let Some(store) = &storage.store else {
            return Ok(());
        };
        let hurries = self.healed && storage.doubtful;
        let bytes = if hurries {
            SCRUB_BYTES_HURRIED
        } else {
            SCRUB_BYTES
        };
        let found = match storage.scrub.step(store, bytes) {
            Ok(found) => found,
            Err(error) => return self.disk_failed(node, &error),
        };
        let clean = found.damaged.is_empty() && !found.snapshot_damaged;
        let whole = self.is_whole(node);
        let storage = &mut self.nodes[node].storage;
        if !clean {
            storage.scrubbed_since = false;
        } else if found.complete && whole {
            if storage.scrubbed_since && !storage.hidden {
                storage.doubtful = false;
            }
            storage.scrubbed_since = true;
        }
        for slot in found.damaged {
            self.report.coverage.branch(Branch::ScrubFound);
            self.input(node, Input::Damaged(slot))?;
        }
        if found.snapshot_damaged {
            self.report.coverage.branch(Branch::SnapshotDamaged);
            // A new one takes its place.
            let machine = self.nodes[node].machine.clone();
            let newer = machine.applied > self.nodes[node].shadow.covered();
            if newer && machine.membership != Membership::none() {
                self.nodes[node].snapshotting = Some(machine);
                self.snapshot_done(node)?;
            }
        }
        let boot = self.nodes[node].boot;
        let every = match hurries {
            // Each finds one damaged entry.
            true => self.plan.timing.heartbeat_micros / 16,
            false => self.plan.scrub_every_micros,
        };
        self.schedule(self.now + every, Event::Scrub { node, boot });
        Ok(())
    }

    fn is_whole(&self, node: usize) -> bool {
        let replica = self.nodes[node].replica.as_ref();
        replica.is_some_and(|replica| replica.status().damaged.is_none())
    }

    /// The disk failed under a running process, which ends.
    pub(super) fn disk_failed(&mut self, node: usize, error: &StoreError) -> Result<(), Violation> {
        let id = self.nodes[node].id;
        self.story
            .landmark(self.now, || format!("node {id}'s disk fails: {error}"));
        if !self.nodes[node].storage.may_fail && !self.nodes[node].storage.doubtful {
            let detail = format!("node {id}'s intact disk fails: {error}");
            return Err(Violation::of(Check::Store, detail));
        }
        self.report.coverage.branch(Branch::DiskFailed);
        self.report.crashes += 1;
        let unnoticed = self.nodes[node].storage.unnoticed.take();
        let this = &mut self.nodes[node];
        this.questions.clear();
        this.crash();
        // Only a restart of the whole machine shows what has really reached the disk.
        this.storage.close(true);
        this.storage.files.set_capacity(u64::MAX);
        if unnoticed.is_some_and(|left| left > 0) {
            self.retire(node);
        }
        let until = self.now + self.dice.around(self.plan.timing.leader_timeout_micros);
        self.schedule(until, Event::Restart { node });
        Ok(())
    }
}
