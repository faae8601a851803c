//! What went wrong in other lock services, tried on real processes: each test names the bug, and
//! the comment before it whose it was. More of them: `lockd/src/state/tests/others.rs`,
//! `lockd/src/server/core/tests/contract.rs`, `lockd/client/src/core/session/contract.rs`.

mod cli_support;
mod nodes;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cli_support::{Cell, Process, Said, wait_until, with_config};
use lockd_client::{Client, Wait};
use nodes::Nodes;
use nodes::ledger::{Crowd, Holdings};
use rustix::process::Signal;

/// Exit code of `lockd lock` when the lock was lost.
const LOST: i32 = 121;

/// A wall clock that the tests move, for whatever runs with this environment. Clocks that count
/// from the boot of the machine go on as they are.
struct WallClock(PathBuf);

impl WallClock {
    fn new(directory: &Path, name: &str) -> WallClock {
        let clock = WallClock(directory.join(name));
        clock.set("+0");
        clock
    }

    /// How far it is off, as libfaketime writes it.
    fn set(&self, offset: &str) {
        fs::write(&self.0, offset).expect("written");
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let file = self.0.to_str().expect("text").to_owned();
        vec![
            ("LD_PRELOAD", library()),
            ("FAKETIME_TIMESTAMP_FILE", file),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}

/// Where the package keeps libfaketime.
fn library() -> String {
    let places = fs::read_dir("/usr/lib").expect("readable").flatten();
    let found = places
        .map(|place| place.path().join("faketime/libfaketimeMT.so.1"))
        .find(|file| file.exists());
    let found = found.expect("libfaketime is installed: `apt-get install faketime`");
    found.to_str().expect("text").to_owned()
}

/// Seconds since 1970, as a program with this environment sees it.
fn seconds(environment: &[(&'static str, String)]) -> i64 {
    let mut date = Command::new("date");
    date.arg("+%s").envs(environment.iter().cloned());
    let said = date.output().expect("it runs").stdout;
    let text = String::from_utf8(said).expect("text");
    text.trim().parse().expect("a number")
}

// kubernetes/kubernetes#67651, kubernetes/client-go#448, cockroachdb/cockroach#23104: the wall
// clock decided about leases.
#[test]
fn wall_clocks_an_hour_wrong_change_nothing() {
    let mut nodes = Nodes::new();
    let clocks: Vec<WallClock> = (1..=3)
        .map(|node| WallClock::new(nodes.dir.path(), &format!("clock-{node}")))
        .collect();
    for (node, clock) in (1..).zip(&clocks) {
        nodes.start_with(node, &clock.environment());
    }
    nodes.wait_for_leader();
    let mut holdings = Holdings::take(&nodes.layout.clients[0], 5);
    let crowd = Crowd::start(&nodes.layout.clients[0], 4);
    for offset in ["+3600", "-3600"] {
        let leader = nodes.leader();
        for node in [leader, leader % 3 + 1, (leader + 1) % 3 + 1] {
            let clock = &clocks[node as usize - 1];
            clock.set(offset);
            let off = seconds(&clock.environment()) - seconds(&[]);
            assert!(
                (3500..3700).contains(&off.abs()),
                "the clock is moved: {off} s"
            );
            crowd.go_on(20);
            holdings.all_are_held();
        }
        // Nor does a node mind that starts an hour away from the others.
        let node = nodes.leader() % 3 + 1;
        nodes.kill(node);
        clocks[node as usize - 1].set("+0");
        nodes.start_with(node, &clocks[node as usize - 1].environment());
        let others = (1..=3).filter(|other| *other != node);
        let wanted = others.map(|other| nodes.applied(other)).max();
        wait_until("it has caught up", || {
            nodes.applied(node) >= wanted.unwrap_or(0)
        });
        crowd.go_on(20);
        holdings.all_are_held();
        // And the dead are gone when their TTL is over, not an hour earlier or later.
        let config = &nodes.layout.operator;
        let flags = ["lock", "dead", "--ttl", "1s", "--", "echo", "mine"];
        let mut holder = Process::start(with_config(
            config,
            &[
                "lock",
                "dead",
                "--ttl",
                "1s",
                "--",
                "sh",
                "-c",
                "echo held; sleep 600",
            ],
        ));
        assert_eq!(holder.line(), "held");
        holder.signal(Signal::KILL);
        let next = Said::of(Process::start(with_config(config, &flags)).wait());
        assert_eq!(
            (next.code, next.out.as_str()),
            (0, "mine\n"),
            "{}",
            next.err
        );
    }
    let seen = crowd.finish();
    holdings.are_free(seen.names());
    holdings.release_all();
}

// ZOOKEEPER-4837, CURATOR-595: on a server that had been away, a session lived on that had ended
// meanwhile, and kept its lock. (Restored from a snapshot taken at any time:
// `state/tests/others.rs`.)
#[test]
fn a_session_that_ended_while_a_node_was_away_is_over_there_too() {
    let mut nodes = Nodes::started();
    let config = nodes.layout.clients[0].clone();
    let script = ["sh", "-c", "echo held; sleep 600"];
    let flags = [&["lock", "a", "--ttl", "1s", "--"][..], &script].concat();
    let mut holder = Process::start(with_config(&config, &flags));
    assert_eq!(holder.line(), "held");
    let away = nodes.leader() % 3 + 1;
    wait_until("the node has the session", || {
        nodes.status(away).is_some_and(|status| status.sessions > 0)
    });
    nodes.kill(away);
    holder.signal(Signal::KILL);
    let holdings = Holdings::take(&config, 3);
    let remains = nodes.leader();
    wait_until("its session is over", || {
        nodes
            .status(remains)
            .is_some_and(|status| status.locks == 3)
    });
    nodes.start(away);
    wait_until("all have the same sessions and locks", || {
        let of = |node| {
            let status = nodes.status(node)?;
            Some((status.sessions, status.locks))
        };
        let all: Vec<_> = (1..=3).map(of).collect();
        all[0].is_some() && all.iter().all(|one| one == &all[0])
    });
    // It is one of the two that decide now, and may lead.
    nodes.kill(nodes.leader());
    let next = with_config(&config, &["lock", "a", "--", "echo", "mine"]);
    let next = Said::of(Process::start(next).wait());
    assert_eq!(
        (next.code, next.out.as_str()),
        (0, "mine\n"),
        "{}",
        next.err
    );
    holdings.release_all();
}

// hashicorp/consul#1843 and #9788: a holder that had been cut off went on for minutes.
#[test]
fn a_holder_that_was_stopped_finds_its_lock_lost_before_it_goes_on() {
    let cell = Cell::start();
    let flags = [
        "lock",
        "a",
        "--ttl",
        "1s",
        "--",
        "sh",
        "-c",
        "echo running; read x; echo used",
    ];
    let mut command = cell.command(&flags);
    command.stdin(Stdio::piped());
    let mut holder = Process::start(command);
    assert_eq!(holder.line(), "running");
    holder.signal(Signal::STOP);
    let next = cell.run(&["lock", "a", "--", "echo", "mine"]);
    assert_eq!(
        (next.code, next.out.as_str()),
        (0, "mine\n"),
        "{}",
        next.err
    );
    holder.signal(Signal::CONT);
    let said = Said::of(holder.wait_open());
    assert_eq!((said.code, said.out.as_str()), (LOST, ""), "{}", said.err);
}

fn resident_kib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.expect("there").trim().trim_end_matches("kB").trim();
    kib.parse().expect("a number")
}

/// So many cycles of one session, some of them at the same time, each with a lock of its own.
async fn cycle(client: &Client, name: &str, cycles: u64) {
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..64 {
        let (client, name) = (client.clone(), name.to_owned());
        tasks.spawn(async move {
            for n in 0..cycles / 64 {
                let lock = format!("{name}/{task}/{n}");
                let lock = client.lock(lock.as_str()).wait(Wait::Try).without_ticket();
                let guard = lock.acquire().await.expect("it is free");
                guard.release().await.expect("released");
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("all were granted");
    }
}

// spring-integration-extensions, pull request 236 (Hazelcast): what one owner had asked was kept
// until the memory was full. The state itself is looked at exactly in `state/tests/others.rs`.
#[test]
fn what_one_session_acquires_and_releases_does_not_fill_the_nodes() {
    const CYCLES: u64 = 96_000;
    /// What was kept of each cycle would be more than this: an answer has some 100 bytes.
    const MORE_KIB_MAX: u64 = 16 * 1024;
    let mut nodes = Nodes::new();
    for node in 1..=3 {
        nodes.snapshot_after(node, 2000);
        nodes.start(node);
    }
    nodes.wait_for_leader();
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().expect("a runtime");
    let builder = Client::builder().config_file(&nodes.layout.clients[0]);
    let builder = builder
        .expect("a configuration")
        .ttl(Duration::from_secs(60));
    let builder = builder.request_timeout(Duration::from_secs(60));
    let client = runtime.block_on(builder.connect()).expect("connected");
    let resident = || {
        (1..=3)
            .map(|node| resident_kib(nodes.pid(node)))
            .collect::<Vec<u64>>()
    };
    // What a log, its cache and a snapshot take is there after the first cycles.
    runtime.block_on(cycle(&client, "first", CYCLES));
    let before = resident();
    runtime.block_on(cycle(&client, "second", 4 * CYCLES / 3));
    let after = resident();
    println!("resident {before:?} KiB, and later {after:?} KiB");
    for (before, after) in before.iter().zip(&after) {
        assert!(
            *after < before + MORE_KIB_MAX,
            "{before} KiB, then {after} KiB"
        );
    }
    runtime.block_on(client.close());
}
