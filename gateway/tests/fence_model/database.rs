//! The database with its fence: what the functions of `fence.sql` do to its tables, as one
//! transaction each, and what the triggers ask of a write.
//!
//! Two forms: *rows*, as in PostgreSQL and MariaDB, where a write locks its registrations to the
//! end of its transaction and an advance waits for those locks; and *atomic*, as in Redis, where
//! commands take effect one at a time and an advance takes the rights of those below at once.
//!
//! Among rows a backend may be *told*, as in PostgreSQL's transaction mode: nothing is registered
//! for it, and its writes find and lock what is registered for everybody with such a ticket.

use std::collections::{BTreeMap, BTreeSet};

use gateway::fence::admission::{Admitted, Era};
use gateway::fence::set::Shown;
use lockd_protocol::{LockName, Token};

use crate::rules::{Rule, Rules};

/// How many locks there are.
pub(crate) const LOCKS: usize = 2;

/// A token for each lock; 0: none. What a session shows, and what a write is sent under.
pub(crate) type Tickets = [u8; LOCKS];

/// A backend: a connection, as the database numbers them. No number is used twice.
pub(crate) type Backend = u8;

/// How the fence is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Rows,
    Atomic,
}

/// What a client has sent and the backend has not done yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Statement {
    /// A write, and the tickets that its sender means to write under.
    Write(Tickets),
    Commit,
}

/// What a gateway asks over a connection of its own. One transaction each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Call {
    Admit {
        backend: Backend,
        tickets: Tickets,
        number: u8,
        told: bool,
    },
    Evict {
        backend: Backend,
        tickets: Tickets,
    },
    BeginEra,
    SetHorizon {
        era: i64,
        horizon: u8,
    },
    Seed {
        era: i64,
        lock: u8,
        token: u8,
    },
    GiveBack {
        backend: Backend,
        number: u8,
    },
}

/// What comes of a call.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Admitted(Admitted),
    Era(Era),
    Done,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Mark {
    pub(crate) token: u8,
    drained: u8,
    era: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Row {
    token: u8,
    stale: bool,
    number: u8,
}

/// What a backend has to do, and what its open transaction has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Serving {
    pub(crate) queue: Vec<Statement>,
    /// Under what the writes of the open transaction were sent.
    pub(crate) open: Option<Tickets>,
    /// Told to end, and not ended yet.
    pub(crate) killed: bool,
    /// Nothing more comes from its client.
    pub(crate) hung_up: bool,
    /// What its writes are sent under is said with them.
    pub(crate) told: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Boot {
    era: i64,
    horizon: u8,
}

impl Serving {
    /// Whether its open transaction has this epoch's row locked.
    fn writes_under(&self, (lock, token): (u8, u8)) -> bool {
        let open = self.open.filter(|_| self.told).unwrap_or_default();
        open[usize::from(lock)] == token
    }
}

/// The tables, the backends, and what a crash may undo.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Database {
    pub(crate) marks: [Mark; LOCKS],
    rows: BTreeMap<(Backend, u8), Row>,
    /// Locks and tokens that backends which are told may write under.
    epochs: BTreeSet<(u8, u8)>,
    pub(crate) backends: BTreeMap<Backend, Serving>,
    boot: Option<Boot>,
    last_era: i64,
    floor: u8,
    /// The marks and the floor before each commit that a crash may lose, the oldest first.
    volatile: Vec<([Mark; LOCKS], u8)>,
}

impl Database {
    /// Just installed, so that nothing can have been forgotten; or started since.
    pub(crate) fn new(forgetful: bool) -> Database {
        let installed = Boot { era: 1, horizon: 0 };
        Database {
            marks: [Mark::default(); LOCKS],
            rows: BTreeMap::new(),
            epochs: BTreeSet::new(),
            backends: BTreeMap::new(),
            boot: (!forgetful).then_some(installed),
            last_era: 1,
            floor: 0,
            volatile: Vec::new(),
        }
    }

    /// Commits so far survive a crash.
    pub(crate) fn flush(&mut self) {
        self.volatile.clear();
    }

    /// How many commits a crash may lose.
    pub(crate) fn volatile(&self) -> usize {
        self.volatile.len()
    }

    /// Ends every backend, empties what is not logged, and undoes all but `keep` of the commits
    /// that were not flushed.
    pub(crate) fn crash(&mut self, keep: usize, rules: Rules) {
        if let Some((marks, floor)) = self.volatile.get(keep) {
            (self.marks, self.floor) = (*marks, *floor);
        }
        self.volatile.clear();
        self.backends.clear();
        self.rows.clear();
        self.epochs.clear();
        if rules.on(Rule::EraEndsWithTheServer) {
            self.boot = None;
        }
    }

    /// Executes a statement of a client. `Err`: refused, and the transaction is undone. `Ok` with
    /// tickets: what was written under them takes effect.
    pub(crate) fn execute(
        &mut self,
        backend: Backend,
        form: Form,
        rules: Rules,
    ) -> Result<Option<Tickets>, Tickets> {
        let own: Vec<Row> = self.rows_of(backend).map(|(_, row)| *row).collect();
        let epochs = &self.epochs;
        let known =
            |tickets| shown(tickets).all(|(lock, token)| epochs.contains(&(lock as u8, token)));
        let Some(serving) = self.backends.get_mut(&backend) else {
            return Ok(None);
        };
        match serving.queue.remove(0) {
            Statement::Write(tickets) => {
                let passes = match serving.told {
                    true => known(tickets),
                    false => own.iter().any(|row| !row.stale),
                };
                if !passes {
                    serving.open = None;
                    return Err(tickets);
                }
                match form {
                    Form::Rows => {
                        serving.open = Some(tickets);
                        Ok(None)
                    }
                    Form::Atomic => Ok(Some(tickets)),
                }
            }
            Statement::Commit => {
                let written = serving.open.take();
                let kept = rules.on(Rule::WritesLockTheirRows)
                    && (!serving.told || rules.on(Rule::AdvanceWaitsForWriters));
                if let Some(tickets) = written.filter(|_| kept) {
                    // Whoever takes a registration away has waited for this commit.
                    let held = serving.told && known(tickets) || !own.is_empty();
                    assert!(held, "rows of an open transaction do not go");
                }
                Ok(written)
            }
        }
    }

    pub(crate) fn end(&mut self, backend: Backend) {
        self.backends.remove(&backend);
    }

    fn rows_of(&self, backend: Backend) -> impl Iterator<Item = (u8, &Row)> {
        let range = self.rows.range((backend, 0)..=(backend, u8::MAX));
        range.map(|((_, lock), row)| (*lock, row))
    }

    /// Whether changing this backend's rows would have to wait.
    fn is_locked(&self, backend: Backend, rules: Rules) -> bool {
        let open = self
            .backends
            .get(&backend)
            .is_some_and(|it| it.open.is_some());
        open && rules.on(Rule::WritesLockTheirRows)
    }

    /// Does a call. `None`: it would have to wait for a writer.
    pub(crate) fn call(&mut self, call: Call, form: Form, rules: Rules) -> Option<Reply> {
        Some(match call {
            Call::Admit {
                backend,
                tickets,
                number,
                told,
            } => {
                let registered = (!told).then_some((backend, number));
                Reply::Admitted(self.admit(registered, tickets, form, rules))
            }
            Call::Evict { backend, tickets } => {
                self.evict(backend, tickets, rules);
                Reply::Done
            }
            Call::BeginEra => Reply::Era(self.begin_era()),
            Call::SetHorizon { era, horizon } => {
                if let Some(boot) = self.boot.as_mut().filter(|boot| boot.era == era) {
                    boot.horizon = boot.horizon.min(horizon);
                }
                Reply::Done
            }
            Call::Seed { era, lock, token } => {
                let boot = self.boot.filter(|boot| boot.era == era);
                let boot = match rules.on(Rule::AnswersAreOfTheEra) {
                    true => boot,
                    false => self.boot,
                };
                if let Some(boot) = boot {
                    self.note();
                    let mark = &mut self.marks[usize::from(lock)];
                    mark.token = mark.token.max(token);
                    mark.era = boot.era;
                }
                Reply::Done
            }
            Call::GiveBack { backend, number } => {
                if self.is_locked(backend, rules) && self.rows_of(backend).next().is_some() {
                    return None;
                }
                let named = rules.on(Rule::GivingBackNamesTheRegistration);
                self.rows
                    .retain(|(of, _), row| *of != backend || named && row.number > number);
                Reply::Done
            }
        })
    }

    /// Before a commit: what a crash would bring back.
    fn note(&mut self) {
        let now = (self.marks, self.floor);
        if self.volatile.last() != Some(&now) {
            self.volatile.push(now);
        }
    }

    fn begin_era(&mut self) -> Era {
        if let Some(boot) = self.boot {
            return Era(boot.era);
        }
        self.rows.clear();
        self.epochs.clear();
        self.last_era += 1;
        let (era, horizon) = (self.last_era, u8::MAX);
        self.boot = Some(Boot { era, horizon });
        Era(era)
    }

    /// Raises the floor and removes the marks below it, as one transaction.
    pub(crate) fn raise_floor(&mut self, to: u8, rules: Rules) {
        self.note();
        if rules.on(Rule::MarksAreRemovedBelowTheFloor) {
            self.floor = self.floor.max(to);
        }
        for mark in &mut self.marks {
            if mark.token < to {
                *mark = Mark::default();
            }
        }
        let free = self.epochs.iter().copied().filter(|epoch| {
            epoch.1 < to
                && !self
                    .backends
                    .values()
                    .any(|serving| serving.writes_under(*epoch))
        });
        let free: Vec<_> = free.collect();
        self.epochs.retain(|epoch| !free.contains(epoch));
    }

    /// Registers a backend under a number, or what everybody may write under who is told it.
    fn admit(
        &mut self,
        registered: Option<(Backend, u8)>,
        tickets: Tickets,
        form: Form,
        rules: Rules,
    ) -> Admitted {
        // Backends are numbered from 1.
        let (backend, number) = registered.unwrap_or_default();
        let Some(boot) = self.boot else {
            return Admitted::Unseeded;
        };
        let mut advances = false;
        for (lock, shown) in shown(tickets) {
            let mark = self.marks[lock];
            let needed = mark.token.max(self.floor);
            if needed > shown && rules.on(Rule::LowerTokensAreStale) {
                self.rows.retain(|(of, _), _| *of != backend);
                return Admitted::Stale {
                    lock: name(lock),
                    shown: Token(shown.into()),
                    needed: Token(needed.into()),
                };
            }
            if mark.era != boot.era && shown <= boot.horizon {
                let shown = Shown {
                    lock: name(lock),
                    token: Token(shown.into()),
                };
                return Admitted::Unknown(Era(boot.era), shown);
            }
            advances |= (mark.token, mark.drained, mark.era) != (shown, shown, boot.era);
        }
        if registered.is_some() && !self.backends.contains_key(&backend) {
            return Admitted::Gone;
        }
        let below = self.below(backend, tickets, rules);
        let waits = below.iter().any(|(of, _)| self.is_locked(*of, rules))
            || rules.on(Rule::WritesLockTheirRows) && !self.told_below(tickets, rules).is_empty();
        if advances && waits && form == Form::Rows && rules.on(Rule::AdvanceWaitsForWriters) {
            // Closed all the same: nobody can register below any more.
            self.note();
            for (lock, shown) in shown(tickets) {
                let mark = &mut self.marks[lock];
                if mark.token < shown {
                    (mark.token, mark.era) = (shown, boot.era);
                }
            }
            return Admitted::Busy;
        }
        if advances {
            self.advance(tickets, &below, boot.era, rules);
        }
        self.rows.retain(|(of, _), _| *of != backend);
        for (lock, token) in shown(tickets) {
            if registered.is_none() {
                self.epochs.insert((lock as u8, token));
                continue;
            }
            let row = Row {
                token,
                stale: false,
                number,
            };
            self.rows.insert((backend, lock as u8), row);
        }
        Admitted::Done
    }

    /// Takes the rights of those below, and says that none is left.
    fn advance(&mut self, tickets: Tickets, below: &[(Backend, u8)], era: i64, rules: Rules) {
        self.note();
        for ((of, lock), row) in &mut self.rows {
            let whole = rules.on(Rule::WhatIsStaleIsStaleAsAWhole);
            row.stale |= below.iter().any(|(b, l)| b == of && (whole || l == lock));
        }
        if !rules.on(Rule::WhatIsStaleIsStaleAsAWhole) {
            self.rows.retain(|_, row| !row.stale);
        }
        if rules.on(Rule::AdvanceTakesRights) {
            self.epochs
                .retain(|(lock, token)| *token >= tickets[usize::from(*lock)]);
        }
        for (lock, token) in shown(tickets) {
            self.marks[lock] = Mark {
                token,
                drained: token,
                era,
            };
        }
    }

    /// Who carries a lower token of one of these locks, and of which.
    fn below(&self, backend: Backend, tickets: Tickets, rules: Rules) -> Vec<(Backend, u8)> {
        if !rules.on(Rule::AdvanceTakesRights) {
            return Vec::new();
        }
        let rows = self.rows.iter();
        rows.filter(|((of, lock), row)| {
            *of != backend && !row.stale && row.token < tickets[usize::from(*lock)]
        })
        .map(|((of, lock), _)| (*of, *lock))
        .collect()
    }

    /// Backends that have written in an open transaction under a lower token that they were told.
    fn told_below(&self, tickets: Tickets, rules: Rules) -> Vec<Backend> {
        let below = |serving: &Serving| {
            let open = serving.open.filter(|_| serving.told).unwrap_or_default();
            shown(open).any(|(lock, token)| token < tickets[lock])
        };
        let backends = self.backends.iter();
        let victims = backends.filter(|(_, serving)| below(serving));
        match rules.on(Rule::AdvanceTakesRights) {
            true => victims.map(|(backend, _)| *backend).collect(),
            false => Vec::new(),
        }
    }

    fn evict(&mut self, backend: Backend, tickets: Tickets, rules: Rules) {
        let mut closed = tickets;
        for (lock, token) in closed.iter_mut().enumerate() {
            if *token != self.marks[lock].token && rules.on(Rule::OnlyTheClosedAreEvicted) {
                *token = 0;
            }
        }
        let registered = self.below(backend, closed, rules);
        let told = self.told_below(closed, rules);
        for of in registered.into_iter().map(|(of, _)| of).chain(told) {
            if let Some(serving) = self.backends.get_mut(&of)
                && serving.open.is_some()
            {
                serving.killed = true;
            }
        }
    }

    /// Whether a command that arrives late can still have an effect.
    pub(crate) fn can_matter(&self, call: Call) -> bool {
        match call {
            // Nothing is registered for a backend that is gone.
            Call::Admit { backend, told, .. } => told || self.backends.contains_key(&backend),
            Call::GiveBack { backend, .. } => {
                self.backends.contains_key(&backend) || self.rows_of(backend).next().is_some()
            }
            Call::Evict { .. } | Call::BeginEra | Call::SetHorizon { .. } | Call::Seed { .. } => {
                true
            }
        }
    }

    /// Whether these tickets are the highest that the fence knows. Raising the floor ends what may
    /// be written under by who is told it; a backend's own rows stay until somebody is newer.
    pub(crate) fn are_newest(&self, tickets: Tickets, told: bool) -> bool {
        let floor = if told { self.floor } else { 0 };
        shown(tickets).all(|(lock, token)| self.marks[lock].token.max(floor) <= token)
    }
}

/// The locks that are shown, with their tokens.
pub(crate) fn shown(tickets: Tickets) -> impl Iterator<Item = (usize, u8)> {
    let all = tickets.into_iter().enumerate();
    all.filter(|(_, token)| *token > 0)
}

pub(crate) fn name(lock: usize) -> LockName {
    let names = ["a", "b"];
    LockName::new(names[lock]).expect("a name")
}
