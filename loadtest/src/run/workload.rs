//! The clients: each takes what it wants, gives it back, and begins again, until told to stop. In a
//! closed loop it begins again at once; in an open one when a request is due. Everything it sees
//! goes to the oracle and to the counters.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::{JoinSet, LocalSet};

use super::arrivals::{self, Arrivals, Rate};
use super::choice::{Choice, Chooser, Kind};
use super::histories::Histories;
use super::measure::Measure;
use crate::driver::{Driver, Guard, Released, Trouble};
use crate::oracle::{ClientIndex, Hold, LockIndex, Oracle};

pub use super::choice::{Shape, Workload};

/// Pause of a client after an operation failed, so that a dead cell is not hammered.
const AFTER_TROUBLE: Duration = Duration::from_millis(20);

/// How long clients may take to finish their last cycle.
const FINISH_GRACE: Duration = Duration::from_secs(10);

/// How long the phases of a run last.
#[derive(Clone, Copy, Debug)]
pub struct Phases {
    /// Before counting begins.
    pub warmup: Duration,
    /// While it counts.
    pub duration: Duration,
}

/// What the clients of a run do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which locks they want.
    pub workload: Workload,
    /// Its numbers.
    pub shape: Shape,
    /// How many there are.
    pub clients: usize,
    /// Common beginning of the lock names, so that runs do not meet each other's locks.
    pub prefix: String,
    /// How long they hold each lock.
    pub hold: Duration,
    /// When requests are due; `None`: each client asks when it is done with what it had.
    pub rate: Option<Rate>,
}

/// What the clients of a run share. They all live on one thread.
pub struct Shared {
    plan: Plan,
    chooser: Chooser,
    /// The locks' names. A semaphore has one, whatever number its permits have.
    names: Vec<String>,
    arrivals: Option<Arrivals>,
    stopping: Cell<bool>,
    /// Counters.
    pub measure: RefCell<Measure>,
    /// The judge.
    pub oracle: RefCell<Oracle>,
    /// What each lock was asked and answered.
    pub histories: RefCell<Histories>,
}

impl Shared {
    /// Of a run by this plan.
    #[must_use]
    pub fn new(plan: Plan) -> Rc<Shared> {
        let (workload, shape, clients) = (plan.workload, plan.shape, plan.clients);
        let locks = workload.locks(clients, shape);
        let names = (0..locks).map(|lock| format!("{}/{lock}", plan.prefix));
        let now = Instant::now();
        Rc::new(Shared {
            chooser: Chooser::new(workload, shape),
            names: names.collect(),
            arrivals: plan.rate.map(Arrivals::new),
            stopping: Cell::new(false),
            measure: RefCell::new(Measure::new(clients, locks)),
            oracle: RefCell::new(Oracle::new(now, clients, locks)),
            histories: RefCell::new(Histories::new(workload.model(shape), now)),
            plan,
        })
    }

    /// What the clients do.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Counting ends: what waits for a client now will not be begun.
    pub fn end(&self, now: Instant) {
        let waiting = self.arrivals.as_ref().map_or(0, Arrivals::waiting);
        let mut measure = self.measure.borrow_mut();
        measure.skipped(waiting, now);
        measure.end(now);
    }

    /// Has every client stop after its current cycle.
    pub fn stop(&self) {
        self.stopping.set(true);
        if let Some(arrivals) = &self.arrivals {
            arrivals.stop();
        }
    }

    /// When the request was due that a client is to begin now; `None`: it is to stop.
    async fn next_request(&self) -> Option<Instant> {
        if self.stopping.get() {
            return None;
        }
        let Some(arrivals) = &self.arrivals else {
            return Some(Instant::now());
        };
        let due = arrivals.next().await?;
        self.measure.borrow_mut().begins(due, Instant::now());
        Some(due)
    }
}

/// Runs the drivers, one client each, beside `conductor`, which decides when to begin counting
/// and when to stop ([`Shared::stop`]). Returns the conductor's result and how many clients did
/// not come to an end in time.
pub async fn run_clients<D: Driver + 'static, R>(
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
    let schedule = tasks.spawn_local(schedule(Rc::clone(shared)));
    tasks
        .run_until(async {
            let result = conductor.await;
            shared.stop();
            let finish = async { while clients.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(FINISH_GRACE, finish).await;
            schedule.abort();
            (result, clients.len())
        })
        .await
}

/// Has requests become due, in an open loop.
async fn schedule(shared: Rc<Shared>) {
    if let Some(arrivals) = &shared.arrivals
        && let Err(error) = arrivals::schedule(arrivals, &shared).await
    {
        let trouble = Trouble::new(format!("the open loop has no timer: {error}"));
        shared.measure.borrow_mut().trouble(trouble, Instant::now());
    }
}

async fn client<D: Driver>(client: ClientIndex, mut driver: D, shared: Rc<Shared>) {
    while let Some(due) = shared.next_request().await {
        if let Err(trouble) = cycle(client, &mut driver, due, &shared).await {
            shared.oracle.borrow_mut().gives_up(client);
            shared.measure.borrow_mut().trouble(trouble, Instant::now());
            tokio::time::sleep(AFTER_TROUBLE).await;
        }
    }
    driver.close().await;
}

/// One cycle, of a request that was due at `due`.
async fn cycle<D: Driver>(
    client: ClientIndex,
    driver: &mut D,
    due: Instant,
    shared: &Shared,
) -> Result<(), Trouble> {
    let choice = shared.chooser.next(client);
    let guard = acquire(client, driver, due, &choice, shared).await?;
    hold(shared).await;
    release(client, driver, guard, &choice, shared).await
}

/// A grant, as the client has it.
struct Held<G> {
    guard: G,
    holds: Vec<Hold>,
    /// Until when the client may rely on it, if it hears nothing more.
    until: Instant,
}

async fn acquire<D: Driver>(
    client: ClientIndex,
    driver: &mut D,
    due: Instant,
    choice: &Choice,
    shared: &Shared,
) -> Result<Held<D::Guard>, Trouble> {
    shared.oracle.borrow_mut().asks(client);
    let asked = Instant::now();
    let is_shared = choice.kind == Kind::Shared;
    let ask = |lock: &LockIndex| {
        let mut histories = shared.histories.borrow_mut();
        histories.asks(client, *lock, is_shared, asked)
    };
    let entries: Vec<_> = choice.locks.iter().map(ask).collect();
    let taking = driver.take(choice.want(&shared.names)).await;
    let guard = taking.inspect_err(|_| gives_up(client, choice, asked, shared))?;
    let now = Instant::now();
    let until = now + guard.valid_for();
    shared.measure.borrow_mut().granted(due, now);
    let mut holds = Vec::with_capacity(choice.locks.len());
    for (index, (lock, entry)) in choice.locks.iter().zip(entries).enumerate() {
        let mut oracle = shared.oracle.borrow_mut();
        let hold = Hold {
            lock: match choice.kind {
                Kind::Permit(of) => permit(&mut oracle, client, guard.slot(), of as usize),
                Kind::Exclusive | Kind::Shared => *lock,
            },
            token: oracle.number(guard.token_of(index)),
            shared: is_shared,
        };
        oracle.granted(client, hold, now, until);
        if !is_shared {
            shared.measure.borrow_mut().comes_to(client, hold.lock, now);
        }
        shared
            .histories
            .borrow_mut()
            .granted(entry, hold.token, now);
        holds.push(hold);
    }
    Ok(Held {
        guard,
        holds,
        until,
    })
}

/// The number of a semaphore's permit among the locks that the oracle knows.
fn permit(oracle: &mut Oracle, client: ClientIndex, slot: usize, permits: usize) -> LockIndex {
    if slot >= permits {
        oracle.no_such_permit(client, slot, permits);
        return LockIndex(0);
    }
    LockIndex(slot)
}

async fn release<D: Driver>(
    client: ClientIndex,
    driver: &mut D,
    held: Held<D::Guard>,
    choice: &Choice,
    shared: &Shared,
) -> Result<(), Trouble> {
    let sent = Instant::now();
    let until = held.until.max(sent + held.guard.valid_for());
    for hold in &held.holds {
        let mut oracle = shared.oracle.borrow_mut();
        oracle.lets_go(client, hold.lock, hold.token, sent);
    }
    let let_go = |lock: &LockIndex| {
        let mut histories = shared.histories.borrow_mut();
        histories.lets_go(client, *lock, sent)
    };
    let entries: Vec<_> = choice.locks.iter().map(let_go).collect();
    let releasing = driver.release(held.guard).await;
    let answer = releasing.inspect_err(|_| gives_up(client, choice, until, shared))?;
    let now = Instant::now();
    let mut histories = shared.histories.borrow_mut();
    for (lock, entry) in choice.locks.iter().zip(entries) {
        histories.released(entry, answer, now);
        if answer == Released::NotHeld {
            histories.may_end(client, *lock, until);
        }
    }
    let mut oracle = shared.oracle.borrow_mut();
    for hold in &held.holds {
        oracle.released(client, hold.lock, hold.token, answer, now, until);
    }
    if answer == Released::Yes {
        shared.measure.borrow_mut().released(client, sent, now);
    }
    Ok(())
}

/// The client goes on, perhaps with another session.
fn gives_up(client: ClientIndex, choice: &Choice, from: Instant, shared: &Shared) {
    let mut histories = shared.histories.borrow_mut();
    for lock in &choice.locks {
        histories.may_end(client, *lock, from);
    }
    histories.goes_on(client);
}

/// Holds the lock. At the least it lets the other clients see what has arrived meanwhile, or no
/// overlap of holders could ever show.
async fn hold(shared: &Shared) {
    if shared.plan.hold > Duration::ZERO {
        tokio::time::sleep(shared.plan.hold).await;
    } else if shared.plan.workload != Workload::Uncontended {
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests;
