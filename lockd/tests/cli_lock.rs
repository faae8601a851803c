//! `lockd lock` as its users see it: exit codes, environment, signals, loss.

mod cli_support;

use std::io::Write as _;
use std::process::Stdio;

use cli_support::{Cell, Process, Said, is_alive, pid, wait_until};
use rustix::process::Signal;

#[test]
fn the_commands_own_status_is_passed_through() {
    let cell = Cell::start();
    let run = |script: &str| cell.run(&["lock", "a", "--", "sh", "-c", script]).code;
    assert_eq!(run("exit 0"), 0);
    assert_eq!(run("exit 7"), 7);
    assert_eq!(run("kill -9 $$"), 128 + 9);
    let missing = cell.run(&["lock", "a", "--", "/nonexistent/command"]);
    assert!(missing.one_line(127).contains("/nonexistent/command"));
    let not_executable = cell.config.to_str().expect("text");
    assert!(
        cell.run(&["lock", "a", "--", not_executable])
            .one_line(126)
            .contains("ermission")
    );
}

#[test]
fn the_command_is_told_its_lock_token_ticket_and_session() {
    let cell = Cell::start();
    let script = "echo $LOCKD_LOCK $LOCKD_TOKEN $LOCKD_SESSION $LOCKD_TICKET";
    let said = cell.run(&["lock", "orders/42", "--", "sh", "-c", script]);
    let words: Vec<&str> = said.out.split_whitespace().collect();
    let config = lockd_client::ClientConfig::load(&cell.config).expect("readable");
    let ticket = config
        .verifier()
        .expect("keys")
        .verify(words[3])
        .expect("genuine");
    assert_eq!(words[0], "orders/42");
    assert_eq!(words[1], ticket.token.to_string());
    assert_eq!(words[2], ticket.session.to_string());
}

#[test]
fn readers_run_side_by_side_and_a_writer_waits_for_them() {
    let cell = Cell::start();
    let mut reader = cell.lock(&["report", "--shared"], "echo reads; sleep 30");
    assert_eq!(reader.line(), "reads");
    let shared = ["lock", "report", "--shared", "--try", "--", "true"];
    assert_eq!(cell.run(&shared).code, 0);
    let alone = cell.run(&["lock", "report", "--try", "--", "true"]);
    assert!(alone.one_line(120).contains("held by session"));
    reader.signal(Signal::TERM);
    reader.wait();
}

#[test]
fn a_semaphore_lets_so_many_commands_run_at_a_time() {
    let cell = Cell::start();
    let script = "echo $LOCKD_TICKET; sleep 30";
    let permit = || cell.lock(&["workers", "--permits", "2"], script);
    let (mut one, mut two) = (permit(), permit());
    let config = lockd_client::ClientConfig::load(&cell.config).expect("readable");
    let verifier = config.verifier().expect("keys");
    let fence = |line: String| verifier.verify(&line).expect("genuine").lock.to_string();
    let mut fences = [fence(one.line()), fence(two.line())];
    fences.sort_unstable();
    assert_eq!(fences, ["workers#0", "workers#1"]);
    let flags = ["--permits", "2", "--try", "--conflict-exit-code", "7"];
    let third = cell.run(&[&["lock", "workers"], &flags[..], &["--", "true"]].concat());
    third.one_line(7);
    let other = ["lock", "workers", "--permits", "3", "--try", "--", "true"];
    assert!(cell.run(&other).one_line(123).contains("2 permits"));
    for process in [one, two] {
        process.signal(Signal::TERM);
        process.wait();
    }
}

#[test]
fn several_locks_are_held_together_and_the_command_is_told_each() {
    let cell = Cell::start();
    let script = "echo \"$LOCKD_GRANTS\"; sleep 30";
    let mut both = cell.lock(&["account/1", "account/2"], script);
    let grants: serde_json::Value = serde_json::from_str(&both.line()).expect("JSON");
    assert_eq!(grants[0]["lock"], "account/1");
    assert_eq!(grants[1]["lock"], "account/2");
    assert_ne!(grants[0]["ticket"], grants[1]["ticket"]);
    let one = cell.run(&["lock", "account/2", "account/3", "--try", "--", "true"]);
    let said = one.one_line(120);
    assert!(said.contains("account/2 and account/3"), "{said}");
    let any = ["lock", "account/2", "account/3", "--any", "--try", "--"];
    let any = cell.run(&[&any[..], &["sh", "-c", "echo $LOCKD_LOCK"]].concat());
    assert_eq!(any.out, "account/3\n");
    both.signal(Signal::TERM);
    both.wait();
}

#[test]
fn arguments_and_stdin_reach_the_command_untouched() {
    let cell = Cell::start();
    let echo = cell.run(&["lock", "a", "--", "echo", "$HOME", "*", "--try", "-n"]);
    assert_eq!(echo.out, "$HOME * --try -n\n");

    let mut command = cell.command(&["lock", "a", "--", "cat"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut cat = command.spawn().expect("starts");
    let mut stdin = cat.stdin.take().expect("piped");
    stdin.write_all(b"through and through").expect("writable");
    drop(stdin);
    assert_eq!(
        cat.wait_with_output().expect("ends").stdout,
        b"through and through"
    );
}

#[test]
fn a_lock_that_is_taken_is_not_acquired_and_the_command_not_run() {
    let cell = Cell::start();
    let holder = cell.lock(&["a"], "sleep 30");
    let tried = cell.run(&["lock", "a", "--try", "--", "echo", "ran"]);
    assert!(tried.one_line(120).contains("a: "));
    assert_eq!(tried.out, "");
    let waited = cell.run(&["lock", "a", "--wait", "50ms", "--", "echo", "ran"]);
    waited.one_line(120);
    assert_eq!(waited.out, "");
    holder.signal(Signal::TERM);
    assert_eq!(Said::of(holder.wait()).code, 128 + 15);
    assert_eq!(cell.run(&["lock", "a", "--try", "--", "true"]).code, 0);
}

#[test]
fn a_signal_while_waiting_leaves_the_queue() {
    let cell = Cell::start();
    let _holder = cell.lock(&["a"], "sleep 30");
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let waiter = Process::start(cell.command(&["lock", "a", "--", "true"]));
        cell.wait_for_waiters("a", 1);
        waiter.signal(signal);
        assert_eq!(Said::of(waiter.wait()).code, code);
        cell.wait_for_waiters("a", 0);
    }
}

#[test]
fn signals_are_passed_on_and_the_lock_is_kept_until_the_command_has_ended() {
    let cell = Cell::start();
    let gate = tempfile::NamedTempFile::new().expect("a file");
    let path = gate.path().display();
    let script = format!(
        "trap 'echo got it; while [ -e {path} ]; do sleep 0.05; done; exit 3' USR1; \
         echo ready; while :; do sleep 0.05; done"
    );
    let mut holder = cell.lock(&["a"], &script);
    assert_eq!(holder.line(), "ready");
    holder.signal(Signal::USR1);
    assert_eq!(holder.line(), "got it");
    assert_eq!(cell.run(&["lock", "a", "--try", "--", "true"]).code, 120);
    drop(gate);
    assert_eq!(Said::of(holder.wait()).code, 3);
    assert_eq!(cell.run(&["lock", "a", "--try", "--", "true"]).code, 0);
}

#[test]
fn a_broken_lock_ends_the_command_before_it_moves() {
    let cell = Cell::start();
    let mut holder = cell.lock(&["a"], "echo $$; sleep 30");
    let shell = pid(holder.line().parse::<i32>().expect("a process id"));
    let broken = cell.operate(&["break", "a", "--reason", "maintenance"]);
    assert_eq!(broken.code, 0, "{}", broken.err);
    let next = cell.run(&["lock", "a", "--", "echo", "moved"]);
    assert_eq!(next.out, "moved\n");
    assert!(
        !is_alive(shell),
        "nobody else has the lock before the command is dead"
    );
    let said = Said::of(holder.wait());
    assert_eq!(said.code, 121);
    assert!(said.err.contains("maintenance"), "{}", said.err);
}

#[test]
fn a_command_is_dead_before_the_lease_ends_when_the_cell_is_gone() {
    let cell = Cell::start();
    let polite = cell.lock(&["a", "--ttl", "2s"], "sleep 60");
    // Deaf to SIGTERM, like everything it starts.
    let deaf = cell.lock(
        &["b", "--ttl", "2s"],
        "trap '' TERM; while :; do sleep 1; done",
    );
    cell.process.signal(Signal::KILL);
    for holder in [polite, deaf] {
        let said = Said::of(holder.wait());
        assert_eq!(said.code, 121, "{}", said.err);
        assert!(
            said.err.contains("could not be renewed in time"),
            "{}",
            said.err
        );
    }
}

#[test]
fn a_command_goes_on_after_a_loss_if_so_asked() {
    let cell = Cell::start();
    let flags = ["a", "--on-lost", "ignore"];
    let mut holder = cell.lock(&flags, "read line; echo $line; exit 5");
    assert_eq!(holder.line(), "");
    drop(holder);

    let script = "sleep 1; echo still here; exit 5";
    let holder = cell.lock(&flags, script);
    assert_eq!(
        cell.operate(&["break", "a", "--reason", "x", "--now"]).code,
        0
    );
    let said = Said::of(holder.wait());
    assert_eq!((said.code, said.out.as_str()), (5, "still here\n"));
}

#[test]
fn the_command_dies_with_lockd() {
    let cell = Cell::start();
    let mut holder = cell.lock(&["a"], "echo $$; exec sleep 60");
    let command = pid(holder.line().parse::<i32>().expect("a process id"));
    holder.signal(Signal::KILL);
    wait_until("the command is gone", || !is_alive(command));
}

#[test]
fn what_the_command_has_started_dies_with_lockd() {
    let cell = Cell::start();
    // Deaf to everything but SIGKILL, and not the process that the kernel was told to kill.
    let deaf = "sh -c 'trap \"\" TERM HUP INT; echo $$; while :; do sleep 1; done' & wait";
    let mut holder = cell.lock(&["a"], &format!("echo $$; {deaf}"));
    let shell = pid(holder.line().parse::<i32>().expect("a process id"));
    let child = pid(holder.line().parse::<i32>().expect("a process id"));
    assert_ne!(shell, child);
    holder.signal(Signal::KILL);
    wait_until("the command is gone", || !is_alive(shell));
    wait_until("so is what it has started", || !is_alive(child));
}

#[test]
fn what_the_command_leaves_running_in_the_background_goes_on_after_its_end() {
    let cell = Cell::start();
    let script = "sleep 60 >/dev/null 2>&1 & echo $!";
    let said = cell.run(&["lock", "a", "--", "sh", "-c", script]);
    let left = pid(said.out.trim().parse::<i32>().expect("a process id"));
    assert!(is_alive(left));
    rustix::process::kill_process(left, Signal::KILL).expect("it is there");
}

#[test]
fn the_command_has_a_process_group_of_its_own_and_leads_it() {
    let cell = Cell::start();
    let script = "echo $$; ps -o pgid= -p $$";
    let said = cell.run(&["lock", "a", "--", "sh", "-c", script]);
    let words: Vec<&str> = said.out.split_whitespace().collect();
    assert_eq!(words[0], words[1], "{}", said.out);
}

#[test]
fn grace_is_the_time_between_the_signals_and_is_refused_where_it_does_not_fit() {
    let cell = Cell::start();
    let flags = ["--ttl", "60s", "--grace", "100ms"];
    let script = "trap 'echo asked' TERM; while :; do sleep 0.05; done";
    let mut deaf = cell.lock(&[&["a"], &flags[..]].concat(), script);
    assert_eq!(cell.operate(&["break", "a", "--reason", "x"]).code, 0);
    assert_eq!(deaf.line(), "asked");
    // Long before the minute of its lease is over, which is when it would be killed otherwise.
    let said = Said::of(deaf.wait());
    assert_eq!(said.code, 121, "{}", said.err);
    let next = cell.run(&["lock", "a", "--try", "--", "true"]);
    assert_eq!(next.code, 0, "the lock was given back: {}", next.err);

    let long = ["lock", "a", "--ttl", "10s", "--grace", "9s", "--", "true"];
    let refused = cell.run(&long);
    let line = refused.one_line(2);
    assert!(
        line.contains("--grace 9s") && line.contains("--ttl 10s"),
        "{line}"
    );
    let ignored = [
        "lock",
        "a",
        "--grace",
        "1s",
        "--on-lost",
        "ignore",
        "--",
        "true",
    ];
    let refused = cell.run(&ignored);
    assert!(refused.one_line(2).contains("--on-lost ignore"));
}

#[test]
fn a_ticket_descriptor_gets_the_ticket_and_the_environment_does_not() {
    let cell = Cell::start();
    let lockd = env!("CARGO_BIN_EXE_lockd");
    // The command has the reading end of a pipe, and no writing end: it reads to the end.
    let inside = "cat <&4; env; test ! -e /proc/$$/fd/3 && echo alone";
    let script = format!(
        "LOCKD_TICKET=outer exec {lockd} lock a --ticket-fd 3 -- sh -c '{inside}' 3>{0} 4<{0}",
        "\"$pipe\""
    );
    let dir = tempfile::tempdir().expect("a directory");
    let pipe = dir.path().join("pipe");
    let mut command = std::process::Command::new("sh");
    // Opened for both first, since each end alone would wait for the other.
    command.args([
        "-c",
        &format!("mkfifo \"$pipe\"; exec 9<>\"$pipe\"; {script} 9>&-"),
    ]);
    command
        .env("pipe", &pipe)
        .env("LOCKD_CONFIG", &cell.config)
        .stdin(Stdio::null());
    let said = cell_said(command);
    assert_eq!(said.code, 0, "{}", said.err);
    let ticket = said.out.lines().next().expect("a line");
    let config = lockd_client::ClientConfig::load(&cell.config).expect("readable");
    let verified = config.verifier().expect("keys").verify(ticket);
    assert_eq!(verified.expect("genuine").lock.as_str(), "a");
    assert!(!said.out.contains("LOCKD_TICKET"), "{}", said.out);
    assert_eq!(said.out.matches("lk1.").count(), 1, "{}", said.out);
    assert!(said.out.contains("\"ticket\":null"), "{}", said.out);
    assert!(said.out.ends_with("alone\n"), "{}", said.out);
}

#[test]
fn a_ticket_descriptor_that_cannot_be_written_to_is_refused_before_anything_is_done() {
    let cell = Cell::start();
    let flag = |fd: &'static str| ["lock", "a", "--ticket-fd", fd, "--", "true"];
    let standard = cell.run(&flag("1"));
    assert!(standard.one_line(2).contains("--ticket-fd 1"));
    let closed = cell.run(&flag("42"));
    assert!(closed.one_line(2).contains("not open"));
    let lockd = env!("CARGO_BIN_EXE_lockd");
    let mut command = std::process::Command::new("sh");
    command.args([
        "-c",
        &format!("{lockd} lock a --ticket-fd 3 -- true 3</dev/null"),
    ]);
    command.env("LOCKD_CONFIG", &cell.config);
    let reading = cell_said(command);
    assert!(reading.one_line(2).contains("reading only"));
}

/// A command to its end.
fn cell_said(command: std::process::Command) -> Said {
    Said::of(Process::start(command).wait())
}

#[test]
fn in_a_terminal_the_command_can_read_and_is_reached_by_ctrl_c() {
    let cell = Cell::start();
    // `script` gives its command a terminal, and types into it what it is given itself.
    let lockd = env!("CARGO_BIN_EXE_lockd");
    let inside = format!("exec {lockd} lock a -- sh -c 'echo running; read x; echo got $x; cat'");
    // Who starts the tests in the background has Ctrl-C ignored, and all of them inherit that.
    let mut command = std::process::Command::new("env");
    command.args(["--default-signal=INT", "script", "-qefc"]);
    command.args([&inside, "/dev/null"]);
    command
        .env("LOCKD_CONFIG", &cell.config)
        .stdin(Stdio::piped());
    let mut terminal = Process::start(command);
    wait_for_line(&mut terminal, "running");
    terminal.write(b"hello\n");
    wait_for_line(&mut terminal, "got hello");
    // Once from the terminal's echo, once from `cat`, which therefore runs: a shell that is just
    // starting it would swallow the Ctrl-C.
    terminal.write(b"more\n");
    wait_for_line(&mut terminal, "more");
    wait_for_line(&mut terminal, "more");
    terminal.write(b"\x03");
    assert_eq!(Said::of(terminal.wait_open()).code, 128 + 2);
    assert_eq!(cell.run(&["lock", "a", "--try", "--", "true"]).code, 0);
}

/// Reads lines until this one.
fn wait_for_line(process: &mut Process, wanted: &str) {
    while process.line() != wanted {}
}
