//! `loadtest compare`, as a user starts it, on real servers.

#![allow(
    clippy::unwrap_used,
    reason = "a set-up that fails is a test that fails"
)]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use common::{assert_gone, descendants, printed, program, run};
use gateway::{mysql, postgres, redis};
use serde_json::Value;

const PEERS: [&str; 15] = [
    "lockd",
    "etcd",
    "zookeeper-herd",
    "zookeeper-curator",
    "redis",
    "redis-everysec",
    "redis-always",
    "redis-setnx-expire",
    "redis-getset",
    "redlock",
    "postgres-advisory",
    "postgres-for-update",
    "mariadb-get-lock",
    "mariadb-insert",
    "mariadb-for-update",
];

/// Short rounds: one, unless the arguments say otherwise.
fn short<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["compare", "--warmup=50ms"];
    for option in ["--rounds=1", "--duration=200ms"] {
        let name = &option[..=option.find('=').unwrap()];
        if !arguments.iter().any(|argument| argument.starts_with(name)) {
            all.push(option);
        }
    }
    all.extend(arguments);
    all
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", printed(output)))
}

#[test]
fn every_peer_is_measured_lockd_first_and_none_breaks_a_promise() {
    let output = run(&short(&["--clients", "3", "--json", "-"]));
    assert!(output.status.success(), "{}", printed(&output));
    let json = json(&output);
    assert_eq!(json["schema"], 1);
    let rows = json["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().filter_map(|row| row["peer"].as_str()).collect();
    assert_eq!(names, [PEERS, PEERS].concat());
    for (index, row) in rows.iter().enumerate() {
        let workload = ["uncontended", "contended"][index / PEERS.len()];
        assert_eq!(row["workload"], workload);
        assert_eq!(row["not_measured"], Value::Null, "{row}");
        let replicated = ["lockd", "etcd", "zookeeper-herd", "zookeeper-curator"];
        assert_eq!(
            row["tokens"],
            replicated.iter().any(|name| row["peer"] == *name)
        );
        let round = &row["rounds"][0];
        assert_eq!(round["driver"], row["peer"]);
        assert_eq!(round["violations"], 0, "{row}");
        assert_eq!(round["errors"], serde_json::json!({}), "{row}");
        assert_eq!(round["unfinished_clients"], 0, "{row}");
        assert_eq!(
            (&round["clients"], &round["connections"]),
            (&3.into(), &3.into())
        );
        for pointer in ["/cycles_per_s", "/acquire_us/p50", "/acquire_us/p99"] {
            let value = round.pointer(pointer).and_then(Value::as_f64);
            assert!(value > Some(0.0), "{pointer} in {row}");
        }
        assert!(round["cpu_us_per_cycle"]["servers"].is_number(), "{row}");
        assert!(round["memory_bytes"]["servers"].as_u64() > Some(0), "{row}");
    }
}

#[test]
fn rounds_alternate_between_peers() {
    let output = run(&short(&[
        "--rounds=2",
        "--peers=redis,redis-getset",
        "--workloads=contended",
        "--clients=2",
    ]));
    assert!(output.status.success(), "{}", printed(&output));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let rounds: Vec<&str> = told
        .lines()
        .filter(|line| line.starts_with("round"))
        .collect();
    let expected: Vec<String> = ["1", "2"]
        .iter()
        .flat_map(|round| {
            ["lockd", "redis", "redis-getset"]
                .map(|peer| format!("round {round} of 2: {peer}, contended, 2 clients"))
        })
        .collect();
    assert_eq!(rounds, expected);
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in [
        "contended, 2 clients",
        "2 of 3 disks",
        "redis-getset",
        "0 violations",
    ] {
        assert!(table.contains(part), "{table}");
    }
}

#[test]
fn an_open_loop_puts_the_same_rate_on_each_and_lockd_alone_has_semaphores() {
    let output = run(&short(&[
        "--peers=redis",
        "--workloads=uncontended,semaphore",
        "--clients=2",
        "--rate=100",
        "--duration=1s",
        "--json=-",
    ]));
    // Redis was asked for by its name, and is not measured with all workloads.
    assert_eq!(output.status.code(), Some(3), "{}", printed(&output));
    let json = json(&output);
    let rows = json["rows"].as_array().unwrap();
    let why = "semaphore is driven on lockd alone";
    for (row, not_measured) in rows.iter().zip([None, None, None, Some(why)]) {
        assert_eq!(row["not_measured"].as_str(), not_measured, "{row}");
        if not_measured.is_none() {
            let round = &row["rounds"][0];
            assert_eq!(round["loop"], "open");
            assert_eq!(round["open_loop"]["rate_per_s"], 100.0);
            assert!(round["open_loop"]["due"].as_u64() > Some(0), "{row}");
            assert!(round["cycles"].as_u64() > Some(0), "{row}");
        }
    }
    let redis = &rows[1]["rounds"][0]["server_versions"]["redis-server"];
    assert!(
        redis.as_str().is_some_and(|it| it.contains("v=")),
        "{redis}"
    );
}

#[test]
fn a_service_that_grants_twice_fails_the_comparison_with_the_history_that_shows_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("result.json");
    let output = run(&short(&[
        "--peers=liar",
        "--workloads=contended",
        "--clients=4",
        "--hold=1ms",
        "--duration=1s",
        "--json",
        file.to_str().unwrap(),
    ]));
    assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
    let json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(json["rows"][0]["rounds"][0]["violations"], 0, "{json}");
    let stories = &json["rows"][1]["rounds"][0]["violation_details"];
    let stories = stories.as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut told = stories
        .iter()
        .map(|story| (text(&story["what"]), &story["history"]));
    let (what, history) = told
        .find(|(what, _)| what.starts_with("exclusion: "))
        .unwrap();
    let (_, holder) = what.split_once("held the lock under ").unwrap();
    let (holder, _) = holder.split_once(',').unwrap();
    let history: Vec<String> = history.as_array().unwrap().iter().map(text).collect();
    let of_holder = |event: &&String| event.contains(&format!("lock 0 {holder}: client"));
    let of_holder: Vec<&String> = history.iter().filter(of_holder).collect();
    // The holder was granted the lock and has not let go when the last event grants it again.
    assert_eq!(of_holder.len(), 1, "{history:#?}");
    assert!(of_holder[0].ends_with("was granted it"), "{history:#?}");
    let last = history.last().unwrap();
    assert!(
        last.ends_with("was granted it") && last != of_holder[0],
        "{history:#?}"
    );
    // The first story is on the terminal.
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, verdict) = table.split_once("FAILED: ").unwrap();
    assert!(verdict.contains(&text(&stories[0]["what"])), "{table}");
    let events = stories[0]["history"].as_array().unwrap();
    assert!(
        events.iter().all(|event| verdict.contains(&text(event))),
        "{table}"
    );
}

#[test]
fn a_program_that_is_missing_is_in_the_table_with_what_to_install() {
    let empty = tempfile::tempdir().unwrap();
    let output = Command::new(program())
        .args(short(&[
            "--peers=redis",
            "--clients=1",
            "--workloads=uncontended",
        ]))
        .env("PATH", empty.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", printed(&output));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    let row = "not measured: no Redis server is installed: run `apt-get install redis-server`";
    assert!(table.contains(row), "{table}");
    assert!(table.contains("2 of 3 disks"), "{table}");
}

/// Names that a server shows for this query.
async fn schemas(url: &str) -> Vec<String> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let rows = client
        .query("select nspname from pg_namespace order by 1", &[])
        .await
        .unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn databases(url: &str) -> Vec<String> {
    use mysql_async::prelude::Queryable;
    let mut connection = mysql_async::Conn::from_url(url).await.unwrap();
    let names = connection.query("show databases").await.unwrap();
    connection.disconnect().await.unwrap();
    names
}

#[test]
fn somebody_s_own_servers_are_used_and_left_as_they_were() {
    let redis = redis::private_server::PrivateServer::start(&[]).unwrap();
    let postgres = postgres::private_server::PrivateServer::start(&Default::default()).unwrap();
    let mariadb = mysql::private_server::PrivateServer::start(&Default::default()).unwrap();
    let redis_url = format!("redis://127.0.0.1:{}", redis.port());
    let postgres_url = postgres.url("postgres", "postgres");
    let mariadb_url = mariadb.url("root", "mysql");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let inventory = || {
        let both = async { (schemas(&postgres_url).await, databases(&mariadb_url).await) };
        runtime.block_on(both)
    };
    let before = inventory();
    let output = run(&short(&[
        "--peers=redis,postgres-for-update,mariadb-insert",
        "--workloads=contended",
        "--clients=2",
        "--json=-",
        "--endpoint",
        &format!("redis={redis_url}"),
        "--endpoint",
        &format!("postgres={postgres_url}"),
        "--endpoint",
        &format!("mariadb={mariadb_url}"),
    ]));
    assert!(output.status.success(), "{}", printed(&output));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let started = told.lines().filter(|line| line.starts_with("starting"));
    assert_eq!(started.collect::<Vec<_>>(), ["starting lockd"]);
    let json = json(&output);
    for row in &json["rows"].as_array().unwrap()[1..] {
        assert!(row["rounds"][0]["cycles"].as_u64() > Some(0), "{row}");
        let servers = &row["rounds"][0]["cpu_us_per_cycle"]["servers"];
        assert_eq!(
            servers,
            &Value::Null,
            "nobody has said which processes they are"
        );
    }
    assert_eq!(inventory(), before);
}

#[test]
fn a_server_that_does_not_answer_is_in_the_table_and_the_rest_is_measured() {
    let output = run(&short(&[
        "--peers=redis,postgres-advisory",
        "--endpoint=redis=redis://127.0.0.1:1",
        "--endpoint=postgres=postgres://nobody@127.0.0.1:1/x",
        "--clients=1",
        "--workloads=uncontended",
    ]));
    assert_eq!(output.status.code(), Some(3), "{}", printed(&output));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    for peer in ["redis", "postgres-advisory"] {
        let row = table
            .lines()
            .find(|line| line.trim_start().starts_with(peer));
        let row = row.unwrap_or_default();
        assert!(row.contains("not measured: cannot connect"), "{table}");
    }
    assert!(table.contains("2 of 3 disks"), "{table}");
}

#[test]
fn killing_the_comparison_ends_every_server_it_started() {
    let mut comparison = Command::new(program())
        .args([
            "compare",
            "--peers=redlock",
            "--duration=1h",
            "--warmup=0s",
            "--rounds=1",
        ])
        .args([
            "--clients=1",
            "--workloads=uncontended",
            "--endpoint=lockd=/nonexistent",
        ])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let told = BufReader::new(comparison.stderr.take().unwrap());
    let mut lines = told.lines().map_while(Result::ok);
    // The first line of progress comes once the servers run.
    assert!(lines.any(|line| line.contains("cycles/s")));
    let servers = descendants(comparison.id());
    assert!(servers.len() >= 6, "a keeper and five servers: {servers:?}");
    comparison.kill().unwrap();
    comparison.wait().unwrap();
    assert_gone(&servers);
}

#[test]
fn wrong_usage_is_refused_with_what_to_do() {
    for (arguments, code, expected) in [
        (vec!["compare", "--peers", "oracle"], 2, "postgres-advisory"),
        (vec!["compare", "--endpoint", "redis"], 2, "give NAME=URL"),
        (vec!["compare", "--rounds", "0"], 2, "0 is not in 1..=1000"),
        (vec!["compare", "--ttl", "10ms"], 3, "--ttl is too short"),
        (vec!["compare", "--duration", "0s"], 3, "at least 1ms"),
    ] {
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(code), "{}", printed(&output));
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
    let output = run(&short(&[
        "--peers=redlock",
        "--endpoint=redlock=redis://127.0.0.1:1",
        "--endpoint=lockd=/nonexistent",
    ]));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(3), "{}", printed(&output));
    assert!(table.contains("cannot connect"), "{table}");
}
