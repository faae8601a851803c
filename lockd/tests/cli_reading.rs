//! Looking at a cell from the command line: whose sessions are, for how long, in pages; and what
//! one node knows when there is no cell to ask.

mod cli_support;
mod nodes;

use cli_support::{Cell, Process, Said, lockd, wait_until, with_config};
use lockd::server::config::NodeConfig;
use nodes::Nodes;
use serde_json::{Value, json};

fn parse(said: &Said) -> Value {
    assert_eq!(said.code, 0, "{}", said.err);
    serde_json::from_str(&said.out).expect("JSON")
}

#[test]
fn sessions_holders_and_waiters_show_identity_labels_owner_address_and_for_how_long() {
    let cell = Cell::start();
    let flags = ["jobs/1", "--label", "team=billing", "--label", "host=a"];
    let _holder = cell.lock(&flags, "sleep 60");
    let _other = cell.lock(&["other", "--label", "team=reports"], "sleep 60");
    let wait = [
        "lock", "jobs/1", "--owner", "night", "--label", "host=b", "--", "true",
    ];
    let _waiter = Process::start(cell.command(&wait));
    cell.wait_for_waiters("jobs/1", 1);

    let who = parse(&cell.run(&["who", "jobs/1", "--json"]));
    let (holder, waiter) = (&who["holders"][0], &who["waiters"][0]);
    assert_eq!(holder["identity"], "client");
    assert_eq!(holder["labels"], json!({ "host": "a", "team": "billing" }));
    assert!(holder["held"]["ms"].is_u64() && holder["held"]["at_least"] == false);
    assert_eq!(waiter["owner"], "night");
    assert_eq!(waiter["labels"]["host"], "b");
    assert!(waiter["waited"]["ms"].is_u64());
    let table = cell.run(&["who", "jobs/1"]).out;
    assert!(
        table.contains("host=a,team=billing") && table.contains("night"),
        "{table}"
    );

    let all = parse(&cell.run(&["sessions", "--json"]));
    assert_eq!(all.as_array().map(Vec::len), Some(3));
    let address = all[0]["address"].as_str().expect("it is connected");
    assert!(address.parse::<std::net::SocketAddr>().is_ok(), "{address}");
    assert!(all[0]["ttl_left_ms"].is_u64());
    let billing = ["sessions", "--label", "team=billing", "--json"];
    let billing = parse(&cell.run(&billing));
    assert_eq!(billing.as_array().map(Vec::len), Some(1));
    assert_eq!(billing[0]["session"], who["holder"]);
    let both = [
        "sessions",
        "--label",
        "team=billing",
        "--label",
        "host=b",
        "--json",
    ];
    assert_eq!(parse(&cell.run(&both)), json!([]));
}

#[test]
fn listings_come_in_pages_that_say_how_to_go_on() {
    let cell = Cell::start();
    let names: Vec<String> = (0..5).map(|n| format!("page/{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let _holder = cell.lock(&names, "sleep 60");
    let first = cell.run(&["ls", "page/", "--limit", "2"]);
    assert!(
        first.out.contains("go on with --after page/1"),
        "{}",
        first.out
    );
    let rest = parse(&cell.run(&["ls", "page/", "--after", "page/1", "--json"]));
    let rest: Vec<&Value> = rest.as_array().expect("a list").iter().collect();
    assert_eq!(rest.len(), 3);
    assert_eq!(rest[0]["lock"], "page/2");
    let last = cell.run(&["ls", "page/", "--limit", "3", "--after", "page/1"]);
    assert!(!last.out.contains("--after"), "{}", last.out);

    let _second = cell.lock(&["second"], "sleep 60");
    let one = parse(&cell.run(&["sessions", "--limit", "1", "--json"]));
    let id = one[0]["session"].as_str().expect("an id");
    let next = parse(&cell.run(&["sessions", "--after", id, "--json"]));
    assert_eq!(next.as_array().map(Vec::len), Some(1));
    assert_ne!(next[0]["session"], one[0]["session"]);
}

#[test]
fn a_long_queue_comes_in_pages_too() {
    let cell = Cell::start();
    let _holder = cell.lock(&["desk"], "sleep 60");
    let mut waiting = Vec::new();
    for n in 1..=3 {
        let waiter = cell.command(&["lock", "desk", "--", "true"]);
        waiting.push(Process::start(waiter));
        cell.wait_for_waiters("desk", n);
    }
    let queue = parse(&cell.run(&["who", "desk", "--json"]));
    let first = cell.run(&["who", "desk", "--limit", "2"]).out;
    let how_to_go_on = "1 holders and 3 waiters in all: go on with --skip 2";
    assert!(first.contains(how_to_go_on), "{first}");
    let rest = ["who", "desk", "--limit", "2", "--skip", "2"];
    let last = cell.run(&rest).out;
    assert!(
        last.contains("waiter 3") && !last.contains("--skip"),
        "{last}"
    );
    let last = parse(&cell.run(&[&rest[..], &["--json"]].concat()));
    assert_eq!(last["waiters"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        last["waiters"][0]["session"],
        queue["waiters"][2]["session"]
    );
}

#[test]
fn labels_that_are_not_allowed_are_refused_in_one_line_that_names_them() {
    let cell = Cell::start();
    let wrong = |label: &str| cell.run(&["lock", "a", "--label", label, "--", "true"]);
    assert!(wrong("team").one_line(2).contains("KEY=VALUE"));
    assert!(wrong("a b=c").one_line(2).contains("the key \"a b\""));
    let long = format!("host={}", "x".repeat(200));
    assert!(wrong(&long).one_line(2).contains("label \"host\""));
}

#[test]
fn only_the_operator_breaks_a_lock() {
    let cell = Cell::start();
    let _holder = cell.lock(&["a"], "sleep 60");
    let refused = cell.run(&["break", "a", "--reason", "x"]);
    assert!(
        refused.one_line(123).contains("only an operator"),
        "{}",
        refused.err
    );
    assert_eq!(parse(&cell.run(&["ls", "--json"]))[0]["lock"], "a");
}

#[test]
fn one_node_of_three_still_tells_what_it_knows_and_says_that_it_may_be_stale() {
    let mut nodes = Nodes::started();
    let config = nodes.layout.clients[0].clone();
    let run = |arguments: &[&str]| Said::of(Process::start(with_config(&config, arguments)).wait());
    let hold = [
        "lock",
        "x",
        "--ttl",
        "5m",
        "--",
        "sh",
        "-c",
        "echo running; sleep 600",
    ];
    let mut holder = Process::start(with_config(&config, &hold));
    assert_eq!(holder.line(), "running");
    let token = parse(&run(&["who", "x", "--json"]))["token"].clone();

    let leader = nodes.leader();
    let left = leader % 3 + 1;
    let own = NodeConfig::load(&nodes.layout.nodes[left as usize - 1]).expect("readable");
    let address = own.address().expect("it has one").to_string();
    let of_it = ["who", "x", "--stale", "--node", &address, "--json"];
    wait_until("the node that is to be left has it", || {
        run(&of_it).code == 0
    });
    (1..=3)
        .filter(|node| *node != left)
        .for_each(|node| nodes.kill(node));

    let who = parse(&run(&["who", "x", "--stale", "--json"]));
    assert_eq!(who["token"], token);
    assert_eq!(who["stale"]["node"], left);
    assert!(who["stale"]["applied"].as_u64() > Some(0));
    assert_eq!(
        who["holders"][0]["held"],
        Value::Null,
        "only a leader tells"
    );
    let text = run(&["ls", "--stale", "--node", &address]).out;
    assert!(
        text.contains(&format!("stale: what node {left} knew")),
        "{text}"
    );
    let sessions = parse(&run(&["sessions", "--stale", "--json"]));
    assert_eq!(sessions["sessions"].as_array().map(Vec::len), Some(1));
    let nobody = run(&["who", "y", "--stale"]);
    assert!(
        nobody.one_line(124).contains("as far as node"),
        "{}",
        nobody.err
    );
    assert_eq!(run(&["status", "--stale"]).code, 0);
    let status = parse(&run(&["status", "--stale", "--node", &address, "--json"]));
    assert_eq!(status[0]["node"], left);

    // Without it nothing is told that the cell does not stand for.
    run(&["who", "x"]).one_line(122);
    assert_eq!(run(&["status"]).code, 122);
    let usage = Process::start(lockd(&["who", "x", "--node", &address]));
    assert!(Said::of(usage.wait()).one_line(2).contains("--stale"));
}
