//! What users asked of each lock and what they were told, when: to be held against the models of
//! locks when a run is over. Kept at the clients, apart from the log and from what nodes do.

use std::collections::BTreeMap;

use lockd_protocol::client::{Acquire, Outcome, Wants};
use lockd_protocol::{LockName, Mode, Sequence};

use super::world::World;
use crate::models::check::Operation;
use crate::models::{Op, Owner, Ret};

/// Operations of a lock that are kept: the first ones.
const OPERATIONS_MAX: usize = 1200;

/// Rounding of clocks, microseconds.
const ROUNDING: u64 = 2_000;

/// Names of owners that are no tasks begin here.
const NAMELESS: u64 = 1 << 32;

/// Where an operation stands.
#[derive(Clone, Debug)]
struct At {
    lock: LockName,
    index: usize,
    owner: Owner,
}

/// What happened to every lock.
#[derive(Debug, Default)]
pub(super) struct Histories {
    locks: BTreeMap<LockName, History>,
    /// Acquisitions under way, by client and task: what stands where for each of their wants.
    asked: BTreeMap<(usize, usize), Vec<Option<At>>>,
    /// What acquisitions got, by client and session.
    held: BTreeMap<(usize, u64, Sequence), Vec<At>>,
    /// Releases under way.
    released: BTreeMap<(usize, Sequence), Vec<At>>,
    last: u64,
    /// Something was done of which these models know nothing.
    over: bool,
}

#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) operations: Vec<Operation>,
    /// How many permits it has, if it is a semaphore.
    pub(super) permits: Option<u32>,
    /// The rest is not kept.
    over: bool,
}

/// A name for a client's session that is never given twice.
fn session_name(client: usize, session: u64) -> u64 {
    (client as u64) << 32 | session
}

impl Histories {
    /// Every lock's history.
    pub(super) fn locks(&self) -> impl Iterator<Item = (&LockName, &History)> {
        self.locks.iter()
    }

    /// Nothing that is asked from now on is kept: the beginning of a history has to be sound, too.
    pub(super) fn end_here(&mut self) {
        self.over = true;
    }

    fn add(&mut self, called: u64, lock: &LockName, owner: Owner, op: Op) -> Option<At> {
        let history = self.locks.entry(lock.clone()).or_default();
        history.over |= self.over || history.operations.len() >= OPERATIONS_MAX;
        // When a session may have ended is often known only later, and is to be kept always.
        if history.over && !matches!(op, Op::End { .. }) {
            return None;
        }
        history.operations.push(Operation {
            called,
            op,
            returned: None,
        });
        Some(At {
            lock: lock.clone(),
            index: history.operations.len() - 1,
            owner,
        })
    }

    fn returned(&mut self, now: u64, at: &At, ret: Ret) {
        // What came of it later may follow from what is not kept.
        let kept = |history: &&mut History| !self.over && !history.over;
        let history = self.locks.get_mut(&at.lock).filter(kept);
        if let Some(operation) = history.and_then(|it| it.operations.get_mut(at.index)) {
            operation.returned = Some((now, ret));
        }
    }

    /// A task asks for something.
    pub(super) fn asks(&mut self, now: u64, by: (usize, u64, usize), what: &Acquire) {
        let (client, session, task) = by;
        let several = !matches!(what.wants, Wants::One(_));
        if several && what.owner.is_some() {
            // Whether what one owner got in two ways is one hold is not for these models to say.
            self.end_here();
        }
        let mut wants = Vec::new();
        for want in what.wants.each() {
            self.last += 1;
            let permits = match want.mode {
                Mode::Permit { of } => Some(of),
                _ => None,
            };
            let who = match &what.owner {
                Some(_) if permits.is_none() => task as u64,
                _ => NAMELESS + self.last,
            };
            let owner = Owner {
                session: session_name(client, session),
                who,
            };
            let shared = want.mode == Mode::Shared;
            let op = Op::Acquire { owner, shared };
            wants.push(self.add(now, &want.lock, owner, op));
            if let Some(history) = self.locks.get_mut(&want.lock) {
                history.permits = history.permits.or(permits);
            }
        }
        self.asked.insert((client, task), wants);
    }

    /// An acquisition has its outcome.
    pub(super) fn told(
        &mut self,
        now: u64,
        by: (usize, u64, usize),
        acquire: Sequence,
        outcome: &Outcome,
    ) {
        let (client, session, task) = by;
        let wants = self.asked.remove(&(client, task)).unwrap_or_default();
        let mut held = Vec::new();
        for (want, at) in wants.into_iter().enumerate() {
            let Some(at) = at else {
                continue;
            };
            match outcome {
                Outcome::Granted(grants) => {
                    let got = grants.iter().find(|grant| grant.want as usize == want);
                    let ret = got.map_or(Ret::Not, |grant| Ret::Granted(Some(grant.token.0)));
                    self.returned(now, &at, ret);
                    held.extend(got.map(|_| at));
                }
                Outcome::NotAvailable { .. }
                | Outcome::TimedOut
                | Outcome::Cancelled
                | Outcome::Refused(_) => self.returned(now, &at, Ret::Not),
                // It may have been had, and given back since.
                _ => self.may_be_given_back(now, &at),
            }
        }
        self.held.insert((client, session, acquire), held);
    }

    /// A task does not wait any more.
    pub(super) fn takes_back(&mut self, now: u64, client: usize, task: usize) {
        let wants = self.asked.remove(&(client, task)).unwrap_or_default();
        for at in wants.into_iter().flatten() {
            self.may_be_given_back(now, &at);
        }
    }

    fn may_be_given_back(&mut self, now: u64, at: &At) {
        let owner = at.owner;
        self.add(now, &at.lock, owner, Op::Release { owner });
    }

    /// Gives back what an acquisition got.
    pub(super) fn gives_back(&mut self, now: u64, client: usize, session: u64, acquire: Sequence) {
        let held = self.held.remove(&(client, session, acquire));
        let owner = |at: &At| (at.lock.clone(), at.owner);
        let held: Vec<_> = held.unwrap_or_default().iter().map(owner).collect();
        let releases = held.into_iter().filter_map(|(lock, owner)| {
            let op = Op::Release { owner };
            self.add(now, &lock, owner, op)
        });
        let releases = releases.collect();
        self.released.insert((client, acquire), releases);
    }

    /// The release of what this acquisition got has its outcome.
    pub(super) fn gave_back(
        &mut self,
        now: u64,
        client: usize,
        acquire: Sequence,
        outcome: &Outcome,
    ) {
        let ret = match outcome {
            Outcome::Released => Ret::Done,
            Outcome::NotHeld => Ret::Not,
            _ => return,
        };
        for at in self.released.remove(&(client, acquire)).unwrap_or_default() {
            self.returned(now, &at, ret);
        }
    }

    /// What an acquisition got becomes shared, at some time from now on, if it does.
    pub(super) fn downgrades(&mut self, now: u64, client: usize, session: u64, acquire: Sequence) {
        let held = self.held.get(&(client, session, acquire));
        for at in held.cloned().unwrap_or_default() {
            let owner = at.owner;
            self.add(now, &at.lock, owner, Op::Downgrade { owner });
        }
    }

    /// From this time on the cell may have ended the session.
    pub(super) fn may_end(&mut self, from: u64, client: usize, session: u64) {
        let session = session_name(client, session);
        let owner = Owner { session, who: 0 };
        let locks: Vec<LockName> = self.locks.keys().cloned().collect();
        for lock in locks {
            self.add(from, &lock, owner, Op::End { session });
        }
        self.asked.retain(|(of, _), _| *of != client);
    }
}

impl World {
    /// A client's session is over, or will be when nobody renews it: not before its lease is.
    pub(super) fn session_may_end(&mut self, client: usize) {
        let it = &self.clients[client];
        let Some(lease) = it.lease.filter(|_| it.user) else {
            return;
        };
        let ends = it.clock.true_time(lease.deadline.as_micros());
        let session = it.sessions;
        self.histories
            .may_end(ends.saturating_sub(ROUNDING), client, session);
    }
}
