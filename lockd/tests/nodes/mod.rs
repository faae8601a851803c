//! A cell of `lockd serve` processes, one directory each, and a client that watches over them.

#![allow(dead_code, reason = "each test file uses its own part of this")]

pub(crate) mod files;
pub(crate) mod ledger;
pub(crate) mod trouble;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use lockd::init::{CellLayout, InitOptions, init};
use lockd::server::config::NodeConfig;
use lockd_client::protocol::client::Status;
use lockd_client::{AcquireError, Client, ClientConfig, GuardState, Wait, probe};
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::cli_support::{Process, Said, lockd, pid, wait_until, with_config};
use trouble::SmallDisk;

/// Nodes as processes.
pub(crate) struct Nodes {
    pub(crate) dir: TempDir,
    pub(crate) layout: CellLayout,
    running: BTreeMap<u64, Node>,
    /// The nodes that have a file system of their own.
    disks: BTreeMap<u64, SmallDisk>,
}

/// A process that is killed with its test.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        // Fails if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Nodes {
    /// The files of a cell of three; nothing runs.
    pub(crate) fn new() -> Nodes {
        Nodes::of(3)
    }

    fn of(count: usize) -> Nodes {
        let dir = tempfile::tempdir().expect("a directory");
        let options = InitOptions {
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 0)); count],
            ..InitOptions::default()
        };
        let layout = init(&dir.path().join("cell"), &options).expect("a cell");
        Nodes {
            dir,
            layout,
            running: BTreeMap::new(),
            disks: BTreeMap::new(),
        }
    }

    /// A cell of three that has a leader.
    pub(crate) fn started() -> Nodes {
        Nodes::started_with(3)
    }

    /// A cell of so many that has a leader.
    pub(crate) fn started_with(count: usize) -> Nodes {
        let mut nodes = Nodes::of(count);
        (1..=count as u64).for_each(|node| nodes.start(node));
        nodes.wait_for_leader();
        nodes
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("cell")
    }

    pub(crate) fn home(&self, node: u64) -> PathBuf {
        self.root().join(format!("node-{node}"))
    }

    /// Makes snapshots come early at this node, from its next start on.
    pub(crate) fn snapshot_after(&self, node: u64, entries: u64) {
        let table = format!("[snapshot]\nentries = {entries}\nbytes = 1000000000\n");
        self.configure(node, &table);
    }

    /// Makes this node read its store again once a second, from its next start on.
    pub(crate) fn scrub_often(&self, node: u64) {
        self.configure(node, "[scrub]\nevery = \"1s\"\n");
    }

    fn configure(&self, node: u64, table: &str) {
        let path = self.home(node).join("node.toml");
        let text = fs::read_to_string(&path).expect("a configuration");
        fs::write(&path, format!("{text}\n{table}")).expect("written");
    }

    /// Gives a node that does not run a file system of so many bytes.
    pub(crate) fn give_small_disk(&mut self, node: u64, bytes: u64) {
        let disk = SmallDisk::over(&self.home(node), bytes);
        let config = self.home(node).join("node.toml");
        let mut adopt = lockd(&["member", "adopt-data", "--config"]);
        adopt.arg(config);
        let said = Said::of(Process::start(disk.enter(&adopt)).wait());
        assert_eq!(said.code, 0, "{}", said.err);
        self.disks.insert(node, disk);
    }

    /// The file system of its own that a node has.
    pub(crate) fn disk(&self, node: u64) -> &SmallDisk {
        &self.disks[&node]
    }

    pub(crate) fn start(&mut self, node: u64) {
        let child = self.spawn(&self.home(node), node);
        self.running.insert(node, child);
    }

    /// Starts a node with more in its environment.
    pub(crate) fn start_with(&mut self, node: u64, environment: &[(&'static str, String)]) {
        let mut command = self.serve(&self.home(node), node);
        command.envs(environment.iter().cloned());
        let child = self.spawn_as(node, command);
        self.running.insert(node, child);
    }

    /// Starts a node whose directory is somewhere else.
    pub(crate) fn start_at(&mut self, home: &Path, node: u64) {
        let child = self.spawn(home, node);
        self.running.insert(node, child);
    }

    fn spawn(&self, home: &Path, node: u64) -> Node {
        self.spawn_as(node, self.serve(home, node))
    }

    fn serve(&self, home: &Path, node: u64) -> Command {
        let mut command = lockd(&["serve", "--config"]);
        command.arg(home.join("node.toml")).env("RUST_LOG", "info");
        match self.disks.get(&node) {
            Some(disk) => disk.enter(&command),
            None => command,
        }
    }

    fn spawn_as(&self, node: u64, mut command: Command) -> Node {
        let path = self.log_path(node);
        let log = File::options().create(true).append(true).open(path);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(log.expect("a log"));
        Node(command.spawn().expect("starts"))
    }

    /// Runs a node that does not last; its exit code.
    pub(crate) fn run_to_end(&mut self, home: &Path, node: u64) -> i32 {
        wait_for_end(&mut self.spawn(home, node))
    }

    /// The same with a fault in its syncs: see [`trouble::SyncFault`].
    pub(crate) fn run_to_end_with(&mut self, home: &Path, node: u64, fault: &str) -> i32 {
        let command = trouble::with_sync_fault(&self.serve(home, node), fault);
        wait_for_end(&mut self.spawn_as(node, command))
    }

    pub(crate) fn kill(&mut self, node: u64) {
        drop(self.running.remove(&node).expect("it runs"));
    }

    /// The process of a node.
    pub(crate) fn pid(&self, node: u64) -> u32 {
        self.running[&node].0.id()
    }

    /// Kills all that run, at once, and starts them again.
    pub(crate) fn restart_all(&mut self) {
        let nodes: Vec<u64> = self.running.keys().copied().collect();
        for node in self.running.values_mut() {
            node.0.kill().expect("killed");
        }
        self.running.clear();
        nodes.into_iter().for_each(|node| self.start(node));
        self.wait_for_leader();
    }

    /// Asks a node to end.
    pub(crate) fn ask_to_end(&self, node: u64) {
        let process = pid(self.pid(node));
        kill_process(process, Signal::TERM).expect("it runs");
    }

    /// Waits until a node ends by itself; its exit code.
    pub(crate) fn wait_for_end(&mut self, node: u64) -> i32 {
        let code = wait_for_end(self.running.get_mut(&node).expect("it runs"));
        self.running.remove(&node);
        code
    }

    /// The exit code of a node that runs, or did.
    pub(crate) fn has_ended(&mut self, node: u64) -> Option<i32> {
        let node = self.running.get_mut(&node).expect("it was started");
        let ended = node.0.try_wait().expect("our child")?;
        Some(ended.code().expect("not ended by a signal"))
    }

    /// What a node has said on stderr.
    pub(crate) fn log(&self, node: u64) -> String {
        fs::read_to_string(self.log_path(node)).unwrap_or_default()
    }

    fn log_path(&self, node: u64) -> PathBuf {
        self.dir.path().join(format!("node-{node}.log"))
    }

    /// A `lockd` command of the operator, to its end.
    pub(crate) fn operate(&self, arguments: &[&str]) -> Said {
        Said::of(Process::start(with_config(&self.layout.operator, arguments)).wait())
    }

    /// The same, which succeeds.
    pub(crate) fn succeed(&self, arguments: &[&str]) -> Said {
        let said = self.operate(arguments);
        assert_eq!(
            said.code,
            0,
            "{arguments:?}: {}{}",
            said.err,
            self.all_logs()
        );
        said
    }

    pub(crate) fn all_logs(&self) -> String {
        let logs = (1..9)
            .map(|node| self.log(node))
            .filter(|log| !log.is_empty());
        logs.collect::<Vec<_>>().join("\n---\n")
    }

    pub(crate) fn wait_for_leader(&self) {
        wait_until("the cell has a leader", || {
            let said = self.operate(&["member", "ls"]);
            said.code == 0 && said.out.contains(" leader ")
        });
    }

    /// What a node says of itself, if it answers.
    pub(crate) fn status(&self, node: u64) -> Option<Status> {
        let own = NodeConfig::load(&self.home(node).join("node.toml")).expect("a configuration");
        let address = own.address().expect("an address").to_string();
        let client = ClientConfig::load(&self.layout.operator).expect("a configuration");
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().expect("a runtime");
        let asked = probe(&client, &address, Duration::from_secs(1));
        runtime.block_on(asked).ok()
    }

    /// The last slot that a node has applied; 0 if it does not answer.
    pub(crate) fn applied(&self, node: u64) -> u64 {
        self.status(node).map_or(0, |status| status.applied)
    }

    pub(crate) fn leader(&self) -> u64 {
        let mut leader = None;
        wait_until("a node leads", || {
            let members = self.members();
            let leads = members.iter().find(|node| node["role"] == "leader");
            leader = leads.and_then(|node| node["node"].as_u64());
            leader.is_some()
        });
        leader.expect("it was waited for")
    }

    /// Who votes, by the newest membership that is known.
    pub(crate) fn voters(&self) -> Vec<u64> {
        let members = self.members();
        let voters = members.iter().filter(|node| node["role"] != "learner");
        voters.filter_map(|node| node["node"].as_u64()).collect()
    }

    /// The listing of the newest membership.
    pub(crate) fn members(&self) -> Vec<Value> {
        let said = self.succeed(&["member", "ls", "--json"]);
        let mut listing: Value = serde_json::from_str(&said.out).expect("JSON");
        serde_json::from_value(listing["nodes"].take()).expect("nodes")
    }

    /// Makes and starts a node that is to join; its number and its address.
    pub(crate) fn prepare(&mut self) -> (u64, String) {
        let root = self.root();
        let said = self.succeed(&["member", "prepare", root.to_str().expect("text")]);
        let word = |after: &str| {
            let rest = said.out.split(after).nth(1).expect("it is said");
            rest.split_whitespace().next().expect("a word").to_owned()
        };
        let node = word("node ").parse().expect("a number");
        let address = word("--address ");
        self.start(node);
        (node, address)
    }

    pub(crate) fn prepare_and_add(&mut self) -> u64 {
        let (node, address) = self.prepare();
        self.succeed(&["member", "add", &node.to_string(), "--address", &address]);
        node
    }
}

fn wait_for_end(node: &mut Node) -> i32 {
    let mut ended = None;
    wait_until("the node ends", || {
        ended = node.0.try_wait().expect("our child");
        ended.is_some()
    });
    let code = ended.expect("it was waited for").code();
    code.expect("not ended by a signal")
}

/// A client that holds one lock all the time and takes others again and again, and that notices
/// if anything is lost on the way.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    cycles: Arc<AtomicU64>,
    thread: Option<JoinHandle<u64>>,
}

impl Load {
    pub(crate) fn start(config: &Path) -> Load {
        let (stop, cycles) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, counted) = (stop.clone(), cycles.clone());
        let config = config.to_owned();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().expect("a runtime");
            runtime.block_on(cycle(&config, &stopped, &counted))
        });
        let load = Load {
            stop,
            cycles,
            thread: Some(thread),
        };
        load.go_on(1);
        load
    }

    /// How often a lock was taken and given back.
    pub(crate) fn cycles(&self) -> u64 {
        self.cycles.load(Ordering::Relaxed)
    }

    /// Waits until that has happened so many times more.
    pub(crate) fn go_on(&self, more: u64) {
        let until = self.cycles() + more;
        wait_until("the client is served", || {
            assert!(!self.thread.as_ref().is_some_and(JoinHandle::is_finished));
            self.cycles() >= until
        });
    }

    /// Ends it, and gives the highest token that was seen.
    pub(crate) fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it runs");
        thread.join().expect("nothing was lost")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn cycle(config: &Path, stop: &AtomicBool, cycles: &AtomicU64) -> u64 {
    let client = Client::builder()
        .config_file(config)
        .expect("a configuration");
    let client = client
        .ttl(Duration::from_secs(20))
        .connect()
        .await
        .expect("connected");
    let held = client
        .lock("held")
        .wait(Wait::Forever)
        .acquire()
        .await
        .expect("free");
    let session = client.session_id();
    let mut last = held.token();
    while !stop.load(Ordering::Relaxed) {
        let name = format!("cycle/{}", cycles.load(Ordering::Relaxed) % 10);
        match client
            .lock(name.as_str())
            .wait(Wait::Forever)
            .acquire()
            .await
        {
            Ok(guard) => {
                assert!(
                    guard.token() > last,
                    "tokens rise: {} after {last}",
                    guard.token()
                );
                last = guard.token();
                guard.release().await.expect("released");
                cycles.fetch_add(1, Ordering::Relaxed);
            }
            Err(AcquireError::Unavailable { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        let state = held.state();
        assert!(!matches!(state, GuardState::Lost { .. }), "{state:?}");
        assert_eq!(client.session_id(), session);
    }
    held.release().await.expect("still held");
    client.close().await;
    last.0
}
