//! A database that honours the fence protocol: what `fence.sql` does to its tables, under row
//! locks, with commits that a crash may lose, and backends that finish what they were sent.
//!
//! Only the steps are here; when they arrive, and how long they take, is the world's business.

use std::collections::{BTreeMap, BTreeSet};

use gateway::fence::admission::{Admitted, Era};
use gateway::fence::set::{Shown, TicketSet};
use lockd_protocol::planted::{self, Planted};
use lockd_protocol::{LockName, Token};

/// A backend, by its number. Numbers are not used again.
pub(super) type Pid = u64;

/// What a gateway asks over its admin connection: one transaction each.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Admit {
        set: TicketSet,
        pid: Pid,
        registration: u64,
    },
    Evict {
        set: TicketSet,
        pid: Pid,
    },
    GiveBack {
        pid: Pid,
        registration: u64,
    },
    Forget {
        pid: Pid,
        registration: u64,
    },
    BeginEra,
    SetHorizon(Era, Token),
    Seed(Era, Shown),
}

/// What comes of a call.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Admit(Admitted),
    Era(Era),
    /// These have to go first; they have been told.
    Evicting(Vec<Pid>),
    Done,
    /// Writers are in the way: try again when one has finished, or close when patience ends.
    Wait,
}

/// Why a write is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    Stale,
    NoTicket,
}

/// A write: which row, and under which token its writer believes to write.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) lock: LockName,
    pub(super) token: Token,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mark {
    token: Token,
    drained: Token,
    era: i64,
}

#[derive(Clone, Copy, Debug)]
struct Registration {
    token: Token,
    stale: bool,
    number: u64,
}

#[derive(Debug, Default)]
struct Backend {
    /// Writes of the open transaction; its registrations are locked while there is one.
    open: Option<Vec<Write>>,
    /// Its client is gone: it ends with its transaction.
    hung_up: bool,
}

#[derive(Debug)]
struct Boot {
    era: i64,
    horizon: Token,
}

/// The tables, the backends and the log.
#[derive(Debug, Default)]
pub(super) struct Database {
    marks: BTreeMap<LockName, Mark>,
    registrations: BTreeMap<(Pid, LockName), Registration>,
    boot: Option<Boot>,
    backends: BTreeMap<Pid, Backend>,
    last_pid: Pid,
    last_era: i64,
    /// Marks as they were before commits that a crash may lose, oldest first.
    volatile: Vec<(LockName, Option<Mark>)>,
    pub(super) starts: u64,
}

impl Database {
    /// With the fence just installed: nothing can have been forgotten.
    pub(super) fn installed() -> Database {
        Database {
            boot: Some(Boot {
                era: 1,
                horizon: Token(0),
            }),
            last_era: 1,
            starts: 1,
            ..Database::default()
        }
    }

    pub(super) fn connect(&mut self) -> Pid {
        self.last_pid += 1;
        self.backends.insert(self.last_pid, Backend::default());
        self.last_pid
    }

    pub(super) fn is_alive(&self, pid: Pid) -> bool {
        self.backends.contains_key(&pid)
    }

    pub(super) fn has_volatile(&self) -> bool {
        !self.volatile.is_empty()
    }

    /// All commits so far are durable.
    pub(super) fn flush(&mut self) {
        self.volatile.clear();
    }

    /// Ends all backends, empties what is not logged, and loses a suffix of the commits that were
    /// not flushed: `keep` of them stay.
    pub(super) fn crash(&mut self, keep: usize) -> Vec<Pid> {
        while self.volatile.len() > keep {
            let Some((lock, before)) = self.volatile.pop() else {
                break;
            };
            match before {
                Some(mark) => self.marks.insert(lock, mark),
                None => self.marks.remove(&lock),
            };
        }
        self.volatile.clear();
        self.registrations.clear();
        self.boot = None;
        self.starts += 1;
        std::mem::take(&mut self.backends).into_keys().collect()
    }

    /// How many commits a crash could lose.
    pub(super) fn volatile_count(&self) -> usize {
        self.volatile.len()
    }

    fn set_mark(&mut self, lock: &LockName, mark: Mark) {
        let before = self.marks.insert(lock.clone(), mark);
        self.volatile.push((lock.clone(), before));
    }

    /// Executes a write: the trigger looks at the writer's registrations and locks them.
    pub(super) fn write(&mut self, pid: Pid, write: Write) -> Result<(), Denied> {
        let own = self.registrations_of(pid);
        let covered = own.iter().any(|(lock, _)| *lock == write.lock);
        let current = own.iter().any(|(_, registration)| !registration.stale);
        let stale = own.iter().any(|(_, registration)| registration.stale);
        // Where the database does not look, there is nothing but the gateway's memory.
        let passes = (covered && current) || planted::has(Planted::MemoryOnly);
        let Some(backend) = self.backends.get_mut(&pid) else {
            return Err(Denied::NoTicket);
        };
        if !passes {
            backend.open = None;
            return Err(if stale {
                Denied::Stale
            } else {
                Denied::NoTicket
            });
        }
        backend.open.get_or_insert_default().push(write);
        Ok(())
    }

    /// Commits: the writes take effect, durably, and so is everything committed before.
    pub(super) fn commit(&mut self, pid: Pid) -> Vec<Write> {
        let Some(backend) = self.backends.get_mut(&pid) else {
            return Vec::new();
        };
        let writes = backend.open.take().unwrap_or_default();
        if backend.hung_up {
            self.backends.remove(&pid);
        }
        if !writes.is_empty() {
            self.flush();
        }
        writes
    }

    /// The client's end of the connection is gone, and a commit is or is not on its way.
    pub(super) fn hang_up(&mut self, pid: Pid, commits: bool) {
        if let Some(backend) = self.backends.get_mut(&pid) {
            if commits && backend.open.is_some() {
                backend.hung_up = true;
            } else {
                self.backends.remove(&pid);
            }
        }
    }

    /// A backend is ended. Its open transaction has no effect.
    pub(super) fn kill(&mut self, pid: Pid) -> bool {
        self.backends.remove(&pid).is_some()
    }

    fn registrations_of(&self, pid: Pid) -> Vec<(LockName, Registration)> {
        let all = self.registrations.iter();
        all.filter(|((of, _), _)| *of == pid)
            .map(|((_, lock), registration)| (lock.clone(), *registration))
            .collect()
    }

    fn is_writing(&self, pid: Pid) -> bool {
        let backend = self.backends.get(&pid);
        backend.is_some_and(|backend| backend.open.is_some())
    }

    /// Does one call. `patient`: it may still wait for writers in the way.
    pub(super) fn call(&mut self, call: &Call, patient: bool) -> Reply {
        match call {
            Call::Admit {
                set,
                pid,
                registration,
            } => self.admit(set, *pid, *registration, patient),
            Call::Evict { set, pid } => Reply::Evicting(self.evict(set, *pid)),
            Call::GiveBack { pid, registration } => {
                self.take_away(*pid, *registration);
                Reply::Done
            }
            Call::Forget { pid, registration } => {
                if !self.is_writing(*pid) {
                    self.take_away(*pid, *registration);
                }
                Reply::Done
            }
            Call::BeginEra => Reply::Era(self.begin_era()),
            Call::SetHorizon(era, token) => {
                if let Some(boot) = self.boot.as_mut().filter(|boot| boot.era == era.0) {
                    boot.horizon = boot.horizon.min(*token);
                }
                Reply::Done
            }
            Call::Seed(era, shown) => {
                if self.boot.as_ref().is_some_and(|boot| boot.era == era.0) {
                    let mut mark = self.marks.get(&shown.lock).copied().unwrap_or_default();
                    mark.token = mark.token.max(shown.token);
                    mark.era = era.0;
                    self.set_mark(&shown.lock, mark);
                }
                Reply::Done
            }
        }
    }

    fn take_away(&mut self, pid: Pid, registration: u64) {
        self.registrations
            .retain(|(of, _), row| *of != pid || row.number > registration);
    }

    fn begin_era(&mut self) -> Era {
        if let Some(boot) = &self.boot {
            return Era(boot.era);
        }
        self.registrations.clear();
        self.last_era += 1;
        self.boot = Some(Boot {
            era: self.last_era,
            horizon: Token(u64::MAX >> 1),
        });
        Era(self.last_era)
    }

    fn admit(&mut self, set: &TicketSet, pid: Pid, number: u64, patient: bool) -> Reply {
        let Some(Boot { era, horizon }) = self.boot else {
            return Reply::Admit(Admitted::Unseeded);
        };
        let mut advances = false;
        for shown in set.tickets() {
            let mark = self.marks.get(&shown.lock).copied().unwrap_or_default();
            if mark.token > shown.token {
                self.registrations.retain(|(of, _), _| *of != pid);
                return Reply::Admit(Admitted::Stale {
                    lock: shown.lock.clone(),
                    shown: shown.token,
                    needed: mark.token,
                });
            }
            if mark.era != era && shown.token <= horizon {
                return Reply::Admit(Admitted::Unknown(Era(era), shown.clone()));
            }
            advances |= (mark.token, mark.drained, mark.era) != (shown.token, shown.token, era);
        }
        if !self.is_alive(pid) {
            return Reply::Admit(Admitted::Gone);
        }
        let below = self.below(set, pid);
        if advances && below.iter().any(|pid| self.is_writing(*pid)) {
            if patient {
                return Reply::Wait;
            }
            self.close(set, era);
            return Reply::Admit(Admitted::Busy);
        }
        if advances {
            for ((of, _), row) in &mut self.registrations {
                row.stale |= below.contains(of);
            }
            for shown in set.tickets() {
                let (token, drained) = (shown.token, shown.token);
                let mark = Mark {
                    token,
                    drained,
                    era,
                };
                self.set_mark(&shown.lock, mark);
            }
        }
        self.registrations.retain(|(of, _), _| *of != pid);
        for shown in set.tickets() {
            let row = Registration {
                token: shown.token,
                stale: false,
                number,
            };
            self.registrations.insert((pid, shown.lock.clone()), row);
        }
        Reply::Admit(Admitted::Done)
    }

    /// Closes all the same: nobody can register below any more.
    fn close(&mut self, set: &TicketSet, era: i64) {
        for shown in set.tickets() {
            let mut mark = self.marks.get(&shown.lock).copied().unwrap_or_default();
            if mark.token < shown.token {
                mark.token = shown.token;
                mark.era = era;
                self.set_mark(&shown.lock, mark);
            }
        }
    }

    /// Backends that carry a lower token of one of these locks.
    fn below(&self, set: &TicketSet, pid: Pid) -> BTreeSet<Pid> {
        let lower = |lock: &LockName, token: Token| {
            let mut shown = set.tickets().iter();
            shown.any(|shown| shown.lock == *lock && token < shown.token)
        };
        let rows = self.registrations.iter();
        rows.filter(|((of, lock), row)| *of != pid && !row.stale && lower(lock, row.token))
            .map(|((of, _), _)| *of)
            .collect()
    }

    fn evict(&mut self, set: &TicketSet, pid: Pid) -> Vec<Pid> {
        let closed = set.tickets().iter().filter(|shown| {
            let mark = self.marks.get(&shown.lock);
            mark.is_some_and(|mark| mark.token == shown.token)
        });
        let Ok(closed) = TicketSet::new(closed.cloned().collect()) else {
            return Vec::new();
        };
        let below = self.below(&closed, pid).into_iter();
        below.filter(|pid| self.is_writing(*pid)).collect()
    }
}
