//! `loadtest demo`, as a user starts it.

#![allow(
    clippy::unwrap_used,
    reason = "a set-up that fails is a test that fails"
)]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{assert_gone, descendants, printed, program, run};
use gateway::postgres::private_server::{Options, PrivateServer};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn assert_refused_late_write(json: &Value) {
    assert_eq!(json["passed"], true, "{json:#}");
    assert_eq!(json["late_write_refused_with"], "FN001");
    assert_eq!(json["read_back"], json["written_by_b"]);
    let token = |name: &str| json[name].as_str().unwrap().parse::<u64>().unwrap();
    assert!(token("token_b") > token("token_a"), "{json:#}");
}

fn demo_json(upstream: &str) -> Value {
    let output = run(&["demo", "--upstream", upstream, "--json"]);
    assert!(output.status.success(), "{}", printed(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", printed(&output)))
}

#[test]
fn on_the_embedded_store_the_late_write_is_refused() {
    assert_refused_late_write(&demo_json("embedded"));
}

#[test]
fn on_postgresql_the_late_write_is_refused() {
    assert_refused_late_write(&demo_json("postgres"));
}

/// Databases and roles of a server, whose superuser's URL this is.
async fn inventory(url: &str) -> Vec<String> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let query = "select datname from pg_database union select rolname from pg_roles order by 1";
    let rows = client.query(query, &[]).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[test]
fn on_a_postgresql_of_one_s_own_nothing_is_left_behind() {
    let server = PrivateServer::start(&Options::default()).unwrap();
    let url = server.url("postgres", "postgres");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let before = runtime.block_on(inventory(&url));
    let upstream = format!("postgres={url}");
    for _ in 0..2 {
        assert_refused_late_write(&demo_json(&upstream));
        assert_eq!(runtime.block_on(inventory(&url)), before);
    }
    let directory = tempfile::tempdir().unwrap();
    let (mut demo, children) = demo_with_a_paused_client(directory.path(), &upstream);
    send(&demo, Signal::INT);
    assert_eq!(demo.wait().unwrap().code(), Some(130));
    assert_gone(&children);
    assert_eq!(runtime.block_on(inventory(&url)), before);
}

#[test]
fn a_postgresql_that_cannot_be_used_is_named_with_what_to_do() {
    let output = run(&[
        "demo",
        "--upstream",
        "postgres=postgres://nobody@127.0.0.1:1/x",
    ]);
    assert_eq!(output.status.code(), Some(3), "{}", printed(&output));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("cannot set up PostgreSQL"), "{message}");
}

#[test]
fn the_story_is_told_line_by_line_without_colour_where_there_is_no_terminal() {
    let output = run(&["demo"]);
    assert!(output.status.success(), "{}", printed(&output));
    let story = String::from_utf8(output.stdout).unwrap();
    assert!(!story.contains('\x1b'), "{story}");
    let mut rest = story.as_str();
    for part in [
        "3 nodes are up",
        "is granted orders/42",
        "accepted",
        "SIGSTOP",
        "is granted orders/42",
        "accepted",
        "SIGCONT",
        "refused, FN001",
        "is \"shipped by B\"",
        "A's late write was refused (FN001)",
        "What B wrote stands",
    ] {
        let at = rest.find(part);
        let at = at.unwrap_or_else(|| panic!("{part:?} is missing or out of order:\n{story}"));
        rest = &rest[at + part.len()..];
    }
}

/// Starts a demo, with its files in `directory`, and waits until a client is paused; returns it
/// with the processes it started.
fn demo_with_a_paused_client(directory: &Path, upstream: &str) -> (Child, Vec<u32>) {
    let mut demo = Command::new(program())
        .args(["demo", "--upstream", upstream])
        .env("TMPDIR", directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let story = BufReader::new(demo.stdout.take().unwrap());
    let paused = story
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains("SIGSTOP"));
    assert!(paused, "the story ended before a client was paused");
    let processes = descendants(demo.id());
    assert!(
        processes.len() >= 5,
        "three nodes, a gateway, a client: {processes:?}"
    );
    (demo, processes)
}

fn send(process: &Child, signal: Signal) {
    let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.unwrap(), signal).unwrap();
}

#[test]
fn interrupting_the_demo_ends_every_process_it_started() {
    for signal in [Signal::INT, Signal::TERM] {
        let directory = tempfile::tempdir().unwrap();
        let (mut demo, children) = demo_with_a_paused_client(directory.path(), "embedded");
        send(&demo, signal);
        assert_eq!(demo.wait().unwrap().code(), Some(130));
        assert_gone(&children);
        let left = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, 0, "files were left behind");
    }
}

#[test]
fn killing_the_demo_ends_every_process_it_started_even_a_paused_one() {
    for upstream in ["embedded", "postgres"] {
        // PostgreSQL's server, which is not root, has its files here too.
        let directory = tempfile::tempdir().unwrap();
        let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(directory.path(), everyone).unwrap();
        let (mut demo, children) = demo_with_a_paused_client(directory.path(), upstream);
        send(&demo, Signal::KILL);
        demo.wait().unwrap();
        assert_gone(&children);
    }
}
