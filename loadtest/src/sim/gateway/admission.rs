//! An admission at a gateway: what the fence's decision core says is done, with the database and
//! the cell, and what becomes of it is told to the core.

use gateway::fence::admission::{Admission, Event as Came, Step};
use gateway::fence::refusal::Refusal;
use gateway::fence::set::{Shown, TicketSet};
use gateway::fence::{Standing, standing};
use gateway::tickets;
use lockd_protocol::client::{Acquire, Operation, Query, Wait};
use lockd_protocol::planted::{self, Planted};
use lockd_protocol::{LockName, Mode, Token};

use super::{Answer, SessionKey};
use crate::sim::client::{Asker, Want};
use crate::sim::database::Call;
use crate::sim::invariants::Verdict;
use crate::sim::world::{Event, World};

/// How long an admission may take, microseconds.
const ADMISSION_TIMEOUT: u64 = 15_000_000;

/// How long the cell may take to answer, microseconds.
const CELL_TIMEOUT: u64 = 5_000_000;

/// An admission under way.
#[derive(Debug)]
pub(super) struct Admitting {
    admission: Admission,
    set: TicketSet,
    started: u64,
    evicted: bool,
    reseeded: bool,
}

impl World {
    pub(super) fn show_to(
        &mut self,
        gateway: usize,
        key: SessionKey,
        shown: Vec<Shown>,
        tickets: Option<Vec<String>>,
    ) -> Verdict {
        let it = &mut self.gateways[gateway];
        let set = match tickets {
            Some(texts) => {
                self.coverage.hit("ticket verified");
                tickets::read(&it.verifier, &texts.join(" "))
            }
            None => TicketSet::new(shown),
        };
        let Some(session) = it.sessions.get_mut(&key) else {
            return Ok(());
        };
        session.registration += 1;
        let set = match set {
            Ok(set) => set,
            Err(refusal) => return self.refuse(gateway, key, &refusal),
        };
        if planted::has(Planted::MemoryOnly) {
            return self.admit_from_memory(gateway, key, &set);
        }
        let (admission, first) = Admission::start();
        session.admitting = Some(Admitting {
            admission,
            set,
            started: self.now,
            evicted: false,
            reseeded: false,
        });
        self.perform(gateway, key, first)
    }

    fn admit_from_memory(&mut self, gateway: usize, key: SessionKey, set: &TicketSet) -> Verdict {
        let marks = &mut self.gateways[gateway].marks;
        for shown in set.tickets() {
            if let Standing::Stale { needed } =
                standing(marks.get(&shown.lock).copied(), shown.token)
            {
                let why = format!("{shown:?}, needed {needed}");
                self.say(gateway, key, Answer::Stale(why));
                return Ok(());
            }
            marks.insert(shown.lock.clone(), shown.token);
        }
        self.admitted(set);
        self.say(gateway, key, Answer::Admitted);
        Ok(())
    }

    fn admitted(&mut self, set: &TicketSet) {
        self.coverage.hit("admission");
        for shown in set.tickets() {
            self.judge.fence.on_admitted(&shown.lock, shown.token);
            self.story
                .landmark(self.now, || format!("admitted: {shown:?}"));
        }
    }

    /// Does what the fence's core says.
    fn perform(&mut self, gateway: usize, key: SessionKey, step: Step) -> Verdict {
        let it = &mut self.gateways[gateway];
        let (client, life) = (it.client, it.life);
        let Some(session) = it.sessions.get_mut(&key) else {
            return Ok(());
        };
        let Some(admitting) = &mut session.admitting else {
            return Ok(());
        };
        let (pid, registration) = (session.pid, session.registration);
        let set = admitting.set.clone();
        if self.now > admitting.started + ADMISSION_TIMEOUT {
            let late = Refusal::Unavailable("older writers were still in the way".to_owned());
            return self.refuse(gateway, key, &late);
        }
        match step {
            Step::Admit => self.call(
                gateway,
                key,
                Call::Admit {
                    set,
                    pid,
                    registration,
                },
            ),
            Step::Evict => {
                admitting.evicted = true;
                self.call(gateway, key, Call::Evict { set, pid });
            }
            Step::BeginEra => {
                admitting.reseeded = true;
                self.call(gateway, key, Call::BeginEra);
            }
            Step::SetHorizon(era, token) => self.call(gateway, key, Call::SetHorizon(era, token)),
            Step::Seed(era, shown) => {
                admitting.reseeded = true;
                self.call(gateway, key, Call::Seed(era, shown));
            }
            Step::DrawToken => {
                session.round += 1;
                let round = session.round;
                self.after(
                    CELL_TIMEOUT,
                    Event::CellTimeout {
                        gateway,
                        life,
                        session: key,
                        round,
                    },
                );
                let name = format!("lockd/gateway/era/{gateway}-{key}-{round}");
                let lock = LockName::new(&name).expect("a good name");
                let acquire = Acquire::one(lock, Mode::Exclusive, Wait::Try);
                let operation = Operation::Acquire(acquire);
                let session = key;
                self.submit(client, operation, Want::Draw { session, round })?;
            }
            Step::AskCell(shown) => {
                session.round += 1;
                let round = session.round;
                self.after(
                    CELL_TIMEOUT,
                    Event::CellTimeout {
                        gateway,
                        life,
                        session: key,
                        round,
                    },
                );
                let query = Query::Lock {
                    lock: shown.lock.clone(),
                    skip_holders: 0,
                    skip_waiters: 0,
                    limit: 1,
                };
                let (session, token) = (key, shown.token);
                self.ask(
                    client,
                    query,
                    Asker::Gateway {
                        session,
                        round,
                        token,
                    },
                );
            }
            Step::Admitted => {
                let (evicted, reseeded) = (admitting.evicted, admitting.reseeded);
                session.admitting = None;
                if evicted {
                    self.coverage.hit("admission after eviction");
                }
                if reseeded {
                    self.coverage.hit("admission after re-seed");
                }
                self.admitted(&set);
                self.say(gateway, key, Answer::Admitted);
                return self.serve(gateway, key);
            }
            Step::Refused(refusal) => return self.refuse(gateway, key, &refusal),
        }
        Ok(())
    }

    /// What the session carried before is taken away, then it is told.
    fn refuse(&mut self, gateway: usize, key: SessionKey, refusal: &Refusal) -> Verdict {
        let Some(session) = self.gateways[gateway].sessions.get_mut(&key) else {
            return Ok(());
        };
        session.admitting = None;
        session.refusing = Some(match refusal {
            Refusal::Stale { .. } => Answer::Stale(refusal.to_string()),
            _ => Answer::Unavailable,
        });
        let (pid, registration) = (session.pid, session.registration);
        self.call(gateway, key, Call::GiveBack { pid, registration });
        Ok(())
    }

    pub(in crate::sim) fn came(&mut self, gateway: usize, key: SessionKey, event: Came) -> Verdict {
        let sessions = &mut self.gateways[gateway].sessions;
        let Some(session) = sessions.get_mut(&key) else {
            return Ok(());
        };
        if let Some(answer) = session.refusing.take() {
            if matches!(event, Came::Failed(_)) {
                // Nobody knows what it may still write under: it has to end.
                let pid = session.pid;
                if let Some(session) = sessions.remove(&key) {
                    self.tell(&session, key, Answer::Broken);
                }
                self.after(1, Event::HungUp { pid });
                return Ok(());
            }
            self.say(gateway, key, answer);
            return self.serve(gateway, key);
        }
        let Some(admitting) = &mut session.admitting else {
            return Ok(());
        };
        self.story.step(self.now, || {
            format!("gateway {gateway}, session {key}: {event:?}")
        });
        let step = admitting.admission.next(event);
        self.perform(gateway, key, step)
    }

    pub(super) fn came_from_cell(
        &mut self,
        gateway: usize,
        key: SessionKey,
        round: u64,
        event: Came,
    ) -> Verdict {
        let Some(session) = self.gateways[gateway].sessions.get_mut(&key) else {
            return Ok(());
        };
        if session.round != round || session.admitting.is_none() {
            return Ok(());
        }
        session.round += 1;
        self.came(gateway, key, event)
    }

    fn gateway_of(&self, client: usize) -> usize {
        client - self.plan.users
    }

    pub(in crate::sim) fn cell_answered(
        &mut self,
        client: usize,
        key: SessionKey,
        round: u64,
        granted: bool,
    ) -> Verdict {
        let gateway = self.gateway_of(client);
        self.came_from_cell(gateway, key, round, Came::Granted(granted))
    }

    pub(in crate::sim) fn token_drawn(
        &mut self,
        client: usize,
        key: SessionKey,
        round: u64,
        drawn: Result<Token, String>,
    ) -> Verdict {
        let gateway = self.gateway_of(client);
        let event = match drawn {
            Ok(token) => Came::Drawn(token),
            Err(reason) => Came::Failed(reason),
        };
        self.came_from_cell(gateway, key, round, event)
    }
}
