//! The search for an order in which a lock could have done what a history says: that of Wing and
//! Gong (1993), which remembers what it has tried (Lowe, 2017).
//!
//! An operation took effect at one moment between its call and its return. One that never returned
//! took effect at some moment after its call, or never.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashSet};
use std::fmt;

use super::lock::{LockModel, LockState, Op, Owner, Ret};

/// Configurations that are looked at before the search is given up.
const CONFIGURATIONS_MAX: usize = 100_000;

/// Operations that are listed in a refusal's description.
const LISTED_MAX: usize = 12;

/// An operation of a history. Times are of one clock, in any unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// When it was called.
    pub called: u64,
    /// What was asked.
    pub op: Op,
    /// When it returned, and with what; `None`: nobody knows what came of it.
    pub returned: Option<(u64, Ret)>,
}

/// What a check comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none.
    Refused(Refusal),
    /// The search was given up.
    Undecided,
}

impl Verdict {
    /// Whether no lock can have done this.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self, Verdict::Refused(_))
    }
}

/// Why there is no order: the longest that was found, and what cannot follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Operations in that order.
    pub ordered: usize,
    /// The lock after them.
    pub state: LockState,
    /// What would have to be next, and cannot have come to what it did.
    pub stuck: Vec<Operation>,
}

impl Refusal {
    /// The refusal in lines, with names for owners and for times.
    #[must_use]
    pub fn describe(&self, name: &dyn Fn(Owner) -> String, time: &dyn Fn(u64) -> String) -> String {
        let mut lines = vec![
            "no order of its operations explains their answers".to_owned(),
            format!(
                "  after {} of them it is {},",
                self.ordered,
                self.state.describe(name)
            ),
            "  and none of these can be next:".to_owned(),
        ];
        let line = |operation: &Operation| format!("    {}", operation.describe(name, time));
        lines.extend(self.stuck.iter().take(LISTED_MAX).map(line));
        if self.stuck.len() > LISTED_MAX {
            lines.push(format!("    and {} more", self.stuck.len() - LISTED_MAX));
        }
        lines.join("\n")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |owner: Owner| format!("session {} (owner {})", owner.session, owner.who);
        f.write_str(&self.describe(&name, &|time| time.to_string()))
    }
}

impl Operation {
    fn describe(&self, name: &dyn Fn(Owner) -> String, time: &dyn Fn(u64) -> String) -> String {
        let called = time(self.called);
        match self.returned {
            Some((at, ret)) => format!(
                "{called} to {}  {}: {}",
                time(at),
                self.op.describe(name),
                ret.describe()
            ),
            None => format!("{called}  {}: no answer", self.op.describe(name)),
        }
    }
}

/// What has taken effect so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Configuration {
    /// Every operation that returned before this one, in order of calls.
    before: usize,
    /// Of those behind it, these.
    beyond: BTreeSet<usize>,
    /// Of those that never returned, these.
    unseen: BTreeSet<usize>,
    state: LockState,
}

/// The same of as much of the beginning as can be decided; how many operations that is. What
/// returned later than the last of them was called might follow from what comes after, and is not
/// looked at.
#[must_use]
pub fn check_beginning(model: LockModel, history: &[Operation]) -> (Verdict, usize) {
    let mut history = history.to_vec();
    history.sort_by_key(|operation| operation.called);
    loop {
        match check(model, &history) {
            Verdict::Undecided => {}
            verdict => return (verdict, history.len()),
        }
        history.truncate(history.len() / 2);
        let end = history.last().map_or(0, |last| last.called);
        for operation in &mut history {
            operation.returned = operation.returned.filter(|(at, _)| *at <= end);
        }
    }
}

/// Whether a lock of this kind can have had this history.
#[must_use]
pub fn check(model: LockModel, history: &[Operation]) -> Verdict {
    let mut search = Search::new(model, history);
    let mut stack = vec![Configuration::default()];
    let mut known: HashSet<Configuration> = HashSet::new();
    while let Some(configuration) = stack.pop() {
        if configuration.before == search.seen.len() {
            return Verdict::Linearizable;
        }
        if known.len() >= CONFIGURATIONS_MAX {
            return Verdict::Undecided;
        }
        // The last one is tried first: what was seen before what was not, low fences before high.
        if known.insert(configuration.clone()) {
            stack.extend(search.after(&configuration));
        }
    }
    Verdict::Refused(search.refusal())
}

struct Search {
    model: LockModel,
    /// Operations that returned, in order of calls.
    seen: Vec<(Operation, u64, Ret)>,
    /// Those that did not.
    unseen: Vec<Operation>,
    /// The configuration in which most had taken effect.
    furthest: Configuration,
}

impl Search {
    fn new(model: LockModel, history: &[Operation]) -> Search {
        let mut history = history.to_vec();
        history.sort_by_key(|operation| operation.called);
        let seen = history.iter().filter_map(|operation| {
            let (at, ret) = operation.returned?;
            Some((*operation, at, ret))
        });
        let seen = seen.collect();
        history.retain(|operation| operation.returned.is_none());
        Search {
            model,
            seen,
            unseen: history,
            furthest: Configuration::default(),
        }
    }

    /// Every configuration that one more operation leads to.
    fn after(&mut self, from: &Configuration) -> Vec<Configuration> {
        let done = |it: &Configuration| it.before + it.beyond.len();
        if done(from) > done(&self.furthest) {
            self.furthest = from.clone();
        }
        let first_return = self.first_return(from);
        let mut next = Vec::new();
        for (at, operation) in self.unseen.iter().enumerate().rev() {
            if operation.called > first_return || from.unseen.contains(&at) {
                continue;
            }
            let step = self
                .model
                .step(&from.state, operation.op, operation.op.unseen());
            // What changes nothing need not take effect.
            if let Some(state) = step.filter(|state| *state != from.state) {
                let mut to = Configuration {
                    state,
                    ..from.clone()
                };
                to.unseen.insert(at);
                next.push(to);
            }
        }
        let fence = |ret: &Ret| match ret {
            Ret::Granted(fence) => fence.unwrap_or(0),
            _ => 0,
        };
        let mut pending: Vec<_> = self.pending(from).collect();
        pending.sort_by_key(|(at, (_, _, ret))| Reverse((fence(ret), *at)));
        for (at, (operation, _, ret)) in pending {
            if let Some(state) = self.model.step(&from.state, operation.op, *ret) {
                let mut to = Configuration {
                    state,
                    ..from.clone()
                };
                to.beyond.insert(at);
                while to.beyond.remove(&to.before) {
                    to.before += 1;
                }
                next.push(to);
            }
        }
        next
    }

    /// When the first of those returned that have not taken effect. Whatever was called later came
    /// after it.
    fn first_return(&self, from: &Configuration) -> u64 {
        let mut first = u64::MAX;
        for (at, (operation, returned, _)) in self.seen.iter().enumerate().skip(from.before) {
            if operation.called > first {
                break;
            }
            if !from.beyond.contains(&at) {
                first = first.min(*returned);
            }
        }
        first
    }

    /// Operations that may take effect next.
    fn pending<'a>(
        &'a self,
        from: &'a Configuration,
    ) -> impl DoubleEndedIterator<Item = (usize, &'a (Operation, u64, Ret))> {
        let first_return = self.first_return(from);
        let behind = self.seen[from.before..]
            .partition_point(|(operation, _, _)| operation.called <= first_return);
        let candidates = self.seen.iter().enumerate();
        candidates
            .take(from.before + behind)
            .skip(from.before)
            .filter(|(at, _)| !from.beyond.contains(at))
    }

    fn refusal(&self) -> Refusal {
        let from = &self.furthest;
        Refusal {
            ordered: from.before + from.beyond.len(),
            state: from.state.clone(),
            stuck: self
                .pending(from)
                .map(|(_, (operation, ..))| *operation)
                .collect(),
        }
    }
}
