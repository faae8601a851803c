//! `loadtest report`, as a user starts it, on results that `loadtest run` has written.

#![allow(
    clippy::unwrap_used,
    reason = "a set-up that fails is a test that fails"
)]

mod common;

use std::path::PathBuf;
use std::process::Output;

use common::{printed, run};
use serde_json::Value;

/// A result, and others that are made of it.
struct Bench {
    directory: tempfile::TempDir,
    result: Value,
}

impl Bench {
    fn new() -> Bench {
        let output = run(&[
            "run",
            "--clients",
            "2",
            "--warmup",
            "50ms",
            "--duration",
            "300ms",
            "--json",
            "-",
        ]);
        assert!(output.status.success(), "{}", printed(&output));
        let bench = Bench {
            directory: tempfile::tempdir().unwrap(),
            result: serde_json::from_slice(&output.stdout).unwrap(),
        };
        bench.write("a.json", &bench.result);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, result: &Value) {
        std::fs::write(self.path(name), result.to_string()).unwrap();
    }

    /// The result with some fields of its own.
    fn write_changed(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut result = self.result.clone();
        change(&mut result);
        self.write(name, &result);
    }

    /// Reports on these files of the bench, with these flags.
    fn report(&self, files: &[&str], flags: &[&str]) -> Output {
        let paths = files.iter().map(|name| self.path(name));
        let mut arguments = vec!["report".to_owned()];
        arguments.extend(paths.map(|path| path.to_str().unwrap().to_owned()));
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        run(&arguments)
    }
}

#[test]
fn a_figure_that_became_worse_by_too_much_fails_and_one_that_did_not_passes() {
    let bench = Bench::new();
    bench.write_changed("b.json", |result| {
        let p99 = result["acquire_us"]["p99"].as_f64().unwrap();
        result["acquire_us"]["p99"] = (p99 * 1.2).into();
    });
    let output = bench.report(&["a.json", "b.json"], &["--fail-if", "p99+10%"]);
    assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("FAILED: lockd, uncontended, 2 clients: p99 went from"),
        "{text}"
    );
    assert!(
        text.contains("by +20.0 %, and +10.0 % is allowed"),
        "{text}"
    );
    let flags = [
        "--fail-if",
        "p99+30%",
        "--fail-if",
        "cycles-5%",
        "--fail-if",
        "cpu+10%",
    ];
    let output = bench.report(&["a.json", "b.json"], &flags);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    let output = bench.report(&["a.json", "b.json"], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("+20.0 %") && text.contains("cycles/s"),
        "{text}"
    );
}

#[test]
fn one_result_is_shown_and_written_as_a_page_and_as_csv() {
    let bench = Bench::new();
    let (csv, html) = (bench.path("a.csv"), bench.path("a.html"));
    let flags = [
        "--csv",
        csv.to_str().unwrap(),
        "--html",
        html.to_str().unwrap(),
    ];
    let output = bench.report(&["a.json"], &flags);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.starts_with("lockd, uncontended, 2 clients (1 round)\n"),
        "{text}"
    );
    assert!(std::fs::read_to_string(csv).unwrap().lines().count() == 2);
    let page = std::fs::read_to_string(html).unwrap();
    assert!(page.contains("CPU time for each cycle"), "{page}");
}

#[test]
fn two_results_stand_beside_each_other_on_one_page() {
    let bench = Bench::new();
    let html = bench.path("both.html");
    let flags = ["--html", html.to_str().unwrap()];
    let output = bench.report(&["a.json", "a.json"], &flags);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    let page = std::fs::read_to_string(html).unwrap();
    assert!(page.contains("lockd (first)") && page.contains("lockd (second)"));
}

#[test]
fn a_broken_promise_in_a_result_fails_whatever_its_figures() {
    let bench = Bench::new();
    bench.write_changed("b.json", |result| result["violations"] = 1.into());
    for files in [&["b.json"][..], &["a.json", "b.json"]] {
        let output = bench.report(files, &[]);
        assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("FAILED: 1 broken promises"), "{text}");
    }
}

#[test]
fn what_cannot_be_used_is_refused_with_2_and_what_to_do() {
    let bench = Bench::new();
    bench.write_changed("newer.json", |result| result["schema"] = 99.into());
    bench.write_changed("other.json", |result| result["clients"] = 3.into());
    bench.write_changed("unknown.json", |result| {
        result["cpu_us_per_cycle"]["servers"] = Value::Null;
    });
    std::fs::write(bench.path("text.json"), "no JSON").unwrap();
    let cpu = ["--fail-if", "cpu+1%"];
    for (files, flags, expected) in [
        (&["none.json"][..], &[][..], "cannot read"),
        (&["text.json"], &[], "is no result of `loadtest run`"),
        (&["newer.json"], &[], "has schema 99"),
        (
            &["a.json", "other.json"],
            &[],
            "nothing was measured in both",
        ),
        (&["a.json", "unknown.json"], &cpu, "cpu of lockd"),
        (&["a.json"], &cpu, "B.json"),
        (
            &["a.json", "a.json"],
            &["--fail-if", "p98+1%"],
            "figures are cycles, p50",
        ),
    ] {
        let output = bench.report(files, flags);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{files:?}: {}",
            printed(&output)
        );
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains(expected), "{files:?}: {message}");
    }
}
