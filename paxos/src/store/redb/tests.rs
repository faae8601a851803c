//! The store against real files.

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::types::{Ballot, EntryKind, Incarnation, PersistId};

const CELL: CellId = CellId([1; 16]);
const NODE: NodeId = NodeId(2);

fn members() -> Vec<NodeId> {
    vec![NodeId(1), NodeId(2), NodeId(3)]
}

fn create(directory: &TempDir) -> RedbStore {
    let identity = Identity {
        cell: CELL,
        node: NODE,
        incarnation: Incarnation(5),
    };
    RedbStore::create(&file(directory), identity, &members()).unwrap()
}

fn file(directory: &TempDir) -> PathBuf {
    directory.path().join("log.redb")
}

fn reopen(store: RedbStore, directory: &TempDir) -> RedbStore {
    drop(store);
    RedbStore::open(&file(directory), CELL, NODE).unwrap()
}

fn ballot(round: u64) -> Ballot {
    Ballot {
        round,
        node: NodeId(1),
    }
}

fn entry(slot: u64, origin: u64) -> Entry {
    let payload = Bytes::from(format!("command {slot} of {origin}"));
    Entry::new(Slot(slot), ballot(origin), EntryKind::Command, payload)
}

fn batch(entries: Vec<Entry>) -> WriteBatch {
    WriteBatch {
        id: PersistId(1),
        promised: None,
        accepted: None,
        truncate_from: None,
        entries,
        decided: Slot::NONE,
    }
}

#[test]
fn a_new_store_remembers_nothing_but_its_owner() {
    let directory = TempDir::new().unwrap();
    let store = reopen(create(&directory), &directory);
    assert_eq!(store.identity().incarnation, Incarnation(5));
    assert_eq!(store.load().unwrap(), Recovered::fresh(members()));
}

#[test]
fn a_batch_is_remembered_after_reopening() {
    let directory = TempDir::new().unwrap();
    let store = create(&directory);
    let entries = vec![entry(1, 1), entry(2, 1), entry(3, 1)];
    let mut first = batch(entries.clone());
    first.promised = Some(ballot(2));
    first.accepted = Some(ballot(1));
    first.decided = Slot(1);
    store.write(&first).unwrap();
    let recovered = reopen(store, &directory).load().unwrap();
    assert_eq!(recovered.promised, ballot(2));
    assert_eq!(recovered.accepted, ballot(1));
    assert_eq!(recovered.decided, Slot(1));
    assert_eq!(recovered.entries, entries[1..]);
}

#[test]
fn a_truncation_and_what_replaces_it_are_one_batch() {
    let directory = TempDir::new().unwrap();
    let store = create(&directory);
    store
        .write(&batch((1..=5).map(|slot| entry(slot, 1)).collect()))
        .unwrap();
    let mut second = batch(vec![entry(3, 2), entry(4, 2)]);
    second.truncate_from = Some(Slot(3));
    second.promised = Some(ballot(2));
    second.accepted = Some(ballot(2));
    store.write(&second).unwrap();
    let recovered = reopen(store, &directory).load().unwrap();
    assert_eq!(
        recovered.entries,
        [entry(1, 1), entry(2, 1), entry(3, 2), entry(4, 2)]
    );
    assert_eq!(recovered.accepted, ballot(2));
}

#[test]
fn a_read_gives_what_fits_and_at_least_one_entry() {
    let directory = TempDir::new().unwrap();
    let store = create(&directory);
    store
        .write(&batch((1..=5).map(|slot| entry(slot, 1)).collect()))
        .unwrap();
    let one = log::size(&entry(1, 1));
    assert_eq!(store.read(Slot(2), Slot(4), usize::MAX).unwrap().len(), 3);
    assert_eq!(store.read(Slot(2), Slot(4), 2 * one).unwrap().len(), 2);
    assert_eq!(store.read(Slot(2), Slot(4), 0).unwrap(), [entry(2, 1)]);
    assert_eq!(store.read(Slot(4), Slot(9), usize::MAX).unwrap().len(), 2);
    let missing = store.read(Slot(6), Slot(9), usize::MAX).unwrap_err();
    assert!(matches!(
        missing,
        StoreError::MissingEntry { slot: Slot(6) }
    ));
}

#[test]
fn a_store_is_created_once_only() {
    let directory = TempDir::new().unwrap();
    let identity = create(&directory).identity();
    let again = RedbStore::create(&file(&directory), identity, &members()).unwrap_err();
    assert!(matches!(again, StoreError::Exists { .. }), "{again}");
}

#[test]
fn a_missing_store_is_not_created_and_the_message_says_to_replace_the_node() {
    let directory = TempDir::new().unwrap();
    let missing = RedbStore::open(&file(&directory), CELL, NODE).unwrap_err();
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
    assert!(
        missing.to_string().contains("must be replaced"),
        "{missing}"
    );
    assert!(!file(&directory).exists());
}

#[test]
fn the_store_of_another_cell_or_node_is_refused() {
    let directory = TempDir::new().unwrap();
    drop(create(&directory));
    let cell = RedbStore::open(&file(&directory), CellId([2; 16]), NODE).unwrap_err();
    assert!(matches!(cell, StoreError::WrongCell { .. }), "{cell}");
    let node = RedbStore::open(&file(&directory), CELL, NodeId(3)).unwrap_err();
    assert!(matches!(node, StoreError::WrongNode { .. }), "{node}");
}

#[test]
fn an_interrupted_creation_is_told_from_a_damaged_store() {
    let directory = TempDir::new().unwrap();
    drop(Database::create(file(&directory)).unwrap());
    let unfinished = RedbStore::open(&file(&directory), CELL, NODE).unwrap_err();
    assert!(
        matches!(unfinished, StoreError::Unfinished { .. }),
        "{unfinished}"
    );
}

#[test]
fn a_file_that_is_no_store_is_refused() {
    let directory = TempDir::new().unwrap();
    std::fs::write(file(&directory), b"not a database").unwrap();
    let refused = RedbStore::open(&file(&directory), CELL, NODE).unwrap_err();
    assert!(matches!(refused, StoreError::Database(_)), "{refused}");
}

#[test]
fn a_store_of_another_version_is_refused_by_its_number() {
    let directory = TempDir::new().unwrap();
    let store = create(&directory);
    change(&store, META, OWNER, |record| record[0] = 9);
    drop(store);
    let refused = RedbStore::open(&file(&directory), CELL, NODE).unwrap_err();
    assert!(
        matches!(refused, StoreError::WrongVersion { found: 9 }),
        "{refused}"
    );
}

#[test]
fn a_damaged_entry_is_named_and_never_taken_for_the_end_of_the_log() {
    let directory = TempDir::new().unwrap();
    let store = create(&directory);
    store
        .write(&batch((1..=3).map(|slot| entry(slot, 1)).collect()))
        .unwrap();
    change(&store, LOG, 2, |record| *record.last_mut().unwrap() ^= 1);
    for error in [
        store.load().unwrap_err(),
        store.read(Slot(1), Slot(3), 9999).unwrap_err(),
    ] {
        assert!(
            matches!(error, StoreError::DamagedEntry { slot: Slot(2) }),
            "{error}"
        );
    }
}

#[test]
fn a_damaged_promise_is_noticed() {
    let directory = TempDir::new().unwrap();
    let store = create(&directory);
    change(&store, META, STATE, |record| record[1] ^= 1);
    let error = store.load().unwrap_err();
    assert!(
        matches!(error, StoreError::Damaged { what: "state" }),
        "{error}"
    );
}

#[test]
fn a_batch_that_does_not_continue_the_log_is_refused() {
    let directory = TempDir::new().unwrap();
    let store = create(&directory);
    let error = store.write(&batch(vec![entry(2, 1)])).unwrap_err();
    assert!(
        matches!(error, StoreError::NotContiguous { first: Slot(2), .. }),
        "{error}"
    );
    assert_eq!(store.load().unwrap().entries, []);
}

fn change<K: redb::Key + 'static>(
    store: &RedbStore,
    table: TableDefinition<'_, K, &[u8]>,
    key: K::SelfType<'_>,
    change: fn(&mut Vec<u8>),
) {
    let transaction = store.database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(table).unwrap();
        let mut record = table.get(&key).unwrap().unwrap().value().to_vec();
        change(&mut record);
        table.insert(&key, record.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}
