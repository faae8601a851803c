//! The README's path to one's own PostgreSQL, command by command, on a server of the test's own.

#![allow(
    clippy::unwrap_used,
    reason = "a set-up that fails is a test that fails"
)]

mod common;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::printed;
use gateway::postgres::private_server::{Options, PrivateServer};

const README: &str = include_str!("../../README.md");

/// Heading of the part that is run.
const HEADING: &str = "## Your own PostgreSQL, in five minutes";

/// Where the README has the server and the gateway.
const SERVER: &str = "127.0.0.1:5432";
const GATEWAY_PORT: &str = "6543";

/// What the README takes to exist.
const EXISTS_ALREADY: [(&str, &str); 2] = [
    (
        "postgres",
        "create database shop; create role app login password 'secret'",
    ),
    (
        "shop",
        "create table orders (id bigint primary key, shipped boolean);
         insert into orders values (42, false);
         grant select, insert, update, delete on orders to app",
    ),
];

/// The commands of the README's part, without the build, which this test comes after.
fn commands() -> Vec<String> {
    let (_, part) = README.split_once(HEADING).unwrap();
    let part = part.split("\n## ").next().unwrap();
    let blocks = part.split("```sh\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap().to_owned());
    let commands: Vec<String> = blocks.filter(|block| !block.starts_with("cargo")).collect();
    assert_eq!(commands.len(), 3, "{commands:#?}");
    commands
}

/// Where `lockd` and `gateway` are: beside this program, if the whole workspace was built.
fn binaries() -> PathBuf {
    let directory = common::program().parent().unwrap();
    for program in ["lockd", "gateway"] {
        let path = directory.join(program);
        assert!(
            path.exists(),
            "{} is missing: cargo build --workspace",
            path.display()
        );
    }
    directory.to_owned()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn script(server: &PrivateServer, gateway_port: u16) -> String {
    let gateway_port = gateway_port.to_string();
    let on_this_server = |block: &String| {
        block
            .replace(SERVER, &format!("127.0.0.1:{}", server.port()))
            .replace(GATEWAY_PORT, &gateway_port)
    };
    let blocks: Vec<String> = commands().iter().map(on_this_server).collect();
    let [cell, gateway, writes] = blocks.try_into().unwrap();
    let can_connect = format!("(exec 3<>/dev/tcp/127.0.0.1/{gateway_port}) 2>/dev/null");
    // A person takes a moment before the next block; here the gateway is waited for.
    format!(
        "trap 'kill $(jobs -p); wait' EXIT\n{cell}\n{gateway}\n\
         for i in $(seq 600); do {can_connect} && break; sleep 0.1; done\n{writes}\n\
         psql -c 'table orders'\n"
    )
}

fn run(script: &str, directory: &Path, server: &PrivateServer) -> Output {
    let path = std::env::var("PATH").unwrap_or_default();
    let ours = [binaries(), server.binaries().to_owned()];
    let ours: Vec<String> = ours.iter().map(|path| path.display().to_string()).collect();
    Command::new("bash")
        .args(["-c", script])
        .current_dir(directory)
        .env("PATH", format!("{}:{path}", ours.join(":")))
        .output()
        .unwrap()
}

#[test]
fn the_five_minute_path_does_what_the_readme_says() {
    let server = PrivateServer::start(&Options::default()).unwrap();
    let psql = server.binaries().join("psql");
    for (database, sql) in EXISTS_ALREADY {
        let url = server.url("postgres", database);
        for statement in sql.split(';') {
            let done = Command::new(&psql)
                .args([&url, "-c", statement])
                .output()
                .unwrap();
            assert!(done.status.success(), "{}", printed(&done));
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let output = run(&script(&server, free_port()), directory.path(), &server);
    let shown = printed(&output);
    assert!(output.status.success(), "{shown}");
    for expected in [
        "leader",
        "the fence holds",
        "needs a ticket",
        "UPDATE 1",
        "42 | t",
    ] {
        assert!(
            shown.contains(expected),
            "{expected:?} is missing in:\n{shown}"
        );
    }
    let refused = shown.matches("ERROR").count();
    assert_eq!(refused, 1, "{shown}");
}
