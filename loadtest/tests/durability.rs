//! `kill -9` of any one node, the leader included, loses no acknowledged grant, no session and no
//! token order; of all three and a restart, likewise. With real processes and real disks.

#![allow(
    clippy::unwrap_used,
    reason = "a set-up that fails is a test that fails"
)]

mod common;

use std::rc::Rc;
use std::time::{Duration, Instant};

use loadtest::cell::OwnCell;
use loadtest::driver::lockd::{LockdDriver, LockdOptions};
use loadtest::run::workload::{Plan, Shape, Shared, Workload, run_clients};
use lockd_client::{AcquireError, Client, GuardState, LockGuard, ReleaseOutcome, Wait};
use lockd_protocol::NodeId;

/// Longer than any of these tests: no session may end in them.
const TTL: Duration = Duration::from_secs(120);

/// How long a cell may take until it works again, on a very busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

fn in_runtime(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test);
}

/// A cell with a client that holds locks, whose grants must survive everything.
struct Bench {
    cell: OwnCell,
    holder: Client,
    guards: Vec<LockGuard>,
    other: Client,
    highest_token: u64,
    // Behind the cell, so that its nodes end before their files go.
    _directory: tempfile::TempDir,
}

impl Bench {
    async fn start() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let mut cell = OwnCell::start(common::program(), directory.path()).unwrap();
        cell.leader().await.unwrap();
        let holder = connect(&cell, "holder").await;
        let other = connect(&cell, "other").await;
        let mut bench = Bench {
            cell,
            holder,
            guards: Vec::new(),
            other,
            highest_token: 0,
            _directory: directory,
        };
        for index in 0..10 {
            bench.hold(&format!("held/{index}")).await;
        }
        bench
    }

    /// Takes one more lock, which must get the highest token so far.
    async fn hold(&mut self, name: &str) {
        let lock = self.holder.lock(name).wait(Wait::Try);
        let guard = lock.acquire().await.unwrap();
        let token = guard.token().0;
        assert!(
            token > self.highest_token,
            "{token} after {}",
            self.highest_token
        );
        self.highest_token = token;
        self.guards.push(guard);
    }

    /// Every grant is still there: for its holder, for the cell, and for who asks for its lock.
    async fn nothing_is_lost(&mut self) {
        self.hold(&format!("new/{}", self.guards.len())).await;
        for guard in &self.guards {
            let name = guard.name().as_str();
            assert!(
                !matches!(guard.state(), GuardState::Lost { .. }),
                "{guard:?}"
            );
            let detail = self.other.who(name).await.unwrap();
            let summary = detail.map(|detail| detail.summary);
            let found = summary.map(|summary| (summary.holder, summary.token));
            let held = (Some(guard.session()), Some(guard.token()));
            assert_eq!(found, Some(held), "{name}");
            let refused = self.other.lock(name).wait(Wait::Try).acquire().await;
            let expected = Err(AcquireError::NotAvailable {
                lock: guard.name().clone(),
                holder: Some(guard.session()),
            });
            assert_eq!(refused.map(drop), expected, "{name}");
        }
    }

    /// Every release finds the grant that it names.
    async fn everything_is_released(self) {
        for guard in self.guards {
            assert_eq!(guard.release().await, Ok(ReleaseOutcome::Released));
        }
    }
}

async fn connect(cell: &OwnCell, label: &str) -> Client {
    let builder = Client::builder().config_file(cell.client_config()).unwrap();
    let builder = builder
        .ttl(TTL)
        .description(label)
        .request_timeout(PATIENCE);
    builder.connect().await.unwrap()
}

#[test]
fn killing_any_one_node_loses_no_grant_no_session_and_no_token_order() {
    in_runtime(async {
        let mut bench = Bench::start().await;
        for node in NODES {
            bench.cell.kill(node);
            bench.nothing_is_lost().await;
            bench.cell.restart().unwrap();
            bench.nothing_is_lost().await;
        }
        let leader = bench.cell.leader().await.unwrap();
        bench.cell.kill(leader);
        bench.nothing_is_lost().await;
        bench.everything_is_released().await;
    });
}

#[test]
fn killing_all_nodes_and_restarting_them_loses_no_grant_no_session_and_no_token_order() {
    in_runtime(async {
        let mut bench = Bench::start().await;
        for _ in 0..3 {
            bench.cell.kill_all();
            bench.cell.restart().unwrap();
            bench.nothing_is_lost().await;
        }
        bench.everything_is_released().await;
    });
}

#[test]
fn under_load_kills_break_no_promise_and_grants_resume() {
    in_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let mut cell = OwnCell::start(common::program(), directory.path()).unwrap();
        cell.leader().await.unwrap();
        for workload in [Workload::Uncontended, Workload::Contended] {
            kills_under_load(&mut cell, workload).await;
        }
    });
}

async fn kills_under_load(cell: &mut OwnCell, workload: Workload) {
    let options = LockdOptions {
        clients: 12,
        connections: 4,
        ttl: TTL,
        tickets: true,
    };
    let drivers = LockdDriver::connect_all(cell.client_config(), options).await;
    let shared = Shared::new(Plan {
        workload,
        shape: Shape::default(),
        clients: options.clients,
        prefix: workload.name().to_owned(),
        hold: Duration::ZERO,
        rate: None,
    });
    let kills = async {
        shared.measure.borrow_mut().begin(Instant::now(), PATIENCE);
        some_cycles(&shared).await;
        let leader = cell.leader().await.unwrap();
        cell.kill(leader);
        some_cycles(&shared).await;
        cell.restart().unwrap();
        some_cycles(&shared).await;
        cell.kill_all();
        cell.restart().unwrap();
        some_cycles(&shared).await;
    };
    let ((), unfinished) = run_clients(drivers.unwrap(), &shared, kills).await;
    assert_eq!(unfinished, 0);
    let oracle = shared.oracle.borrow();
    assert_eq!(oracle.violations(), 0, "{:#?}", oracle.stories());
    let measure = shared.measure.borrow();
    assert!(measure.troubles().is_empty(), "{:?}", measure.troubles());
}

/// Waits until a few more cycles were completed.
async fn some_cycles(shared: &Rc<Shared>) {
    let cycles = || shared.measure.borrow().cycles();
    let enough = cycles() + 200;
    let start = Instant::now();
    while cycles() < enough {
        let waited = start.elapsed();
        assert!(waited < PATIENCE, "{} cycles missing", enough - cycles());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
