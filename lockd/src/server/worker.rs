//! A thread that takes orders one after the other.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

/// A thread and the way to it. Dropped, it lets the thread do what was ordered, and waits for it:
/// then nothing of the node's files is in use any more.
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
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
