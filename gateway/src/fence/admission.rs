//! One admission as a state machine: what to ask of the database and of the cell, in which
//! order, until a session carries its tickets or is refused.
//!
//! Each step is one transaction of the database and may be repeated; another gateway may do any
//! of them in between. The order that matters:
//!
//! - the whole set is checked before anything is closed (the database does that within `Admit`);
//! - a server that may have forgotten marks (`Admitted::Unseeded`) first gets a new *era*, and the
//!   cell is asked only afterwards: an answer from before could be overtaken by a grant that the
//!   old era admitted and lost;
//! - tokens above the era's *horizon*, a token drawn from the cell after the era began, were
//!   granted after everything that may have been forgotten, and need no question;
//! - writers that are still busy after the database has waited for them are ended, and the
//!   admission is tried again.

use lockd_protocol::planted::{self, Planted};
use lockd_protocol::types::{LockName, Token};

use super::refusal::Refusal;
use super::set::Shown;
use crate::limits::CELL_ROUNDS_MAX;

/// Names the time since the database last began to remember marks without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Era(pub i64);

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Close, drain what can be drained, and register, in one transaction.
    Admit,
    /// End the writers that are in the way, and wait until they are gone.
    Evict,
    /// Begin an era of the database's memory, or learn the one that another gateway has begun.
    BeginEra,
    /// Draw a fresh token from the cell: everything granted so far is below it.
    DrawToken,
    /// Tell the database that tokens above the horizon need no question in this era.
    SetHorizon(Era, Token),
    /// Ask the cell whether it grants this token now.
    AskCell(Shown),
    /// Tell the database that the cell grants this token now, in this era.
    Seed(Era, Shown),
    /// The session carries the tickets.
    Admitted,
    /// It does not.
    Refused(Refusal),
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Of [`Step::Admit`].
    Admit(Admitted),
    /// Of [`Step::Evict`].
    Evicted,
    /// Of [`Step::BeginEra`].
    EraBegun(Era),
    /// Of [`Step::DrawToken`].
    Drawn(Token),
    /// Of [`Step::SetHorizon`] and [`Step::Seed`].
    Noted,
    /// Of [`Step::AskCell`].
    Granted(bool),
    /// Of any step: it could not be done, in words.
    Failed(String),
}

/// The database's answer to an admission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// Registered.
    Done,
    /// A higher token is known for this lock.
    Stale {
        /// Which lock.
        lock: LockName,
        /// The token shown.
        shown: Token,
        /// The lowest that would be taken.
        needed: Token,
    },
    /// Closed, but writers of lower tokens have transactions open.
    Busy,
    /// The database may have forgotten marks and no gateway has begun an era since.
    Unseeded,
    /// Marks of this ticket's lock may have been forgotten: the cell has to be asked.
    Unknown(Era, Shown),
    /// The session to be admitted is not on this server (any more).
    Gone,
}

/// An admission under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Admission {
    era: Option<Era>,
    asked: Option<Shown>,
    cell_rounds: u32,
}

impl Admission {
    /// A new admission, and its first step.
    #[must_use]
    pub fn start() -> (Admission, Step) {
        (Admission::default(), Step::Admit)
    }

    /// The step after the one that this came of.
    pub fn next(&mut self, event: Event) -> Step {
        match event {
            Event::Admit(answer) => self.answered(answer),
            Event::Evicted | Event::Noted => Step::Admit,
            Event::EraBegun(era) => {
                self.era = Some(era);
                if planted::has(Planted::NoReseed) {
                    return Step::SetHorizon(era, Token(0));
                }
                Step::DrawToken
            }
            Event::Drawn(token) => match self.era {
                Some(era) => Step::SetHorizon(era, token),
                None => Step::BeginEra,
            },
            Event::Granted(granted) => match (self.asked.take(), self.era) {
                (Some(asked), Some(era)) if granted => Step::Seed(era, asked),
                (Some(Shown { lock, token }), _) if !granted => Step::Refused(Refusal::Stale {
                    lock,
                    shown: token,
                    needed: None,
                }),
                _ => Step::Admit,
            },
            Event::Failed(reason) => Step::Refused(Refusal::Unavailable(reason)),
        }
    }

    fn answered(&mut self, answer: Admitted) -> Step {
        match answer {
            Admitted::Done => Step::Admitted,
            Admitted::Stale {
                lock,
                shown,
                needed,
            } => Step::Refused(Refusal::Stale {
                lock,
                shown,
                needed: Some(needed),
            }),
            Admitted::Busy if planted::has(Planted::AdmitBeforeDrained) => Step::Admitted,
            Admitted::Busy => Step::Evict,
            Admitted::Gone => Step::Refused(Refusal::Unavailable(
                "this session is not on the server that the gateway's own connections reach \
                 (a failover, an address translation or a pooler in between); connect again"
                    .into(),
            )),
            Admitted::Unseeded => self.turn_to_cell(Step::BeginEra),
            Admitted::Unknown(era, asked) => {
                self.era = Some(era);
                self.asked = Some(asked.clone());
                self.turn_to_cell(Step::AskCell(asked))
            }
        }
    }

    /// A server that restarts for ever, or a seed that is lost each time, must not keep a client
    /// waiting for ever.
    fn turn_to_cell(&mut self, step: Step) -> Step {
        self.cell_rounds += 1;
        if self.cell_rounds > CELL_ROUNDS_MAX {
            let reason = "the server keeps losing the fence's memory (does it restart?)";
            return Step::Refused(Refusal::Unavailable(reason.into()));
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(lock: &str, token: u64) -> Shown {
        Shown {
            lock: LockName::new(lock).unwrap(),
            token: Token(token),
        }
    }

    #[test]
    fn with_nothing_in_the_way_one_step_admits() {
        let (mut admission, first) = Admission::start();
        assert_eq!(first, Step::Admit);
        assert_eq!(admission.next(Event::Admit(Admitted::Done)), Step::Admitted);
    }

    #[test]
    fn busy_writers_are_ended_and_the_admission_is_tried_again() {
        let (mut admission, _) = Admission::start();
        assert_eq!(admission.next(Event::Admit(Admitted::Busy)), Step::Evict);
        assert_eq!(admission.next(Event::Evicted), Step::Admit);
    }

    #[test]
    fn the_cell_is_asked_only_after_the_new_era_has_begun() {
        let (mut admission, _) = Admission::start();
        assert_eq!(
            admission.next(Event::Admit(Admitted::Unseeded)),
            Step::BeginEra
        );
        assert_eq!(admission.next(Event::EraBegun(Era(3))), Step::DrawToken);
        let horizon = Step::SetHorizon(Era(3), Token(90));
        assert_eq!(admission.next(Event::Drawn(Token(90))), horizon);
        assert_eq!(admission.next(Event::Noted), Step::Admit);
        let unknown = Event::Admit(Admitted::Unknown(Era(3), shown("a", 7)));
        assert_eq!(admission.next(unknown), Step::AskCell(shown("a", 7)));
        assert_eq!(
            admission.next(Event::Granted(true)),
            Step::Seed(Era(3), shown("a", 7))
        );
        assert_eq!(admission.next(Event::Noted), Step::Admit);
    }

    #[test]
    fn a_token_that_the_cell_does_not_grant_any_more_is_stale() {
        let (mut admission, _) = Admission::start();
        admission.next(Event::Admit(Admitted::Unknown(Era(3), shown("a", 7))));
        let step = admission.next(Event::Granted(false));
        assert!(matches!(
            step,
            Step::Refused(Refusal::Stale {
                shown: Token(7),
                needed: None,
                ..
            })
        ));
    }

    #[test]
    fn whatever_cannot_be_done_refuses_as_not_available() {
        let (mut admission, _) = Admission::start();
        let step = admission.next(Event::Failed("no cell".into()));
        assert_eq!(step, Step::Refused(Refusal::Unavailable("no cell".into())));
    }

    #[test]
    fn a_database_that_forgets_for_ever_ends_the_admission() {
        let (mut admission, mut step) = Admission::start();
        for _ in 0..=CELL_ROUNDS_MAX {
            assert!(matches!(step, Step::Admit | Step::BeginEra));
            step = admission.next(Event::Admit(Admitted::Unseeded));
        }
        assert!(matches!(step, Step::Refused(Refusal::Unavailable(_))));
    }
}
