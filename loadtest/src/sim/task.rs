//! What a user does with locks: acquires, holds, gives up, writes, releases. Some
//! look at their guard before each write and some do not; all of them may be paused between looking
//! and writing, which is the point.

mod writing;

use lockd_client::core::{Input, RequestId};
use lockd_protocol::client::{
    Acquire, Operation, Outcome, Owner, Query, Refusal, Wait, Want as LockWant, Wants,
};
use lockd_protocol::ticket::TicketText;
use lockd_protocol::{LockName, Millis, Mode, Sequence, Token};

use self::writing::Connection;
use super::client::{Asker, Client, Want};
use super::invariants::Verdict;
use super::ledger::Grant;
use super::world::{Event, World};

/// What an acquisition got, in a task's hands.
#[derive(Clone, Debug)]
pub(super) struct Held {
    session: u64,
    acquire: Sequence,
    locks: Vec<Locked>,
}

/// One lock of it.
#[derive(Clone, Debug)]
struct Locked {
    lock: LockName,
    token: Token,
    mode: Mode,
    ticket: Option<String>,
}

/// What a task is about.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    Rest,
    Acquire {
        what: Acquire,
        request: RequestId,
        /// The node that it was asked through, if any.
        asked: Option<usize>,
    },
    Hold,
    /// Waits for the database.
    Show,
    /// Has looked at its guard, and is about to write.
    Think,
    Write,
    Release {
        waiting: usize,
    },
}

#[derive(Debug, Default)]
pub(super) struct Task {
    stage: Stage,
    stamp: u64,
    held: Vec<Held>,
    until: u64,
    careless: bool,
    writes: u64,
    connection: Option<Connection>,
    /// It was granted, wrote and released since all faults ended.
    pub(super) served: bool,
    wrote: bool,
}

impl Task {
    /// What it may write under: the gateway takes no tickets of shared locks, and permits are not
    /// written under here.
    fn fenced(&self) -> impl Iterator<Item = &Locked> {
        let locks = self.held.iter().flat_map(|held| &held.locks);
        locks.filter(|locked| locked.mode == Mode::Exclusive)
    }
}

/// A task does one thing after the other.
fn owner_of(task: usize) -> Owner {
    Owner {
        name: format!("task {task}"),
        reentries: 2,
    }
}

pub(super) fn lock_name(lock: u64) -> LockName {
    LockName::new(&format!("lock/{lock}")).expect("a good name")
}

/// How often a client names another one's session, per mille of what its tasks begin.
const PRETENDS: u64 = 30;

impl World {
    pub(super) fn start_tasks(&mut self, client: usize) {
        for task in 0..self.clients[client].tasks.len() {
            self.rest(client, task);
        }
    }

    /// The process is gone: its connections break, and nobody waits for anything.
    pub(super) fn drop_tasks(&mut self, client: usize) {
        for task in 0..self.clients[client].tasks.len() {
            self.disconnect(client, task);
            let it = &mut self.clients[client].tasks[task];
            let (stamp, served) = (it.stamp + 1, it.served);
            *it = Task {
                stamp,
                served,
                ..Task::default()
            };
        }
    }

    pub(super) fn all_are_served(&self) -> bool {
        // Some runs are too short, or too troubled, for a renewal before their faults end.
        let served = |client: &Client| client.renewed && client.tasks.iter().all(|it| it.served);
        let mut users = self.clients.iter().filter(|it| it.user && it.up);
        users.all(served) && self.silenced_is_gone()
    }

    pub(super) fn who_waits(&self) -> String {
        let mut waiting = Vec::new();
        for client in &self.clients {
            if client.user && client.up && !client.renewed {
                waiting.push(format!("the session of client {}", client.at));
            }
            for (number, task) in client.tasks.iter().enumerate() {
                if client.up && !task.served {
                    waiting.push(format!(
                        "task {number} of client {}: {:?}",
                        client.at, task.stage
                    ));
                }
            }
        }
        format!(
            "not served: {}; leader {:?}",
            waiting.join(", "),
            self.leader()
        )
    }

    fn wake_task(&mut self, client: usize, task: usize, delay: u64) {
        let it = &mut self.clients[client];
        it.tasks[task].stamp += 1;
        let (life, stamp) = (it.life, it.tasks[task].stamp);
        self.after(
            delay,
            Event::Task {
                client,
                life,
                task,
                stamp,
            },
        );
    }

    fn rest(&mut self, client: usize, task: usize) {
        let it = &mut self.clients[client].tasks[task];
        it.stage = Stage::Rest;
        it.held.clear();
        let delay = self.dice.around(self.plan.rest);
        self.wake_task(client, task, delay);
    }

    pub(super) fn task_wakes(&mut self, client: usize, task: usize, stamp: u64) -> Verdict {
        let it = &mut self.clients[client].tasks[task];
        if it.stamp != stamp {
            return Ok(());
        }
        match it.stage {
            Stage::Rest => self.want_something(client, task),
            Stage::Acquire { request, .. } => {
                self.coverage.hit("acquisition taken back");
                self.histories.takes_back(self.now, client, task);
                self.give(client, Input::TakeBack { request })?;
                self.not_acquired(client, task)
            }
            Stage::Hold => self.hold_on(client, task),
            Stage::Think => self.write(client, task),
            Stage::Show | Stage::Write => {
                // No answer for long: whatever became of it, it is not waited for.
                self.disconnect(client, task);
                self.let_go(client, task)
            }
            Stage::Release { .. } => {
                self.rest(client, task);
                Ok(())
            }
        }
    }

    fn want_something(&mut self, client: usize, task: usize) -> Verdict {
        let lock = lock_name(self.dice.below(self.plan.locks));
        let faulty = self.healed_at.is_none();
        if self.dice.per_mille(self.plan.asks) {
            let query = match self.dice.per_mille(700) {
                true => Query::Lock {
                    lock: lock.clone(),
                    skip_holders: 0,
                    skip_waiters: 0,
                    limit: 10,
                },
                false => Query::Locks {
                    prefix: "lock/".to_owned(),
                    after: None,
                    limit: 100,
                },
            };
            self.ask(client, query, Asker::User);
        }
        if faulty && self.dice.per_mille(PRETENDS) {
            self.pretend(client);
        }
        if faulty && self.dice.per_mille(self.plan.breaks) {
            let at_once = self.dice.per_mille(self.plan.breaks_at_once);
            let reason = "simulated".to_owned();
            let operation = Operation::Break {
                lock,
                reason,
                at_once,
            };
            self.submit(client, operation, Want::Break { at_once })?;
            self.rest(client, task);
            return Ok(());
        }
        if faulty && self.dice.per_mille(self.plan.closes) {
            self.submit(client, Operation::Close, Want::Close)?;
            self.rest(client, task);
            return Ok(());
        }
        let wait = match self.dice.below(6) {
            0 => Wait::Try,
            1 | 2 => Wait::For(Millis(self.dice.below(2 * self.plan.ttl_ms))),
            _ => Wait::Forever,
        };
        let what = self.something_to_acquire(task, lock, wait);
        self.acquire(client, task, what)
    }

    /// The lock, or a lock of another kind, or several of which this is one.
    fn something_to_acquire(&mut self, task: usize, lock: LockName, wait: Wait) -> Acquire {
        let faulty = self.healed_at.is_none();
        let mut what = Acquire {
            ticket: self.dice.per_mille(self.plan.tickets),
            metadata: self.some_metadata(),
            ..Acquire::one(lock, Mode::Exclusive, wait)
        };
        if !faulty {
            return what;
        }
        what.barge = self.dice.per_mille(self.plan.barges);
        if self.dice.per_mille(self.plan.delays) {
            what.delay = Millis(1 + self.dice.below(self.plan.ttl_ms));
        }
        if self.dice.per_mille(self.plan.owned) {
            what.owner = Some(owner_of(task));
        }
        if !self.dice.per_mille(self.plan.kinds) {
            return what;
        }
        let first = what.wants.each()[0].clone();
        let other = LockWant {
            lock: lock_name(self.dice.below(self.plan.locks)),
            mode: self.dice.pick(&[Mode::Exclusive, Mode::Shared]),
        };
        what.wants = match self.dice.below(4) {
            0 | 1 if first.lock == other.lock => Wants::One(other),
            0 => Wants::All(vec![first, other]),
            1 => Wants::Any(vec![first, other]),
            2 => Wants::One(LockWant {
                mode: Mode::Shared,
                ..first
            }),
            _ => Wants::One(LockWant {
                lock: LockName::new("semaphore").expect("a good name"),
                mode: Mode::Permit { of: 2 },
            }),
        };
        what
    }

    fn acquire(&mut self, client: usize, task: usize, what: Acquire) -> Verdict {
        let asked = self.clients[client]
            .stream()
            .map(|stream| self.streams[stream].node);
        let operation = Operation::Acquire(what.clone());
        let by = (client, self.clients[client].sessions, task);
        self.histories.asks(self.now, by, &what);
        // First, because the answer may come at once.
        let it = &mut self.clients[client];
        let request = it.next_request();
        it.tasks[task].stamp += 1;
        let stamp = it.tasks[task].stamp;
        it.tasks[task].stage = Stage::Acquire {
            what,
            request,
            asked,
        };
        self.submit(client, operation, Want::Acquire { task })?;
        if self.clients[client].tasks[task].stamp != stamp {
            return Ok(());
        }
        if self.dice.per_mille(self.plan.gives_up) {
            let patience = self.dice.around(self.plan.ttl() / 2);
            self.wake_task(client, task, patience);
        }
        Ok(())
    }

    /// An acquisition has its outcome.
    pub(super) fn acquired(
        &mut self,
        client: usize,
        task: usize,
        acquire: Sequence,
        outcome: &Outcome,
        tickets: &[TicketText],
    ) -> Verdict {
        let Stage::Acquire { what, asked, .. } = &self.clients[client].tasks[task].stage else {
            return Ok(());
        };
        let (what, asked) = (what.clone(), *asked);
        let by = (client, self.clients[client].sessions, task);
        self.histories.told(self.now, by, acquire, outcome);
        let Outcome::Granted(grants) = outcome else {
            match outcome {
                Outcome::NotAvailable { .. } => self.coverage.hit("try failed"),
                Outcome::TimedOut => self.coverage.hit("wait timed out"),
                Outcome::Refused(Refusal::Deadlock(_)) => self.coverage.hit("deadlock refused"),
                _ => {}
            }
            return self.not_acquired(client, task);
        };
        let now = self.clients[client]
            .stream()
            .map(|stream| self.streams[stream].node);
        if asked.is_some() && asked != now {
            self.coverage.hit("grant pushed after failover");
        }
        self.hold_guard(client, task, acquire, &what, grants, tickets);
        let it = &self.clients[client].tasks[task];
        if it.held.len() == 1 && self.dice.per_mille(self.plan.two_locks) {
            let second = lock_name(self.dice.below(self.plan.locks));
            // Without an owner nobody notices a deadlock, but who keeps to an order has none.
            let in_order = it.held[0].locks.iter().all(|first| first.lock < second);
            if in_order || what.owner.is_some() {
                // An owner may wait for a holder without one, of whom nobody knows what it waits
                // for: only the limit of one of them ends that.
                let wait = match in_order {
                    true => Wait::For(Millis(self.plan.ttl_ms / 4)),
                    false => Wait::Forever,
                };
                let second = Acquire {
                    ticket: what.ticket,
                    owner: what.owner,
                    ..Acquire::one(second, Mode::Exclusive, wait)
                };
                return self.acquire(client, task, second);
            }
        }
        self.begin_to_hold(client, task)
    }

    /// What was granted is in the task's hands, and believed in.
    fn hold_guard(
        &mut self,
        client: usize,
        task: usize,
        acquire: Sequence,
        what: &Acquire,
        grants: &[lockd_protocol::client::Grant],
        tickets: &[TicketText],
    ) {
        let it = &self.clients[client];
        let (session, id) = (it.sessions, it.session().unwrap_or_default());
        let wants = what.wants.each();
        let granted = grants.iter().filter_map(|grant| {
            let want = wants.get(grant.want as usize)?;
            let booked = Grant {
                lock: want.lock.clone(),
                mode: want.mode,
                slot: grant.slot,
                session: id,
                acquires: vec![acquire],
            };
            Some((grant.token, booked))
        });
        let granted: Vec<(Token, Grant)> = granted.collect();
        let mut tickets = tickets.iter();
        let locks = granted.iter().map(|(token, grant)| Locked {
            lock: grant.lock.clone(),
            token: *token,
            mode: grant.mode,
            ticket: tickets.next().map(|ticket| ticket.as_str().to_owned()),
        });
        let locks: Vec<Locked> = locks.collect();
        match &what.wants {
            Wants::All(_) => self.coverage.hit("all of several granted"),
            Wants::Any(_) => self.coverage.hit("one of several granted"),
            Wants::One(want) => match want.mode {
                Mode::Shared => self.coverage.hit("shared granted"),
                Mode::Permit { .. } => self.coverage.hit("permit granted"),
                _ => {}
            },
        }
        self.take_guard(client, acquire, granted);
        let held = Held {
            session,
            acquire,
            locks,
        };
        self.clients[client].tasks[task].held.push(held);
    }

    pub(super) fn not_acquired(&mut self, client: usize, task: usize) -> Verdict {
        if self.clients[client].tasks[task].held.is_empty() {
            self.rest(client, task);
            return Ok(());
        }
        self.begin_to_hold(client, task)
    }

    fn begin_to_hold(&mut self, client: usize, task: usize) -> Verdict {
        let hold = self.dice.around(self.plan.hold).min(5 * self.plan.hold);
        let careless = self.healed_at.is_none() && self.dice.per_mille(self.plan.careless);
        let wants_to_write = self.healed_at.is_some() || self.dice.per_mille(self.plan.writes);
        let downgrades = self.healed_at.is_none() && self.dice.per_mille(self.plan.downgrades);
        let fenced = self.clients[client].tasks[task].fenced().next().is_some();
        let wants_to_write = wants_to_write && fenced && !downgrades;
        let writes = if wants_to_write {
            self.dice.between(1, if careless { 6 } else { 3 })
        } else {
            0
        };
        let it = &mut self.clients[client].tasks[task];
        it.stage = Stage::Hold;
        it.until = self.now + hold;
        it.careless = careless;
        it.writes = writes;
        it.wrote = false;
        let delay = if writes > 0 { 1 } else { hold };
        self.wake_task(client, task, delay);
        if downgrades {
            self.downgrade(client, task)?;
        }
        self.put_something(client, task)?;
        self.put_something(client, task)
    }

    /// Puts something on what it holds, or believes to hold.
    fn put_something(&mut self, client: usize, task: usize) -> Verdict {
        let held = self.clients[client].tasks[task].held.first();
        let of_first = held.and_then(|held| Some((held.acquire, held.locks.first()?.token)));
        match of_first {
            Some((acquire, token)) => self.put_metadata(client, acquire, token),
            None => Ok(()),
        }
    }

    /// Goes on as a reader: what it writes is written.
    fn downgrade(&mut self, client: usize, task: usize) -> Verdict {
        let it = &self.clients[client];
        let held = it.tasks[task].held.first();
        let ours = held.filter(|held| it.sessions == held.session);
        let Some(acquire) = ours.map(|held| held.acquire) else {
            return Ok(());
        };
        let session = self.clients[client].sessions;
        self.histories
            .downgrades(self.now, client, session, acquire);
        let input = Input::Downgrade {
            acquire,
            ticket: false,
            waiter: Want::Downgrade,
        };
        self.give(client, input)
    }

    /// Something has happened to a guard: its holder looks at it.
    pub(super) fn wake_holder(&mut self, client: usize, acquire: Sequence) {
        let tasks = &self.clients[client].tasks;
        let holds = |held: &Held| held.acquire == acquire;
        let of = tasks.iter().position(|task| task.held.iter().any(holds));
        if let Some(task) = of
            && matches!(tasks[task].stage, Stage::Hold)
            && !tasks[task].careless
        {
            let delay = self.dice.below(300_000);
            self.wake_task(client, task, delay);
        }
    }

    fn holds_all(&mut self, client: usize, task: usize) -> bool {
        let now = self.now;
        let held = self.clients[client].tasks[task].held.clone();
        let it = &mut self.clients[client];
        held.iter()
            .all(|held| it.guard_is_held(now, held.session, held.acquire))
    }

    /// Looks at its guards, then goes on with what it came for.
    fn hold_on(&mut self, client: usize, task: usize) -> Verdict {
        let holds = self.holds_all(client, task);
        if !holds {
            self.put_something(client, task)?;
        }
        let it = &self.clients[client].tasks[task];
        if !(holds || it.careless) || it.writes == 0 && self.now >= it.until {
            return self.let_go(client, task);
        }
        if it.writes == 0 {
            let left = it.until - self.now;
            self.wake_task(client, task, left);
            return Ok(());
        }
        match &it.connection {
            Some(connection) if connection.admitted => {
                self.think(client, task);
                Ok(())
            }
            _ => self.show(client, task),
        }
    }

    fn think(&mut self, client: usize, task: usize) {
        let long = self.healed_at.is_none() && self.dice.per_mille(self.plan.think_long);
        let mean = match long {
            true => 3 * self.plan.ttl() / 2,
            false => self.plan.think,
        };
        let delay = self.dice.around(mean).min(4 * self.plan.ttl() + mean);
        self.clients[client].tasks[task].stage = Stage::Think;
        self.wake_task(client, task, delay);
    }

    fn let_go(&mut self, client: usize, task: usize) -> Verdict {
        let it = &mut self.clients[client].tasks[task];
        let held = std::mem::take(&mut it.held);
        let unanswered = it.connection.as_mut().map_or(0, |connection| {
            connection.admitted = false;
            connection.unanswered
        });
        it.stage = Stage::Release {
            waiting: held.len(),
        };
        let (done, all) = (self.healed_at.is_some() && it.wrote, held.len());
        let mut given = 0;
        for held in held {
            given += usize::from(self.give_back(client, held.session, held.acquire, task)?);
        }
        let it = &mut self.clients[client].tasks[task];
        it.served |= done && given == all;
        if given == 0 {
            self.rest(client, task);
        } else if matches!(it.stage, Stage::Release { .. }) {
            self.wake_task(client, task, 30_000_000);
        }
        // What is not answered yet must not be taken for an answer to what comes next.
        if unanswered > 0 || self.dice.per_mille(200) {
            self.disconnect(client, task);
        }
        Ok(())
    }

    pub(super) fn released(&mut self, client: usize, task: usize) {
        let it = &mut self.clients[client].tasks[task];
        if let Stage::Release { waiting } = &mut it.stage {
            *waiting = waiting.saturating_sub(1);
            if *waiting == 0 {
                self.rest(client, task);
            }
        }
    }
}
