//! A client's connection through a gateway: what the gateway does for it, step by step. Which
//! step comes next is said by the production code, [`Admission`].

use gateway::fence::admission::{Admission, Event, Step};
use gateway::fence::set::Shown;
use lockd_protocol::Token;

use crate::database::{Backend, Call, Reply, Tickets, name};
use crate::rules::{Rule, Rules};

/// The lock service, as far as the fence asks it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Cell {
    /// The last token given out.
    pub(crate) last: u8,
    /// What is granted now.
    pub(crate) granted: Tickets,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Session {
    pub(crate) gateway: u8,
    pub(crate) backend: Backend,
    /// Nothing is registered for its backend.
    pub(crate) told: bool,
    /// What the client has shown here last, and writes under, whether it was admitted or not.
    pub(crate) shown: Tickets,
    /// Number of the last registration that was asked for.
    pub(crate) number: u8,
    pub(crate) phase: Phase,
}

/// What the gateway does for a session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// Passes on what comes.
    Free {
        /// What was shown last was admitted.
        admitted: bool,
    },
    /// Holds what comes, and does this next.
    Admitting {
        admission: Admission,
        due: Due,
        /// What the cell would have said when this began, where the gateway goes by that.
        before: Cell,
    },
    /// The same; what the session carried is taken away.
    GivingBack,
}

/// The next step of an admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Due {
    Call(Call),
    Draw,
    Ask { lock: u8, token: u8 },
}

impl Session {
    pub(crate) fn new(gateway: u8, backend: Backend, told: bool) -> Session {
        Session {
            gateway,
            backend,
            told,
            shown: Tickets::default(),
            number: 0,
            phase: Phase::Free { admitted: false },
        }
    }

    /// The client shows tickets, or none.
    pub(crate) fn show(&mut self, tickets: Tickets, cell: Cell, rules: Rules) {
        self.shown = tickets;
        if tickets == Tickets::default() {
            self.phase = Phase::GivingBack;
            return;
        }
        self.number += 1;
        let (admission, first) = Admission::start();
        let old = !rules.on(Rule::TheCellIsAskedAfterwards);
        self.go_on(admission, first, if old { cell } else { Cell::default() });
    }

    /// What the gateway asks the database next, if that is what it does next.
    pub(crate) fn call(&self) -> Option<Call> {
        match &self.phase {
            Phase::Admitting {
                due: Due::Call(call),
                ..
            } => Some(*call),
            Phase::GivingBack => Some(Call::GiveBack {
                backend: self.backend,
                number: self.number,
            }),
            _ => None,
        }
    }

    /// The database has answered.
    pub(crate) fn answered(&mut self, reply: Reply) {
        match std::mem::replace(&mut self.phase, Phase::Free { admitted: false }) {
            Phase::Admitting {
                mut admission,
                due,
                before,
            } => {
                let evicted = matches!(due, Due::Call(Call::Evict { .. }));
                let step = admission.next(match reply {
                    Reply::Admitted(answer) => Event::Admit(answer),
                    Reply::Era(era) => Event::EraBegun(era),
                    Reply::Done if evicted => Event::Evicted,
                    Reply::Done => Event::Noted,
                });
                self.go_on(admission, step, before);
            }
            Phase::Free { .. } | Phase::GivingBack => {}
        }
    }

    /// Asks the cell, if that is what comes next.
    pub(crate) fn ask(&mut self, cell: &mut Cell, rules: Rules) {
        let old = !rules.on(Rule::TheCellIsAskedAfterwards);
        let Phase::Admitting {
            admission,
            due,
            before,
        } = &mut self.phase
        else {
            return;
        };
        let event = match due {
            Due::Call(_) => return,
            Due::Draw => {
                cell.last += 1;
                let drawn = if old { before.last } else { cell.last };
                Event::Drawn(Token(drawn.into()))
            }
            Due::Ask { lock, token } => {
                let cell = if old { *before } else { *cell };
                Event::Granted(cell.granted[usize::from(*lock)] == *token)
            }
        };
        let step = admission.next(event);
        let (admission, before) = (admission.clone(), *before);
        self.go_on(admission, step, before);
    }

    fn go_on(&mut self, admission: Admission, step: Step, before: Cell) {
        let (backend, tickets, number) = (self.backend, self.shown, self.number);
        let due = match step {
            Step::Admit => Due::Call(Call::Admit {
                backend,
                tickets,
                number,
                told: self.told,
            }),
            Step::Evict => Due::Call(Call::Evict { backend, tickets }),
            Step::BeginEra => Due::Call(Call::BeginEra),
            Step::DrawToken => Due::Draw,
            Step::SetHorizon(era, horizon) => Due::Call(Call::SetHorizon {
                era: era.0,
                horizon: small(horizon),
            }),
            Step::AskCell(Shown { lock, token }) => Due::Ask {
                lock: u8::from(lock == name(1)),
                token: small(token),
            },
            Step::Seed(era, Shown { lock, token }) => Due::Call(Call::Seed {
                era: era.0,
                lock: u8::from(lock == name(1)),
                token: small(token),
            }),
            Step::Admitted => {
                self.phase = Phase::Free { admitted: true };
                return;
            }
            Step::Refused(_) => {
                self.phase = Phase::GivingBack;
                return;
            }
        };
        self.phase = Phase::Admitting {
            admission,
            due,
            before,
        };
    }
}

fn small(token: Token) -> u8 {
    u8::try_from(token.0).expect("few tokens are given out")
}
