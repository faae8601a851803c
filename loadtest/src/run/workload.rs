//! The closed loop: every client takes a lock, gives it back, and begins again, until told to
//! stop. Everything it sees goes to the oracle and to the counters.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::{JoinSet, LocalSet};

use super::histories::Histories;
use super::measure::Measure;
use crate::driver::{Driver, Guard, Released, Trouble};
use crate::oracle::{ClientIndex, LockIndex, Oracle};

/// Pause of a client after an operation failed, so that a dead cell is not hammered.
const AFTER_TROUBLE: Duration = Duration::from_millis(20);

/// How long clients may take to finish their last cycle.
const FINISH_GRACE: Duration = Duration::from_secs(10);

/// Which locks the clients want.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Workload {
    /// Every client its own lock.
    Uncontended,
    /// All clients the same lock.
    Contended,
}

impl Workload {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Workload::Uncontended => "uncontended",
            Workload::Contended => "contended",
        }
    }

    /// How many locks so many clients use.
    #[must_use]
    pub fn locks(self, clients: usize) -> usize {
        match self {
            Workload::Uncontended => clients,
            Workload::Contended => 1,
        }
    }

    fn lock_of(self, client: ClientIndex) -> LockIndex {
        match self {
            Workload::Uncontended => LockIndex(client.0),
            Workload::Contended => LockIndex(0),
        }
    }
}

/// How long the phases of a run last.
#[derive(Clone, Copy, Debug)]
pub struct Phases {
    /// Before counting begins.
    pub warmup: Duration,
    /// While it counts.
    pub duration: Duration,
}

/// What the clients of a run share. They all live on one thread.
pub struct Shared {
    workload: Workload,
    /// Common beginning of the lock names, so that runs do not meet each other's locks.
    prefix: String,
    hold: Duration,
    stopping: Cell<bool>,
    /// Counters.
    pub measure: RefCell<Measure>,
    /// The judge.
    pub oracle: RefCell<Oracle>,
    /// What each lock was asked and answered.
    pub histories: RefCell<Histories>,
}

impl Shared {
    /// Of a run with so many clients; they hold each lock for `hold`.
    #[must_use]
    pub fn new(workload: Workload, clients: usize, prefix: &str, hold: Duration) -> Rc<Shared> {
        Rc::new(Shared {
            workload,
            prefix: prefix.to_owned(),
            hold,
            stopping: Cell::new(false),
            measure: RefCell::new(Measure::new(clients)),
            oracle: RefCell::new(Oracle::new(
                Instant::now(),
                clients,
                workload.locks(clients),
            )),
            histories: RefCell::new(Histories::new(Instant::now())),
        })
    }

    /// Has every client stop after its current cycle.
    pub fn stop(&self) {
        self.stopping.set(true);
    }
}

/// Runs the drivers, one client each, beside `conductor`, which decides when to begin counting
/// and when to stop ([`Shared::stop`]). Returns the conductor's result and how many clients did
/// not come to an end in time.
pub async fn closed_loop<D: Driver + 'static, R>(
    drivers: Vec<D>,
    shared: &Rc<Shared>,
    conductor: impl Future<Output = R>,
) -> (R, usize) {
    let tasks = LocalSet::new();
    let mut clients = JoinSet::new();
    for (index, driver) in drivers.into_iter().enumerate() {
        let client = client(ClientIndex(index), driver, Rc::clone(shared));
        clients.spawn_local_on(client, &tasks);
    }
    tasks
        .run_until(async {
            let result = conductor.await;
            shared.stop();
            let finish = async { while clients.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(FINISH_GRACE, finish).await;
            (result, clients.len())
        })
        .await
}

async fn client<D: Driver>(client: ClientIndex, mut driver: D, shared: Rc<Shared>) {
    let lock = shared.workload.lock_of(client);
    let name = format!("{}/{}", shared.prefix, lock.0);
    while !shared.stopping.get() {
        if let Err(trouble) = cycle(client, &mut driver, lock, &name, &shared).await {
            shared.oracle.borrow_mut().gives_up(client);
            shared.measure.borrow_mut().trouble(trouble);
            tokio::time::sleep(AFTER_TROUBLE).await;
        }
    }
    driver.close().await;
}

async fn cycle<D: Driver>(
    client: ClientIndex,
    driver: &mut D,
    lock: LockIndex,
    name: &str,
    shared: &Shared,
) -> Result<(), Trouble> {
    shared.oracle.borrow_mut().asks(client);
    let asked = Instant::now();
    let entry = shared.histories.borrow_mut().asks(client, lock, asked);
    let guard = driver.acquire(name).await.inspect_err(|_| {
        let mut histories = shared.histories.borrow_mut();
        histories.gives_up(client, lock, asked);
    })?;
    let now = Instant::now();
    let token = shared.oracle.borrow_mut().number(guard.token());
    let mut until = now + guard.valid_for();
    shared.measure.borrow_mut().granted(asked, now);
    shared
        .oracle
        .borrow_mut()
        .granted(client, lock, token, now, until);
    shared.histories.borrow_mut().granted(entry, token, now);

    hold(shared).await;

    let sent = Instant::now();
    until = until.max(sent + guard.valid_for());
    shared
        .oracle
        .borrow_mut()
        .lets_go(client, lock, token, sent);
    let entry = shared.histories.borrow_mut().lets_go(client, lock, sent);
    let answer = driver.release(guard).await.inspect_err(|_| {
        let mut histories = shared.histories.borrow_mut();
        histories.gives_up(client, lock, until);
    })?;
    let now = Instant::now();
    let mut histories = shared.histories.borrow_mut();
    histories.released(entry, answer, now);
    if answer == Released::NotHeld {
        histories.may_end(client, lock, until);
    }
    drop(histories);
    let mut oracle = shared.oracle.borrow_mut();
    oracle.released(client, lock, token, answer, now, until);
    if answer == Released::Yes {
        shared.measure.borrow_mut().released(client, sent, now);
    }
    Ok(())
}

/// Holds the lock. At the least it lets the other clients see what has arrived meanwhile, or no
/// overlap of holders could ever show.
async fn hold(shared: &Shared) {
    if shared.hold > Duration::ZERO {
        tokio::time::sleep(shared.hold).await;
    } else if shared.workload == Workload::Contended {
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests;
