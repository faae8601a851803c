//! What clients were told, and whether it is still so: locks that are held under known tokens, and
//! a crowd that takes locks from each other all the while.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use lockd_client::{AcquireError, Client, GuardState, LockGuard, ReleaseOutcome, Wait};
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;

use crate::cli_support::wait_until;

/// Longer than any of these tests: no session may end in them.
const TTL: Duration = Duration::from_secs(300);

/// How long a cell may take until it answers again, on a very busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn connect(config: &Path, label: &str) -> Client {
    let builder = Client::builder().config_file(config);
    let builder = builder.expect("a configuration").description(label);
    let builder = builder.ttl(TTL).request_timeout(PATIENCE);
    builder.connect().await.expect("connected")
}

/// Locks that one client holds, each under the token that it was told.
pub(crate) struct Holdings {
    runtime: Runtime,
    holder: Client,
    other: Client,
    guards: Vec<LockGuard>,
    highest: u64,
}

impl Holdings {
    /// Takes so many locks.
    pub(crate) fn take(config: &Path, count: usize) -> Holdings {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (holder, other) = runtime.block_on(async {
            (
                connect(config, "holder").await,
                connect(config, "other").await,
            )
        });
        let mut holdings = Holdings {
            runtime,
            holder,
            other,
            guards: Vec::new(),
            highest: 0,
        };
        (0..count).for_each(|_| holdings.take_one());
        holdings
    }

    /// Takes one more, which must get a token above all that were seen.
    pub(crate) fn take_one(&mut self) {
        let name = format!("held/{}", self.guards.len());
        let lock = self.holder.lock(name.as_str()).wait(Wait::Try);
        let guard = self.runtime.block_on(lock.acquire()).expect("it is free");
        let (token, highest) = (guard.token().0, self.highest);
        assert!(token > highest, "{name}: {token} after {highest}");
        self.highest = token;
        self.guards.push(guard);
    }

    /// Every grant is still there: for its holder, for the cell, and for who wants its lock. And
    /// one more can be had. How many there are.
    pub(crate) fn all_are_held(&mut self) -> usize {
        self.take_one();
        self.runtime.block_on(async {
            for guard in &self.guards {
                let (name, state) = (guard.name().as_str(), guard.state());
                assert!(
                    !matches!(state, GuardState::Lost { .. }),
                    "{name}: {state:?}"
                );
                let detail = self.other.who(name).await.expect("answered");
                let found = detail.map(|detail| (detail.summary.holder, detail.summary.token));
                let held = (Some(guard.session()), Some(guard.token()));
                assert_eq!(found, Some(held), "{name}");
                let refused = self.other.lock(name).wait(Wait::Try).acquire().await;
                let expected = Err(AcquireError::NotAvailable {
                    lock: guard.name().clone(),
                    holder: Some(guard.session()),
                });
                assert_eq!(refused.map(drop), expected, "{name}");
            }
        });
        self.guards.len()
    }

    /// Locks whose release was confirmed are with nobody.
    pub(crate) fn are_free(&self, names: impl IntoIterator<Item = String>) {
        self.runtime.block_on(async {
            for name in names {
                let detail = self.other.who(name.as_str()).await.expect("answered");
                let holder = detail.map(|detail| (detail.summary.holder, detail.summary.token));
                assert_eq!(holder, None, "{name} was released");
            }
        });
    }

    /// Asks for a lock on which the cell may not be able to decide within the time.
    pub(crate) fn try_within(&self, name: &str, within: Duration) -> bool {
        let lock = self.other.lock(name).wait(Wait::Forever);
        self.runtime.block_on(async {
            let granted = tokio::time::timeout(within, lock.acquire()).await;
            granted.is_ok_and(|guard| guard.is_ok())
        })
    }

    /// Every release finds the grant that it names.
    pub(crate) fn release_all(self) {
        self.runtime.block_on(async {
            for guard in self.guards {
                assert_eq!(guard.release().await, Ok(ReleaseOutcome::Released));
            }
            self.holder.close().await;
            self.other.close().await;
        });
    }
}

/// Clients that take locks from each other, and that judge every grant.
pub(crate) struct Crowd {
    stop: Arc<AtomicBool>,
    cycles: Arc<AtomicU64>,
    thread: Option<JoinHandle<Seen>>,
}

/// What a crowd was told.
#[derive(Default)]
pub(crate) struct Seen {
    /// The highest token that anyone was granted.
    pub(crate) highest: u64,
    /// Grants, each of which was released.
    pub(crate) grants: u64,
    /// Who holds a lock, by its own account, or that nobody does any more.
    locks: BTreeMap<String, Option<usize>>,
}

impl Seen {
    /// The locks that were taken.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        self.locks.keys().cloned()
    }

    fn granted(&mut self, name: &str, client: usize, floor: u64, token: u64) {
        assert!(
            token > floor,
            "{name}: {token} was granted after {floor} had been received"
        );
        let before = self.locks.insert(name.to_owned(), Some(client)).flatten();
        assert_eq!(before, None, "{name}: client {client} has it as well");
        self.highest = self.highest.max(token);
        self.grants += 1;
    }

    fn letting_go(&mut self, name: &str) {
        self.locks.insert(name.to_owned(), None);
    }
}

impl Crowd {
    /// So many clients, half of which want the same lock.
    pub(crate) fn start(config: &Path, clients: usize) -> Crowd {
        let (stop, cycles) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, counted) = (stop.clone(), cycles.clone());
        let config = config.to_owned();
        let thread = std::thread::spawn(move || crowd(&config, clients, &stopped, &counted));
        let thread = Some(thread);
        let crowd = Crowd {
            stop,
            cycles,
            thread,
        };
        crowd.go_on(clients as u64);
        crowd
    }

    /// Waits until so many more grants were given and released.
    pub(crate) fn go_on(&self, more: u64) {
        let until = self.cycles.load(Ordering::Relaxed) + more;
        wait_until("the crowd is served", || {
            assert!(!self.thread.as_ref().is_some_and(JoinHandle::is_finished));
            self.cycles.load(Ordering::Relaxed) >= until
        });
    }

    /// Ends it.
    pub(crate) fn finish(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it runs");
        thread.join().expect("no promise was broken")
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn crowd(config: &Path, clients: usize, stop: &Arc<AtomicBool>, cycles: &Arc<AtomicU64>) -> Seen {
    let runtime = Builder::new_current_thread().enable_all().build();
    let seen = Rc::<RefCell<Seen>>::default();
    let tasks = LocalSet::new();
    let all: Vec<_> = (0..clients)
        .map(|client| {
            let (stop, cycles) = (stop.clone(), cycles.clone());
            let client = member(config.to_owned(), client, seen.clone(), stop, cycles);
            tasks.spawn_local(client)
        })
        .collect();
    runtime.expect("a runtime").block_on(tasks.run_until(async {
        for client in all {
            client.await.expect("no promise was broken");
        }
    }));
    seen.take()
}

/// One of the crowd: takes its lock and gives it back, until told to stop.
async fn member(
    config: PathBuf,
    client: usize,
    seen: Rc<RefCell<Seen>>,
    stop: Arc<AtomicBool>,
    cycles: Arc<AtomicU64>,
) {
    let sdk = connect(&config, &format!("crowd {client}")).await;
    let name = match client % 2 {
        0 => "crowd/all".to_owned(),
        _ => format!("crowd/{client}"),
    };
    while !stop.load(Ordering::Relaxed) {
        let floor = seen.borrow().highest;
        let asked = sdk.lock(name.as_str()).wait(Wait::Forever).acquire().await;
        let guard = match asked {
            Ok(guard) => guard,
            Err(AcquireError::Unavailable { .. }) => continue,
            Err(error) => panic!("{error}"),
        };
        let token = guard.token().0;
        seen.borrow_mut().granted(&name, client, floor, token);
        tokio::task::yield_now().await;
        seen.borrow_mut().letting_go(&name);
        assert_eq!(guard.release().await, Ok(ReleaseOutcome::Released));
        cycles.fetch_add(1, Ordering::Relaxed);
    }
    sdk.close().await;
}
