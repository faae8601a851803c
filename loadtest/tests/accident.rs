//! `loadtest compare --accident`, as a user starts it, with real holders and a real database.

#![allow(
    clippy::unwrap_used,
    reason = "a set-up that fails is a test that fails"
)]

mod common;

use common::{printed, run};
use serde_json::Value;

/// The rows of a comparison, in which nothing is missing.
fn rows(arguments: &[&str]) -> Vec<Value> {
    let all = [&["compare", "--accident", "--json", "-"], arguments].concat();
    let output = run(&all);
    assert!(output.status.success(), "{}", printed(&output));
    let json: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", printed(&output)));
    assert_eq!(json["schema"], 1);
    let rows = json["rows"].as_array().unwrap().clone();
    for row in &rows {
        assert_eq!(row["not_tried"], Value::Null, "{row}");
        assert_eq!(
            row["trials"].as_array().unwrap().len() as u64,
            json["trials"]
        );
    }
    rows
}

/// System, how many locks were passed on, and how many writes were lost.
fn outcomes(rows: &[Value]) -> Vec<(&str, u64, i64)> {
    let outcome = |row| -> Option<(&str, u64, i64)> {
        let row: &Value = row;
        Some((
            row["system"].as_str()?,
            row["granted_meanwhile"].as_u64()?,
            row["lost"].as_i64()?,
        ))
    };
    rows.iter().map(|row| outcome(row).unwrap()).collect()
}

#[test]
fn a_holder_paused_past_its_lease_overwrites_its_successor_except_where_the_row_is_guarded() {
    let rows = rows(&[
        "--accidents=pause",
        "--trials=2",
        "--ttl=1s",
        "--peers=redis,postgres-advisory,postgres-for-update",
    ]);
    let expected = [
        ("lockd+gateway", 2, 0),
        ("lockd", 2, 2),
        ("redis", 2, 2),
        // These locks have no lease: the next holder waits for as long as the first one stands
        // still.
        ("postgres-advisory", 0, 0),
        ("postgres-advisory, same connection", 0, 0),
        ("postgres-for-update, same connection", 0, 0),
    ];
    assert_eq!(outcomes(&rows), expected);
    assert_eq!(rows[0]["refused"]["FN001"], 2, "{:#}", rows[0]);
    // lockd's library tells a holder that wakes before it does anything.
    assert_eq!(rows[1]["told"], 2, "{:#}", rows[1]);
}

#[test]
fn a_holder_cut_off_from_its_locks_overwrites_its_successor_except_where_the_row_is_guarded() {
    let rows = rows(&[
        "--accidents=partition",
        "--trials=1",
        "--ttl=2s",
        "--peers=etcd,postgres-advisory",
    ]);
    let expected = [
        ("lockd+gateway", 1, 0),
        ("lockd", 1, 1),
        ("etcd", 1, 1),
        ("postgres-advisory", 1, 1),
        // It cannot reach the row, either.
        ("postgres-advisory, same connection", 1, 0),
    ];
    assert_eq!(outcomes(&rows), expected);
    assert_eq!(rows[0]["refused"]["FN001"], 1, "{:#}", rows[0]);
    // Who is cut off is told by the clients of lockd and etcd, and by nobody in PostgreSQL.
    let told: Vec<&Value> = rows.iter().map(|row| &row["told"]).collect();
    assert_eq!(told, [1, 1, 1, 0, 0]);
}

#[test]
fn a_clock_moved_or_a_server_lost_passes_on_the_locks_that_rest_on_them() {
    let rows = rows(&[
        "--accidents=server-clock,holder-clock,failover",
        "--trials=1",
        "--ttl=5s",
        "--peers=redis,redis-getset",
    ]);
    let expected = [
        // The server's clock ends the keys of Redis, ...
        ("lockd+gateway", 0, 0),
        ("lockd", 0, 0),
        ("redis", 1, 1),
        ("redis-getset", 0, 0),
        // ... its clients' clocks are in the older recipe, ...
        ("lockd+gateway", 0, 0),
        ("lockd", 0, 0),
        ("redis", 0, 0),
        ("redis-getset", 1, 1),
        // ... and a restart forgets both.
        ("lockd+gateway", 0, 0),
        ("lockd", 0, 0),
        ("redis", 1, 1),
        ("redis-getset", 1, 1),
    ];
    assert_eq!(outcomes(&rows), expected);
}

#[test]
fn what_cannot_be_combined_is_refused_with_what_to_do() {
    for (arguments, expected) in [
        (vec!["--accident", "--failover"], "cannot be used with"),
        (
            vec!["--accident", "--endpoint=redis=redis://x"],
            "cannot be used with",
        ),
        (vec!["--accidents=pause"], "--accident"),
        (vec!["--accident", "--trials=0"], "1..=100"),
        (vec!["--accident", "--accidents=meteor"], "partition"),
    ] {
        let output = run(&[&["compare"], arguments.as_slice()].concat());
        assert_eq!(output.status.code(), Some(2), "{}", printed(&output));
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}
