//! A task's connection to the database, through a gateway: the tickets that it shows there, its
//! writes, and what it makes of the answers.

use gateway::fence::set::Shown;

use super::Stage;
use crate::sim::database::{Denied, Write};
use crate::sim::gateway::{Answer, FromApp, SessionKey};
use crate::sim::invariants::Verdict;
use crate::sim::world::{Event, World};

/// A connection to the database, through a gateway.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) session: SessionKey,
    pub(super) gateway: usize,
    pub(super) life: u64,
    pub(super) last_up: u64,
    pub(super) admitted: bool,
    /// Tickets and writes that have no answer yet.
    pub(super) unanswered: u64,
}

impl World {
    fn shown(&self, client: usize, task: usize) -> Vec<Shown> {
        let fenced = self.clients[client].tasks[task].fenced();
        let mut shown: Vec<Shown> = fenced
            .map(|locked| Shown {
                lock: locked.lock.clone(),
                token: locked.token,
            })
            .collect();
        // An owner that entered again has the same grant twice.
        shown.sort_by_key(|shown| shown.token);
        shown.dedup();
        shown
    }

    /// Shows its tickets, over the connection that it has, or over a new one.
    pub(super) fn show(&mut self, client: usize, task: usize) -> Verdict {
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
        let fenced = self.clients[client].tasks[task].fenced();
        let tickets: Option<Vec<String>> = fenced.map(|locked| locked.ticket.clone()).collect();
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

    pub(super) fn disconnect(&mut self, client: usize, task: usize) {
        self.say_to_gateway(client, task, FromApp::Close);
        self.clients[client].tasks[task].connection = None;
    }

    fn send_write(&mut self, client: usize, task: usize) {
        let fenced = self.shown(client, task);
        let Some(about) = fenced.get(self.dice.index(fenced.len())) else {
            return;
        };
        let (lock, token) = (about.lock.clone(), about.token);
        let explicit = self.dice.per_mille(200);
        let write = Write { lock, token };
        self.say_to_gateway(client, task, FromApp::Write { write, explicit });
    }

    /// Writes, without another look at its guard: that was a moment ago, or an hour.
    pub(super) fn write(&mut self, client: usize, task: usize) -> Verdict {
        self.clients[client].tasks[task].stage = Stage::Write;
        self.send_write(client, task);
        self.wake_task(client, task, 20_000_000);
        Ok(())
    }

    /// The database or its gateway has answered.
    pub(in crate::sim) fn task_hears(
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
}
