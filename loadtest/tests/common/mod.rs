//! What the end-to-end tests share: the program under test, and a place for its files.

use std::path::Path;
use std::process::{Command, Output};

/// The program, which is also every node, gateway and client that it starts.
pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_loadtest"))
}

/// Runs the program to its end.
#[allow(dead_code, reason = "not every test file runs the program itself")]
pub(crate) fn run(arguments: &[&str]) -> Output {
    Command::new(program())
        .args(arguments)
        .output()
        .expect("the program was built together with this test")
}

/// What the program printed, for messages.
#[allow(dead_code, reason = "not every test file runs the program itself")]
pub(crate) fn printed(output: &Output) -> String {
    format!(
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
