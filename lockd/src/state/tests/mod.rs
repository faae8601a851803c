//! The state machine, driven command by command.

mod breaking;
mod changes;
mod deadlock;
mod metadata;
mod modes;
mod others;
mod owners;
mod requests;
mod sessions;
mod several;

use super::listing::Unobserved;
use super::*;
use lockd_protocol::client::{
    About, Acquire, Answer, Change, Owner, Scope, Value, Wait, Want, Wants,
};
use paxos::{Epoch, NodeId};

fn leadership(round: u64) -> Ballot {
    Ballot {
        epoch: Epoch(1),
        round,
        node: NodeId(1),
    }
}

/// A state with sessions 1, 2, 3 ... and a leadership, and what its commands brought about.
struct Bench {
    state: State,
    next: BTreeMap<SessionId, u64>,
}

impl Bench {
    fn new(sessions: u64) -> Bench {
        let mut bench = Bench {
            state: State::default(),
            next: BTreeMap::new(),
        };
        bench.state.begin_leadership(leadership(1));
        for n in 1..=sessions {
            let opened = bench.apply(open(u128::from(n)));
            assert_eq!(opened.len(), 1);
        }
        bench
    }

    fn apply(&mut self, command: Command) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.state.apply(command, &mut effects);
        self.check();
        effects
    }

    fn request(&mut self, session: u64, operation: Operation) -> (Sequence, Vec<Effect>) {
        let next = self.next.entry(SessionId(session)).or_insert(0);
        *next += 1;
        let sequence = Sequence(*next);
        (
            sequence,
            self.apply(request(session, sequence.0, 0, operation)),
        )
    }

    fn acquire(&mut self, session: u64, lock: &str, wait: Wait) -> (Sequence, Vec<Effect>) {
        self.request(session, acquire(lock, wait))
    }

    fn hold(&mut self, session: u64, lock: &str) -> Held {
        self.hold_as(
            session,
            Acquire::one(name(lock), Mode::Exclusive, Wait::Try),
        )
    }

    fn hold_as(&mut self, session: u64, acquire: Acquire) -> Held {
        let (acquire, effects) = self.request(session, Operation::Acquire(acquire));
        let token = granted_token(&effects, session, acquire).expect("what is wanted is free");
        Held { acquire, token }
    }

    fn wait_as(&mut self, session: u64, acquire: Acquire) -> Sequence {
        let (sequence, effects) = self.request(session, Operation::Acquire(acquire));
        let queued = matches!(&outcomes(&effects)[..], [(_, _, Outcome::Queued { .. })]);
        assert!(queued, "{effects:?}");
        sequence
    }

    fn release(&mut self, session: u64, held: Held) -> (Sequence, Vec<Effect>) {
        self.request(session, held.release())
    }

    fn expire(&mut self, session: u64) -> Vec<Effect> {
        self.apply(Command::Expire {
            session: SessionId(session),
            leadership: leadership(1),
        })
    }

    fn check(&self) {
        check(&self.state);
    }
}

/// What an acquisition got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    acquire: Sequence,
    token: Token,
}

impl Held {
    fn release(self) -> Operation {
        let Held { acquire, token } = self;
        Operation::Release { acquire, token }
    }
}

/// What holds after every command.
pub(super) fn check(state: &State) {
    let mut owners: BTreeMap<(SessionId, String), session::Owned> = BTreeMap::new();
    let mut note = |session, owner: Option<&str>, change: &dyn Fn(&mut session::Owned)| {
        if let Some(owner) = owner {
            change(owners.entry((session, owner.to_owned())).or_default());
        }
    };
    let mut held = 0;
    for (name, lock) in &state.locks {
        assert!(!lock.is_empty(), "{name} is held and waited for by nobody");
        check_holds(state, name, lock);
        for hold in &lock.holds {
            for acquire in hold.acquisitions() {
                let acquisition = &state.sessions[&hold.session].acquisitions()[&acquire];
                assert!(acquisition.held().any(|held| held == (name, hold.token)));
                note(hold.session, hold.owner(), &|owned| {
                    owned.held.insert(acquire);
                });
                held += 1;
            }
        }
        for (place, mode) in &lock.queue {
            let wants = state.waiters[place].acquire.wants.each();
            assert!(
                wants
                    .iter()
                    .any(|want| (&want.lock, want.mode) == (name, *mode))
            );
        }
    }
    for (place, waiter) in &state.waiters {
        let acquisition = &state.sessions[&waiter.session].acquisitions()[&waiter.sequence];
        assert_eq!(acquisition, &Acquisition::Queued(*place));
        for want in waiter.acquire.wants.each() {
            assert_eq!(state.locks[&want.lock].queue[place], want.mode);
        }
        let free = state.choose(&waiter.acquire.wants, *place, false);
        assert!(free.is_err(), "somebody waits for what is free: {waiter:?}");
        note(waiter.session, waiter.owner(), &|owned| {
            owned.places.insert(*place);
        });
    }
    let acquisitions = state
        .sessions
        .values()
        .flat_map(|s| s.acquisitions().values());
    let of_sessions: usize = acquisitions.clone().map(|a| a.held().count()).sum();
    let waiting = acquisitions.filter(|a| a.place().is_some()).count();
    assert_eq!((held, state.waiters.len()), (of_sessions, waiting));
    let of_sessions = state.sessions.iter().flat_map(|(id, session)| {
        let owners = session.owners().iter();
        owners.map(|(owner, owned)| ((*id, owner.clone()), owned.clone()))
    });
    assert_eq!(owners, of_sessions.collect());
    assert_eq!(state.nonces.len(), state.sessions.len());
    let mut identities = BTreeMap::new();
    for session in state.sessions.values() {
        let all = session.acquisitions().values();
        let waits = all.filter(|a| a.place().is_some()).count();
        assert_eq!(session.waits(), waits);
        *identities
            .entry(Arc::clone(session.identity()))
            .or_default() += 1;
    }
    assert_eq!(state.identities, identities);
}

/// Nobody holds a lock beside somebody whom that excludes.
fn check_holds(state: &State, name: &LockName, lock: &Lock) {
    let Some(first) = lock.holds.first() else {
        return;
    };
    assert!(
        lock.holds.iter().all(|hold| hold.mode == first.mode),
        "{name}"
    );
    assert!(lock.holds.is_sorted_by(|one, next| one.token < next.token));
    assert!(lock.holds.iter().all(|hold| hold.token <= state.last_token));
    match first.mode {
        Mode::Exclusive => assert_eq!(lock.holds.len(), 1, "{name}"),
        Mode::Permit { of } => {
            let slots: std::collections::BTreeSet<u32> =
                lock.holds.iter().map(|hold| hold.slot).collect();
            assert_eq!(slots.len(), lock.holds.len(), "{name}");
            assert!(slots.iter().all(|slot| *slot < of), "{name}");
        }
        _ => {}
    }
}

fn name(text: &str) -> LockName {
    LockName::new(text).expect("a lock name")
}

fn open(nonce: u128) -> Command {
    Command::Open {
        nonce: Nonce(nonce),
        ttl: Millis(10_000),
        identity: "client".to_owned(),
        about: About::described(format!("client {nonce}")),
    }
}

fn acquire(lock: &str, wait: Wait) -> Operation {
    Operation::Acquire(Acquire::one(name(lock), Mode::Exclusive, wait))
}

fn request(session: u64, sequence: u64, acknowledged: u64, operation: Operation) -> Command {
    Command::Request {
        session: SessionId(session),
        sequence: Sequence(sequence),
        acknowledged: Sequence(acknowledged),
        operation,
    }
}

fn outcomes(effects: &[Effect]) -> Vec<(u64, u64, Outcome)> {
    let replies = effects.iter().filter_map(|effect| match effect {
        Effect::Reply {
            session,
            sequence,
            outcome,
            ..
        } => Some((session.0, sequence.0, outcome.clone())),
        _ => None,
    });
    replies.collect()
}

fn granted_token(effects: &[Effect], session: u64, sequence: Sequence) -> Option<Token> {
    outcomes(effects)
        .into_iter()
        .filter(|(s, q, _)| (*s, *q) == (session, sequence.0))
        .find_map(|(_, _, outcome)| outcome.granted_token())
}

/// The grant of one lock.
fn granted(token: u64) -> Outcome {
    Outcome::Granted(vec![Grant {
        want: 0,
        token: Token(token),
        slot: 0,
    }])
}

fn shared(lock: &str, wait: Wait) -> Acquire {
    Acquire::one(name(lock), Mode::Shared, wait)
}

fn exclusive(lock: &str, wait: Wait) -> Acquire {
    Acquire::one(name(lock), Mode::Exclusive, wait)
}

fn permit(lock: &str, of: u32, wait: Wait) -> Acquire {
    Acquire::one(name(lock), Mode::Permit { of }, wait)
}

/// The same for a session's owner of this name.
fn owned(owner: &str, reentries: u32, acquire: Acquire) -> Acquire {
    let owner = Some(Owner {
        name: owner.to_owned(),
        reentries,
    });
    Acquire { owner, ..acquire }
}

fn all_of(locks: &[&str], wait: Wait) -> Acquire {
    several(Wants::All, locks, wait)
}

fn any_of(locks: &[&str], wait: Wait) -> Acquire {
    several(Wants::Any, locks, wait)
}

fn several(kind: impl FnOnce(Vec<Want>) -> Wants, locks: &[&str], wait: Wait) -> Acquire {
    let wants = locks.iter().map(|lock| Want {
        lock: name(lock),
        mode: Mode::Exclusive,
    });
    Acquire {
        wants: kind(wants.collect()),
        ..Acquire::one(name("x"), Mode::Exclusive, wait)
    }
}

/// What has changed, in order: the number, what happened, to which lock, under which token.
fn changes(effects: &[Effect]) -> Vec<(u64, Change, &str, u64)> {
    let changes = effects.iter().filter_map(|effect| match effect {
        Effect::Changed(event) => {
            let holder = &event.holder;
            let (lock, token) = (holder.lock.as_str(), holder.token.0);
            Some((event.number.0, event.change, lock, token))
        }
        _ => None,
    });
    changes.collect()
}

/// Why the only reply refuses, if it does.
fn refusal(effects: &[Effect]) -> Option<Refusal> {
    match &outcomes(effects)[..] {
        [(_, _, Outcome::Refused(refusal))] => Some(refusal.clone()),
        _ => None,
    }
}

/// Whose acquisitions were granted, in order.
fn granted_to(effects: &[Effect]) -> Vec<u64> {
    outcomes(effects)
        .into_iter()
        .filter(|(_, _, outcome)| outcome.granted_token().is_some())
        .map(|(session, _, _)| session)
        .collect()
}
