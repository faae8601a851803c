//! What a user does with locks: acquires, holds, gives up, writes to the database behind a
//! gateway, releases. Some look at their guard before each write and some do not; all of them may
//! be paused between looking and writing, which is the point.

use gateway::fence::set::Shown;
use lockd_client::core::{Input, RequestId};
use lockd_protocol::client::{Operation, Outcome, Query, Wait};
use lockd_protocol::{LockName, Millis, Mode, Sequence, Token};

use super::client::{Asker, Want};
use super::database::{Denied, Write};
use super::gateway::{Answer, FromApp, SessionKey};
use super::invariants::Verdict;
use super::world::{Event, World};

/// A grant in a task's hands.
#[derive(Clone, Debug)]
pub(super) struct Held {
    session: u64,
    acquire: Sequence,
    lock: LockName,
    token: Token,
    ticket: Option<String>,
}

/// What a task is about.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    Rest,
    Acquire {
        lock: LockName,
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

/// A connection to the database, through a gateway.
#[derive(Debug)]
struct Connection {
    session: SessionKey,
    gateway: usize,
    life: u64,
    last_up: u64,
    admitted: bool,
    /// Tickets and writes that have no answer yet.
    unanswered: u64,
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

pub(super) fn lock_name(lock: u64) -> LockName {
    LockName::new(&format!("lock/{lock}")).expect("a good name")
}

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
        let users = self
            .clients
            .iter()
            .filter(|client| client.user && client.up);
        let served = users
            .flat_map(|client| &client.tasks)
            .all(|task| task.served);
        served && self.silenced_is_gone()
    }

    pub(super) fn who_waits(&self) -> String {
        let mut waiting = Vec::new();
        for client in &self.clients {
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
                    skip: 0,
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
        self.acquire(client, task, lock, wait)
    }

    fn acquire(&mut self, client: usize, task: usize, lock: LockName, wait: Wait) -> Verdict {
        let asked = self.clients[client]
            .stream()
            .map(|stream| self.streams[stream].node);
        let operation = Operation::Acquire {
            lock: lock.clone(),
            mode: Mode::Exclusive,
            wait,
            ticket: self.dice.per_mille(self.plan.tickets),
        };
        // First, because the answer may come at once.
        let it = &mut self.clients[client];
        let request = it.next_request();
        it.tasks[task].stamp += 1;
        let stamp = it.tasks[task].stamp;
        it.tasks[task].stage = Stage::Acquire {
            lock,
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
        ticket: Option<lockd_protocol::ticket::TicketText>,
    ) -> Verdict {
        let Stage::Acquire { lock, asked, .. } = &self.clients[client].tasks[task].stage else {
            return Ok(());
        };
        let (lock, asked) = (lock.clone(), *asked);
        let Outcome::Granted { token } = *outcome else {
            match outcome {
                Outcome::NotAvailable { .. } => self.coverage.hit("try failed"),
                Outcome::TimedOut => self.coverage.hit("wait timed out"),
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
        let session = self.clients[client].sessions;
        self.take_guard(client, acquire, lock.clone(), token);
        let ticket = ticket.map(|ticket| ticket.as_str().to_owned());
        let it = &mut self.clients[client].tasks[task];
        it.held.push(Held {
            session,
            acquire,
            lock,
            token,
            ticket,
        });
        if it.held.len() == 1 && self.dice.per_mille(self.plan.two_locks) {
            let first = it.held[0].lock.clone();
            let second = lock_name(self.dice.below(self.plan.locks));
            if first < second {
                let wait = Wait::For(Millis(self.plan.ttl_ms / 4));
                return self.acquire(client, task, second, wait);
            }
        }
        self.begin_to_hold(client, task);
        Ok(())
    }

    pub(super) fn not_acquired(&mut self, client: usize, task: usize) -> Verdict {
        if self.clients[client].tasks[task].held.is_empty() {
            self.rest(client, task);
        } else {
            self.begin_to_hold(client, task);
        }
        Ok(())
    }

    fn begin_to_hold(&mut self, client: usize, task: usize) {
        let hold = self.dice.around(self.plan.hold).min(5 * self.plan.hold);
        let careless = self.healed_at.is_none() && self.dice.per_mille(self.plan.careless);
        let wants_to_write = self.healed_at.is_some() || self.dice.per_mille(self.plan.writes);
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

    fn shown(&self, client: usize, task: usize) -> Vec<Shown> {
        let held = self.clients[client].tasks[task].held.iter();
        held.map(|held| Shown {
            lock: held.lock.clone(),
            token: held.token,
        })
        .collect()
    }

    /// Shows its tickets, over the connection that it has, or over a new one.
    fn show(&mut self, client: usize, task: usize) -> Verdict {
        let gateway = self.dice.index(self.gateways.len());
        if self.clients[client].tasks[task].connection.is_none() {
            if !self.gateways[gateway].listens(self.now) {
                self.clients[client].tasks[task].stage = Stage::Hold;
                let delay = self.dice.between(1_000, 100_000);
                self.clients[client].tasks[task].writes -= 1;
                self.wake_task(client, task, delay);
                return Ok(());
            }
            self.last_key += 1;
            let (session, life) = (self.last_key, self.gateways[gateway].life);
            let it = &mut self.clients[client];
            let client_life = it.life;
            it.tasks[task].connection = Some(Connection {
                session,
                gateway,
                life,
                last_up: 0,
                admitted: false,
                unanswered: 0,
            });
            let hello = FromApp::Open {
                client,
                life: client_life,
                task,
            };
            self.say_to_gateway(client, task, hello);
        }
        let set = self.shown(client, task);
        if set.len() > 1 {
            self.coverage.hit("two tickets shown");
        }
        let held = self.clients[client].tasks[task].held.iter();
        let tickets: Option<Vec<String>> = held.map(|held| held.ticket.clone()).collect();
        self.say_to_gateway(client, task, FromApp::Show { set, tickets });
        self.clients[client].tasks[task].stage = Stage::Show;
        if self.dice.per_mille(self.plan.pipelines) {
            self.coverage.hit("write pipelined behind its ticket");
            self.send_write(client, task);
        }
        self.wake_task(client, task, 20_000_000);
        Ok(())
    }

    fn say_to_gateway(&mut self, client: usize, task: usize, message: FromApp) {
        let delay = 100 + self.dice.around(self.plan.delay / 2);
        let now = self.now;
        let Some(connection) = &mut self.clients[client].tasks[task].connection else {
            return;
        };
        let asks = matches!(message, FromApp::Show { .. } | FromApp::Write { .. });
        connection.unanswered += u64::from(asks);
        let at = connection.last_up.max(now + delay);
        connection.last_up = at;
        let (gateway, life, session) = (connection.gateway, connection.life, connection.session);
        self.schedule(
            at,
            Event::AtGateway {
                gateway,
                life,
                session,
                message,
            },
        );
    }

    fn disconnect(&mut self, client: usize, task: usize) {
        self.say_to_gateway(client, task, FromApp::Close);
        self.clients[client].tasks[task].connection = None;
    }

    fn send_write(&mut self, client: usize, task: usize) {
        let held = &self.clients[client].tasks[task].held;
        let Some(about) = held.get(self.dice.index(held.len())) else {
            return;
        };
        let (lock, token) = (about.lock.clone(), about.token);
        let explicit = self.dice.per_mille(200);
        let write = Write { lock, token };
        self.say_to_gateway(client, task, FromApp::Write { write, explicit });
    }

    /// Writes, without another look at its guard: that was a moment ago, or an hour.
    fn write(&mut self, client: usize, task: usize) -> Verdict {
        self.clients[client].tasks[task].stage = Stage::Write;
        self.send_write(client, task);
        self.wake_task(client, task, 20_000_000);
        Ok(())
    }

    /// The database or its gateway has answered.
    pub(super) fn task_hears(
        &mut self,
        client: usize,
        task: usize,
        session: SessionKey,
        answer: Answer,
    ) -> Verdict {
        let it = &mut self.clients[client].tasks[task];
        let current = it.connection.as_mut().filter(|c| c.session == session);
        let Some(connection) = current else {
            return Ok(());
        };
        if !matches!(answer, Answer::Executed) {
            connection.unanswered = connection.unanswered.saturating_sub(1);
        }
        match answer {
            Answer::Admitted => {
                connection.admitted = true;
                if matches!(it.stage, Stage::Show) {
                    it.stage = Stage::Hold;
                    self.wake_task(client, task, 1);
                }
            }
            Answer::Written => {
                self.coverage.hit("write");
                it.wrote = true;
                it.writes = it.writes.saturating_sub(1);
                if matches!(it.stage, Stage::Write | Stage::Show) {
                    it.stage = Stage::Hold;
                    self.wake_task(client, task, 1);
                }
            }
            Answer::Executed => {
                // The transaction stays open for as long as its client takes.
                let think = self.dice.around(self.plan.transaction);
                connection.last_up = connection.last_up.max(self.now + think);
                self.say_to_gateway(client, task, FromApp::Commit);
            }
            Answer::Stale(why) => {
                let shown = self.shown(client, task);
                self.refused(
                    &shown,
                    &why,
                    "ticket of a holder that had lost its lock, refused",
                )?;
                self.end_writing(client, task);
            }
            Answer::Denied(denied) => {
                let admitted = std::mem::take(&mut connection.admitted);
                if admitted {
                    let shown = self.shown(client, task);
                    let why = match denied {
                        Denied::Stale => "a write, as stale",
                        Denied::NoTicket => "a write, as without a ticket",
                    };
                    let event = "write of a holder that had lost its lock, refused";
                    self.refused(&shown, why, event)?;
                }
                self.end_writing(client, task);
            }
            Answer::Unavailable => self.end_writing(client, task),
            Answer::Broken => {
                it.connection = None;
                // It connects again, and shows the same tickets; a careful one looks first.
                it.writes = it.writes.saturating_sub(1);
                if matches!(it.stage, Stage::Show | Stage::Write | Stage::Think) {
                    it.stage = Stage::Hold;
                    let delay = self.dice.between(1_000, 200_000);
                    self.wake_task(client, task, delay);
                }
            }
        }
        Ok(())
    }

    fn refused(&mut self, shown: &[Shown], why: &str, event: &'static str) -> Verdict {
        self.judge
            .valid_holder
            .on_refused(shown, &self.judge.books, why)?;
        if !shown.is_empty() {
            self.coverage.hit(event);
        }
        Ok(())
    }

    fn end_writing(&mut self, client: usize, task: usize) {
        let it = &mut self.clients[client].tasks[task];
        if matches!(it.stage, Stage::Show | Stage::Write | Stage::Think) {
            it.stage = Stage::Hold;
            it.writes = 0;
            it.until = self.now;
            it.careless = false;
            self.wake_task(client, task, 1);
        }
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
