//! A wait that is given up at any moment: the real session core and the real lock state, with every
//! order in which their messages, a release, a lost connection and the giving up can come.

use std::collections::VecDeque;

use lockd::state::command::Command;
use lockd::state::listing::Unobserved;
use lockd::state::{Effect, State};
use lockd_client::core::{Input, Output, RequestId, SessionCore, SessionOptions, Time};
use lockd_protocol::client::{About, Acquire, ClientFrame, Grant, Operation, Outcome, Wait};
use lockd_protocol::{LockName, Millis, Mode, Nonce, Sequence, SessionId, Token};
use paxos::{Ballot, Epoch, NodeId};

const HOLDER: SessionId = SessionId(1);
const WAITER: SessionId = SessionId(2);
const RIVAL: SessionId = SessionId(3);

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    ToCell,
    ToClient,
    GiveUp,
    HolderLetsGo,
    RivalComes,
    WaitIsOver,
    Cut,
}

const STEPS: [Step; 7] = [
    Step::ToCell,
    Step::ToClient,
    Step::GiveUp,
    Step::HolderLetsGo,
    Step::RivalComes,
    Step::WaitIsOver,
    Step::Cut,
];

fn leadership() -> Ballot {
    Ballot {
        epoch: Epoch(1),
        round: 1,
        node: NodeId(1),
    }
}

fn lock() -> LockName {
    LockName::new("a").expect("a name")
}

fn acquire(wait: Wait) -> Operation {
    Operation::Acquire(Acquire::one(lock(), Mode::Exclusive, wait))
}

#[derive(Clone)]
struct World {
    state: State,
    core: SessionCore<()>,
    to_cell: VecDeque<ClientFrame>,
    to_client: VecDeque<(Sequence, Outcome)>,
    /// What the user was given.
    handed_out: Option<(Sequence, Token)>,
    rival: Option<Token>,
    gave_up: bool,
    held: bool,
    came: bool,
    timed: bool,
    cut: bool,
    story: Vec<Step>,
}

impl World {
    fn new(wait: Wait) -> World {
        let mut core = SessionCore::new(SessionOptions {
            nonce: Nonce(2),
            ttl: Millis(60_000),
            keepalive: std::time::Duration::from_secs(20),
            about: About::default(),
            seed: 1,
        });
        let mut state = State::default();
        state.begin_leadership(leadership());
        for nonce in 1..=3 {
            let (nonce, ttl) = (Nonce(nonce), Millis(60_000));
            let open = Command::Open {
                nonce,
                ttl,
                identity: String::new(),
                about: About::default(),
            };
            state.apply(open, &mut Vec::new());
        }
        let now = Time::from_micros(1);
        core.handle(now, Input::Connected);
        core.handle(now, Input::Opened { result: Ok(WAITER) });
        while core.poll_output().is_some() {}
        let mut world = World {
            state,
            core,
            to_cell: VecDeque::new(),
            to_client: VecDeque::new(),
            handed_out: None,
            rival: None,
            gave_up: false,
            held: true,
            came: false,
            timed: !matches!(wait, Wait::For(_)),
            cut: false,
            story: Vec::new(),
        };
        world.request(HOLDER, 1, acquire(Wait::Try));
        world.give(Input::Submit {
            request: RequestId(1),
            operation: acquire(wait),
            waiter: (),
        });
        world
    }

    fn request(&mut self, session: SessionId, sequence: u64, operation: Operation) {
        self.apply(Command::Request {
            session,
            sequence: Sequence(sequence),
            acknowledged: Sequence(0),
            operation,
        });
    }

    fn apply(&mut self, command: Command) {
        let mut effects = Vec::new();
        self.state.apply(command, &mut effects);
        for effect in effects {
            let Effect::Reply {
                session,
                sequence,
                outcome,
                tickets: _,
            } = effect
            else {
                continue;
            };
            if session == WAITER {
                self.to_client.push_back((sequence, outcome));
            } else if session == RIVAL {
                self.rival = self.rival.or(outcome.granted_token());
            }
        }
    }

    fn give(&mut self, input: Input<()>) {
        self.core.handle(Time::from_micros(2), input);
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Send(frame @ ClientFrame::Request { .. }) => self.to_cell.push_back(frame),
                Output::Done {
                    sequence,
                    outcome: Outcome::Granted(grants),
                    ..
                } => {
                    let Grant { token, .. } = grants[0];
                    assert!(!self.gave_up, "handed out to nobody: {:?}", self.story);
                    self.handed_out = Some((sequence, token));
                }
                _ => {}
            }
        }
    }

    /// Whether it was possible.
    fn take(&mut self, step: Step) -> bool {
        let possible = match step {
            Step::ToCell => !self.to_cell.is_empty(),
            Step::ToClient => !self.to_client.is_empty(),
            Step::GiveUp => !self.gave_up && self.handed_out.is_none(),
            Step::HolderLetsGo => self.held,
            Step::RivalComes => !self.came,
            Step::WaitIsOver => !self.timed,
            Step::Cut => !self.cut,
        };
        if !possible {
            return false;
        }
        self.story.push(step);
        match step {
            Step::ToCell => {
                if let Some(ClientFrame::Request {
                    session,
                    sequence,
                    acknowledged,
                    operation,
                }) = self.to_cell.pop_front()
                {
                    self.apply(Command::Request {
                        session,
                        sequence,
                        acknowledged,
                        operation,
                    });
                }
            }
            Step::ToClient => {
                if let Some((sequence, outcome)) = self.to_client.pop_front() {
                    self.give(Input::Reply {
                        sequence,
                        outcome,
                        tickets: Vec::new(),
                    });
                }
            }
            Step::GiveUp => {
                self.gave_up = true;
                let request = RequestId(1);
                self.give(Input::TakeBack { request });
            }
            Step::HolderLetsGo => {
                self.held = false;
                let (acquire, token) = (Sequence(1), Token(1));
                self.request(HOLDER, 2, Operation::Release { acquire, token });
            }
            Step::RivalComes => {
                self.came = true;
                self.request(RIVAL, 1, acquire(Wait::Forever));
            }
            Step::WaitIsOver => {
                self.timed = true;
                self.apply(Command::TimeOut {
                    session: WAITER,
                    acquire: Sequence(1),
                    leadership: leadership(),
                });
            }
            Step::Cut => {
                self.cut = true;
                // What was on its way to the client is lost; what was on its way to the cell may
                // come all the same, before or after what is sent again.
                self.to_client.clear();
                self.give(Input::Disconnected);
                self.give(Input::Connected);
            }
        }
        true
    }

    /// Nothing more can happen: everything is where it belongs.
    fn judge(&mut self) {
        let holder = |state: &State| {
            let detail = state.describe_lock(&lock(), (0, 0), 1, &Unobserved)?;
            detail.summary.holder
        };
        if let Some((acquire, token)) = self.handed_out {
            assert_eq!(holder(&self.state), Some(WAITER), "{:?}", self.story);
            self.request(WAITER, 9, Operation::Release { acquire, token });
        }
        let token = self
            .rival
            .unwrap_or_else(|| panic!("a hole: {:?}", self.story));
        assert_eq!(holder(&self.state), Some(RIVAL), "{:?}", self.story);
        let acquire = Sequence(1);
        self.request(RIVAL, 2, Operation::Release { acquire, token });
        assert_eq!(self.state.lock_count(), 0, "an orphan: {:?}", self.story);
    }
}

/// Tries every step, and what can follow it. How many orders there are.
fn explore(world: &World) -> u64 {
    let mut orders = 0;
    for step in STEPS {
        let mut next = world.clone();
        if next.take(step) {
            orders += explore(&next);
        }
    }
    if orders > 0 {
        return orders;
    }
    world.clone().judge();
    1
}

#[test]
fn a_wait_that_is_given_up_at_any_moment_leaves_neither_an_orphan_nor_a_hole() {
    for wait in [Wait::Forever, Wait::For(Millis(5)), Wait::Try] {
        let orders = explore(&World::new(wait));
        println!("{wait:?}: {orders} orders");
        assert!(orders > 1000);
    }
}
