//! Nodes join, leave and are replaced, as real processes, while a client holds and takes locks.

mod cli_support;
mod nodes;

use cli_support::wait_until;
use nodes::ledger::{Crowd, Holdings};
use nodes::{Load, Nodes};

const REMOVED: i32 = 118;
const REFUSED: i32 = 123;

#[test]
fn a_cell_grows_to_five_under_load_and_restarts() {
    let mut nodes = Nodes::started();
    let load = Load::start(&nodes.layout.clients[0]);
    for wanted in [4, 5] {
        assert_eq!(nodes.prepare_and_add(), wanted);
        nodes.restart_all();
        load.go_on(20);
    }
    assert_eq!(nodes.voters(), [1, 2, 3, 4, 5]);
    load.finish();
}

#[test]
fn a_cell_shrinks_to_three_under_load_and_restarts() {
    let mut nodes = Nodes::started_with(5);
    let load = Load::start(&nodes.layout.clients[0]);
    for gone in [1, 2] {
        nodes.succeed(&["member", "remove", &gone.to_string()]);
        assert_eq!(nodes.wait_for_end(gone), REMOVED, "{}", nodes.log(gone));
        nodes.restart_all();
        load.go_on(20);
    }
    assert_eq!(nodes.voters(), [3, 4, 5]);
    load.finish();
    let again = nodes.home(1);
    assert_eq!(nodes.run_to_end(&again, 1), REMOVED, "{}", nodes.log(1));
    assert!(
        nodes.log(1).contains("has been removed"),
        "{}",
        nodes.log(1)
    );
}

#[test]
fn a_client_with_an_old_list_finds_the_cell_as_long_as_one_address_works() {
    let mut nodes = Nodes::started();
    let (new, address) = nodes.prepare();
    let with = new.to_string();
    // A client that was connected before, and learns of the new node then.
    let load = Load::start(&nodes.layout.clients[0]);
    nodes.succeed(&[
        "member",
        "replace",
        "1",
        "--with",
        &with,
        "--address",
        &address,
    ]);
    assert_eq!(nodes.wait_for_end(1), REMOVED);
    // Of the three that it was configured with, one is gone for good and one for now.
    nodes.kill(2);
    load.go_on(20);
    nodes.start(2);
    load.finish();
    // And one that comes with the old list.
    Load::start(&nodes.layout.clients[0]).finish();
}

#[test]
fn a_node_that_was_killed_is_replaced_and_the_leader_removes_itself_and_all_are_killed() {
    let mut nodes = Nodes::started();
    let mut holdings = Holdings::take(&nodes.layout.clients[0], 5);
    let crowd = Crowd::start(&nodes.layout.clients[0], 4);
    let follower = nodes.leader() % 3 + 1;
    nodes.kill(follower);
    let (new, address) = nodes.prepare();
    let (old, with) = (follower.to_string(), new.to_string());
    let replace = [
        "member",
        "replace",
        &old,
        "--with",
        &with,
        "--address",
        &address,
    ];
    nodes.succeed(&replace);
    crowd.go_on(20);
    nodes.restart_all();
    crowd.go_on(20);
    holdings.all_are_held();
    // The one that was killed has not heard of it.
    says_that_it_was_removed(&mut nodes, follower);
    let leader = nodes.leader();
    nodes.succeed(&["member", "remove", &leader.to_string()]);
    assert_eq!(nodes.wait_for_end(leader), REMOVED, "{}", nodes.log(leader));
    crowd.go_on(20);
    nodes.restart_all();
    crowd.go_on(20);
    says_that_it_was_removed(&mut nodes, leader);
    let voters = nodes.voters();
    assert!(voters.len() == 2 && !voters.contains(&follower) && !voters.contains(&leader));
    let seen = crowd.finish();
    holdings.are_free(seen.names());
    holdings.all_are_held();
    holdings.release_all();
}

/// A node that was removed ends when it is started again, and says why.
fn says_that_it_was_removed(nodes: &mut Nodes, node: u64) {
    let (home, before) = (nodes.home(node), nodes.log(node).len());
    let code = nodes.run_to_end(&home, node);
    let log = nodes.log(node).split_off(before);
    assert_eq!(code, REMOVED, "{log}");
    assert!(
        log.contains("lockd: this node has been removed from the cell"),
        "{log}"
    );
}

#[test]
fn changes_that_cannot_be_are_refused_with_the_reason() {
    let mut nodes = Nodes::started();
    let refused = |nodes: &Nodes, arguments: &[&str], reason: &str| {
        let said = nodes.operate(arguments);
        assert!(said.one_line(REFUSED).contains(reason), "{}", said.err);
    };
    refused(&nodes, &["member", "remove", "9"], "node 9 is no member");
    let used = ["member", "add", "2", "--address", "127.0.0.1:1"];
    refused(&nodes, &used, "numbers up to 3 have been given");
    let client = nodes.layout.clients[0].to_str().expect("text").to_owned();
    let unauthorised = ["member", "remove", "3", "--config", &client];
    refused(&nodes, &unauthorised, "only an operator");
    // A node that is not there cannot catch up.
    let absent = [
        "member",
        "add",
        "4",
        "--address",
        "127.0.0.1:1",
        "--timeout",
        "1s",
    ];
    let said = nodes.operate(&absent);
    assert_eq!(said.code, 122, "{}", said.err);
    assert!(
        said.err.contains("node 4 has not reached the leader"),
        "{}",
        said.err
    );
    // With one of three gone, the other two may not become two of which one is away.
    let follower = nodes.leader() % 3 + 1;
    let other = 6 - follower - nodes.leader();
    nodes.kill(follower);
    let remove = ["member", "remove", &other.to_string()];
    wait_until("the leader misses the node", || {
        let listing = nodes.members();
        let gone = listing.iter().find(|node| node["node"] == follower);
        gone.is_some_and(|node| node["silent_ms"].as_u64() > Some(1000))
    });
    refused(&nodes, &remove, "would stand still");
    assert_eq!(nodes.voters(), [1, 2, 3]);
}

#[test]
fn quorums_are_chosen_and_checked() {
    let dir = tempfile::tempdir().expect("a directory");
    let init = |name: &str, prepare: &str, accept: &str| {
        let path = dir.path().join(name);
        let path = path.to_str().expect("text");
        let flags = ["--prepare-quorum", prepare, "--accept-quorum", accept];
        let arguments: Vec<&str> = ["init", path, "--nodes", "5"]
            .into_iter()
            .chain(flags)
            .collect();
        cli_support::Said::of(cli_support::Process::start(cli_support::lockd(&arguments)).wait())
    };
    assert!(init("apart", "2", "3").one_line(2).contains("quorums"));
    assert_eq!(init("good", "4", "2").code, 0);
    let mut nodes = Nodes::started();
    let leader = nodes.leader();
    let follower = leader % 3 + 1;
    let flags = ["--prepare-quorum", "2", "--accept-quorum", "1"];
    let (follower_text, mut change) = (follower.to_string(), vec!["member", "remove"]);
    change.push(&follower_text);
    change.extend(flags);
    nodes.succeed(&change);
    assert_eq!(nodes.wait_for_end(follower), REMOVED);
    let listing = nodes.succeed(&["member", "ls"]);
    assert!(
        listing.out.contains("2 to prepare, 1 to accept"),
        "{}",
        listing.out
    );
}
