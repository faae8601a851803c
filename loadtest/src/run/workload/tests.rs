//! The loop counts what an honest lock service does, and catches services that lie.

use super::*;
use std::collections::VecDeque;
use tokio::sync::oneshot;

/// A lock service in memory, and how it lies.
struct Service {
    lie: Lie,
    last_token: u64,
    held: bool,
    queue: VecDeque<oneshot::Sender<u64>>,
    releases: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Lie {
    None,
    /// Grants every hundredth request at once, held or not.
    GrantsTwice,
    /// Every hundredth token is the one before.
    RepeatsTokens,
    /// Forgets its tokens after a while, as one that restarts from an old disk would.
    GoesBack,
    /// Tells every hundredth holder that it does not hold the lock.
    DeniesHolding,
}

impl Service {
    fn next_token(&mut self) -> u64 {
        let lies = self.last_token % 100 == 99;
        match self.lie {
            Lie::RepeatsTokens if self.releases % 100 == 99 => self.last_token,
            Lie::GoesBack if lies => {
                self.last_token = 1;
                1
            }
            _ => {
                self.last_token += 1;
                self.last_token
            }
        }
    }
}

struct Liar(Rc<RefCell<Service>>);

struct LiarGuard(u64);

impl Guard for LiarGuard {
    fn token(&self) -> Option<u64> {
        Some(self.0)
    }

    fn valid_for(&self) -> Duration {
        Duration::from_secs(60)
    }
}

impl Driver for Liar {
    type Guard = LiarGuard;

    async fn acquire(&mut self, _lock: &str) -> Result<LiarGuard, Trouble> {
        tokio::task::yield_now().await;
        let wait = {
            let mut service = self.0.borrow_mut();
            let barges = service.lie == Lie::GrantsTwice && service.last_token % 100 == 99;
            if !service.held || barges {
                service.held = true;
                return Ok(LiarGuard(service.next_token()));
            }
            let (grant, wait) = oneshot::channel();
            service.queue.push_back(grant);
            wait
        };
        wait.await.map(LiarGuard).map_err(Trouble::new)
    }

    async fn release(&mut self, _guard: LiarGuard) -> Result<Released, Trouble> {
        let mut service = self.0.borrow_mut();
        service.releases += 1;
        match service.queue.pop_front() {
            Some(next) => {
                let token = service.next_token();
                next.send(token).map_err(Trouble::new)?;
            }
            None => service.held = false,
        }
        let denies = service.lie == Lie::DeniesHolding && service.releases % 100 == 99;
        Ok(if denies {
            Released::NotHeld
        } else {
            Released::Yes
        })
    }

    async fn close(self) {}
}

fn run(lie: Lie) -> Rc<Shared> {
    run_at(lie, None)
}

fn run_at(lie: Lie, rate: Option<Rate>) -> Rc<Shared> {
    let service = Rc::new(RefCell::new(Service {
        lie,
        last_token: 0,
        held: false,
        queue: VecDeque::new(),
        releases: 0,
    }));
    let clients = 4;
    let drivers = (0..clients).map(|_| Liar(Rc::clone(&service))).collect();
    let shared = Shared::new(Plan {
        workload: Workload::Contended,
        shape: Shape::default(),
        clients,
        prefix: "test".to_owned(),
        hold: Duration::ZERO,
        rate,
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let enough = async {
        let planned = Duration::from_secs(1);
        shared.measure.borrow_mut().begin(Instant::now(), planned);
        while shared.measure.borrow().cycles() < 1000 {
            tokio::task::yield_now().await;
        }
        shared.end(Instant::now());
    };
    let ((), unfinished) = runtime.block_on(run_clients(drivers, &shared, enough));
    assert_eq!(unfinished, 0);
    shared
}

fn assert_caught(lie: Lie, rule: &str) {
    let shared = run(lie);
    let oracle = shared.oracle.borrow();
    assert!(oracle.violations() > 0);
    let stories = oracle.stories();
    assert!(
        stories.iter().any(|story| story.what.starts_with(rule)),
        "{stories:?}"
    );
}

#[test]
fn an_honest_service_is_not_accused() {
    let shared = run(Lie::None);
    assert_eq!(shared.oracle.borrow().violations(), 0);
    let measure = shared.measure.borrow();
    assert!(measure.cycles() >= 1000);
    assert!(measure.cycles_of_clients().iter().all(|cycles| *cycles > 0));
    assert!(measure.handovers() > 500, "{}", measure.handovers());
    assert!(measure.acquire().p50 > 0.0 && measure.release().max > 0.0);
}

#[test]
fn a_service_that_grants_twice_is_caught() {
    assert_caught(Lie::GrantsTwice, "exclusion");
}

#[test]
fn a_service_that_repeats_tokens_is_caught() {
    assert_caught(Lie::RepeatsTokens, "uniqueness");
}

#[test]
fn a_service_whose_tokens_go_back_is_caught() {
    assert_caught(Lie::GoesBack, "order");
}

#[test]
fn a_service_that_denies_a_release_is_caught() {
    assert_caught(Lie::DeniesHolding, "release");
}

#[test]
fn an_open_loop_begins_what_is_due_and_counts_from_then() {
    let rate = Rate {
        per_second: 20_000.0,
        spacing: arrivals::Spacing::Poisson,
    };
    let shared = run_at(Lie::None, Some(rate));
    assert_eq!(shared.oracle.borrow().violations(), 0);
    let measure = shared.measure.borrow();
    let schedule = measure.schedule();
    // What was due was done, or waited when it was over, or was with one of the four clients.
    let with_clients = schedule.due - schedule.skipped - measure.cycles();
    assert!(schedule.due > 0 && with_clients <= 4, "{schedule:?}");
}

#[test]
fn an_overloaded_open_loop_says_what_it_never_began() {
    let rate = Rate {
        per_second: 1e7,
        spacing: arrivals::Spacing::Uniform,
    };
    let shared = run_at(Lie::None, Some(rate));
    let measure = shared.measure.borrow();
    let schedule = measure.schedule();
    assert!(schedule.skipped > 0 && schedule.due > schedule.skipped);
    // The longer it lasts, the longer each has waited, and all of that counts.
    assert!(
        measure.acquire().p90 >= schedule.delay().p50,
        "{schedule:?}"
    );
}
