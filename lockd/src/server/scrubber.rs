//! The thread that reads the node's store again, slowly and for ever, to find damage that nobody
//! else would meet before it is needed. What it finds, the core has put right.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use paxos::store::{FileStore, Scrub};

use super::core::scrubbing::{Pacer, ScrubRate, Step};
use super::report::{Done, Reports};
use super::worker::Worker;
use crate::limits::SCRUB_STEP_BYTES;

/// Starts the thread. It ends when the way to it is dropped.
pub(super) fn start(
    store: Arc<FileStore>,
    reports: Reports,
    rate: ScrubRate,
) -> std::io::Result<Worker<Infallible>> {
    let pacer = Pacer::new(rate);
    Worker::start("lockd-scrubber", move |inbox| {
        work(&store, &reports, pacer, &inbox);
    })
}

fn work(store: &FileStore, reports: &Reports, mut pacer: Pacer, inbox: &Receiver<Infallible>) {
    let (mut scrub, mut pause) = (Scrub::default(), pacer.first_pause());
    while let Err(RecvTimeoutError::Timeout) = inbox.recv_timeout(pause) {
        let found = match scrub.step(store, SCRUB_STEP_BYTES) {
            Ok(found) => found,
            Err(error) => return reports.put(Done::Failed(error)),
        };
        for slot in &found.damaged {
            tracing::warn!(slot = slot.0, "a scrub found a damaged entry of the log");
            reports.put(Done::Damaged(*slot));
        }
        if found.snapshot_damaged {
            tracing::warn!("a scrub found the last snapshot damaged");
            reports.put(Done::SnapshotDamaged);
        }
        let pass;
        (pause, pass) = pacer.stepped(Step {
            bytes: found.bytes,
            damaged: found.damaged.len() as u64 + u64::from(found.snapshot_damaged),
            complete: found.complete,
        });
        if let Some(pass) = pass {
            let (bytes, damaged) = (pass.bytes, pass.damaged);
            tracing::info!(bytes, damaged, "a scrub has read the whole store");
        }
    }
}
