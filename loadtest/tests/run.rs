//! `loadtest run`, as a user starts it.

#![allow(
    clippy::unwrap_used,
    reason = "a set-up that fails is a test that fails"
)]

mod common;

use common::{printed, run};
use serde_json::Value;

/// Runs a workload for a second, and returns its JSON.
fn measured(arguments: &[&str]) -> Value {
    measured_for("1s", arguments)
}

fn measured_for(duration: &str, arguments: &[&str]) -> Value {
    let mut all = vec!["run", "--warmup", "200ms", "--json", "-"];
    all.extend(["--duration", duration]);
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
    let fairness = json["fairness_jain"].as_f64();
    assert!(fairness > Some(0.0) && fairness <= Some(1.0), "{json}");
    let spectrum = json["acquire_spectrum"].as_array().unwrap();
    assert_eq!(spectrum.last().unwrap()["share"], 1.0);
    let seconds = json["intervals"].as_array().unwrap();
    let cycles = seconds
        .iter()
        .filter_map(|second| second["cycles"].as_u64());
    assert_eq!(Some(cycles.sum()), json["cycles"].as_u64(), "{json}");
    for pointer in [
        "/machine/cpu",
        "/machine/os",
        "/machine/kernel",
        "/disk_sync_us/filesystem",
        "/measured_at",
    ] {
        let text = json.pointer(pointer).and_then(Value::as_str);
        assert!(text.is_some_and(|text| !text.is_empty()), "{pointer}");
    }
}

#[test]
fn each_workload_is_measured_without_violations() {
    for workload in [
        "uncontended",
        "contended",
        "zipf",
        "readers-writers",
        "semaphore",
        "multi-lock",
    ] {
        let arguments = [
            "--workload",
            workload,
            "--clients",
            "6",
            "--connections",
            "2",
            "--locks",
            "7",
            "--permits",
            "3",
            "--reads",
            "50",
        ];
        let json = measured(&arguments);
        assert_measured(&json);
        assert_eq!(json["loop"], "closed");
        assert_eq!(json["open_loop"], Value::Null);
        let shape = serde_json::json!({"locks": 7, "permits": 3, "reads": 50});
        assert_eq!(json["shape"], shape);
        let handed_over = json["handovers_per_s"].as_f64() > Some(0.0);
        assert_eq!(handed_over, workload != "uncontended", "{json}");
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
fn an_open_loop_sends_what_is_due_and_says_what_became_of_it() {
    for arrivals in ["poisson", "uniform"] {
        let rate = ["--clients", "4", "--rate", "100", "--arrivals", arrivals];
        let json = measured(&rate);
        assert_measured(&json);
        assert_eq!(json["loop"], "open");
        let open = &json["open_loop"];
        assert_eq!(open["rate_per_s"], 100.0);
        assert_eq!(open["arrivals"], arrivals);
        let count = |of: &Value| of.as_u64().unwrap();
        // What was due before the window may have ended in it.
        assert!(
            count(&open["due"]) > 0 && count(&json["cycles"]) > 0,
            "{json}"
        );
        assert!(count(&open["late"]) + count(&open["skipped"]) <= 2 * count(&open["due"]));
        assert!(
            json["generator"]["lag_us"]["max"].as_f64() > Some(0.0),
            "{json}"
        );
    }
}

#[test]
fn each_second_is_in_the_csv_and_in_the_interval_log_and_the_page_is_complete() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (csv, hdr, html) = (path("run.csv"), path("run.hdr"), path("run.html"));
    let files = ["--csv", &csv, "--hdr", &hdr, "--html", &html];
    let json = measured_for("3s", &[&["--clients", "2"][..], &files].concat());
    let csv = std::fs::read_to_string(csv).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 4, "{csv}");
    assert!(lines[0].starts_with("driver,workload,clients,"), "{csv}");
    assert!(
        lines
            .iter()
            .skip(1)
            .all(|line| line.starts_with("lockd,uncontended,2,,1,"))
    );
    let hdr = std::fs::read_to_string(hdr).unwrap();
    assert!(
        hdr.starts_with("#[Histogram log format version 1.3]\n"),
        "{hdr}"
    );
    for tag in ["Tag=acquire,", "Tag=release,"] {
        assert_eq!(
            hdr.lines().filter(|line| line.starts_with(tag)).count(),
            3,
            "{hdr}"
        );
    }
    let html = std::fs::read_to_string(html).unwrap();
    assert!(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>"));
    for part in [
        "Latency spectrum",
        "Throughput over time",
        json["machine"]["kernel"].as_str().unwrap(),
    ] {
        assert!(html.contains(part), "{part}");
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
    let fault = json["faults"][0]["what"].as_str().unwrap();
    assert!(fault.ends_with("the leader, was killed"), "{json}");
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
        (vec!["run", "--rate", "0"], 2, "more than 0"),
        (vec!["run", "--arrivals", "uniform"], 2, "--rate"),
        (vec!["run", "--locks", "2"], 2, "2 is not in 3..=1000000"),
        (vec!["demo", "--upstream", "oracle"], 2, "postgres=URL"),
    ] {
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(code), "{}", printed(&output));
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}
