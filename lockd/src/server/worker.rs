//! A thread that takes orders one after the other.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::limits::WORKER_END_MAX;

/// How often a thread that is to end is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// A thread and the way to it. Dropped, it lets the thread do what was ordered, and waits for it:
/// then nothing of the node's files is in use any more. Unless the disk is stuck, which must not
/// keep the process from ending.
#[derive(Debug)]
pub(super) struct Worker<T> {
    orders: Option<Sender<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Worker<T> {
    pub(super) fn start(
        name: &str,
        work: impl FnOnce(Receiver<T>) + Send + 'static,
    ) -> std::io::Result<Worker<T>> {
        let (orders, inbox) = channel();
        let thread = thread::Builder::new().name(name.to_owned());
        let thread = thread.spawn(move || work(inbox))?;
        Ok(Worker {
            orders: Some(orders),
            thread: Some(thread),
        })
    }

    pub(super) fn order(&self, order: T) {
        // The thread is gone only after a failure, which the node is about to learn of.
        let _ = self.orders.as_ref().map(|orders| orders.send(order));
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        drop(self.orders.take());
        let Some(thread) = self.thread.take() else {
            return;
        };
        let until = Instant::now() + WORKER_END_MAX;
        while !thread.is_finished() {
            if Instant::now() >= until {
                let name = thread.thread().name();
                return tracing::warn!(name, "a thread is stuck in the disk, and is left behind");
            }
            thread::sleep(LOOK_INTERVAL);
        }
        let _ = thread.join();
    }
}
