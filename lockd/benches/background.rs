//! What it costs to renew a client's sessions on a thread of its own, beside the caller's runtime.
//!
//! Both take turns in one run, against one cell in another process: a pair of an acquisition and
//! its release after the other, and sixty-four tasks at a time. CPU time is this process's, per
//! pair.
//!
//! `cargo bench -p lockd --bench background`

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lockd_client::{Background, Client};
use rustix::time::{ClockId, clock_gettime};

/// Turns of each kind.
const ROUNDS: usize = 12;

/// Pairs in one turn.
const PAIRS: usize = 1_500;

/// Tasks, in the turns in which there are several.
const TASKS: usize = 64;

/// What one kind of turn took.
#[derive(Default)]
struct Taken {
    pairs: usize,
    cpu: Duration,
    latencies: Vec<Duration>,
}

fn main() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("cell");
    let mut cell = start_cell(&root);
    for threads in [1, 2] {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(threads).enable_all();
        let runtime = builder.build().expect("a runtime");
        for tasks in [1, TASKS] {
            let (own, callers) = runtime.block_on(compare(&root, tasks));
            let ratio = cpu_per_pair(&own) / cpu_per_pair(&callers);
            println!("{threads} worker threads, {tasks} tasks: CPU own/caller's {ratio:.2}");
            report("  own thread", own);
            report("  caller's runtime", callers);
        }
    }
    cell.kill().expect("our own child");
    cell.wait().expect("our own child");
}

fn start_cell(root: &std::path::Path) -> Child {
    let mut cell = Command::new(env!("CARGO_BIN_EXE_lockd"))
        .args(["dev", "--dir"])
        .arg(root)
        .env("RUST_LOG", "off")
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let out = BufReader::new(cell.stdout.take().expect("piped"));
    let mut lines = out.lines().map_while(Result::ok);
    lines.find(|line| line == "ready").expect("it gets ready");
    cell
}

/// Both kinds in turn, so that whatever else the machine does is shared by them.
async fn compare(root: &std::path::Path, tasks: usize) -> (Taken, Taken) {
    let own = connect(root, Background::OwnThread).await;
    let callers = connect(root, Background::CallersRuntime).await;
    let mut taken = (Taken::default(), Taken::default());
    for _ in 0..ROUNDS {
        turn(&own, tasks, &mut taken.0).await;
        turn(&callers, tasks, &mut taken.1).await;
    }
    taken
}

async fn connect(root: &std::path::Path, background: Background) -> Client {
    Client::builder()
        .config_file(root.join("client/client.toml"))
        .expect("readable")
        .background(background)
        .connect()
        .await
        .expect("the cell runs")
}

async fn turn(client: &Client, tasks: usize, taken: &mut Taken) {
    let before = cpu();
    let mut all = tokio::task::JoinSet::new();
    for task in 0..tasks {
        let client = client.clone();
        all.spawn(async move {
            let mut latencies = Vec::new();
            for _ in 0..PAIRS / tasks {
                let begun = Instant::now();
                let lock = client.lock(format!("bench/{task}")).without_ticket();
                let guard = lock.acquire().await.expect("free");
                guard.release().await.expect("held");
                latencies.push(begun.elapsed());
            }
            latencies
        });
    }
    let latencies: Vec<Duration> = all.join_all().await.into_iter().flatten().collect();
    taken.cpu += cpu() - before;
    taken.pairs += latencies.len();
    taken.latencies.extend(latencies);
}

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(now.tv_sec).expect("after the beginning");
    let nanoseconds = u32::try_from(now.tv_nsec).expect("less than a second");
    Duration::new(seconds, nanoseconds)
}

fn cpu_per_pair(taken: &Taken) -> f64 {
    taken.cpu.as_secs_f64() * 1e6 / taken.pairs as f64
}

fn report(what: &str, mut taken: Taken) {
    taken.latencies.sort_unstable();
    let at = |part: usize| taken.latencies[taken.latencies.len() * part / 100];
    println!(
        "{what}: {:.1} us of CPU per pair; median {:?}, 99 % {:?}",
        cpu_per_pair(&taken),
        at(50),
        at(99)
    );
}
