//! Which locks a client wants next, by workload.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::driver::Want;
use crate::models::LockModel;
use crate::oracle::{ClientIndex, LockIndex};

/// Locks that a client of `multi-lock` takes at a time.
const LOCKS_AT_A_TIME: usize = 3;

/// Exponent of `zipf`: of the usual benchmarks of key-value stores.
const ZIPF_EXPONENT: f64 = 0.99;

/// Which locks the clients want.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Every client its own lock.
    Uncontended,
    /// All clients the same lock.
    Contended,
    /// Each time one of --locks, few of them often (Zipf's law).
    Zipf,
    /// All clients the same lock, --reads of a hundred times as shared.
    ReadersWriters,
    /// All clients one of the --permits of the same semaphore.
    Semaphore,
    /// Each time three of --locks at once.
    MultiLock,
}

/// The numbers of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
pub struct Shape {
    /// How many locks `zipf` and `multi-lock` choose from.
    #[arg(long, default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(3..=1_000_000))]
    pub locks: u32,
    /// Permits of the semaphore of `semaphore`.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub permits: u32,
    /// How many of a hundred cycles of `readers-writers` read.
    #[arg(long, default_value_t = 90, value_name = "PERCENT",
          value_parser = clap::value_parser!(u32).range(0..=100))]
    pub reads: u32,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape {
            locks: 1000,
            permits: 4,
            reads: 90,
        }
    }
}

impl Workload {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Workload::Uncontended => "uncontended",
            Workload::Contended => "contended",
            Workload::Zipf => "zipf",
            Workload::ReadersWriters => "readers-writers",
            Workload::Semaphore => "semaphore",
            Workload::MultiLock => "multi-lock",
        }
    }

    /// Whether every lock service has such locks.
    #[must_use]
    pub fn is_plain(self) -> bool {
        matches!(
            self,
            Workload::Uncontended | Workload::Contended | Workload::Zipf
        )
    }

    /// How many locks so many clients use, as the oracle counts them: each permit is one.
    #[must_use]
    pub fn locks(self, clients: usize, shape: Shape) -> usize {
        match self {
            Workload::Uncontended => clients,
            Workload::Contended | Workload::ReadersWriters => 1,
            Workload::Zipf | Workload::MultiLock => shape.locks as usize,
            Workload::Semaphore => shape.permits as usize,
        }
    }

    /// What each of its locks is.
    #[must_use]
    pub fn model(self, shape: Shape) -> LockModel {
        match self {
            Workload::Semaphore => LockModel::semaphore(shape.permits),
            _ => LockModel::FENCED_MUTEX,
        }
    }
}

/// What a client wants to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The locks by their numbers, each once.
    pub locks: Vec<LockIndex>,
    /// How they are wanted.
    pub kind: Kind,
}

/// How locks are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Beside nobody.
    Exclusive,
    /// Beside others who want it as shared.
    Shared,
    /// One of so many permits.
    Permit(u32),
}

impl Choice {
    /// What to ask a lock service for, where each lock has this name.
    #[must_use]
    pub fn want<'a>(&self, names: &'a [String]) -> Want<'a> {
        let name = |lock: &LockIndex| names[lock.0].as_str();
        match (self.kind, self.locks.as_slice()) {
            (Kind::Exclusive, [lock]) => Want::Exclusive(name(lock)),
            (Kind::Shared, [lock]) => Want::Shared(name(lock)),
            (Kind::Permit(of), [lock]) => Want::Permit {
                lock: name(lock),
                of,
            },
            (_, locks) => Want::All(locks.iter().map(name).collect()),
        }
    }
}

/// Chooses.
pub struct Chooser {
    workload: Workload,
    shape: Shape,
    /// For each lock of `zipf`: how often it or one before it is wanted.
    cumulative: Vec<f64>,
}

impl Chooser {
    /// For this workload.
    #[must_use]
    pub fn new(workload: Workload, shape: Shape) -> Chooser {
        let mut sum = 0.0;
        let weights = (1..=shape.locks).map(|rank| {
            sum += f64::from(rank).powf(-ZIPF_EXPONENT);
            sum
        });
        let cumulative = match workload {
            Workload::Zipf => weights.collect(),
            _ => Vec::new(),
        };
        Chooser {
            workload,
            shape,
            cumulative,
        }
    }

    /// What this client wants next.
    pub fn next(&self, client: ClientIndex) -> Choice {
        let one = |lock, kind| Choice {
            locks: vec![LockIndex(lock)],
            kind,
        };
        match self.workload {
            Workload::Uncontended => one(client.0, Kind::Exclusive),
            Workload::Contended => one(0, Kind::Exclusive),
            Workload::Zipf => one(self.zipf(), Kind::Exclusive),
            Workload::ReadersWriters => {
                let reads = rand::random_range(0..100) < self.shape.reads;
                let kind = if reads { Kind::Shared } else { Kind::Exclusive };
                one(0, kind)
            }
            Workload::Semaphore => one(0, Kind::Permit(self.shape.permits)),
            Workload::MultiLock => self.several(),
        }
    }

    fn zipf(&self) -> usize {
        let total = self.cumulative.last().copied().unwrap_or(0.0);
        let at = rand::random::<f64>() * total;
        let lock = self.cumulative.partition_point(|sum| *sum <= at);
        lock.min(self.cumulative.len().saturating_sub(1))
    }

    fn several(&self) -> Choice {
        let mut locks: Vec<LockIndex> = Vec::with_capacity(LOCKS_AT_A_TIME);
        let wanted = LOCKS_AT_A_TIME.min(self.shape.locks as usize);
        while locks.len() < wanted {
            let lock = LockIndex(rand::random_range(0..self.shape.locks as usize));
            if !locks.contains(&lock) {
                locks.push(lock);
            }
        }
        Choice {
            locks,
            kind: Kind::Exclusive,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: ClientIndex = ClientIndex(3);

    fn choices(workload: Workload, shape: Shape) -> Vec<Choice> {
        let chooser = Chooser::new(workload, shape);
        (0..10_000).map(|_| chooser.next(CLIENT)).collect()
    }

    #[test]
    fn a_client_of_its_own_lock_wants_no_other_and_all_want_the_contended_one() {
        let own = Choice {
            locks: vec![LockIndex(3)],
            kind: Kind::Exclusive,
        };
        let shape = Shape::default();
        assert!(
            choices(Workload::Uncontended, shape)
                .iter()
                .all(|it| *it == own)
        );
        let contended = choices(Workload::Contended, shape);
        assert!(contended.iter().all(|it| it.locks == [LockIndex(0)]));
    }

    #[test]
    fn zipf_wants_few_locks_often_and_every_lock_within_its_number() {
        let shape = Shape {
            locks: 100,
            ..Shape::default()
        };
        let mut counts = vec![0; 100];
        for choice in choices(Workload::Zipf, shape) {
            counts[choice.locks[0].0] += 1;
        }
        // The first lock's share is 1 of 5.3, the last one's 1 of 500.
        assert!(counts[0] > 1000 && counts[99] < 200, "{counts:?}");
    }

    #[test]
    fn three_different_locks_are_wanted_at_once_even_of_three() {
        for locks in [3, 1000] {
            let shape = Shape {
                locks,
                ..Shape::default()
            };
            for choice in choices(Workload::MultiLock, shape) {
                let mut numbers: Vec<usize> = choice.locks.iter().map(|lock| lock.0).collect();
                numbers.sort_unstable();
                numbers.dedup();
                assert_eq!(numbers.len(), 3);
                assert!(numbers.iter().all(|lock| *lock < locks as usize));
            }
        }
    }

    #[test]
    fn readers_and_writers_come_in_the_given_proportion() {
        let reads = |percent| {
            let shape = Shape {
                reads: percent,
                ..Shape::default()
            };
            let choices = choices(Workload::ReadersWriters, shape);
            choices.iter().filter(|it| it.kind == Kind::Shared).count()
        };
        assert_eq!((reads(0), reads(100)), (0, 10_000));
        assert!((8_000..9_900).contains(&reads(90)));
    }

    #[test]
    fn what_is_asked_for_has_the_lock_s_names() {
        let names: Vec<String> = ["a", "b"].map(str::to_owned).to_vec();
        let of = |locks: &[usize], kind| Choice {
            locks: locks.iter().map(|lock| LockIndex(*lock)).collect(),
            kind,
        };
        let want = |choice: Choice| format!("{:?}", choice.want(&names));
        assert_eq!(want(of(&[1], Kind::Exclusive)), "Exclusive(\"b\")");
        assert_eq!(want(of(&[0], Kind::Shared)), "Shared(\"a\")");
        let permit = want(of(&[0], Kind::Permit(4)));
        assert_eq!(permit, "Permit { lock: \"a\", of: 4 }");
        assert_eq!(want(of(&[1, 0], Kind::Exclusive)), "All([\"b\", \"a\"])");
    }
}
