//! What each lock of a run was asked and what it answered, to be held against the model of a fenced
//! mutex when the run is over.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::driver::Released;
use crate::models::check::Operation;
use crate::models::{LockModel, Op, Owner, Ret, Verdict, check_beginning};
use crate::oracle::{ClientIndex, LockIndex};

/// Locks that are looked at: the first ones.
const LOCKS_MAX: usize = 128;

/// Operations of a lock that are kept: the first ones.
const OPERATIONS_MAX: usize = 6000;

/// The histories of a run.
pub struct Histories {
    begun: Instant,
    model: LockModel,
    locks: BTreeMap<usize, Vec<Operation>>,
    /// Which session of each client this is: one that had trouble may have lost its session.
    sessions: BTreeMap<usize, u64>,
}

/// An operation under way.
#[derive(Clone, Copy, Debug)]
pub struct Asked(Option<(usize, usize)>);

/// What the histories came to.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Judged {
    /// Locks whose histories were looked at.
    pub locks: u64,
    /// Operations in them.
    pub operations: u64,
    /// Histories that no lock can have, and why.
    pub refused: Vec<String>,
}

impl Histories {
    /// Of locks of this kind, to which nothing has happened yet.
    #[must_use]
    pub fn new(model: LockModel, begun: Instant) -> Histories {
        Histories {
            begun,
            model,
            locks: BTreeMap::new(),
            sessions: BTreeMap::new(),
        }
    }

    fn time(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.begun);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn owner(&self, client: ClientIndex) -> Owner {
        let session = self.sessions.get(&client.0).copied().unwrap_or(0);
        Owner {
            session: (client.0 as u64) << 32 | session,
            who: 0,
        }
    }

    fn add(&mut self, at: Instant, lock: LockIndex, op: Op) -> Asked {
        let called = self.time(at);
        if lock.0 >= LOCKS_MAX {
            return Asked(None);
        }
        let operations = self.locks.entry(lock.0).or_default();
        let ends = matches!(op, Op::End { .. });
        if operations.len() >= OPERATIONS_MAX && !ends {
            return Asked(None);
        }
        operations.push(Operation {
            called,
            op,
            returned: None,
        });
        Asked(Some((lock.0, operations.len() - 1)))
    }

    fn returned(&mut self, at: Instant, asked: Asked, ret: Ret) {
        let at = self.time(at);
        let Some((lock, index)) = asked.0 else {
            return;
        };
        if let Some(operations) = self.locks.get_mut(&lock)
            // What returns when no more is kept may follow from that.
            && operations.len() < OPERATIONS_MAX
        {
            operations[index].returned = Some((at, ret));
        }
    }

    /// A client asks for a lock, beside nobody else or as shared.
    pub fn asks(
        &mut self,
        client: ClientIndex,
        lock: LockIndex,
        shared: bool,
        at: Instant,
    ) -> Asked {
        let owner = self.owner(client);
        self.add(at, lock, Op::Acquire { owner, shared })
    }

    /// It was granted.
    pub fn granted(&mut self, asked: Asked, token: u64, at: Instant) {
        self.returned(at, asked, Ret::Granted(Some(token)));
    }

    /// A client gives a lock back.
    pub fn lets_go(&mut self, client: ClientIndex, lock: LockIndex, at: Instant) -> Asked {
        let owner = self.owner(client);
        self.add(at, lock, Op::Release { owner })
    }

    /// The cell has answered that.
    pub fn released(&mut self, asked: Asked, answer: Released, at: Instant) {
        let ret = match answer {
            Released::Yes => Ret::Done,
            Released::NotHeld => Ret::Not,
        };
        self.returned(at, asked, ret);
    }

    /// The client's session may be over, from this time on at the earliest.
    pub fn may_end(&mut self, client: ClientIndex, lock: LockIndex, from: Instant) {
        let session = self.owner(client).session;
        self.add(from, lock, Op::End { session });
    }

    /// Something failed: the client goes on, perhaps with another session.
    pub fn goes_on(&mut self, client: ClientIndex) {
        *self.sessions.entry(client.0).or_default() += 1;
    }

    /// Looks at all of them.
    #[must_use]
    pub fn judge(&self) -> Judged {
        let mut judged = Judged::default();
        for (lock, operations) in &self.locks {
            let (verdict, looked_at) = check_beginning(self.model, operations);
            judged.locks += 1;
            judged.operations += looked_at as u64;
            if let Verdict::Refused(refusal) = verdict {
                let story = refusal.describe(&client_name, &seconds);
                judged.refused.push(format!("lock {lock}: {story}"));
            }
        }
        judged
    }
}

/// A client, and which of its sessions, if it has lost one.
fn client_name(owner: Owner) -> String {
    let (client, session) = (owner.session >> 32, owner.session & u64::from(u32::MAX));
    match session {
        0 => format!("client {client}"),
        session => format!("client {client} (session {})", session + 1),
    }
}

/// When it was, since the run began.
fn seconds(nanoseconds: u64) -> String {
    format!("{:.6} s", nanoseconds as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_refused_history_is_told_by_clients_and_seconds() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut histories = Histories::new(LockModel::FENCED_MUTEX, begun);
        let lock = LockIndex(0);
        histories.goes_on(ClientIndex(1));
        let first = histories.asks(ClientIndex(0), lock, false, at(0));
        histories.granted(first, 1, at(1));
        let second = histories.asks(ClientIndex(1), lock, false, at(2));
        histories.granted(second, 2, at(3));
        let judged = histories.judge();
        assert_eq!(judged.refused.len(), 1);
        let lines: Vec<&str> = judged.refused[0].lines().collect();
        assert_eq!(
            lines,
            [
                "lock 0: no order of its operations explains their answers",
                "  after 1 of them it is held by client 0 under token 1,",
                "  and none of these can be next:",
                "    0.002000 s to 0.003000 s  client 1 (session 2) acquires: \
                 granted under token 2",
            ]
        );
    }

    #[test]
    fn readers_may_overlap_and_a_writer_may_not() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let refused = |writes: bool| {
            let mut histories = Histories::new(LockModel::FENCED_MUTEX, begun);
            let (lock, shared) = (LockIndex(0), true);
            let first = histories.asks(ClientIndex(0), lock, shared, at(0));
            histories.granted(first, 1, at(1));
            let second = histories.asks(ClientIndex(1), lock, !writes, at(2));
            histories.granted(second, 2, at(3));
            histories.judge().refused.len()
        };
        assert_eq!((refused(false), refused(true)), (0, 1));
    }
}
