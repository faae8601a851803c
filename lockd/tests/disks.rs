//! What becomes of a node whose data directory is a copy, empty, of another cell or damaged, and
//! of one that was away for long; as real processes.

mod cli_support;
mod nodes;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;

use bytes::Bytes;
use cli_support::{Process, Said, lockd, wait_until};
use lockd::init::{InitOptions, PrepareOptions, init, prepare};
use lockd::server::config::NodeConfig;
use lockd::state::command::{Batch, Command};
use lockd_protocol::client::{About, Operation};
use lockd_protocol::{Millis, NodeId, Nonce, Sequence, SessionId};
use nodes::{Load, Nodes, files};
use paxos::store::{FileStore, LogStore as _};
use paxos::{
    Ballot, Entry, EntryKind, Epoch, Identity, Incarnation, Membership, PersistId, Slot, WriteBatch,
};

const NOT_ITSELF: i32 = 117;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

#[test]
fn a_copied_and_an_emptied_data_directory_are_refused() {
    let mut nodes = Nodes::started();
    nodes.kill(3);
    let copied = nodes.dir.path().join("copy");
    copy(&nodes.home(3), &copied);
    assert_eq!(nodes.run_to_end(&copied, 3), NOT_ITSELF, "{}", nodes.log(3));
    assert!(
        nodes.log(3).contains("was copied or restored"),
        "{}",
        nodes.log(3)
    );
    fs::remove_dir_all(copied.join("data")).expect("removed");
    fs::create_dir(copied.join("data")).expect("made");
    assert_eq!(nodes.run_to_end(&copied, 3), NOT_ITSELF, "{}", nodes.log(3));
    assert!(nodes.log(3).contains("no store here"), "{}", nodes.log(3));
}

#[test]
fn an_adopted_copy_is_refused_by_the_others_while_the_original_goes_on() {
    let mut nodes = Nodes::started();
    nodes.kill(3);
    let copied = nodes.dir.path().join("copy");
    copy(&nodes.home(3), &copied);
    let before = nodes.log(3).len();
    nodes.start(3);
    wait_until("both others have met the original's latest start", || {
        let log = nodes.log(3).split_off(before);
        log.matches("connected to a peer").count() >= 2
    });
    // The original lives on, so the copy is to listen somewhere else.
    let config = copied.join("node.toml");
    let text = fs::read_to_string(&config).expect("a configuration");
    let own = NodeConfig::load(&config)
        .expect("a configuration")
        .address();
    let text = text.replace(&own.expect("an address").to_string(), "127.0.0.1:0");
    fs::write(&config, text).expect("written");
    let config = config.to_str().expect("text");
    let adopt = ["member", "adopt-data", "--config", config];
    assert_eq!(Said::of(Process::start(lockd(&adopt)).wait()).code, 0);
    assert_eq!(nodes.run_to_end(&copied, 3), NOT_ITSELF, "{}", nodes.log(3));
    assert!(
        nodes.log(3).contains("copied or set back"),
        "{}",
        nodes.log(3)
    );
    let others = nodes.log(1) + &nodes.log(2);
    assert!(others.contains("refusing a node"), "{others}");
    assert_eq!(nodes.has_ended(3), None, "the original is not disturbed");
}

#[test]
fn a_node_of_another_cell_is_refused_and_ends() {
    let mut nodes = Nodes::started();
    let other = init(&nodes.dir.path().join("other"), &InitOptions::default()).expect("a cell");
    // A node of that cell looks for it where this one is.
    let own = NodeConfig::load(&nodes.home(1).join("node.toml")).expect("a configuration");
    let options = PrepareOptions {
        cell: other.cell,
        node: NodeId(9),
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        members: own.member,
    };
    let made = prepare(&nodes.dir.path().join("other"), &options).expect("a node");
    let home = made.0.parent().expect("a directory").to_owned();
    assert_eq!(nodes.run_to_end(&home, 9), NOT_ITSELF, "{}", nodes.log(9));
    assert!(
        nodes.log(9).contains("are of another cell"),
        "{}",
        nodes.log(9)
    );
    wait_until("the others say why, too", || {
        (nodes.log(1) + &nodes.log(2) + &nodes.log(3)).contains("a handshake failed")
    });
}

#[test]
fn a_node_of_another_cell_of_the_same_authority_is_refused_and_ends() {
    let mut nodes = Nodes::started();
    let own = NodeConfig::load(&nodes.home(1).join("node.toml")).expect("a configuration");
    let options = PrepareOptions {
        cell: nodes.layout.cell,
        node: NodeId(9),
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        members: own.member,
    };
    let (config, ..) = prepare(&nodes.root(), &options).expect("a node");
    // Its certificate is right, and its data and its configuration are another cell's.
    let text = fs::read_to_string(&config).expect("a configuration");
    let text = text.replace(&nodes.layout.cell.to_string(), &"07".repeat(16));
    fs::write(&config, text).expect("written");
    let home = config.parent().expect("a directory").to_owned();
    fs::remove_dir_all(home.join("data")).expect("removed");
    let identity = Identity {
        cell: paxos::CellId([7; 16]),
        node: paxos::NodeId(9),
        incarnation: Incarnation(9),
    };
    let created = FileStore::create(&home.join("data"), identity, &Membership::none());
    drop(created.expect("a store"));
    assert_eq!(nodes.run_to_end(&home, 9), NOT_ITSELF, "{}", nodes.log(9));
    let log = nodes.log(9);
    assert!(log.contains("a peer is of another cell"), "{log}");
    assert!(
        log.contains("the nodes that this one knows are of another cell"),
        "{log}"
    );
    let log = nodes.log(1);
    assert!(
        log.contains("refusing a node") && log.contains("node 9 is of cell 0707"),
        "{log}"
    );
}

#[test]
fn a_node_of_another_cell_says_so_at_the_first_refusal_and_goes_on_asking_the_others() {
    let mut nodes = Nodes::started();
    let other = init(&nodes.dir.path().join("other"), &InitOptions::default()).expect("a cell");
    // Of the three that it is to look for the cell at, two say nothing at all.
    let silent = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").expect("a socket"));
    let mut members = NodeConfig::load(&nodes.home(1).join("node.toml"))
        .expect("a configuration")
        .member;
    for (member, silent) in members.iter_mut().skip(1).zip(&silent) {
        member.address = silent.local_addr().expect("bound");
    }
    let options = PrepareOptions {
        cell: other.cell,
        node: NodeId(9),
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        members,
    };
    let made = prepare(&nodes.dir.path().join("other"), &options).expect("a node");
    nodes.start_at(made.0.parent().expect("a directory"), 9);
    wait_until("it says why it is refused", || {
        nodes.log(9).contains("a peer is of another cell")
    });
    wait_until("it has asked the others, too", || {
        nodes.log(9).matches("cannot reach a peer").count() >= 2
    });
    assert_eq!(nodes.has_ended(9), None, "one alone may be wrong itself");
    let log = nodes.log(1);
    assert!(
        log.contains("the other side is not of this cell's authority"),
        "{log}"
    );
}

/// As if the cell had decided this while the node of `home` was up: sessions that come and go.
fn write_history(nodes: &Nodes, node: u64, entries: u64) {
    let data = nodes.home(node).join("data");
    let cell = paxos::CellId(nodes.layout.cell.0);
    let store = FileStore::open(&data, cell, paxos::NodeId(node)).expect("a store");
    let origin = Ballot {
        epoch: Epoch::FIRST,
        round: 1,
        node: paxos::NodeId(1),
    };
    let slots: Vec<u64> = (1..=entries).collect();
    for (number, part) in (1..).zip(slots.chunks(500)) {
        let entries: Vec<Entry> = part.iter().map(|slot| history(*slot, origin)).collect();
        let batch = WriteBatch {
            id: PersistId(number),
            promised: Some(origin),
            accepted: Some(origin),
            membership: None,
            snapshot: None,
            restart: false,
            keep_from: Slot(1),
            truncate_from: None,
            decided: entries.last().expect("some").slot,
            entries,
        };
        store.write(&batch).expect("written");
    }
}

fn history(slot: u64, origin: Ballot) -> Entry {
    let mut batch = Batch::default();
    let session = SessionId(slot / 2);
    match slot {
        1 => {}
        slot if slot % 2 == 0 => batch.push(&Command::Open {
            nonce: Nonce(slot.into()),
            ttl: Millis(1000),
            identity: "client".to_owned(),
            about: About::described(format!("session {slot}")),
        }),
        _ if slot % 20 == 1 => {}
        _ => batch.push(&Command::Request {
            session,
            sequence: Sequence(1),
            acknowledged: Sequence(0),
            operation: Operation::Close,
        }),
    }
    let kind = match slot {
        1 => EntryKind::NewLeader,
        _ => EntryKind::Command,
    };
    Entry::new(Slot(slot), origin, kind, Bytes::from(batch.take()))
}

#[test]
fn a_node_that_missed_twenty_thousand_entries_catches_up_through_a_snapshot_under_load() {
    let mut nodes = Nodes::new();
    for node in [1, 2] {
        write_history(&nodes, node, 20_000);
        nodes.snapshot_after(node, 1000);
        nodes.start(node);
    }
    nodes.wait_for_leader();
    let load = Load::start(&nodes.layout.clients[0]);
    wait_until("the log is cut", || {
        let cut = |node| {
            nodes
                .status(node)
                .is_some_and(|status| status.log_first > 1)
        };
        cut(1) && cut(2)
    });
    nodes.start(3);
    wait_until("it has caught up", || nodes.applied(3) > 20_000);
    assert!(
        nodes.log(3).contains("installed a peer's snapshot"),
        "{}",
        nodes.log(3)
    );
    load.go_on(20);
    // What it has learnt counts: with another one gone it is one of the two that decide.
    nodes.kill(1);
    load.go_on(20);
    load.finish();
}

#[test]
fn changed_bytes_in_any_file_are_repaired_by_the_others_or_the_node_asks_to_be_replaced() {
    let mut nodes = Nodes::new();
    for node in 1..=3 {
        nodes.snapshot_after(node, 50);
        nodes.start(node);
    }
    nodes.wait_for_leader();
    let load = Load::start(&nodes.layout.clients[0]);
    wait_until("there is a snapshot", || {
        !files::with_extension(&nodes.home(3), "snap").is_empty()
    });
    let (mut told, mut repaired, mut refused) = (0, 0, 0);
    let mut seen = BTreeSet::new();
    for place in 0..4 {
        for at in 0..5 {
            load.go_on(2);
            nodes.kill(3);
            let before = nodes.log(3).len();
            let all = files::of(&nodes.home(3));
            let Some(path) = all.get(at).filter(|path| files::used(path) > 0) else {
                nodes.start(3);
                continue;
            };
            // One byte or a sector; at the beginning, further on, and where it was written last.
            let offset = files::used(path) * (2 * place + 1) / 6;
            let offset = offset.min(files::used(path).saturating_sub(100));
            let bytes = if place % 2 == 0 { 1 } else { 4096 };
            files::flip(path, offset, bytes);
            nodes.start(3);
            let others = [1, 2].map(|node| nodes.applied(node));
            let wanted = others[0].max(others[1]);
            let mut ended = None;
            wait_until("it goes on or ends", || {
                ended = nodes.has_ended(3);
                ended.is_some() || nodes.applied(3) >= wanted
            });
            let log = nodes.log(3).split_off(before);
            if let Some(code) = ended {
                assert_eq!(code, 119, "{}: {log}", path.display());
                assert!(log.contains("replace"), "{}: {log}", path.display());
                refused += 1;
                // So that there is something for the next byte.
                files::flip(path, offset, bytes);
                nodes.start(3);
            } else if log.contains("was repaired") || log.contains("installed a peer") {
                repaired += 1;
            }
            told += usize::from(log.contains("damaged"));
            seen.extend(path.extension().map(|e| e.to_owned()));
        }
    }
    assert!(
        seen.contains(OsStr::new("seg")) && seen.contains(OsStr::new("snap")),
        "{seen:?}"
    );
    assert!(
        told > 0 && repaired > 0,
        "{told} told, {repaired} repaired, {refused} refused"
    );
    nodes.restart_all();
    load.go_on(20);
    load.finish();
}
