//! The thread for all file work but the log's writes: reading entries for peers, reading and
//! keeping parts of snapshots, and making a state of a snapshot that has come.
//!
//! It never stands between a command and its acknowledgement; those are the log's writes, which
//! have a thread of their own.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use bytes::Bytes;
use paxos::SnapshotMeta;
use paxos::store::{
    FileStore, IncomingSnapshot, LogStore as _, OsFiles, SnapshotReader, StoreError,
};

use super::core::{Chunk, ChunkLoad, Load};
use super::report::{Done, Reports};
use super::worker::Worker;
use crate::state::State;
use crate::state::snapshot::{Decoder, SnapshotError};

/// Bytes of a snapshot read at once while it is decoded.
const DECODE_BYTES: usize = 256 * 1024;

/// What the thread is asked to do.
pub(super) enum FileOrder {
    /// Read entries of the log.
    Load(Load),
    /// Read a part of a snapshot.
    LoadChunk(ChunkLoad),
    /// Keep a part of a peer's snapshot.
    StoreChunk(Chunk),
    /// To free a large state takes longer than a turn of the loop may.
    Free(Box<State>),
}

/// Starts the thread.
pub(super) fn start(store: Arc<FileStore>, reports: Reports) -> std::io::Result<Worker<FileOrder>> {
    let mut files = FileWork {
        store,
        reports,
        reading: None,
        incoming: None,
    };
    Worker::start("lockd-files", move |inbox| files.work(&inbox))
}

struct FileWork {
    store: Arc<FileStore>,
    reports: Reports,
    /// The snapshot that was read last: its parts are asked for one after the other.
    reading: Option<SnapshotReader<OsFiles>>,
    incoming: Option<IncomingSnapshot<OsFiles>>,
}

impl FileWork {
    fn work(&mut self, inbox: &Receiver<FileOrder>) {
        for order in inbox {
            let worked = match order {
                FileOrder::Load(load) => self.load(load),
                FileOrder::LoadChunk(load) => self.load_chunk(load),
                FileOrder::StoreChunk(chunk) => self.store_chunk(chunk),
                FileOrder::Free(state) => {
                    drop(state);
                    Ok(())
                }
            };
            if let Err(error) = worked {
                return self.reports.put(Done::Failed(error));
            }
        }
    }

    fn load(&self, load: Load) -> Result<(), StoreError> {
        let read = self.store.read(load.first, load.last, load.bytes_max)?;
        // Only what is not given otherwise is asked for again.
        if let Some(slot) = read.damaged {
            tracing::warn!(slot = slot.0, "an entry of the log is damaged");
            self.reports.put(Done::Damaged(slot));
        }
        self.reports.put(Done::Loaded(load.id, read.entries));
        Ok(())
    }

    /// A snapshot that is gone or damaged gives no bytes: the asker goes elsewhere.
    fn load_chunk(&mut self, load: ChunkLoad) -> Result<(), StoreError> {
        let bytes = match self.read_chunk(load) {
            Ok(bytes) => bytes,
            Err(error @ (StoreError::Full { .. } | StoreError::Io { .. })) => {
                if !is_missing(&error) {
                    return Err(error);
                }
                Bytes::new()
            }
            Err(error) => {
                tracing::warn!(%error, "a part of a snapshot cannot be read");
                Bytes::new()
            }
        };
        self.reports.put(Done::ChunkLoaded(load.id, bytes));
        Ok(())
    }

    fn read_chunk(&mut self, load: ChunkLoad) -> Result<Bytes, StoreError> {
        let reading = self
            .reading
            .take()
            .filter(|reader| reader.meta().slot == load.slot);
        let reader = match reading {
            Some(reader) => reader,
            None => self.store.snapshots().open(load.slot)?,
        };
        let bytes = reader.read_at(load.offset, load.bytes)?;
        let at_end = load.offset + bytes.len() as u64 >= reader.meta().bytes;
        // An open file that was removed keeps its place on the disk.
        self.reading = (!at_end).then_some(reader);
        Ok(bytes)
    }

    fn store_chunk(&mut self, chunk: Chunk) -> Result<(), StoreError> {
        let incoming = self
            .incoming
            .take()
            .filter(|kept| *kept.meta() == chunk.meta);
        let mut incoming = match incoming {
            Some(incoming) => incoming,
            None => self.store.snapshots().receive(chunk.meta.clone())?,
        };
        let stored = incoming.append(chunk.offset, &chunk.bytes)?;
        if incoming.is_complete() {
            return self.finish(incoming);
        }
        self.incoming = Some(incoming);
        self.reports.put(Done::ChunkStored(chunk.meta, stored));
        Ok(())
    }

    fn finish(&self, incoming: IncomingSnapshot<OsFiles>) -> Result<(), StoreError> {
        let meta = incoming.meta().clone();
        let decoded = match incoming.finish() {
            Ok(_) => decode(&self.store, &meta),
            Err(error) => Err(error.into()),
        };
        let done = match decoded {
            Ok(state) => Done::SnapshotReady(meta, Box::new(state)),
            Err(DecodeError::Store(error)) if !matches!(error, StoreError::Snapshot { .. }) => {
                return Err(error);
            }
            Err(DecodeError::State(error @ SnapshotError::Version { .. })) => {
                Done::Unreadable(error.to_string())
            }
            Err(error) => {
                tracing::warn!(slot = meta.slot.0, %error, "a peer's snapshot is not right");
                Done::ChunkStored(meta, 0)
            }
        };
        self.reports.put(done);
        Ok(())
    }
}

/// Why a snapshot of this node is not a state.
#[derive(Debug, thiserror::Error)]
pub(super) enum DecodeError {
    /// The file cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What it holds is no state.
    #[error(transparent)]
    State(#[from] SnapshotError),
}

/// The state that a complete snapshot holds.
pub(super) fn decode(store: &FileStore, meta: &SnapshotMeta) -> Result<State, DecodeError> {
    let reader = store.snapshots().open(meta.slot)?;
    let (mut decoder, mut offset) = (Decoder::default(), 0);
    while offset < meta.bytes {
        let bytes = reader.read_at(offset, DECODE_BYTES)?;
        if bytes.is_empty() {
            break;
        }
        decoder.feed(&bytes)?;
        offset += bytes.len() as u64;
    }
    Ok(decoder.finish()?)
}

pub(super) fn is_missing(error: &StoreError) -> bool {
    match error {
        StoreError::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}
