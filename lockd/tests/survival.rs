//! Three real processes under load from real clients: a byte flipped in each file of one node at
//! rest, and that node replaced. Nothing is lost; what was damaged is reported and repaired.

mod cli_support;
mod nodes;

use std::path::PathBuf;

use cli_support::wait_until;
use nodes::ledger::{Crowd, Holdings};
use nodes::{Nodes, files};
use paxos::store::{FileStore, LogStore as _};

const REMOVED: i32 = 118;

/// The node whose disk goes bad.
const VICTIM: u64 = 3;

/// How many bytes of each file are flipped, one after the other, before one in each at once.
const PARTS: usize = 3;

/// A byte of a file.
struct Place {
    file: PathBuf,
    offset: u64,
}

impl Place {
    /// In the middle of this part of what was written there; for the last one of a log, in its
    /// newest entry. None in a file that is empty.
    fn of(file: PathBuf, part: usize) -> Option<Place> {
        let is_log = file.extension().is_some_and(|extension| extension == "seg");
        let newest = is_log && part + 1 == PARTS;
        let newest = newest.then(|| files::newest_entry(&file)).flatten();
        let offset = newest.or_else(|| files::written(&file, part, PARTS))?;
        Some(Place { file, offset })
    }
}

#[test]
fn a_byte_flipped_in_each_file_and_a_node_replaced_under_load_lose_nothing() {
    let mut nodes = Nodes::new();
    for node in 1..=3 {
        nodes.snapshot_after(node, 300);
        nodes.scrub_often(node);
        nodes.start(node);
    }
    nodes.wait_for_leader();
    let mut holdings = Holdings::take(&nodes.layout.clients[0], 10);
    let crowd = Crowd::start(&nodes.layout.clients[0], 6);
    let mut told = Vec::new();
    for part in 0..PARTS {
        let (mut nth, mut count) = (0, 1);
        while nth < count {
            told.push(strike(&mut nodes, &crowd, |all| {
                count = all.len();
                let file = all.into_iter().nth(nth);
                Vec::from_iter(file.and_then(|file| Place::of(file, part)))
            }));
            nth += 1;
        }
        holdings.all_are_held();
    }
    told.push(strike(&mut nodes, &crowd, |all| {
        let all = all.into_iter();
        all.filter_map(|file| Place::of(file, PARTS - 1)).collect()
    }));
    let flipped: usize = told.iter().map(|(bytes, _)| bytes).sum();
    assert!(
        flipped > 3 * PARTS,
        "{told:?}: each of three files, at each place"
    );
    for (_, became) in REPAIRS.iter().take(3) {
        let met = told.iter().any(|(_, all)| all.contains(became));
        assert!(met, "{became} is not in {told:?}");
    }
    let held = holdings.all_are_held();
    println!("{flipped} bytes were flipped and reported; {held} locks are held as they were");
    replace(&mut nodes, &crowd);
    holdings.all_are_held();
    nodes.restart_all();
    crowd.go_on(20);
    let seen = crowd.finish();
    println!(
        "{} grants were judged, up to token {}",
        seen.grants, seen.highest
    );
    holdings.are_free(seen.names());
    holdings.all_are_held();
    holdings.release_all();
}

/// Flips bytes of the victim at rest, and waits until it has reported all of them, has caught up,
/// and finds nothing wrong with its store any more. How many bytes, and what became of them.
fn strike(
    nodes: &mut Nodes,
    crowd: &Crowd,
    choose: impl FnOnce(Vec<PathBuf>) -> Vec<Place>,
) -> (usize, String) {
    wait_until("it has a snapshot", || {
        nodes
            .status(VICTIM)
            .is_some_and(|status| status.snapshot > 0)
    });
    crowd.go_on(5);
    nodes.kill(VICTIM);
    let (left, in_use) = at_rest(nodes);
    let flips = choose(in_use);
    for Place { file, offset } in &flips {
        files::flip(file, *offset, 1);
    }
    let before = nodes.log(VICTIM).len();
    nodes.start(VICTIM);
    let wanted = nodes.applied(1).max(nodes.applied(2));
    let mut found = 0;
    wait_until("it has caught up", || {
        assert_eq!(nodes.has_ended(VICTIM), None, "{}", nodes.log(VICTIM));
        let status = nodes.status(VICTIM);
        found = status.as_ref().map_or(0, |status| status.damaged);
        status.is_some_and(|status| status.applied >= wanted)
    });
    let log = |nodes: &Nodes| nodes.log(VICTIM).split_off(before);
    let names: Vec<String> = flips.iter().map(|place| place.to_string()).collect();
    let names = names.join(", ");
    assert!(
        found >= left + flips.len() as u64,
        "{names}: {found} reported, {left} of them before: {}",
        log(nodes)
    );
    wait_until("all is right again", || {
        let log = log(nodes);
        let mut passes = log.lines().filter(|line| line.contains("a scrub has read"));
        passes
            .next_back()
            .is_some_and(|line| line.contains("damaged=0"))
    });
    let became = repairs(&log(nodes));
    if !flips.is_empty() {
        println!("flipped {names}: {became}");
    }
    (flips.len(), became)
}

/// How many places of the victim's store, which does not run, are still damaged, though that does
/// no harm; and its files, without a snapshot that was given up.
fn at_rest(nodes: &Nodes) -> (u64, Vec<PathBuf>) {
    let home = nodes.home(VICTIM);
    let cell = paxos::CellId(nodes.layout.cell.0);
    let store = FileStore::open(&home.join("data"), cell, paxos::NodeId(VICTIM));
    let store = store.expect("it was repaired");
    let report = store.report();
    assert_eq!(report.damaged, [], "all that matters was repaired");
    let snapshot = store.load().expect("readable").snapshot;
    let snapshot = snapshot.map(|meta| format!("snapshot-{:020}.snap", meta.slot.0));
    let mut in_use = files::of(&home);
    in_use.retain(|file| {
        let given_up = file
            .extension()
            .is_some_and(|extension| extension == "snap");
        !given_up || file.file_name().and_then(|name| name.to_str()) == snapshot.as_deref()
    });
    (report.harmless + report.untold, in_use)
}

/// Log lines of a node that started with damage, and what they mean.
const REPAIRS: [(&str, &str); 5] = [
    ("damaged; the other nodes have a copy", "lost to this node"),
    (
        "further damaged places",
        "of no consequence (there is a second copy, or it is needed no more)",
    ),
    (
        "a damaged entry was repaired by the others",
        "entries had from the others",
    ),
    (
        "installed a peer's snapshot",
        "a snapshot had from another node",
    ),
    ("the damaged snapshot was replaced", "a new snapshot made"),
];

/// What became of the damage that a node found when it started.
fn repairs(log: &str) -> String {
    let met = REPAIRS.iter().filter(|(line, _)| log.contains(line));
    let met: Vec<&str> = met.map(|(_, became)| *became).collect();
    met.join(", ")
}

fn replace(nodes: &mut Nodes, crowd: &Crowd) {
    let (new, address) = nodes.prepare();
    let (old, with) = (VICTIM.to_string(), new.to_string());
    let change = [
        "member",
        "replace",
        &old,
        "--with",
        &with,
        "--address",
        &address,
    ];
    nodes.succeed(&change);
    assert_eq!(nodes.wait_for_end(VICTIM), REMOVED, "{}", nodes.log(VICTIM));
    crowd.go_on(50);
    assert_eq!(nodes.voters(), [1, 2, new]);
    println!("node {VICTIM} was replaced by node {new}");
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.file.file_name().unwrap_or_default();
        write!(f, "byte {} of {}", self.offset, name.display())
    }
}
