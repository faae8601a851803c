//! What happens in the database when: statements and commits arrive, backends end, calls of
//! gateways are done, and all of it crashes.

use super::database::{Pid, Reply};
use super::gateway::{Answer, FromApp, Session, SessionKey};
use super::invariants::{Verdict, Violation};
use super::world::{Event, World};

impl World {
    /// Things that happen in the database.
    pub(super) fn at_database(&mut self, event: Event) -> Verdict {
        match event {
            Event::Statement {
                pid,
                gateway,
                session,
                message,
            } => self.execute_statement(pid, gateway, session, message),
            Event::Commit {
                pid,
                gateway,
                session,
                answer,
            } => return self.commit(pid, gateway, session, answer),
            Event::HungUp { pid } => {
                let commits = self.dice.per_mille(500);
                self.database.hang_up(pid, commits);
                // A commit that was on its way may still be done.
                let delay = self.dice.around(self.plan.transaction);
                let (gateway, session) = (0, 0);
                self.after(
                    delay,
                    Event::Commit {
                        pid,
                        gateway,
                        session,
                        answer: false,
                    },
                );
            }
            Event::BackendDies { pid } => self.kill_backend(pid),
            Event::AdminCall { .. } => return self.admin_call(event),
            Event::DatabaseStarts => {
                self.database_up = true;
                self.story
                    .landmark(self.now, || "the database starts".to_owned());
            }
            Event::Flush => self.database.flush(),
            _ => {}
        }
        Ok(())
    }

    fn execute_statement(
        &mut self,
        pid: Pid,
        gateway: usize,
        session: SessionKey,
        message: FromApp,
    ) {
        if !self.database_up || !self.database.is_alive(pid) {
            return;
        }
        let answer = match message {
            FromApp::Write { write, explicit } => {
                self.story
                    .step(self.now, || format!("backend {pid} executes {write:?}"));
                match self.database.write(pid, write) {
                    Ok(()) if explicit => Answer::Executed,
                    Ok(()) => {
                        let long = self.dice.per_mille(50);
                        let mean = self.plan.transaction * if long { 20 } else { 1 };
                        let delay = self.dice.around(mean);
                        let answer = true;
                        return self.after(
                            delay,
                            Event::Commit {
                                pid,
                                gateway,
                                session,
                                answer,
                            },
                        );
                    }
                    Err(denied) => Answer::Denied(denied),
                }
            }
            FromApp::Commit => {
                let delay = self.dice.around(self.plan.transaction);
                let answer = true;
                return self.after(
                    delay,
                    Event::Commit {
                        pid,
                        gateway,
                        session,
                        answer,
                    },
                );
            }
            _ => return,
        };
        self.after(
            100,
            Event::StatementDone {
                gateway,
                session,
                answer,
            },
        );
    }

    fn commit(&mut self, pid: Pid, gateway: usize, session: SessionKey, answer: bool) -> Verdict {
        if !self.database.is_alive(pid) {
            return Ok(());
        }
        for write in self.database.commit(pid) {
            self.story.landmark(self.now, || {
                format!(
                    "a write to {} under token {} takes effect",
                    write.lock, write.token
                )
            });
            self.judge.fence.on_effect(&write.lock, write.token)?;
        }
        if answer {
            let answer = Answer::Written;
            self.after(
                100,
                Event::StatementDone {
                    gateway,
                    session,
                    answer,
                },
            );
        }
        Ok(())
    }

    fn kill_backend(&mut self, pid: Pid) {
        if !self.database.kill(pid) {
            return;
        }
        for gateway in 0..self.gateways.len() {
            let of = |(_, session): &(&SessionKey, &Session)| session.pid == pid;
            let found = self.gateways[gateway].sessions.iter().find(of);
            if let Some(session) = found.map(|(key, _)| *key) {
                let delay = 50 + self.dice.around(self.plan.delay / 2);
                self.after(delay, Event::BackendGone { gateway, session });
            }
        }
    }

    fn admin_call(&mut self, event: Event) -> Verdict {
        let Event::AdminCall {
            gateway,
            life,
            link,
            number,
            call,
            patient_until,
        } = event
        else {
            return Ok(());
        };
        if !self.database_up && link == self.gateways[gateway].link {
            return self.break_admin_link(gateway);
        }
        if !self.database_up || link < self.gateways[gateway].retired {
            return Ok(());
        }
        let patient = self.now < patient_until;
        let mut answer = self.database.call(&call, patient);
        self.story.step(self.now, || {
            format!("the database does {call:?}: {answer:?}")
        });
        let mut delay = 50 + self.dice.around(self.plan.delay / 2);
        match &mut answer {
            Reply::Wait => {
                let again = self.now + 5_000;
                self.schedule(
                    again.min(patient_until),
                    Event::AdminCall {
                        gateway,
                        life,
                        link,
                        number,
                        call,
                        patient_until,
                    },
                );
                return Ok(());
            }
            Reply::Evicting(pids) => {
                for pid in std::mem::take(pids) {
                    let after = self.dice.between(100, 20_000);
                    delay = delay.max(after + 100);
                    self.after(after, Event::BackendDies { pid });
                }
            }
            _ => {}
        }
        if self.database.has_volatile() {
            let flush = self.dice.around(self.plan.flush);
            self.after(flush, Event::Flush);
        }
        self.after(
            delay,
            Event::AdminAnswer {
                gateway,
                life,
                link,
                number,
                answer,
            },
        );
        Ok(())
    }

    /// The database crashes: every connection breaks, and what was not flushed may be lost.
    pub(super) fn crash_database(&mut self, until: u64) -> Result<(), Violation> {
        if !std::mem::replace(&mut self.database_up, false) {
            return Ok(());
        }
        self.story
            .landmark(self.now, || "the database crashes".to_owned());
        let volatile = self.database.volatile_count();
        let keep = self.dice.index(volatile + 1);
        if keep < volatile {
            self.coverage
                .hit("commit of a gateway lost by the database");
        }
        self.forget(|event| matches!(event, Event::Flush));
        self.database.crash(keep);
        for gateway in 0..self.gateways.len() {
            let sessions = self.gateways[gateway].sessions.keys();
            for session in sessions.copied().collect::<Vec<_>>() {
                let delay = 50 + self.dice.around(self.plan.delay / 2);
                self.after(delay, Event::BackendGone { gateway, session });
            }
            self.break_admin_link(gateway)?;
        }
        self.schedule(until, Event::DatabaseStarts);
        Ok(())
    }

    /// Ends all faults of gateways and database.
    pub(super) fn heal_database(&mut self) -> Verdict {
        self.database_up = true;
        for gateway in 0..self.gateways.len() {
            self.gateways[gateway].paused_until = 0;
            self.start_gateway(gateway)?;
            self.wake_gateway(gateway)?;
        }
        Ok(())
    }
}
