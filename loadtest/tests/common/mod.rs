//! What the end-to-end tests share: the program under test, and a place for its files.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

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

/// The children of a process, and theirs: the keeper of a server has the server.
#[allow(dead_code, reason = "not every test file looks for processes")]
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let mut processes = children(pid);
    processes.extend(processes.clone().into_iter().flat_map(children));
    processes
}

fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = std::fs::read_to_string(path).expect("the process runs");
    let children = children.split_whitespace();
    children
        .map(|pid| pid.parse().expect("the kernel lists numbers"))
        .collect()
}

/// Waits until none of these processes runs any more.
#[allow(dead_code, reason = "not every test file looks for processes")]
pub(crate) fn assert_gone(pids: &[u32]) {
    let start = Instant::now();
    let runs = |pid: &&u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        Path::new(&format!("/proc/{pid}")).exists() && !status.contains(") Z ")
    };
    while let Some(left) = pids.iter().find(runs) {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "process {left} was left behind"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
