//! The other subcommands: making and running a cell, looking at it, and what goes wrong.

mod cli_support;

use std::fs;

use cli_support::{Cell, Process, Said, lockd, wait_until, with_config};
use rustix::process::Signal;
use serde_json::Value;

fn json(said: &Said) -> Value {
    assert_eq!(said.code, 0, "{}", said.err);
    serde_json::from_str(&said.out).expect("JSON")
}

#[test]
fn a_cell_of_three_processes_serves_through_the_death_of_its_leader() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("cell");
    let path = root.to_str().expect("text");
    let init = Said::of(Process::start(lockd(&["init", path])).wait());
    assert_eq!(init.code, 0, "{}", init.err);
    let again = Said::of(Process::start(lockd(&["init", path])).wait());
    assert!(again.one_line(2).contains("not empty"));

    let start = |node: usize| {
        let config = root.join(format!("node-{node}/node.toml"));
        Process::start(lockd(&[
            "serve",
            "--config",
            config.to_str().expect("text"),
        ]))
    };
    let mut nodes: Vec<Option<Process>> = (1..=3).map(|node| Some(start(node))).collect();
    let client = root.join("client/client.toml");
    let run = |arguments: &[&str]| Said::of(Process::start(with_config(&client, arguments)).wait());
    wait_until("the cell has a leader", || run(&["status"]).code == 0);

    let before = run(&["lock", "a", "--", "sh", "-c", "echo $LOCKD_TOKEN"]);
    let status = json(&run(&["status", "--json"]));
    let nodes_now = status.as_array().expect("nodes");
    let leading = nodes_now.iter().find(|node| node["role"] == "leader");
    let leader = leading.and_then(|node| node["node"].as_u64());
    let leader = leader.expect("a leader") as usize;
    if let Some(process) = nodes[leader - 1].take() {
        process.signal(Signal::KILL);
        process.wait();
    }
    let after = run(&[
        "lock",
        "a",
        "--wait",
        "20s",
        "--",
        "sh",
        "-c",
        "echo $LOCKD_TOKEN",
    ]);
    assert_eq!(after.code, 0, "{}", after.err);
    let token = |said: &Said| said.out.trim().parse::<u64>().expect("a token");
    assert!(token(&after) > token(&before));

    for node in nodes.into_iter().flatten() {
        node.signal(Signal::TERM);
        assert!(node.wait().status.success(), "a node stops cleanly");
    }
}

#[test]
fn every_node_is_asked_for_its_own_status() {
    let cell = Cell::start();
    wait_until("the cell has a leader", || cell.run(&["status"]).code == 0);
    let status = json(&cell.run(&["status", "--json"]));
    let nodes: Vec<u64> = status
        .as_array()
        .expect("nodes")
        .iter()
        .filter_map(|node| node["node"].as_u64())
        .collect();
    assert_eq!(nodes, [1, 2, 3]);
    assert!(status[0]["last_token"].is_string());
}

#[test]
fn listings_show_holder_queue_and_sessions_as_tables_and_as_json() {
    let cell = Cell::start();
    let _holder = cell.lock(&["jobs/1"], "sleep 30");
    let _other = cell.lock(&["other"], "sleep 30");
    let _waiter = Process::start(cell.command(&["lock", "jobs/1", "--", "true"]));
    cell.wait_for_waiters("jobs/1", 1);

    let locks = json(&cell.run(&["ls", "jobs/", "--json"]));
    assert_eq!(locks.as_array().map(Vec::len), Some(1));
    assert_eq!(locks[0]["lock"], "jobs/1");
    assert_eq!(locks[0]["waiters"], 1);
    assert!(locks[0]["token"].is_string() && locks[0]["holder"].is_string());

    let who = json(&cell.run(&["who", "jobs/1", "--json"]));
    assert_eq!(who["holder"], locks[0]["holder"]);
    let text = who["holders"][0]["description"].as_str();
    let text = text.expect("a description");
    assert!(text.starts_with("lockd lock: sh"), "{text}");
    assert_eq!(who["waiters"].as_array().map(Vec::len), Some(1));

    let sessions = json(&cell.run(&["sessions", "--json"]));
    assert_eq!(sessions.as_array().map(Vec::len), Some(3));

    let table = cell.run(&["ls"]).out;
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.starts_with("LOCK"));
    assert!(cell.run(&["who", "jobs/1"]).out.contains("waiter 1"));
    assert!(cell.run(&["sessions"]).out.contains("lockd lock: sh"));
}

#[test]
fn a_break_names_the_loser_and_a_mark_for_the_fence() {
    let cell = Cell::start();
    let holder = cell.lock(&["a"], "sleep 30");
    let locks = json(&cell.run(&["ls", "--json"]));
    let broken = json(&cell.operate(&["break", "a", "--reason", "test", "--json"]));
    let loser = &broken["holders"][0];
    assert_eq!(loser["session"], locks[0]["holder"]);
    assert_eq!(loser["token"], locks[0]["token"]);
    let number = |value: &Value| value.as_str().and_then(|text| text.parse::<u64>().ok());
    assert!(number(&broken["fence"]) > number(&loser["token"]));
    assert_eq!(Said::of(holder.wait()).code, 121);
}

#[test]
fn names_that_nobody_holds_have_their_own_exit_code() {
    let cell = Cell::start();
    assert!(
        cell.run(&["who", "nothing"])
            .one_line(124)
            .contains("nothing")
    );
    let broken = cell.operate(&["break", "nothing", "--reason", "x"]);
    assert!(broken.one_line(124).contains("nothing"));
}

#[test]
fn wrong_flags_and_configurations_are_one_line_and_exit_code_2() {
    let said = |arguments: &[&str]| Said::of(Process::start(lockd(arguments)).wait());
    let bad_time = said(&["lock", "a", "--wait", "5q", "--", "true"]);
    assert!(bad_time.one_line(2).contains("--wait"));
    let no_command = said(&["lock", "a"]);
    assert!(no_command.one_line(2).contains("COMMAND"));
    let bad_name = said(&["lock", "", "--", "true"]);
    assert!(bad_name.one_line(2).contains("empty"));
    let no_config = Process::start({
        let mut command = lockd(&["ls"]);
        command.current_dir(std::env::temp_dir());
        command
    });
    assert!(
        Said::of(no_config.wait())
            .one_line(2)
            .contains("LOCKD_CONFIG")
    );
    let missing = said(&["ls", "--config", "/nonexistent/client.toml"]);
    assert!(missing.one_line(2).contains("/nonexistent/client.toml"));

    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("client.toml");
    fs::write(&config, "cell = 1").expect("writable");
    let broken = said(&["ls", "--config", config.to_str().expect("text")]);
    assert!(broken.one_line(2).contains("client.toml"));

    let short = said(&["lock", "a", "--ttl", "1ms", "--", "true"]);
    assert_eq!(short.code, 2);
}

#[test]
fn a_ttl_out_of_range_is_named() {
    let cell = Cell::start();
    let short = cell.run(&["lock", "a", "--ttl", "1ms", "--", "true"]);
    assert!(short.one_line(2).contains("ttl"));
}

#[test]
fn a_cell_that_is_gone_is_unreachable() {
    let Cell {
        process,
        config,
        _dir,
    } = Cell::start();
    process.signal(Signal::KILL);
    process.wait();
    let run = |arguments: &[&str]| Said::of(Process::start(with_config(&config, arguments)).wait());
    run(&["ls"]).one_line(122);
    run(&["status"]).one_line(122);
    run(&["lock", "a", "--", "true"]).one_line(122);
}

#[test]
fn certificates_of_another_cell_are_refused_with_a_line_that_says_so() {
    let (ours, theirs) = (Cell::start(), Cell::start());
    let home = |cell: &Cell| cell.config.parent().expect("a directory").to_owned();
    let copy = |file: &str| {
        fs::copy(home(&theirs).join(file), home(&ours).join(file)).expect("copied");
    };
    copy("cert.pem");
    copy("key.pem");
    let refused = ours.run(&["ls"]);
    assert!(refused.one_line(123).contains("certificate"));
    let refused = ours.run(&["lock", "a", "--", "true"]);
    assert!(refused.one_line(123).contains("certificate"));
    copy("ca.pem");
    assert!(ours.run(&["ls"]).one_line(123).contains("not trusted"));
}

#[test]
fn a_watch_prints_the_state_and_each_change_with_metadata() {
    let cell = Cell::start();
    wait_until("the cell has a leader", || cell.run(&["status"]).code == 0);
    let arguments = ["watch", "--prefix", "job/", "--json", "--count", "2"];
    let mut watch = Process::start(with_config(&cell.config, &arguments));
    let state: Value = serde_json::from_str(&watch.line()).expect("JSON");
    assert_eq!(
        (&state["change"], &state["missed"]),
        (&"state".into(), &false.into())
    );
    let who = "lockd who job/1 --config $CLIENT".to_owned();
    let program = env!("CARGO_BIN_EXE_lockd");
    let who = who
        .replace("lockd", program)
        .replace("$CLIENT", cell.config.to_str().expect("text"));
    let held = cell.run(&[
        "lock",
        "job/1",
        "--metadata",
        "10.0.0.1\\",
        "--",
        "sh",
        "-c",
        &who,
    ]);
    assert_eq!(held.code, 0, "{}", held.err);
    assert!(
        held.out.contains("METADATA") && held.out.contains("10.0.0.1\\\\"),
        "{}",
        held.out
    );
    for change in ["granted", "released"] {
        let event: Value = serde_json::from_str(&watch.line()).expect("JSON");
        assert_eq!(
            (&event["change"], &event["lock"]),
            (&change.into(), &"job/1".into())
        );
        assert_eq!(event["metadata"]["text"], "10.0.0.1\\");
    }
    assert_eq!(Said::of(watch.wait()).code, 0);
    let mut watch = Process::start(with_config(
        &cell.config,
        &["watch", "job/2", "--count", "1"],
    ));
    assert!(watch.line().ends_with("these hold it now: 0"));
    assert_eq!(cell.run(&["lock", "job/2", "--", "true"]).code, 0);
    let line = watch.line();
    assert!(
        line.contains("  granted  job/2  exclusive  token "),
        "{line}"
    );
    assert_eq!(Said::of(watch.wait()).code, 0);
    cell.run(&["watch", "a", "--prefix", "b"]).one_line(2);
    cell.run(&["watch"]).one_line(2);
}
