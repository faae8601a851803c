//! A client: the real session core, a user who acquires, holds, gives up and releases, and a
//! clock that is slightly wrong.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lockd::server::core::clients::ConnectionId;
use lockd_client::core::{Input, Output, RequestId, SessionCore, SessionOptions, Time};
use lockd_protocol::client::{ClientFrame, NodeFrame, Operation, Outcome, Wait};
use lockd_protocol::frame::Decoder;
use lockd_protocol::{LockName, Millis, Mode, Nonce, Sequence, Token};

use super::Seen;
use super::dice::Dice;
use super::node::{CELL, clock};

pub(crate) const LOCKS: u64 = 3;
const TTL_MS: u64 = 2_000;

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Want {
    Acquire(u64),
    Release,
    Break,
}

/// One connection, as the client sees it.
pub(crate) struct Link {
    pub(crate) node: u64,
    pub(crate) life: u64,
    pub(crate) connection: ConnectionId,
    /// On their way to the node, with the time of arrival.
    pub(crate) up: VecDeque<(u64, ClientFrame)>,
    /// On their way to the client.
    pub(crate) down: VecDeque<(u64, Vec<u8>)>,
    decoder: Decoder,
    heard: u64,
}

impl Link {
    pub(crate) fn new(now: u64, node: u64, life: u64, connection: ConnectionId) -> Link {
        Link {
            node,
            life,
            connection,
            up: VecDeque::new(),
            down: VecDeque::new(),
            decoder: Decoder::default(),
            heard: now,
        }
    }
}

/// A lock that the client was granted and has not given back.
struct Held {
    lock: u64,
    token: Token,
    until: u64,
    /// It was told that the lock is being taken.
    told: bool,
}

pub(crate) struct Client {
    id: u64,
    rate: i64,
    core: SessionCore<Want>,
    sessions: u64,
    requests: u64,
    pub(crate) link: Option<Link>,
    /// When to connect again, and to whom if known.
    pub(crate) connect_at: u64,
    pub(crate) hint: Option<u64>,
    deadline: Time,
    held: BTreeMap<Sequence, Held>,
    /// Acquisitions that were not answered, and when their user gives up.
    waiting: BTreeMap<RequestId, u64>,
    pub(crate) seen: Seen,
    /// Tokens granted, in the order in which the client learned of them.
    pub(crate) grants: Vec<(u64, Token)>,
}

impl Client {
    pub(crate) fn new(id: u64, rate: i64) -> Client {
        Client {
            id,
            rate,
            core: new_core(id, 1),
            sessions: 1,
            requests: 0,
            link: None,
            connect_at: 0,
            hint: None,
            deadline: Time::default(),
            held: BTreeMap::new(),
            waiting: BTreeMap::new(),
            seen: Seen::default(),
            grants: Vec::new(),
        }
    }

    fn time(&self, now: u64) -> Time {
        Time::from_micros(clock(now, self.rate))
    }

    /// The locks that the client believes it holds, by its own clock, with their tokens.
    pub(crate) fn believes(&self, now: u64) -> impl Iterator<Item = (u64, Token)> {
        let alive = self.time(now) < self.deadline;
        let held = self.held.values().filter(move |held| alive && !held.told);
        held.map(|held| (held.lock, held.token))
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.held.is_empty() && self.waiting.is_empty()
    }

    pub(crate) fn connected(&mut self, now: u64, link: Link) {
        self.link = Some(link);
        let hello = ClientFrame::Hello {
            version: lockd_protocol::limits::CLIENT_PROTOCOL_VERSION,
            cell: CELL,
        };
        self.send(now, hello);
    }

    /// Gives up the connection. What is under way may arrive all the same.
    pub(crate) fn disconnect(&mut self, now: u64, again_after: u64) -> Option<Link> {
        self.connect_at = now + again_after;
        self.give(now, Input::Disconnected, &mut Dice::new(0));
        self.link.take()
    }

    fn send(&mut self, now: u64, frame: ClientFrame) {
        if let Some(link) = &mut self.link {
            // The world puts in the latency.
            link.up.push_back((now, frame));
        }
    }

    /// Takes bytes that have arrived. Says whether the connection is of no more use.
    pub(crate) fn receive(&mut self, now: u64, bytes: &[u8], dice: &mut Dice) -> bool {
        let Some(link) = &mut self.link else {
            return false;
        };
        link.heard = now;
        link.decoder.feed(bytes);
        loop {
            let next = self.link.as_mut().map(|link| link.decoder.next());
            let Some(Ok(Some(frame))) = next else {
                return false;
            };
            let input = match frame {
                NodeFrame::Welcome { .. } => Input::Connected,
                NodeFrame::Redirect { leader } => {
                    self.hint = leader.map(|(node, _)| node.0);
                    return true;
                }
                NodeFrame::Opened { result, .. } => Input::Opened { result },
                NodeFrame::KeptAlive { session, number } if self.is_ours(session) => {
                    Input::KeptAlive { number }
                }
                NodeFrame::SessionEnded { session, reason } if self.is_ours(session) => {
                    Input::SessionEnded { reason }
                }
                NodeFrame::Reply {
                    session,
                    sequence,
                    outcome,
                    ticket,
                } if self.is_ours(session) => Input::Reply {
                    sequence,
                    outcome,
                    ticket,
                },
                NodeFrame::Lost {
                    session,
                    acquire,
                    reason,
                } if self.is_ours(session) => Input::Lost { acquire, reason },
                _ => continue,
            };
            self.give(now, input, dice);
        }
    }

    fn is_ours(&self, session: lockd_protocol::SessionId) -> bool {
        self.core.id() == Some(session)
    }

    /// The user does something, perhaps.
    pub(crate) fn act(&mut self, now: u64, dice: &mut Dice) {
        self.give(now, Input::Tick, dice);
        let due: Vec<Sequence> = self
            .held
            .iter()
            .filter(|(_, held)| held.until <= now)
            .map(|(acquire, _)| *acquire)
            .collect();
        for acquire in due {
            self.held.remove(&acquire);
            let waiter = Want::Release;
            self.give(now, Input::Release { acquire, waiter }, dice);
        }
        let tired: Vec<RequestId> = self
            .waiting
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(request, _)| *request)
            .collect();
        for request in tired {
            self.waiting.remove(&request);
            self.seen.taken_back += 1;
            self.give(now, Input::TakeBack { request }, dice);
        }
    }

    /// The user wants something.
    pub(crate) fn want(&mut self, now: u64, dice: &mut Dice) {
        let lock = dice.below(LOCKS);
        if dice.once_in(40) {
            let reason = "chaos".to_owned();
            let operation = Operation::Break {
                lock: name(lock),
                reason,
                at_once: false,
            };
            return self.submit(now, operation, Want::Break, dice);
        }
        let wait = match dice.below(4) {
            0 => Wait::Try,
            1 => Wait::For(Millis(dice.below(1_500))),
            _ => Wait::Forever,
        };
        let patience = match dice.once_in(4) {
            true => dice.below(400),
            false => 600_000,
        };
        self.waiting
            .insert(RequestId(self.requests + 1), now + patience);
        let operation = Operation::Acquire {
            lock: name(lock),
            mode: Mode::Exclusive,
            wait,
            ticket: false,
        };
        self.submit(now, operation, Want::Acquire(lock), dice);
    }

    fn submit(&mut self, now: u64, operation: Operation, waiter: Want, dice: &mut Dice) {
        self.requests += 1;
        let request = RequestId(self.requests);
        let input = Input::Submit {
            request,
            operation,
            waiter,
        };
        self.give(now, input, dice);
    }

    fn give(&mut self, now: u64, input: Input<Want>, dice: &mut Dice) {
        let time = self.time(now);
        self.core.handle(time, input);
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Send(frame) => self.send(now, frame),
                Output::Opened { deadline, .. } | Output::Deadline(deadline) => {
                    self.deadline = deadline;
                }
                Output::Done {
                    waiter,
                    sequence,
                    outcome,
                    ..
                } => self.done(now, waiter, sequence, &outcome, dice),
                Output::GrantLost { acquire, .. } => {
                    if let Some(held) = self.held.get_mut(&acquire) {
                        held.told = true;
                        held.until = now + dice.below(300);
                        self.seen.broken += 1;
                    }
                }
                Output::Suspect => {
                    // The world looks at how long nothing was heard.
                }
                Output::Failed { .. } | Output::Ended(_) => {}
            }
        }
        if self.core.ended().is_some() {
            self.seen.sessions_lost += 1;
            self.start_over(now, dice);
        }
    }

    fn done(
        &mut self,
        now: u64,
        want: Want,
        acquire: Sequence,
        outcome: &Outcome,
        dice: &mut Dice,
    ) {
        let Want::Acquire(lock) = want else {
            return;
        };
        // One acquisition at a time: see `World`.
        self.waiting.clear();
        if let Outcome::Granted { token } = *outcome {
            self.seen.grants += 1;
            self.grants.push((lock, token));
            // Often longer than the lease.
            let hold = if dice.once_in(3) { 8_000 } else { 500 };
            let hold = dice.below(hold);
            let held = Held {
                lock,
                token,
                until: now + hold,
                told: false,
            };
            self.held.insert(acquire, held);
        }
    }

    /// The session was lost: whatever it held is forgotten, and another is opened.
    fn start_over(&mut self, now: u64, dice: &mut Dice) {
        self.held.clear();
        self.waiting.clear();
        self.deadline = Time::default();
        self.sessions += 1;
        self.core = new_core(self.id, self.sessions);
        if self.link.is_some() {
            self.give(now, Input::Connected, dice);
        }
    }

    /// Whether nothing was heard for so long that another node should be tried.
    pub(crate) fn hears_nothing(&self, now: u64) -> bool {
        self.link
            .as_ref()
            .is_some_and(|link| now > link.heard + 1_200)
    }
}

fn new_core(client: u64, session: u64) -> SessionCore<Want> {
    SessionCore::new(SessionOptions {
        nonce: Nonce(u128::from(client << 32 | session)),
        ttl: Millis(TTL_MS),
        keepalive: Duration::from_millis(TTL_MS / 3),
        label: format!("client {client}"),
        seed: client << 32 | session,
    })
}

fn name(lock: u64) -> LockName {
    LockName::new(&format!("lock-{lock}")).expect("a good name")
}
