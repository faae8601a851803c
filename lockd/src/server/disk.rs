//! The persistence thread: one write of the log at a time, each with one sync.
//!
//! A failed write is final. What reached the disk is then unknown, and a later sync that succeeds
//! would prove nothing, so the thread reports the failure, writes nothing more, and the node ends.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use paxos::store::{LogStore as _, RedbStore};
use paxos::{Entry, LoadId, PersistId, WriteBatch};
use tokio::sync::Notify;

use super::core::Load;

/// What the disk is asked to do.
enum Order {
    Write(WriteBatch),
    Load(Load),
}

/// What the disk has done.
#[derive(Debug)]
pub(super) enum Done {
    /// A write is durable.
    Persisted(PersistId),
    /// Entries were read.
    Loaded(LoadId, Vec<Entry>),
    /// The disk failed: the node must end.
    Failed(String),
}

/// The node's side of the persistence thread.
pub(super) struct Disk {
    orders: Sender<Order>,
    done: Arc<Mutex<Vec<Done>>>,
}

impl Disk {
    /// Starts the thread. It ends when this handle is dropped.
    pub(super) fn start(store: RedbStore, wake: Arc<Notify>) -> std::io::Result<Disk> {
        let (orders, inbox) = channel();
        let done = Arc::new(Mutex::new(Vec::new()));
        let outbox = done.clone();
        thread::Builder::new()
            .name("lockd-disk".to_owned())
            .spawn(move || work(&store, &inbox, &outbox, &wake))?;
        Ok(Disk { orders, done })
    }

    pub(super) fn write(&self, batch: WriteBatch) {
        // The thread is gone only after a failure, which the node is about to learn of.
        let _ = self.orders.send(Order::Write(batch));
    }

    pub(super) fn load(&self, load: Load) {
        let _ = self.orders.send(Order::Load(load));
    }

    /// What was done since the last call, in order.
    pub(super) fn take_done(&self) -> Vec<Done> {
        std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn work(store: &RedbStore, inbox: &Receiver<Order>, outbox: &Mutex<Vec<Done>>, wake: &Notify) {
    for order in inbox {
        let done = match order {
            Order::Write(batch) => match store.write(&batch) {
                Ok(()) => Done::Persisted(batch.id),
                Err(error) => Done::Failed(error.to_string()),
            },
            Order::Load(load) => match store.read(load.first, load.last, load.bytes_max) {
                Ok(entries) => Done::Loaded(load.id, entries),
                Err(error) => Done::Failed(error.to_string()),
            },
        };
        let failed = matches!(done, Done::Failed(_));
        outbox
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(done);
        wake.notify_one();
        if failed {
            return;
        }
    }
}
