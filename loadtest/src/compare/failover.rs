//! `loadtest compare --failover`: for how long nobody is granted a lock when a cluster loses its
//! leader, which is killed or stopped in its tracks while clients cycle over locks of their own.

pub mod group;
pub mod report;

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::peer::Peer;
use super::{CompareArgs, CompareError};
use crate::driver::etcd::EtcdDriver;
use crate::driver::lockd::{LockdDriver, LockdOptions};
use crate::driver::zookeeper::{Scheme, ZookeeperDriver};
use crate::driver::{Driver, Released, Start, Trouble};
use crate::run;
use crate::run::workload::{self, Plan, Shared, Workload};
use group::Group;
use report::{Failovers, Row};

/// How long clients cycle before a trial, and how long they must have been served again after it.
const SETTLE: Duration = Duration::from_secs(2);

/// Up to so much longer, at random, so that trials do not meet the servers in step. Milliseconds.
const SETTLE_MORE_MS: u64 = 500;

/// How often it is looked whether clients are served again.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// After this long without a grant a trial is given up.
const GAP_MAX: Duration = Duration::from_secs(120);

/// How the leader is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It is killed, as by a power cut.
    Kill,
    /// It is stopped in its tracks (SIGSTOP), and goes on after the trial.
    Pause,
}

impl Loss {
    /// Both.
    pub const ALL: [Loss; 2] = [Loss::Kill, Loss::Pause];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Loss::Kill => "kill",
            Loss::Pause => "pause",
        }
    }
}

/// Takes leaders away from every cluster.
///
/// # Errors
/// [`CompareError`], if nothing could be tried at all. A cluster that could not be tried is in the
/// result, with the reason, and so are broken promises.
pub async fn compare(arguments: &CompareArgs, program: &Path) -> Result<Failovers, CompareError> {
    let directory = run::temporary_directory(None)?;
    let clients = arguments.clients.iter().max().copied().unwrap_or(1);
    let mut rows = Vec::new();
    for peer in arguments.peers() {
        // Without contention, both recipes of ZooKeeper do the same.
        let replicated = matches!(peer, Peer::Lockd | Peer::Etcd | Peer::ZookeeperCurator);
        if !replicated {
            continue;
        }
        eprintln!("starting {}", peer.name());
        let started = Group::start(peer, arguments.timeouts, clients, program, directory.path());
        match started.await {
            Ok(mut group) => {
                for loss in Loss::ALL {
                    let mut row = Row::new(peer, loss, arguments.timeouts);
                    if let Err(reason) = Box::pin(drive(arguments, &mut group, &mut row)).await {
                        row.not_measured = Some(reason);
                    }
                    rows.push(row);
                }
                group.stop();
            }
            Err(reason) => rows.extend(Loss::ALL.map(|loss| {
                let row = Row::new(peer, loss, arguments.timeouts);
                row.without(reason.clone())
            })),
        }
    }
    let all_asked_for = !arguments.peers.is_empty();
    Ok(Failovers::new(rows, clients, arguments, all_asked_for))
}

/// Connects the clients of a cluster, and takes its leader away so many times.
async fn drive(arguments: &CompareArgs, group: &mut Group, row: &mut Row) -> Result<(), String> {
    let clients = arguments.clients.iter().max().copied().unwrap_or(1);
    let clients = usize::try_from(clients).unwrap_or(usize::MAX);
    let (urls, ttl) = (group.urls(), arguments.ttl);
    match row.peer {
        Peer::Lockd => {
            let options = LockdOptions {
                clients,
                connections: clients,
                ttl,
                tickets: false,
            };
            let config = urls.first().map_or("", String::as_str);
            let drivers = LockdDriver::connect_all(Path::new(config), options).await;
            let drivers = drivers.map_err(|e| Trouble::new(format!("cannot connect: {e}")));
            trials(arguments, group, row, drivers).await
        }
        Peer::Etcd => {
            let drivers = EtcdDriver::connect_all(&urls, Start::Spread, clients, ttl).await;
            trials(arguments, group, row, drivers).await
        }
        _ => {
            let (start, scheme) = (Start::Spread, Scheme::Curator);
            let drivers = ZookeeperDriver::connect_all(&urls, start, scheme, clients, ttl);
            trials(arguments, group, row, drivers.await).await
        }
    }
}

async fn trials<D: Driver + 'static>(
    arguments: &CompareArgs,
    group: &mut Group,
    row: &mut Row,
    drivers: Result<Vec<D>, Trouble>,
) -> Result<(), String> {
    let drivers = drivers.map_err(|trouble| trouble.to_string())?;
    let grants = Rc::new(Grants::new(Instant::now()));
    let clients = drivers.len();
    let timed = |inner| Timed {
        inner,
        grants: Rc::clone(&grants),
    };
    let drivers: Vec<Timed<D>> = drivers.into_iter().map(timed).collect();
    let shared = Shared::new(Plan {
        workload: Workload::Uncontended,
        shape: arguments.shape,
        clients,
        prefix: format!("loadtest/{}/{}", std::process::id(), row.loss.name()),
        hold: arguments.hold,
        rate: None,
    });
    let conductor = async {
        for number in 1..=arguments.trials {
            let what = format!("{}, {}", row.peer.name(), row.loss.name());
            let gap = trial(group, row.loss, &grants).await?;
            let (trials, milliseconds) = (arguments.trials, gap.as_millis());
            eprintln!("trial {number} of {trials}: {what}: {milliseconds} ms without a grant");
            row.gaps.push(gap);
        }
        Ok(())
    };
    let (outcome, unfinished) = workload::run_clients(drivers, &shared, conductor).await;
    let histories = shared.histories.borrow().judge();
    let oracle = shared.oracle.borrow();
    row.unfinished_clients = unfinished;
    row.errors = shared.measure.borrow().troubles().clone();
    row.violations = oracle.violations() + histories.refused.len() as u64;
    row.violation_details = oracle.stories().to_vec();
    row.not_linearizable = histories.refused;
    outcome
}

/// Takes the leader away once. Returns the longest time without a grant from then on; the cluster
/// is whole again by then.
async fn trial(group: &mut Group, loss: Loss, grants: &Grants) -> Result<Duration, String> {
    group.until_whole().await?;
    let more = Duration::from_millis(rand::random_range(0..SETTLE_MORE_MS));
    tokio::time::sleep(SETTLE + more).await;
    let leader = group.leader().await?;
    grants.begin(Instant::now());
    group.take_away(leader, loss).await?;
    let gap = loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let now = Instant::now();
        match grants.longest_if_over(now, SETTLE) {
            Some(gap) => break Ok(gap),
            None if grants.silence(now) > GAP_MAX => {
                break Err(format!("no lock was granted for {} s", GAP_MAX.as_secs()));
            }
            None => {}
        }
    };
    group.give_back(leader, loss).await?;
    group.until_whole().await?;
    gap
}

/// When locks were granted.
struct Grants {
    begun: Cell<Instant>,
    last: Cell<Instant>,
    longest: Cell<Duration>,
    longest_ended: Cell<Instant>,
}

impl Grants {
    fn new(now: Instant) -> Grants {
        Grants {
            begun: Cell::new(now),
            last: Cell::new(now),
            longest: Cell::new(Duration::ZERO),
            longest_ended: Cell::new(now),
        }
    }

    /// Gaps count from now on.
    fn begin(&self, now: Instant) {
        self.begun.set(now);
        self.last.set(now);
        self.longest.set(Duration::ZERO);
        self.longest_ended.set(now);
    }

    fn granted(&self, now: Instant) {
        let gap = self.silence(now);
        self.last.set(now);
        if gap > self.longest.get() {
            self.longest.set(gap);
            self.longest_ended.set(now);
        }
    }

    /// How long nothing has been granted.
    fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last.get())
    }

    /// The longest gap, if clients have been served without a longer one for `settle` since.
    fn longest_if_over(&self, now: Instant, settle: Duration) -> Option<Duration> {
        let served = now.saturating_duration_since(self.longest_ended.get()) >= settle
            && now.saturating_duration_since(self.begun.get()) >= settle;
        let over = served && self.silence(now) < self.longest.get();
        over.then(|| self.longest.get())
    }
}

/// A driver that notes when it is granted a lock.
struct Timed<D> {
    inner: D,
    grants: Rc<Grants>,
}

impl<D: Driver> Driver for Timed<D> {
    type Guard = D::Guard;

    async fn acquire(&mut self, lock: &str) -> Result<D::Guard, Trouble> {
        let guard = self.inner.acquire(lock).await?;
        self.grants.granted(Instant::now());
        Ok(guard)
    }

    async fn release(&mut self, guard: D::Guard) -> Result<Released, Trouble> {
        self.inner.release(guard).await
    }

    async fn close(self) {
        self.inner.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_known_once_clients_have_been_served_for_a_while() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let settle = Duration::from_millis(100);
        let grants = Grants::new(start);
        grants.granted(at(500));
        grants.begin(at(1000));
        assert_eq!(grants.longest_if_over(at(1099), settle), None);
        // Nothing has been granted at all.
        assert_eq!(grants.longest_if_over(at(1500), settle), None);
        grants.granted(at(1510));
        grants.granted(at(1600));
        assert_eq!(grants.longest_if_over(at(1605), settle), None);
        let longest = Some(Duration::from_millis(510));
        assert_eq!(grants.longest_if_over(at(1610), settle), longest);
        // It may be followed by a longer one.
        assert_eq!(grants.longest_if_over(at(2200), settle), None);
        assert_eq!(grants.silence(at(2200)), Duration::from_millis(600));
    }
}
