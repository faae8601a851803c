//! A lock, one operation after the other.

use std::collections::BTreeMap;

/// Who holds a lock: somebody of a session. What has no owner is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// The session.
    pub session: u64,
    /// Who of it.
    pub who: u64,
}

/// What was asked of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// To hold it, or one of its permits.
    Acquire {
        /// On whose behalf.
        owner: Owner,
        /// Beside others who hold it as shared.
        shared: bool,
    },
    /// To give it back, once.
    Release {
        /// Who held it.
        owner: Owner,
    },
    /// To hold as shared what is held as exclusive.
    Downgrade {
        /// Who holds it.
        owner: Owner,
    },
    /// That everything of the session ends.
    End {
        /// Which session.
        session: u64,
    },
}

/// What came of it, if that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ret {
    /// It was granted, with this fence; `None`: with one that nobody saw.
    Granted(Option<u64>),
    /// It was done.
    Done,
    /// It was not done: not granted, or not held.
    Not,
}

/// What a lock is. Three switches make the five models of Hazelcast's tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockModel {
    /// How often one owner may hold it at the same time.
    pub entries: u32,
    /// Each grant has a fence above all before it; who enters again gets the one that it has.
    pub fenced: bool,
    /// How many may hold it at the same time.
    pub permits: u32,
}

impl LockModel {
    /// One owner at a time, who alone can give it back.
    pub const MUTEX: LockModel = LockModel {
        entries: 1,
        fenced: false,
        permits: 1,
    };
    /// The same, whose owner may enter twice.
    pub const REENTRANT_MUTEX: LockModel = LockModel {
        entries: 2,
        ..LockModel::MUTEX
    };
    /// One owner at a time, each under a higher fence.
    pub const FENCED_MUTEX: LockModel = LockModel {
        fenced: true,
        ..LockModel::MUTEX
    };
    /// The same, whose owner may enter twice, under one fence.
    pub const REENTRANT_FENCED_MUTEX: LockModel = LockModel {
        entries: 2,
        fenced: true,
        permits: 1,
    };

    /// So many at a time.
    #[must_use]
    pub fn semaphore(permits: u32) -> LockModel {
        LockModel {
            permits,
            ..LockModel::MUTEX
        }
    }
}

/// Who holds the lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LockState {
    holders: BTreeMap<Owner, Holder>,
    /// The highest fence that was seen.
    highest: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Holder {
    times: u32,
    shared: bool,
    fence: Option<u64>,
}

impl LockState {
    /// Who holds it, in words, with names for owners.
    #[must_use]
    pub fn describe(&self, name: &dyn Fn(Owner) -> String) -> String {
        if self.holders.is_empty() {
            return format!("free (highest token so far: {})", self.highest);
        }
        let holders = self.holders.iter().map(|(owner, holder)| {
            let token = match holder.fence {
                Some(fence) => format!(" under token {fence}"),
                None => String::new(),
            };
            let shared = if holder.shared { ", as shared" } else { "" };
            let times = match holder.times {
                1 => String::new(),
                times => format!(", {times} times"),
            };
            format!("held by {}{token}{shared}{times}", name(*owner))
        });
        holders.collect::<Vec<_>>().join(" and ")
    }
}

impl LockModel {
    /// The state after an operation that came to this, if it can have.
    #[must_use]
    pub fn step(&self, state: &LockState, op: Op, ret: Ret) -> Option<LockState> {
        match (op, ret) {
            (Op::Acquire { owner, shared }, Ret::Granted(fence)) => {
                self.grant(state, owner, shared, fence)
            }
            // A lock may always refuse: somebody else waits, or the wait was too short.
            (Op::Acquire { .. }, Ret::Not) => Some(state.clone()),
            (Op::Release { owner }, Ret::Done) => {
                let mut state = state.clone();
                let holder = state.holders.get_mut(&owner)?;
                holder.times -= 1;
                if holder.times == 0 {
                    state.holders.remove(&owner);
                }
                Some(state)
            }
            (Op::Downgrade { owner }, Ret::Done) => {
                let mut state = state.clone();
                state.holders.get_mut(&owner)?.shared = true;
                Some(state)
            }
            (Op::Release { owner } | Op::Downgrade { owner }, Ret::Not) => {
                (!state.holders.contains_key(&owner)).then(|| state.clone())
            }
            (Op::End { session }, Ret::Done) => {
                let mut state = state.clone();
                state.holders.retain(|owner, _| owner.session != session);
                Some(state)
            }
            _ => None,
        }
    }

    fn grant(
        &self,
        state: &LockState,
        owner: Owner,
        shared: bool,
        fence: Option<u64>,
    ) -> Option<LockState> {
        let mut state = state.clone();
        if let Some(holder) = state.holders.get_mut(&owner) {
            let same = match (holder.fence, fence) {
                (Some(held), Some(fence)) => held == fence || !self.fenced,
                _ => true,
            };
            if holder.times >= self.entries || !same {
                return None;
            }
            holder.times += 1;
            holder.fence = holder.fence.or(fence);
            return Some(state);
        }
        let beside = state.holders.values().all(|holder| holder.shared && shared);
        let room = state.holders.len() < self.permits as usize;
        let later = fence.is_none_or(|fence| fence > state.highest);
        if !(beside || room) || (self.fenced && !later) {
            return None;
        }
        state.highest = state.highest.max(fence.unwrap_or(0));
        let holder = Holder {
            times: 1,
            shared,
            fence,
        };
        state.holders.insert(owner, holder);
        Some(state)
    }
}

impl Op {
    /// What it comes to when it takes effect and nobody sees how.
    #[must_use]
    pub fn unseen(self) -> Ret {
        match self {
            Op::Acquire { .. } => Ret::Granted(None),
            _ => Ret::Done,
        }
    }

    /// Who asks for what, in words, with names for owners.
    #[must_use]
    pub fn describe(self, name: &dyn Fn(Owner) -> String) -> String {
        match self {
            Op::Acquire { owner, shared } => {
                let shared = if shared { " it as shared" } else { "" };
                format!("{} acquires{shared}", name(owner))
            }
            Op::Release { owner } => format!("{} releases", name(owner)),
            Op::Downgrade { owner } => format!("{} downgrades", name(owner)),
            Op::End { session } => {
                format!("the session of {} ends", name(Owner { session, who: 0 }))
            }
        }
    }
}

impl Ret {
    /// The answer, in words.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Ret::Granted(Some(fence)) => format!("granted under token {fence}"),
            Ret::Granted(None) => "granted".to_owned(),
            Ret::Done => "done".to_owned(),
            Ret::Not => "not granted, or not held".to_owned(),
        }
    }
}
