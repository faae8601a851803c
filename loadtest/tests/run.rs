//! `loadtest run`, as a user starts it.

#![allow(
    clippy::unwrap_used,
    reason = "a set-up that fails is a test that fails"
)]

mod common;

use common::{printed, run};
use serde_json::Value;

/// Runs a workload, and returns its JSON.
fn measured(arguments: &[&str]) -> Value {
    let mut all = vec![
        "run",
        "--warmup",
        "200ms",
        "--duration",
        "1s",
        "--json",
        "-",
    ];
    all.extend(arguments);
    let output = run(&all);
    assert!(output.status.success(), "{}", printed(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", printed(&output)))
}

fn assert_measured(json: &Value) {
    assert_eq!(json["schema"], 1);
    assert_eq!(json["driver"], "lockd");
    assert_eq!(json["violations"], 0);
    assert_eq!(json["histories"]["refused"], serde_json::json!([]));
    let looked_at = json["histories"]["operations"].as_u64();
    assert!(looked_at.is_some_and(|looked_at| looked_at > 0), "{json}");
    for pointer in [
        "/cycles_per_s",
        "/acquire_us/p50",
        "/acquire_us/p99",
        "/acquire_us/p999",
        "/acquire_us/max",
        "/release_us/p50",
        "/cpu_us_per_cycle/client",
        "/disk_sync_us/p50",
    ] {
        let value = json.pointer(pointer).and_then(Value::as_f64);
        assert!(
            value.is_some_and(|value| value > 0.0),
            "{pointer} in {json}"
        );
    }
    assert_eq!(json["errors"], serde_json::json!({}));
}

#[test]
fn each_workload_is_measured_without_violations() {
    for workload in ["uncontended", "contended"] {
        let arguments = [
            "--workload",
            workload,
            "--clients",
            "6",
            "--connections",
            "2",
        ];
        let json = measured(&arguments);
        assert_measured(&json);
        assert_eq!(json["workload"], workload);
        assert_eq!(
            (&json["clients"], &json["connections"]),
            (&6.into(), &2.into())
        );
        assert!(
            json["cpu_us_per_cycle"]["servers"].as_f64() > Some(0.0),
            "{json}"
        );
        assert!(json["memory_bytes"]["servers"].as_u64() > Some(0), "{json}");
    }
}

#[test]
fn the_killed_leader_is_in_the_report() {
    let arguments = ["--clients", "4", "--ttl", "60s", "--duration", "6s"];
    let mut all = vec![
        "run",
        "--warmup",
        "200ms",
        "--json",
        "-",
        "--kill-leader-at",
        "500ms",
    ];
    all.extend(arguments);
    let output = run(&all);
    assert!(output.status.success(), "{}", printed(&output));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["violations"], 0);
    let killed = &json["leader_killed"];
    assert!(
        (1..=3).contains(&killed["node"].as_u64().unwrap()),
        "{json}"
    );
    assert!(
        killed["longest_gap_after_ms"].as_f64() > Some(0.0),
        "{json}"
    );
}

#[test]
fn the_report_goes_to_a_file_and_the_text_to_the_terminal() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("report.json");
    let file_name = file.to_str().unwrap();
    let output = run(&[
        "run",
        "--clients",
        "1",
        "--duration",
        "300ms",
        "--json",
        file_name,
    ]);
    assert!(output.status.success(), "{}", printed(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("0 violations"), "{text}");
    let json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(json["clients"], 1);
}

#[test]
fn wrong_usage_is_refused_with_what_to_do() {
    for (arguments, code, expected) in [
        (vec!["run", "--clients", "0"], 2, "0 is not in 1..=100000"),
        (vec!["run", "--duration", "soon"], 2, "--duration"),
        (
            vec!["run", "--clients", "2", "--connections", "3"],
            3,
            "give at most as many",
        ),
        (
            vec!["run", "--duration", "1s", "--kill-leader-at", "1s"],
            3,
            "less than --duration",
        ),
        (
            vec!["run", "--config", "/nonexistent/client.toml"],
            3,
            "/nonexistent/client.toml",
        ),
        (vec!["run", "--dir", "/nonexistent"], 3, "/nonexistent"),
        (vec!["demo", "--upstream", "oracle"], 2, "postgres=URL"),
    ] {
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(code), "{}", printed(&output));
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}
