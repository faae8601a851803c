//! The persistence thread: one write of the log at a time, each with one sync, and nothing else.
//!
//! A failed write is final. What reached the disk is then unknown, and a later sync that succeeds
//! would prove nothing, so the thread reports the failure, writes nothing more, and the node ends.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use paxos::WriteBatch;
use paxos::store::{FileStore, LogStore as _};

use super::report::{Done, Reports};
use super::worker::Worker;

/// Starts the thread.
pub(super) fn start(
    store: Arc<FileStore>,
    reports: Reports,
) -> std::io::Result<Worker<WriteBatch>> {
    Worker::start("lockd-disk", move |inbox| work(&store, &inbox, &reports))
}

fn work(store: &FileStore, inbox: &Receiver<WriteBatch>, reports: &Reports) {
    for batch in inbox {
        match store.write(&batch) {
            Ok(()) => reports.put(Done::Persisted(batch.id)),
            Err(error) => return reports.put(Done::Failed(error)),
        }
    }
}
