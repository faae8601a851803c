//! The node's one loop: hands the core what arrived, and carries out what the core wants.
//!
//! Everything runs on one thread but the disk: readers put what they read into the core and wake
//! the loop, which takes a turn for all of it together.

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lockd_protocol::NodeId;
use paxos::Time;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ServeError;
use super::clock;
use super::core::clients::ConnectionId;
use super::core::{Core, Work};
use super::disk::{Disk, Done};
use super::peers::PeerLink;

/// What the tasks of a node share.
pub(super) struct Shell {
    core: RefCell<Core>,
    wake: Arc<Notify>,
    disk: Disk,
    peers: BTreeMap<NodeId, Rc<PeerLink>>,
    writers: RefCell<HashMap<ConnectionId, Rc<Notify>>>,
}

impl Shell {
    pub(super) fn new(
        core: Core,
        wake: Arc<Notify>,
        disk: Disk,
        peers: BTreeMap<NodeId, Rc<PeerLink>>,
    ) -> Shell {
        let (core, writers) = (RefCell::new(core), RefCell::default());
        Shell {
            core,
            wake,
            disk,
            peers,
            writers,
        }
    }

    /// The core, for as long as nothing is awaited.
    pub(super) fn core(&self) -> RefMut<'_, Core> {
        self.core.borrow_mut()
    }

    /// Something was handed to the core: take a turn soon.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// A client's connection, and what tells its writer that there is something to write.
    pub(super) fn join(&self, name: String) -> (ConnectionId, Rc<Notify>) {
        let id = self.core().client_joined(name);
        let notify = Rc::new(Notify::new());
        self.writers.borrow_mut().insert(id, notify.clone());
        (id, notify)
    }

    pub(super) fn leave(&self, id: ConnectionId) {
        self.core().client_left(id);
        self.writers.borrow_mut().remove(&id);
    }

    /// Takes turns until `shutdown` ends or the node cannot go on.
    pub(super) async fn run(&self, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        tokio::pin!(shutdown);
        loop {
            let due = self.turn()?;
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(instant_of(due)) => {}
                () = &mut shutdown => return Ok(()),
            }
        }
    }

    fn turn(&self) -> Result<Time, ServeError> {
        let now = clock::now();
        let mut core = self.core();
        for done in self.disk.take_done() {
            match done {
                Done::Persisted(id) => core.persisted(now, id),
                Done::Loaded(id, entries) => core.loaded(now, id, entries),
                Done::Failed(reason) => return Err(ServeError::Disk(reason)),
            }
        }
        let work = core.turn(now)?;
        let due = core.next_turn();
        drop(core);
        self.carry_out(work);
        Ok(due)
    }

    fn carry_out(&self, work: Work) {
        work.writes
            .into_iter()
            .for_each(|batch| self.disk.write(batch));
        for (to, message) in &work.messages {
            if let Some(link) = self.peers.get(to) {
                link.send(message);
            }
        }
        work.loads.into_iter().for_each(|load| self.disk.load(load));
        let writers = self.writers.borrow();
        for id in work.clients {
            if let Some(notify) = writers.get(&id) {
                notify.notify_one();
            }
        }
    }
}

fn instant_of(due: Time) -> Instant {
    Instant::now() + Duration::from_micros(due.micros_since(clock::now()))
}
