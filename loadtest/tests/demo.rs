//! `loadtest demo`, as a user starts it.

#![allow(
    clippy::unwrap_used,
    reason = "a set-up that fails is a test that fails"
)]

mod common;

use common::{printed, run};
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
        "reads \"shipped by B\"",
        "A's late write was refused (FN001)",
        "What B wrote stands",
    ] {
        let at = rest.find(part);
        let at = at.unwrap_or_else(|| panic!("{part:?} is missing or out of order:\n{story}"));
        rest = &rest[at + part.len()..];
    }
}
