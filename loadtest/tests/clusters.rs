//! `loadtest compare` on clusters: their leaders are taken away, and somebody's own are left as
//! they were.

#![allow(
    clippy::unwrap_used,
    reason = "a set-up that fails is a test that fails"
)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;

use common::{printed, run};
use loadtest::cluster::{self, Timeouts};
use serde_json::Value;

#[test]
fn every_cluster_grants_locks_again_after_its_leader_was_killed_or_paused() {
    let output = run(&[
        "compare",
        "--failover",
        "--trials=1",
        "--clients=4",
        "--timeouts=like-lockd",
        // Long against the pause: etcd's old leader may end shorter leases when it goes on.
        "--ttl=30s",
        "--peers=etcd,zookeeper-curator",
        "--json=-",
    ]);
    assert!(output.status.success(), "{}", printed(&output));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = json["rows"].as_array().unwrap();
    let mut tried = Vec::new();
    for row in rows {
        tried.push((row["peer"].as_str().unwrap(), row["loss"].as_str().unwrap()));
        assert_eq!(row["not_measured"], Value::Null, "{row}");
        assert_eq!(row["violations"], 0, "{row:#}");
        assert_eq!(row["unfinished_clients"], 0, "{row:#}");
        // Nobody can be granted anything before a new leader is elected.
        assert!(row["gaps_ms"][0].as_f64() > Some(1.0), "{row}");
    }
    let both = |peer| [(peer, "kill"), (peer, "pause")];
    let expected = [both("lockd"), both("etcd"), both("zookeeper-curator")].concat();
    assert_eq!(tried, expected);
}

/// How many keys an etcd has, by its own account in JSON.
fn keys(url: &str) -> String {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let body = r#"{"key":"AA==","range_end":"AA==","count_only":true}"#;
    let length = body.len();
    write!(
        stream,
        "POST /v3/kv/range HTTP/1.0\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"revision\""), "{answer}");
    // A count of nothing is left out.
    let count = answer.split_once("\"count\"").map(|(_, count)| count);
    count.unwrap_or("none").to_owned()
}

async fn nodes(addresses: &[String]) -> Vec<String> {
    let client = zookeeper_client::Client::connect(&addresses.join(","))
        .await
        .unwrap();
    client.list_children("/").await.unwrap()
}

#[test]
fn somebody_s_own_clusters_are_used_and_left_as_they_were() {
    let etcd = cluster::etcd::start(Timeouts::Default).unwrap();
    let zookeeper = cluster::zookeeper::start(Timeouts::Default).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let inventory = || {
        let nodes = runtime.block_on(nodes(zookeeper.urls()));
        (keys(&etcd.urls()[0]), nodes)
    };
    let before = inventory();
    let mut arguments = vec![
        "compare".to_owned(),
        "--peers=etcd,zookeeper-herd,zookeeper-curator".to_owned(),
        "--workloads=contended".to_owned(),
        "--clients=3".to_owned(),
        "--rounds=1".to_owned(),
        "--warmup=50ms".to_owned(),
        "--duration=300ms".to_owned(),
        "--hold=1ms".to_owned(),
        "--json=-".to_owned(),
    ];
    let endpoints = |name: &str, urls: &[String]| -> Vec<String> {
        let endpoint = |url: &String| format!("--endpoint={name}={url}");
        urls.iter().map(endpoint).collect()
    };
    arguments.extend(endpoints("etcd", etcd.urls()));
    arguments.extend(endpoints("zookeeper", zookeeper.urls()));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = run(&arguments);
    assert!(output.status.success(), "{}", printed(&output));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let started = told.lines().filter(|line| line.starts_with("starting"));
    assert_eq!(started.collect::<Vec<_>>(), ["starting lockd"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    for row in json["rows"].as_array().unwrap() {
        assert!(row["rounds"][0]["cycles"].as_u64() > Some(0), "{row}");
        assert_eq!(row["rounds"][0]["violations"], 0, "{row}");
        assert_eq!(row["rounds"][0]["errors"], serde_json::json!({}), "{row}");
    }
    assert_eq!(inventory(), before);
}
