//! Values and marks in one redb database, and the one thread that writes it. Knows locks and
//! tokens; knows nothing of HTTP or of how tickets are printed.
//!
//! Writes queue up while a transaction is being synced, and all that have queued form the next
//! one: a sync is shared by as many writers as there happen to be.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use lockd_protocol::types::{LockName, Token};
use redb::{
    Database, ReadableDatabase, ReadableTable, StorageError, Table, TableDefinition,
    WriteTransaction,
};
use tokio::sync::{mpsc, oneshot};

use crate::fence::refusal::Refusal;
use crate::fence::set::{Shown, TicketSet};
use crate::fence::{Standing, standing};
use crate::limits::{FENCES_LISTED_MAX, STORE_BATCH_BYTES_MAX, STORE_BATCH_MAX, STORE_QUEUE_MAX};

const VALUES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("values-1");
const MARKS: TableDefinition<'_, &str, u64> = TableDefinition::new("marks-1");

/// A store that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the store in {}: {reason}", .dir.display())]
pub struct OpenError {
    dir: PathBuf,
    reason: String,
}

/// Why the store did not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The fence refuses. Definitely not done.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The disk did not take it. Whether a write is done is known after a restart only.
    #[error("the store's disk failed: {0}")]
    Disk(String),
}

/// What is to be done under a set of tickets, all of it in one transaction with the fence.
#[derive(Debug)]
pub enum Action {
    /// Nothing but admitting the tickets.
    Admit,
    /// Stores a value.
    Put(String, Bytes),
    /// Removes a value.
    Delete(String),
}

impl Action {
    fn bytes(&self) -> usize {
        match self {
            Action::Put(key, value) => key.len() + value.len(),
            Action::Admit | Action::Delete(_) => 0,
        }
    }
}

struct Request {
    tickets: TicketSet,
    action: Action,
    done: oneshot::Sender<Result<bool, StoreError>>,
}

/// The store. Cheap to clone; the last clone ends the writer.
#[derive(Clone, Debug)]
pub struct Store {
    database: Arc<Database>,
    queue: mpsc::Sender<Request>,
}

impl Store {
    /// Opens the store in a directory, which is made if it does not exist, and starts its writer.
    /// The handle ends when the last clone of the store is gone.
    ///
    /// # Errors
    /// [`OpenError`] if the directory or its database cannot be used.
    pub fn open(dir: &Path) -> Result<(Store, JoinHandle<()>), OpenError> {
        let failed = |reason: String| OpenError {
            dir: dir.to_path_buf(),
            reason,
        };
        std::fs::create_dir_all(dir).map_err(|e| failed(e.to_string()))?;
        let database =
            Database::create(dir.join("store.redb")).map_err(|e| failed(e.to_string()))?;
        create_tables(&database).map_err(|e| failed(e.to_string()))?;
        let database = Arc::new(database);
        let (queue, requests) = mpsc::channel(STORE_QUEUE_MAX);
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn({
                let database = Arc::clone(&database);
                move || write_batches(&database, requests)
            });
        let writer = writer.map_err(|e| failed(e.to_string()))?;
        Ok((Store { database, queue }, writer))
    }

    /// Admits the tickets and does the action, durably and in one transaction. Says whether the
    /// key had a value before.
    ///
    /// # Errors
    /// [`StoreError::Refused`] if a ticket is stale: nothing was done then.
    pub async fn perform(&self, tickets: TicketSet, action: Action) -> Result<bool, StoreError> {
        let gone = || StoreError::Disk("the store is closed".into());
        let (done, outcome) = oneshot::channel();
        let request = Request {
            tickets,
            action,
            done,
        };
        self.queue.send(request).await.map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }

    /// Reads a value. A reader with tickets is admitted first, so that nothing older can change
    /// what it has read.
    ///
    /// # Errors
    /// [`StoreError::Refused`] if a ticket is stale.
    pub async fn get(&self, tickets: TicketSet, key: &str) -> Result<Option<Bytes>, StoreError> {
        if !tickets.is_empty() && !self.all_current(&tickets).map_err(disk)? {
            self.perform(tickets.clone(), Action::Admit).await?;
        }
        self.read(&tickets, key)
    }

    /// The marks, in order of lock, at most [`FENCES_LISTED_MAX`].
    ///
    /// # Errors
    /// [`StoreError::Disk`].
    pub fn marks(&self) -> Result<Vec<(String, Token)>, StoreError> {
        let read = || -> Result<Vec<_>, redb::Error> {
            let marks = self.database.begin_read()?.open_table(MARKS)?;
            let listed = marks.iter()?.take(FENCES_LISTED_MAX);
            listed
                .map(|entry| {
                    let (lock, token) = entry?;
                    Ok((lock.value().to_owned(), Token(token.value())))
                })
                .collect()
        };
        read().map_err(disk)
    }

    fn all_current(&self, tickets: &TicketSet) -> Result<bool, redb::Error> {
        let marks = self.database.begin_read()?.open_table(MARKS)?;
        for ticket in tickets.tickets() {
            let mark = marks
                .get(ticket.lock.as_str())?
                .map(|mark| Token(mark.value()));
            if standing(mark, ticket.token) != Standing::Current {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Value and marks come from one snapshot: a reader whose ticket went stale meanwhile must
    /// not be given a value as if it still held the lock.
    fn read(&self, tickets: &TicketSet, key: &str) -> Result<Option<Bytes>, StoreError> {
        let snapshot = self.database.begin_read().map_err(disk)?;
        let marks = snapshot.open_table(MARKS).map_err(disk)?;
        check(&marks, tickets)?;
        let values = snapshot.open_table(VALUES).map_err(disk)?;
        let value = values.get(key).map_err(disk)?;
        Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
    }
}

fn disk(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Disk(error.into().to_string())
}

fn create_tables(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(VALUES)?;
    transaction.open_table(MARKS)?;
    transaction.commit()?;
    Ok(())
}

/// The writer: one transaction per batch, answered after its sync.
fn write_batches(database: &Database, mut requests: mpsc::Receiver<Request>) {
    while let Some(first) = requests.blocking_recv() {
        let mut bytes = first.action.bytes();
        let mut batch = vec![first];
        while batch.len() < STORE_BATCH_MAX && bytes < STORE_BATCH_BYTES_MAX {
            let Ok(next) = requests.try_recv() else { break };
            bytes += next.action.bytes();
            batch.push(next);
        }
        write_batch(database, batch);
    }
}

fn write_batch(database: &Database, batch: Vec<Request>) {
    let mut waiting = Vec::with_capacity(batch.len());
    let outcomes = (|| -> Result<Vec<_>, redb::Error> {
        let transaction = database.begin_write()?;
        let mut outcomes = Vec::with_capacity(batch.len());
        for request in batch {
            waiting.push(request.done);
            outcomes.push(apply(&transaction, &request.tickets, request.action)?);
        }
        transaction.commit()?;
        Ok(outcomes)
    })();
    match outcomes {
        Ok(outcomes) => {
            for (done, outcome) in waiting.into_iter().zip(outcomes) {
                // Nobody waits for the answer any more if the client has gone.
                let _ = done.send(outcome.map_err(StoreError::Refused));
            }
        }
        Err(error) => {
            tracing::error!(%error, "a batch of writes failed");
            for done in waiting {
                let _ = done.send(Err(StoreError::Disk(error.to_string())));
            }
        }
    }
}

/// Checks and raises the marks, then acts. A refused request changes nothing.
fn apply(
    transaction: &WriteTransaction,
    tickets: &TicketSet,
    action: Action,
) -> Result<Result<bool, Refusal>, redb::Error> {
    let mut marks = transaction.open_table(MARKS)?;
    for ticket in tickets.tickets() {
        if let Err(refusal) = check_one(&marks, ticket)? {
            return Ok(Err(refusal));
        }
    }
    raise(&mut marks, tickets)?;
    let mut values = transaction.open_table(VALUES)?;
    let existed = match action {
        Action::Admit => false,
        Action::Put(key, value) => values.insert(key.as_str(), value.as_ref())?.is_some(),
        Action::Delete(key) => values.remove(key.as_str())?.is_some(),
    };
    Ok(Ok(existed))
}

fn raise(marks: &mut Table<'_, &str, u64>, tickets: &TicketSet) -> Result<(), StorageError> {
    for ticket in tickets.tickets() {
        let lock = ticket.lock.as_str();
        let mark = marks.get(lock)?.map(|mark| Token(mark.value()));
        if standing(mark, ticket.token) == Standing::Newer {
            marks.insert(lock, ticket.token.0)?;
        }
    }
    Ok(())
}

fn check(marks: &impl ReadableTable<&'static str, u64>, set: &TicketSet) -> Result<(), StoreError> {
    for ticket in set.tickets() {
        check_one(marks, ticket).map_err(disk)??;
    }
    Ok(())
}

fn check_one(
    marks: &impl ReadableTable<&'static str, u64>,
    ticket: &Shown,
) -> Result<Result<(), Refusal>, StorageError> {
    let mark = marks
        .get(ticket.lock.as_str())?
        .map(|mark| Token(mark.value()));
    Ok(match standing(mark, ticket.token) {
        Standing::Stale { needed } => Err(stale(&ticket.lock, ticket.token, needed)),
        Standing::Current | Standing::Newer => Ok(()),
    })
}

fn stale(lock: &LockName, shown: Token, needed: Token) -> Refusal {
    Refusal::Stale {
        lock: lock.clone(),
        shown,
        needed: Some(needed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(shown: &[(&str, u64)]) -> TicketSet {
        let shown = shown
            .iter()
            .map(|(lock, token)| Shown {
                lock: LockName::new(lock).unwrap(),
                token: Token(*token),
            })
            .collect();
        TicketSet::new(shown).unwrap()
    }

    fn put(key: &str, value: &str) -> Action {
        Action::Put(key.into(), Bytes::copy_from_slice(value.as_bytes()))
    }

    fn stale_by(error: &StoreError) -> Option<Token> {
        match error {
            StoreError::Refused(Refusal::Stale { needed, .. }) => *needed,
            _ => None,
        }
    }

    #[tokio::test]
    async fn a_lower_token_cannot_write_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path()).unwrap();
        store
            .perform(tickets(&[("a", 5)]), put("a", "five"))
            .await
            .unwrap();
        store
            .perform(tickets(&[("a", 7)]), put("a", "seven"))
            .await
            .unwrap();
        let refused = store
            .perform(tickets(&[("a", 5)]), put("a", "late"))
            .await
            .unwrap_err();
        assert_eq!(stale_by(&refused), Some(Token(7)));
        let refused = store
            .perform(tickets(&[("a", 6)]), Action::Delete("a".into()))
            .await;
        assert!(refused.is_err());
        let value = store.get(TicketSet::default(), "a").await.unwrap();
        assert_eq!(value.as_deref(), Some(&b"seven"[..]));
    }

    #[tokio::test]
    async fn a_read_with_a_ticket_shuts_out_older_writers() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path()).unwrap();
        store
            .perform(tickets(&[("a", 5)]), put("a", "five"))
            .await
            .unwrap();
        store.get(tickets(&[("a", 6)]), "a").await.unwrap();
        let refused = store
            .perform(tickets(&[("a", 5)]), put("a", "late"))
            .await
            .unwrap_err();
        assert_eq!(stale_by(&refused), Some(Token(6)));
        assert!(store.get(tickets(&[("a", 5)]), "a").await.is_err());
    }

    #[tokio::test]
    async fn one_stale_ticket_of_several_stops_the_write_and_raises_no_mark() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path()).unwrap();
        store
            .perform(tickets(&[("a", 5), ("b", 6)]), put("k", "1"))
            .await
            .unwrap();
        store
            .perform(tickets(&[("a", 7)]), Action::Admit)
            .await
            .unwrap();
        let both = tickets(&[("a", 5), ("b", 9)]);
        assert!(store.perform(both, put("k", "2")).await.is_err());
        let marks = store.marks().unwrap();
        assert_eq!(
            marks,
            [("a".to_owned(), Token(7)), ("b".to_owned(), Token(6))]
        );
    }

    #[tokio::test]
    async fn values_and_marks_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (store, writer) = Store::open(dir.path()).unwrap();
        store
            .perform(tickets(&[("a", 5)]), put("a", "five"))
            .await
            .unwrap();
        drop(store);
        writer.join().unwrap();
        let (store, _) = Store::open(dir.path()).unwrap();
        assert!(
            store
                .perform(tickets(&[("a", 4)]), put("a", "four"))
                .await
                .is_err()
        );
        let value = store.get(TicketSet::default(), "a").await.unwrap();
        assert_eq!(value.as_deref(), Some(&b"five"[..]));
    }

    #[tokio::test]
    async fn many_writers_at_once_are_each_answered_for_their_own_write() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path()).unwrap();
        let writers: Vec<_> = (1..=200_u64)
            .map(|token| {
                let store = store.clone();
                tokio::spawn(async move {
                    let write = put("k", &token.to_string());
                    (
                        token,
                        store.perform(tickets(&[("k", token)]), write).await.is_ok(),
                    )
                })
            })
            .collect();
        let mut highest = 0;
        for writer in writers {
            let (token, done) = writer.await.unwrap();
            highest = if done { highest.max(token) } else { highest };
        }
        let value = store.get(TicketSet::default(), "k").await.unwrap().unwrap();
        assert_eq!(value, highest.to_string());
        assert_eq!(highest, 200);
    }
}
