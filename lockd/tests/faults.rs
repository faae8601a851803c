//! Disks that are full, stuck, failing or damaged under nodes that run, as real processes: what it
//! costs is a node or its leadership, never a grant.

mod cli_support;
mod nodes;

use std::time::Duration;

use cli_support::wait_until;
use nodes::Nodes;
use nodes::files;
use nodes::ledger::{Crowd, Holdings};
use nodes::trouble::{DISK_THREAD, SyncFault};

const DISK_FULL: i32 = 116;
const DISK_FAILED: i32 = 119;

/// Ten minutes, which none of these tests waits for.
const STUCK: &str = "delay_enter=600000000";

/// Long against what a grant takes, and short against the patience of these tests.
const A_WHILE: Duration = Duration::from_secs(2);

#[test]
fn a_leader_whose_disk_is_full_ends_and_comes_back_when_there_is_room() {
    let mut nodes = Nodes::new();
    for node in 1..=3 {
        nodes.give_small_disk(node, 16 << 20);
        nodes.start(node);
    }
    nodes.wait_for_leader();
    let mut holdings = Holdings::take(&nodes.layout.clients[0], 5);
    let crowd = Crowd::start(&nodes.layout.clients[0], 8);
    let leader = nodes.leader();
    nodes.disk(leader).fill();
    assert_eq!(
        nodes.wait_for_end(leader),
        DISK_FULL,
        "{}",
        nodes.log(leader)
    );
    let log = nodes.log(leader);
    assert!(log.contains("the disk is full"), "{log}");
    crowd.go_on(20);
    holdings.all_are_held();
    // Started without room, it ends again, and nothing is the worse for it.
    nodes.start(leader);
    assert_eq!(
        nodes.wait_for_end(leader),
        DISK_FULL,
        "{}",
        nodes.log(leader)
    );
    nodes.disk(leader).make_room();
    nodes.start(leader);
    let (one, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let wanted = nodes.applied(one).max(nodes.applied(other));
    wait_until("it has caught up", || nodes.applied(leader) >= wanted);
    // And counts: with another one gone it is one of the two that decide.
    nodes.kill(one);
    crowd.go_on(20);
    let seen = crowd.finish();
    holdings.are_free(seen.names());
    holdings.all_are_held();
    holdings.release_all();
}

#[test]
fn a_leader_whose_disk_is_stuck_steps_down_and_follows_when_it_works_again() {
    let nodes = Nodes::started();
    let mut holdings = Holdings::take(&nodes.layout.clients[0], 5);
    let crowd = Crowd::start(&nodes.layout.clients[0], 4);
    let leader = nodes.leader();
    let fault = SyncFault::inject(nodes.pid(leader), DISK_THREAD, STUCK);
    wait_until("another node leads", || {
        let others = (1..=3).filter(|node| *node != leader);
        let mut statuses = others.filter_map(|node| nodes.status(node));
        statuses.any(|status| status.leading)
    });
    let stuck = nodes
        .status(leader)
        .expect("it answers, though its disk does not");
    assert!(!stuck.leading);
    crowd.go_on(50);
    holdings.all_are_held();
    fault.end();
    let wanted = (1..=3).map(|node| nodes.applied(node)).max();
    wait_until("it has caught up", || {
        nodes.applied(leader) >= wanted.unwrap_or(0)
    });
    let seen = crowd.finish();
    holdings.are_free(seen.names());
    holdings.all_are_held();
    holdings.release_all();
}

#[test]
fn a_node_whose_disk_is_stuck_ends_when_it_is_told_to() {
    let mut nodes = Nodes::started();
    let mut holdings = Holdings::take(&nodes.layout.clients[0], 5);
    let fault = SyncFault::inject(nodes.pid(1), DISK_THREAD, STUCK);
    holdings.take_one();
    nodes.ask_to_end(1);
    wait_until("it ends without that thread", || {
        nodes
            .log(1)
            .contains("a thread is stuck in the disk, and is left behind")
    });
    // Who traces a thread keeps what is left of its process.
    drop(fault);
    assert_eq!(nodes.wait_for_end(1), 0, "{}", nodes.log(1));
    nodes.start(1);
    holdings.all_are_held();
    holdings.release_all();
}

#[test]
fn a_sync_that_fails_while_a_node_starts_ends_it_like_any_other() {
    let mut nodes = Nodes::new();
    let home = nodes.home(1);
    assert_eq!(
        nodes.run_to_end_with(&home, 1, "error=EIO:when=1"),
        DISK_FAILED
    );
    let log = nodes.log(1);
    assert!(
        log.contains("the disk failed") && log.contains("replace the node"),
        "{log}"
    );
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_and_the_node_is_to_be_replaced() {
    let mut nodes = Nodes::started();
    let mut holdings = Holdings::take(&nodes.layout.clients[0], 5);
    let leader = nodes.leader();
    let (away, failing) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    // With one of three away, whatever is granted needs the sync that fails.
    nodes.kill(away);
    holdings.all_are_held();
    let fault = SyncFault::inject(nodes.pid(failing), DISK_THREAD, "error=EIO");
    assert!(
        !holdings.try_within("undecided", A_WHILE),
        "one of three decides nothing"
    );
    assert_eq!(
        nodes.wait_for_end(failing),
        DISK_FAILED,
        "{}",
        nodes.log(failing)
    );
    drop(fault);
    let log = nodes.log(failing);
    assert!(
        log.contains("the disk failed") && log.contains("replace the node"),
        "{log}"
    );
    assert!(
        !holdings.try_within("undecided too", A_WHILE),
        "nor without it"
    );
    nodes.start(away);
    nodes.wait_for_leader();
    holdings.all_are_held();
    let (new, address) = nodes.prepare();
    let (old, with) = (failing.to_string(), new.to_string());
    nodes.succeed(&[
        "member",
        "replace",
        &old,
        "--with",
        &with,
        "--address",
        &address,
    ]);
    nodes.restart_all();
    holdings.all_are_held();
    holdings.release_all();
}

#[test]
fn a_leader_whose_sync_fails_ends_and_nothing_that_it_granted_is_lost() {
    let mut nodes = Nodes::started();
    let mut holdings = Holdings::take(&nodes.layout.clients[0], 5);
    let crowd = Crowd::start(&nodes.layout.clients[0], 4);
    let leader = nodes.leader();
    let _fault = SyncFault::inject(nodes.pid(leader), DISK_THREAD, "error=EIO:when=5");
    assert_eq!(
        nodes.wait_for_end(leader),
        DISK_FAILED,
        "{}",
        nodes.log(leader)
    );
    crowd.go_on(50);
    let seen = crowd.finish();
    holdings.are_free(seen.names());
    holdings.all_are_held();
    holdings.release_all();
}

#[test]
fn a_byte_that_changes_under_a_running_node_is_found_reported_and_repaired() {
    let mut nodes = Nodes::new();
    for node in 1..=3 {
        nodes.snapshot_after(node, 100);
        nodes.scrub_often(node);
        nodes.start(node);
    }
    nodes.wait_for_leader();
    let mut holdings = Holdings::take(&nodes.layout.clients[0], 5);
    let crowd = Crowd::start(&nodes.layout.clients[0], 4);
    let snapshots = |nodes: &Nodes| files::with_extension(&nodes.home(3), "snap");
    wait_until("there is a snapshot", || !snapshots(&nodes).is_empty());
    let seen = crowd.finish();
    holdings.are_free(seen.names());
    // From here on nothing else reads or replaces what is damaged: the cell is idle.
    wait_until("no snapshot is due", || {
        let status = nodes.status(3).expect("it runs");
        status.applied - status.snapshot < 50 || {
            holdings.take_one();
            false
        }
    });
    holdings.take_one();
    let damage = |nodes: &Nodes| {
        let status = nodes.status(3).expect("it runs");
        (status.damaged, status.repaired)
    };
    assert_eq!(damage(&nodes), (0, 0), "{}", nodes.log(3));
    let segment = files::with_extension(&nodes.home(3), "seg").pop();
    let segment = segment.expect("a log");
    let entry = files::newest_entry(&segment).expect("there are entries");
    files::flip(&segment, entry, 1);
    wait_until("the entry is repaired", || damage(&nodes).1 >= 1);
    assert!(says(&nodes, "a scrub found a damaged entry of the log"));
    let snapshot = snapshots(&nodes).pop().expect("one");
    files::flip(&snapshot, files::used(&snapshot) - 100, 1);
    wait_until("the snapshot is replaced", || {
        says(&nodes, "the damaged snapshot was replaced")
    });
    assert!(says(&nodes, "a scrub found the last snapshot damaged"));
    let (found, repaired) = damage(&nodes);
    assert!(
        found >= 2 && repaired >= 2,
        "{found} found, {repaired} repaired"
    );
    let before = nodes.log(3).len();
    wait_until("a later scrub finds nothing more", || {
        let log = nodes.log(3).split_off(before);
        log.lines()
            .any(|line| line.contains("a scrub has read") && line.contains("damaged=0"))
    });
    assert_eq!(nodes.has_ended(3), None, "all of this without a restart");
    holdings.all_are_held();
    let before = nodes.log(3).len();
    nodes.restart_all();
    holdings.all_are_held();
    // What was in the place of the entry that was written again is of no use, and does no harm.
    let log = nodes.log(3).split_off(before);
    assert!(!log.contains("damaged; the other nodes"), "{log}");
    holdings.release_all();
}

fn says(nodes: &Nodes, what: &str) -> bool {
    nodes.log(3).contains(what)
}
