//! A client's process: the real session core and the real choice of nodes, the connection under
//! them, and what everybody who holds a guard believes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lockd_client::core::{
    EndpointCore, Input, RequestId, SessionCore, SessionOptions, Silence, Time,
};
use lockd_protocol::client::{
    About, ClientFrame, EndReason, NodeFrame, Operation, Outcome, Query, Refusal,
};
use lockd_protocol::frame::Decoder;
use lockd_protocol::roles::Role;
use lockd_protocol::{EventNumber, Millis, Nonce, Sequence, SessionId, Token};

use super::clock::Clock;
use super::gateway::SessionKey;
use super::invariants::identity::STRANGE;
use super::invariants::{Verdict, Violation};
use super::ledger::Grant;
use super::node::{CELL, address, node_at};
use super::plan::Plan;
use super::task::Task;
use super::watch::Watch;
use super::world::{Event, World};

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Want {
    Acquire {
        task: usize,
    },
    Release {
        task: usize,
        acquire: Sequence,
    },
    Break {
        at_once: bool,
    },
    Downgrade,
    PutMetadata,
    Close,
    /// A gateway draws a token.
    Draw {
        session: SessionKey,
        round: u64,
    },
    /// A gateway gives back the lock of a token that it has drawn.
    Drawn,
}

/// Who asked a question.
#[derive(Clone, Debug)]
pub(super) enum Asker {
    User,
    Gateway {
        session: SessionKey,
        round: u64,
        token: Token,
    },
}

#[derive(Debug)]
pub(super) struct Question {
    pub(super) asker: Asker,
    pub(super) query: Query,
    pub(super) at: u64,
    /// The last slot applied anywhere when it was asked.
    pub(super) slot: u64,
}

/// A grant that its holder has not given back.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    /// What it is for, by tokens.
    pub(super) grants: Vec<(Token, Grant)>,
    /// Its holder was told that it is lost.
    pub(super) told: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) deadline: Time,
    /// Somebody has looked after the deadline: final.
    pub(super) lost: bool,
}

pub(super) struct Client {
    pub(super) at: usize,
    pub(super) user: bool,
    pub(super) clock: Clock,
    pub(super) up: bool,
    pub(super) life: u64,
    pub(super) paused_until: u64,
    pub(super) held: VecDeque<Event>,
    pub(super) endpoints: EndpointCore,
    pub(super) seed: u64,
    pub(super) core: SessionCore<Want>,
    /// How many sessions it has had: names the present one for its tasks.
    pub(super) sessions: u64,
    pub(super) link: Option<usize>,
    pub(super) welcomed: bool,
    pub(super) dial: u64,
    pub(super) to_dial: VecDeque<usize>,
    pub(super) decoder: Decoder,
    pub(super) silence: Silence,
    pub(super) lease: Option<Lease>,
    pub(super) closing: bool,
    pub(super) guards: BTreeMap<Sequence, Guard>,
    pub(super) requests: u64,
    pub(super) questions: BTreeMap<u64, Question>,
    pub(super) last_question: u64,
    pub(super) timer: u64,
    /// Which node answered the last renewal.
    pub(super) renewed_by: Option<usize>,
    /// Its session was renewed since all faults ended.
    pub(super) renewed: bool,
    pub(super) tasks: Vec<Task>,
    pub(super) watches: Vec<Watch>,
    pub(super) last_watch: u64,
    /// The version of metadata that it got to know last.
    pub(super) last_version: EventNumber,
}

impl Client {
    pub(super) fn new(at: usize, user: bool, clock: Clock, plan: &Plan, seed: u64) -> Client {
        let tasks = if user { plan.tasks } else { 0 };
        Client {
            at,
            user,
            clock,
            up: false,
            life: 0,
            paused_until: 0,
            held: VecDeque::new(),
            endpoints: endpoints(0..plan.nodes, seed),
            seed,
            core: new_core(at, 0, plan, seed),
            sessions: 0,
            link: None,
            welcomed: false,
            dial: 0,
            to_dial: VecDeque::new(),
            decoder: Decoder::default(),
            silence: Silence::default(),
            lease: None,
            closing: false,
            guards: BTreeMap::new(),
            requests: 0,
            questions: BTreeMap::new(),
            last_question: 0,
            timer: u64::MAX,
            renewed_by: None,
            renewed: false,
            tasks: (0..tasks).map(|_| Task::default()).collect(),
            watches: Vec::new(),
            last_watch: 0,
            last_version: EventNumber(0),
        }
    }

    pub(super) fn time(&self, now: u64) -> Time {
        Time::from_micros(self.clock.local(now))
    }

    /// Whether it believes in its session, by its own clock.
    pub(super) fn believes(&self, now: u64) -> bool {
        let lease = self.lease.filter(|lease| !lease.lost);
        lease.is_some_and(|lease| self.time(now) < lease.deadline)
    }

    /// Looks at a guard, as a user does: a passed deadline is final for everybody.
    pub(super) fn guard_is_held(&mut self, now: u64, session: u64, acquire: Sequence) -> bool {
        let believes = self.believes(now);
        if let Some(lease) = &mut self.lease {
            lease.lost |= !believes;
        }
        let guard = self.guards.get(&acquire).filter(|guard| !guard.told);
        session == self.sessions && believes && guard.is_some()
    }

    /// The session's id, if it is open.
    pub(super) fn session(&self) -> Option<SessionId> {
        self.core.id()
    }

    /// The name that the next request gets.
    pub(super) fn next_request(&self) -> RequestId {
        RequestId(self.requests + 1)
    }

    /// The connection that it uses.
    pub(super) fn stream(&self) -> Option<usize> {
        self.link
    }
}

/// The certificate of a client: an operator's, so that it may break locks.
pub(super) fn role(client: usize) -> Role {
    Role::Operator(format!("client-{client}"))
}

fn endpoints(nodes: impl Iterator<Item = usize>, seed: u64) -> EndpointCore {
    EndpointCore::new(nodes.map(address).collect(), seed)
}

pub(super) fn new_core(client: usize, session: u64, plan: &Plan, seed: u64) -> SessionCore<Want> {
    let nonce = u128::from(client as u64) << 64 | u128::from(session);
    SessionCore::new(SessionOptions {
        nonce: Nonce(nonce),
        ttl: Millis(plan.ttl_ms),
        keepalive: Duration::from_millis(plan.ttl_ms / 3),
        about: About::described(format!("client {client}")),
        seed: seed ^ session,
    })
}

impl World {
    pub(super) fn start_client(&mut self, client: usize) -> Verdict {
        if self.clients[client].up {
            return Ok(());
        }
        let seed = self.dice.any();
        let it = &mut self.clients[client];
        it.up = true;
        it.life += 1;
        it.seed = seed;
        it.endpoints = endpoints(self.members.iter().copied(), seed);
        it.timer = u64::MAX;
        self.story
            .landmark(self.now, || format!("client {client} starts"));
        self.begin_to_watch(client);
        self.new_session(client)?;
        self.dial(client);
        self.start_tasks(client);
        Ok(())
    }

    /// Its configuration names the present members.
    pub(super) fn learn_members(&mut self, client: usize) {
        let members = self.members.iter().copied().map(address);
        self.clients[client].endpoints.learned(self.epoch, members);
    }

    /// The process is gone, with its guards and all it knew.
    pub(super) fn crash_client(&mut self, client: usize, until: Option<u64>) {
        if !std::mem::replace(&mut self.clients[client].up, false) {
            return;
        }
        self.story
            .landmark(self.now, || format!("client {client} crashes"));
        if let Some(stream) = self.clients[client].link.take() {
            self.close_stream(stream);
        }
        self.session_may_end(client);
        let it = &mut self.clients[client];
        it.life += 1;
        it.held.clear();
        it.paused_until = 0;
        it.lease = None;
        it.guards.clear();
        it.questions.clear();
        self.drop_tasks(client);
        if let Some(until) = until {
            self.schedule(until, Event::ClientStarts { client });
        }
    }

    /// It does nothing until then, although its clock goes on. `late`: its timers stood still.
    pub(super) fn pause_client(&mut self, client: usize, until: u64, late: bool) {
        if self.clients[client].paused_until < until {
            self.clients[client].paused_until = until;
            self.schedule(until, Event::ClientWakes { client, late });
        }
    }

    /// Wakes it. Which of what waited comes first, its user or its connection, is up to chance.
    pub(super) fn wake_client(&mut self, client: usize, late: bool) -> Verdict {
        if self.clients[client].paused_until > self.now || !self.clients[client].up {
            return Ok(());
        }
        let mut waited: Vec<Event> = self.clients[client].held.drain(..).collect();
        if self.dice.per_mille(500) {
            waited.sort_by_key(|event| !matches!(event, Event::Task { .. }));
        }
        for event in waited {
            let ticks = matches!(event, Event::ClientTimer { .. });
            if ticks && late {
                // A runtime's timers stand still in a suspend, and are looked at every second.
                let delay = self.dice.below(1_000_000);
                self.after(delay, event);
            } else {
                self.at_client(event)?;
            }
        }
        Ok(())
    }

    pub(super) fn at_client(&mut self, event: Event) -> Verdict {
        let (client, life) = match &event {
            Event::Dialled { client, life, .. }
            | Event::ClientTimer { client, life }
            | Event::Task { client, life, .. }
            | Event::FromDatabase { client, life, .. } => (*client, *life),
            Event::ToClient { stream, .. } | Event::Broken { stream } => {
                let client = self.streams[*stream].client;
                (client, self.clients[client].life)
            }
            _ => return Ok(()),
        };
        let it = &mut self.clients[client];
        if it.life != life || !it.up {
            return Ok(());
        }
        if it.paused_until > self.now {
            it.held.push_back(event);
            return Ok(());
        }
        match event {
            Event::Dialled { dial, node, .. } if dial == it.dial => self.dialled(client, node),
            Event::ClientTimer { .. } if it.timer <= self.now => {
                it.timer = u64::MAX;
                self.tick(client)
            }
            Event::ToClient { stream, bytes } if it.link == Some(stream) => {
                self.receive(client, stream, &bytes)
            }
            Event::Broken { stream } if it.link == Some(stream) => self.lose_link(client),
            Event::Task { task, stamp, .. } => self.task_wakes(client, task, stamp),
            Event::FromDatabase {
                task,
                session,
                answer,
                ..
            } => self.task_hears(client, task, session, answer),
            _ => Ok(()),
        }
    }

    fn dial(&mut self, client: usize) {
        let it = &mut self.clients[client];
        let plan = it.endpoints.plan();
        it.to_dial = plan.addresses.iter().filter_map(|a| node_at(a)).collect();
        let delay = plan.delay.as_micros() as u64;
        self.dial_next(client, delay);
    }

    fn dial_next(&mut self, client: usize, delay: u64) {
        let it = &mut self.clients[client];
        let Some(node) = it.to_dial.pop_front() else {
            it.endpoints.all_failed();
            return self.dial(client);
        };
        it.dial += 1;
        let (dial, life) = (it.dial, it.life);
        let delay = delay + 500 + self.dice.around(2 * self.plan.delay);
        self.after(
            delay,
            Event::Dialled {
                client,
                life,
                dial,
                node,
            },
        );
    }

    fn dialled(&mut self, client: usize, node: usize) -> Verdict {
        let Some(stream) = self.accept(client, node) else {
            self.dial_next(client, 1_000);
            return Ok(());
        };
        let it = &mut self.clients[client];
        it.link = Some(stream);
        it.welcomed = false;
        it.decoder = Decoder::default();
        it.silence = Silence::default();
        self.send(
            client,
            ClientFrame::Hello {
                version: lockd_protocol::limits::CLIENT_PROTOCOL_VERSION,
                cell: CELL,
            },
        );
        self.set_client_timer(client);
        Ok(())
    }

    pub(super) fn send(&mut self, client: usize, frame: ClientFrame) {
        let it = &mut self.clients[client];
        let Some(stream) = it.link else {
            return;
        };
        let now = it.time(self.now);
        it.silence.sent(now, self.streams[stream].packets);
        self.write_to_node(stream, frame);
    }

    /// The connection is of no more use.
    pub(super) fn lose_link(&mut self, client: usize) -> Verdict {
        let Some(stream) = self.clients[client].link.take() else {
            return Ok(());
        };
        self.story
            .step(self.now, || format!("client {client} loses its connection"));
        let from = address(self.streams[stream].node);
        self.close_stream(stream);
        self.clients[client].endpoints.lost(&from);
        self.give(client, Input::Disconnected)?;
        self.dial(client);
        Ok(())
    }

    fn redirected(&mut self, client: usize, stream: usize, leader: Option<String>) -> Verdict {
        let from = address(self.streams[stream].node);
        self.close_stream(stream);
        let it = &mut self.clients[client];
        it.link = None;
        it.endpoints.redirected(&from, leader.as_deref());
        self.give(client, Input::Disconnected)?;
        self.dial(client);
        Ok(())
    }

    fn receive(&mut self, client: usize, stream: usize, bytes: &[u8]) -> Verdict {
        self.trace.add_bytes(bytes);
        let it = &mut self.clients[client];
        self.streams[stream].packets += 1;
        it.silence.heard();
        it.decoder.feed(bytes);
        while self.clients[client].link == Some(stream) {
            let frame = self.clients[client].decoder.next();
            let frame = frame.map_err(|error| {
                let detail = format!("client {client} cannot read what a node says: {error}");
                Violation::new("frames can be read", detail)
            })?;
            match frame {
                Some(frame) => self.frame_at_client(client, stream, frame)?,
                None => break,
            }
        }
        self.set_client_timer(client);
        Ok(())
    }

    fn frame_at_client(&mut self, client: usize, stream: usize, frame: NodeFrame) -> Verdict {
        self.story
            .step(self.now, || format!("client {client} reads {frame:?}"));
        let node = self.streams[stream].node;
        let ours = self.clients[client].core.id();
        let input = match frame {
            NodeFrame::Welcome { .. } => {
                let it = &mut self.clients[client];
                it.welcomed = true;
                it.endpoints.connected(&address(node));
                self.ask_again(client);
                self.watch_again(client);
                Input::Connected
            }
            NodeFrame::Redirect { leader } => {
                let leader = leader.map(|(_, address)| address);
                return self.redirected(client, stream, leader);
            }
            NodeFrame::Members { epoch, members } => {
                let addresses = members.into_iter().map(|(_, address)| address);
                self.clients[client].endpoints.learned(epoch, addresses);
                return Ok(());
            }
            NodeFrame::Bye { .. } => return self.lose_link(client),
            NodeFrame::Answer { id, answer, .. } => return self.answered(client, id, answer),
            NodeFrame::News { watch, news } => {
                self.clients[client].endpoints.served(&address(node));
                return self.watch_hears(client, node, watch, news);
            }
            NodeFrame::Opened { nonce, result } => {
                if nonce != self.clients[client].core.nonce() {
                    return Ok(());
                }
                Input::Opened { result }
            }
            NodeFrame::KeptAlive { session, number } if Some(session) == ours => {
                self.kept_alive_by(client, node);
                Input::KeptAlive { number }
            }
            NodeFrame::SessionEnded { session, reason } if Some(session) == ours => {
                Input::SessionEnded { reason }
            }
            NodeFrame::SessionEnded {
                reason: EndReason::OtherIdentity,
                ..
            }
            | NodeFrame::Reply {
                outcome: Outcome::Refused(Refusal::OtherIdentity { .. }),
                ..
            } => {
                self.coverage.hit("another client's session refused");
                return Ok(());
            }
            NodeFrame::Reply {
                session,
                sequence,
                outcome,
                tickets,
            } if Some(session) == ours => Input::Reply {
                sequence,
                outcome,
                tickets,
            },
            NodeFrame::Lost {
                session,
                acquire,
                reason,
            } if Some(session) == ours => Input::Lost { acquire, reason },
            _ => return Ok(()),
        };
        self.clients[client].endpoints.served(&address(node));
        self.give(client, input)
    }

    /// A client names another one's session, which must be refused.
    pub(super) fn pretend(&mut self, client: usize) {
        let it = &self.clients[client];
        let ready = it.link.is_some() && it.welcomed;
        let other = (client + 1) % self.clients.len();
        let Some(session) = self.clients[other].core.id() else {
            return;
        };
        let number = STRANGE;
        let frame = match self.dice.per_mille(500) {
            true => ClientFrame::KeepAlive { session, number },
            false => ClientFrame::Request {
                session,
                sequence: Sequence(number),
                acknowledged: Sequence(0),
                operation: Operation::Close,
            },
        };
        if ready && other != client {
            self.send(client, frame);
        }
    }

    fn kept_alive_by(&mut self, client: usize, node: usize) {
        self.coverage.hit("renewal acknowledged");
        self.clients[client].renewed |= self.healed_at.is_some();
        let before = self.clients[client].renewed_by.replace(node);
        if before.is_some_and(|before| before != node) {
            self.coverage.hit("session resumed by another node");
        }
    }

    fn tick(&mut self, client: usize) -> Verdict {
        self.give(client, Input::Tick)?;
        let it = &mut self.clients[client];
        let now = it.time(self.now);
        if let Some(stream) = it.link
            && it.silence.is_too_long(now, self.streams[stream].packets)
        {
            self.lose_link(client)?;
        }
        self.set_client_timer(client);
        Ok(())
    }

    pub(super) fn set_client_timer(&mut self, client: usize) {
        let it = &mut self.clients[client];
        let due = it.core.next_timeout().unwrap_or(Time::MAX);
        let silence = match it.link {
            Some(_) => it.silence.due(),
            None => Time::MAX,
        };
        let at = it.clock.true_time(due.min(silence).as_micros());
        let at = at.max(self.now + 1);
        if at < it.timer {
            it.timer = at;
            let life = it.life;
            self.schedule(at, Event::ClientTimer { client, life });
        }
    }
}
