//! A gateway: its life, its sessions, its admin link to the database, and its own client of the
//! cell. Its memory holds nothing that safety needs.

mod admission;

use std::collections::{BTreeMap, VecDeque};

use gateway::fence::admission::Event as Came;
use gateway::fence::set::Shown;
use lockd_protocol::ticket::{Signer, Verifier};
use lockd_protocol::{LockName, Token};

use self::admission::Admitting;
use super::database::{Call, Denied, Pid, Write};
use super::invariants::Verdict;
use super::node::{CELL, TICKET_SEED};
use super::world::{Event, World};

/// Names a connection of an application, over all gateways.
pub(super) type SessionKey = u64;

/// What an application says on its connection.
#[derive(Clone, Debug)]
pub(super) enum FromApp {
    Open {
        client: usize,
        life: u64,
        task: usize,
    },
    Show {
        set: Vec<Shown>,
        tickets: Option<Vec<String>>,
    },
    Write {
        write: Write,
        explicit: bool,
    },
    Commit,
    Close,
}

/// What it hears.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Admitted,
    Stale(String),
    Unavailable,
    /// Executed, but not committed.
    Executed,
    Written,
    Denied(Denied),
    Broken,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: usize,
    pub(super) life: u64,
    pub(super) task: usize,
    pub(super) pid: Pid,
    pub(super) inbox: VecDeque<FromApp>,
    admitting: Option<Admitting>,
    /// The tickets are being taken away; what is said afterwards.
    pub(super) refusing: Option<Answer>,
    /// A statement has not been answered.
    pub(super) busy: bool,
    pub(super) registration: u64,
    pub(super) round: u64,
    pub(super) last_down: u64,
}

/// A call on the admin link that has no answer yet.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) number: u64,
    pub(super) session: SessionKey,
    pub(super) call: Call,
    pub(super) tries: u32,
}

pub(super) struct Gateway {
    pub(super) client: usize,
    pub(super) up: bool,
    pub(super) life: u64,
    pub(super) paused_until: u64,
    pub(super) held: VecDeque<Event>,
    pub(super) sessions: BTreeMap<SessionKey, Session>,
    /// Which connection to the database this is, counted over all lives.
    pub(super) link: u64,
    /// Calls of earlier links are not done any more: those backends have been ended.
    pub(super) retired: u64,
    pub(super) calls: VecDeque<(SessionKey, Call)>,
    pub(super) current: Option<Current>,
    pub(super) last_number: u64,
    pub(super) verifier: Verifier,
    /// The admin link is about to break, in the middle of the next call.
    pub(super) breaks_in_a_call: bool,
    /// Marks in memory, of a gateway that trusts it.
    pub(super) marks: BTreeMap<LockName, Token>,
}

impl Gateway {
    pub(super) fn new(client: usize) -> Gateway {
        let signer = Signer::from_seed(CELL, &TICKET_SEED).expect("a seed of the right length");
        Gateway {
            client,
            up: true,
            life: 1,
            paused_until: 0,
            held: VecDeque::new(),
            sessions: BTreeMap::new(),
            link: 1,
            retired: 1,
            calls: VecDeque::new(),
            current: None,
            last_number: 0,
            verifier: Verifier::new(CELL, [signer.public_key()]).expect("a good key"),
            breaks_in_a_call: false,
            marks: BTreeMap::new(),
        }
    }

    pub(super) fn listens(&self, now: u64) -> bool {
        self.up && self.paused_until <= now
    }
}

impl World {
    pub(super) fn start_gateway(&mut self, gateway: usize) -> Verdict {
        let it = &mut self.gateways[gateway];
        if std::mem::replace(&mut it.up, true) {
            return Ok(());
        }
        it.life += 1;
        it.link += 1;
        self.story
            .landmark(self.now, || format!("gateway {gateway} starts"));
        let client = self.gateways[gateway].client;
        self.start_client(client)
    }

    /// The process is gone. What it had sent arrives; its backends end afterwards.
    pub(super) fn crash_gateway(&mut self, gateway: usize, until: u64) {
        if !std::mem::replace(&mut self.gateways[gateway].up, false) {
            return;
        }
        self.story
            .landmark(self.now, || format!("gateway {gateway} crashes"));
        let it = &mut self.gateways[gateway];
        it.paused_until = 0;
        it.held.clear();
        it.calls.clear();
        it.current = None;
        it.marks.clear();
        let client = it.client;
        for (key, session) in std::mem::take(&mut it.sessions) {
            let at = session.last_down.max(self.now) + self.dice.between(1, 50_000);
            self.schedule(at, Event::HungUp { pid: session.pid });
            self.tell(&session, key, Answer::Broken);
        }
        self.crash_client(client, None);
        self.schedule(until, Event::GatewayStarts { gateway });
    }

    pub(super) fn pause_gateway(&mut self, gateway: usize, until: u64) {
        let it = &mut self.gateways[gateway];
        if it.up && it.paused_until < until {
            it.paused_until = until;
            let client = it.client;
            self.schedule(until, Event::GatewayWakes { gateway });
            self.pause_client(client, until, false);
        }
    }

    pub(super) fn wake_gateway(&mut self, gateway: usize) -> Verdict {
        if self.gateways[gateway].paused_until > self.now || !self.gateways[gateway].up {
            return Ok(());
        }
        for event in std::mem::take(&mut self.gateways[gateway].held) {
            self.at_gateway(event)?;
        }
        Ok(())
    }

    pub(super) fn at_gateway(&mut self, event: Event) -> Verdict {
        let (gateway, life) = match &event {
            Event::AtGateway { gateway, life, .. }
            | Event::AdminAnswer { gateway, life, .. }
            | Event::AdminBreaks { gateway, life }
            | Event::CellTimeout { gateway, life, .. } => (*gateway, *life),
            Event::BackendGone { gateway, .. } | Event::StatementDone { gateway, .. } => {
                (*gateway, self.gateways[*gateway].life)
            }
            _ => return Ok(()),
        };
        let it = &mut self.gateways[gateway];
        if it.up && it.life == life && it.paused_until > self.now {
            it.held.push_back(event);
            return Ok(());
        }
        let alive = it.up && it.life == life;
        match event {
            Event::AtGateway {
                session,
                message: FromApp::Open { client, life, task },
                ..
            } => {
                self.open_session(gateway, alive, session, (client, life, task));
                Ok(())
            }
            _ if !alive => Ok(()),
            Event::AtGateway {
                session, message, ..
            } => {
                if let Some(it) = self.gateways[gateway].sessions.get_mut(&session) {
                    it.inbox.push_back(message);
                }
                self.serve(gateway, session)
            }
            Event::StatementDone {
                session, answer, ..
            } => {
                if let Some(it) = self.gateways[gateway].sessions.get_mut(&session) {
                    it.busy = false;
                    self.say(gateway, session, answer);
                }
                self.serve(gateway, session)
            }
            Event::BackendGone { session, .. } => {
                if let Some(gone) = self.gateways[gateway].sessions.remove(&session) {
                    self.tell(&gone, session, Answer::Broken);
                }
                Ok(())
            }
            Event::AdminAnswer {
                link,
                number,
                answer,
                ..
            } => self.admin_answered(gateway, link, number, answer),
            Event::AdminBreaks { .. } => self.break_admin_link(gateway),
            Event::CellTimeout { session, round, .. } => {
                let late = Came::Failed("the cell does not answer".to_owned());
                self.came_from_cell(gateway, session, round, late)
            }
            _ => Ok(()),
        }
    }

    fn open_session(
        &mut self,
        gateway: usize,
        alive: bool,
        key: SessionKey,
        (client, life, task): (usize, u64, usize),
    ) {
        let mut session = Session {
            client,
            life,
            task,
            pid: 0,
            inbox: VecDeque::new(),
            admitting: None,
            refusing: None,
            busy: false,
            registration: 0,
            round: 0,
            last_down: 0,
        };
        if !alive || !self.database_up {
            return self.tell(&session, key, Answer::Broken);
        }
        session.pid = self.database.connect();
        self.gateways[gateway].sessions.insert(key, session);
    }

    pub(super) fn tell(&mut self, session: &Session, key: SessionKey, answer: Answer) {
        let delay = 100 + self.dice.around(self.plan.delay / 2);
        let (client, life, task) = (session.client, session.life, session.task);
        self.after(
            delay,
            Event::FromDatabase {
                client,
                life,
                task,
                session: key,
                answer,
            },
        );
    }

    pub(super) fn say(&mut self, gateway: usize, key: SessionKey, answer: Answer) {
        let Some(session) = self.gateways[gateway].sessions.get(&key) else {
            return;
        };
        let (client, life, task) = (session.client, session.life, session.task);
        let delay = 100 + self.dice.around(self.plan.delay / 2);
        self.story.step(self.now, || {
            format!("gateway {gateway} tells {key}: {answer:?}")
        });
        self.after(
            delay,
            Event::FromDatabase {
                client,
                life,
                task,
                session: key,
                answer,
            },
        );
    }

    /// Takes what a session has said, in order. What follows a ticket is held until it is admitted,
    /// and a ticket is taken only while the session is idle.
    fn serve(&mut self, gateway: usize, key: SessionKey) -> Verdict {
        loop {
            let Some(session) = self.gateways[gateway].sessions.get_mut(&key) else {
                return Ok(());
            };
            if session.busy || session.admitting.is_some() || session.refusing.is_some() {
                return Ok(());
            }
            let Some(message) = session.inbox.pop_front() else {
                return Ok(());
            };
            match message {
                FromApp::Show { set, tickets } => self.show_to(gateway, key, set, tickets)?,
                FromApp::Close => {
                    let (pid, registration) = (session.pid, session.registration);
                    self.gateways[gateway].sessions.remove(&key);
                    let delay = self.dice.around(self.plan.delay);
                    self.after(delay, Event::HungUp { pid });
                    if registration > 0 {
                        self.call(gateway, key, Call::Forget { pid, registration });
                    }
                }
                FromApp::Open { .. } => {}
                message @ (FromApp::Write { .. } | FromApp::Commit) => {
                    session.busy = true;
                    let pid = session.pid;
                    let delay = 50 + self.dice.around(self.plan.delay / 2);
                    let at = session.last_down.max(self.now + delay);
                    session.last_down = at;
                    self.schedule(
                        at,
                        Event::Statement {
                            pid,
                            gateway,
                            session: key,
                            message,
                        },
                    );
                }
            }
        }
    }
}
