//! The node's one loop: hands the core what arrived, and carries out what the core wants.
//!
//! Everything runs on one thread but the disk: readers put what they read into the core and wake
//! the loop, which takes a turn for all of it together.

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lockd_protocol::NodeId;
use lockd_protocol::peer::PeerHello;
use lockd_protocol::roles::Role;
use paxos::{Time, WriteBatch};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ServeError;
use super::acquaintance::{Acquaintances, Refusal};
use super::clock;
use super::compactor::Compactor;
use super::core::clients::ConnectionId;
use super::core::{Core, Work};
use super::files::FileOrder;
use super::peers::Links;
use super::report::{Done, Reports};
use super::worker::Worker;

/// The threads that do the node's file work.
pub(super) struct Threads {
    pub(super) disk: Worker<WriteBatch>,
    pub(super) files: Worker<FileOrder>,
    pub(super) compactor: Compactor,
    /// Takes no orders.
    pub(super) _scrubber: Worker<Infallible>,
    pub(super) reports: Reports,
}

/// What the tasks of a node share.
pub(super) struct Shell {
    core: RefCell<Core>,
    wake: Arc<Notify>,
    threads: Threads,
    links: Links,
    /// Where this node looks for the cell while it is no member.
    seeds: BTreeMap<NodeId, SocketAddr>,
    acquaintances: RefCell<Acquaintances>,
    writers: RefCell<HashMap<ConnectionId, Rc<Notify>>>,
    refused: RefCell<Option<ServeError>>,
}

impl Shell {
    pub(super) fn new(
        core: Core,
        wake: Arc<Notify>,
        threads: Threads,
        links: Links,
        seeds: BTreeMap<NodeId, SocketAddr>,
    ) -> Shell {
        Shell {
            core: RefCell::new(core),
            wake,
            threads,
            links,
            seeds,
            acquaintances: RefCell::default(),
            writers: RefCell::default(),
            refused: RefCell::default(),
        }
    }

    /// The core, for as long as nothing is awaited.
    pub(super) fn core(&self) -> RefMut<'_, Core> {
        self.core.borrow_mut()
    }

    pub(super) fn links(&self) -> &Links {
        &self.links
    }

    /// Something was handed to the core: take a turn soon.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// A client's connection, and what tells its writer that there is something to write.
    pub(super) fn join(&self, role: &Role, address: SocketAddr) -> (ConnectionId, Rc<Notify>) {
        // IPv4 as such, although one socket may serve both.
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let id = self.core().joined(role, address.to_string());
        let notify = Rc::new(Notify::new());
        self.writers.borrow_mut().insert(id, notify.clone());
        (id, notify)
    }

    pub(super) fn leave(&self, id: ConnectionId) {
        self.core().client_left(id);
        self.writers.borrow_mut().remove(&id);
    }

    /// Whether to speak with the node that said `hello` and whose certificate names `peer`.
    pub(super) fn admit(self: &Rc<Shell>, peer: NodeId, hello: &PeerHello) -> Result<(), Refusal> {
        let mut core = self.core();
        let mut acquaintances = self.acquaintances.borrow_mut();
        let own = self.links.hello();
        let started_again = acquaintances.admit(own, core.members(), peer, hello)?;
        core.peer_seen(peer, hello.incarnation);
        drop(core);
        if started_again {
            // The connection to what it was leads nowhere, which QUIC would take long to see.
            self.links.hang_up(peer);
            self.dial_members();
        }
        Ok(())
    }

    /// A peer knows this node with another disk: it does not remember what that one promised.
    pub(super) fn refused_as_other_disk(&self, peer: NodeId, reason: String) {
        self.refuse(ServeError::OtherDisk { peer, reason });
    }

    /// Every peer belongs to another cell.
    pub(super) fn refused_as_foreign(&self, peer: NodeId, reason: String) {
        self.refuse(ServeError::OtherCell { peer, reason });
    }

    fn refuse(&self, error: ServeError) {
        *self.refused.borrow_mut() = Some(error);
        self.wake();
    }

    /// Takes turns until `shutdown` ends or the node cannot go on.
    pub(super) async fn run(
        self: &Rc<Shell>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        tokio::pin!(shutdown);
        self.dial_members();
        loop {
            let due = self.turn()?;
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(instant_of(due)) => {}
                () = &mut shutdown => return Ok(()),
            }
            // Turns that follow each other at once must not keep the readers waiting.
            tokio::task::yield_now().await;
        }
    }

    fn turn(self: &Rc<Shell>) -> Result<Time, ServeError> {
        if let Some(error) = self.refused.borrow_mut().take() {
            return Err(error);
        }
        let now = clock::now();
        let mut core = self.core();
        for done in self.threads.reports.take() {
            hand_in(&mut core, now, done)?;
        }
        let work = core.turn(now)?;
        let due = core.next_turn();
        drop(core);
        self.carry_out(work);
        Ok(due)
    }

    fn carry_out(self: &Rc<Shell>, work: Work) {
        let Threads {
            disk,
            files,
            compactor,
            ..
        } = &self.threads;
        work.writes.into_iter().for_each(|batch| disk.order(batch));
        if work.membership_changed {
            self.dial_members();
        }
        for (to, message) in &work.messages {
            self.links.send(*to, message);
        }
        let loads = work.loads.into_iter().map(FileOrder::Load);
        let chunk_loads = work.chunk_loads.into_iter().map(FileOrder::LoadChunk);
        let chunks = work.chunks.into_iter().map(FileOrder::StoreChunk);
        let free = work.discarded.into_iter().map(FileOrder::Free);
        let orders = loads.chain(chunk_loads).chain(chunks).chain(free);
        orders.for_each(|order| files.order(order));
        if let Some(order) = work.compact {
            compactor.compact(order);
        }
        let writers = self.writers.borrow();
        for id in work.clients {
            if let Some(notify) = writers.get(&id) {
                notify.notify_one();
            }
        }
    }

    /// Dials the members, and while this node is none of them also those of its configuration.
    fn dial_members(self: &Rc<Shell>) {
        let own = self.links.hello().node;
        let mut wanted = BTreeMap::new();
        let core = self.core();
        if !core.members().contains_key(&own) {
            wanted.clone_from(&self.seeds);
        }
        for (id, member) in core.members() {
            match member.address.parse() {
                Ok(address) => drop(wanted.insert(*id, address)),
                Err(_) => tracing::error!(%id, address = member.address, "no address"),
            }
        }
        drop(core);
        wanted.remove(&own);
        self.links.dial_these(self, &wanted);
    }
}

fn hand_in(core: &mut Core, now: Time, done: Done) -> Result<(), ServeError> {
    match done {
        Done::Persisted(id) => core.persisted(now, id),
        Done::Loaded(id, entries) => core.loaded(now, id, entries),
        Done::Damaged(slot) => core.damaged(now, slot),
        Done::SnapshotDamaged => core.snapshot_damaged(),
        Done::ChunkLoaded(id, bytes) => core.chunk_loaded(now, id, bytes),
        Done::ChunkStored(meta, stored) => core.chunk_stored(now, meta, stored),
        Done::SnapshotReady(meta, state) => core.snapshot_ready(now, meta, state),
        Done::SnapshotTaken(meta) => core.snapshot_taken(now, meta),
        Done::NotTaken(failure) => core.compact_failed(now, &failure),
        Done::Diverged(slot) => core.diverged(slot),
        Done::Unreadable(reason) => return Err(ServeError::Unreadable(reason)),
        Done::Failed(error) => return Err(ServeError::Disk(error)),
    }
    Ok(())
}

fn instant_of(due: Time) -> Instant {
    Instant::now() + Duration::from_micros(due.micros_since(clock::now()))
}
