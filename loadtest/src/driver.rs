//! What a workload needs of a lock service, so that the same work can be put on any of them.
//!
//! A driver is one client with a session of its own. It is called by one task at a time, and
//! dispatched statically: the harness must cost less than what it measures.

pub mod etcd;
pub mod lockd;
pub mod mariadb;
pub mod polling;
pub mod postgres;
pub mod redis;
pub mod redlock;
pub mod zookeeper;

use std::fmt;
use std::future::Future;
use std::time::Duration;

/// A client of a lock service.
pub trait Driver {
    /// A lock that is held.
    type Guard: Guard;

    /// Takes the lock, waiting for it as long as it takes.
    ///
    /// # Errors
    /// [`Trouble`], when it was not acquired. The caller may ask again.
    fn acquire(&mut self, lock: &str) -> impl Future<Output = Result<Self::Guard, Trouble>>;

    /// The same of what not every lock service has.
    ///
    /// # Errors
    /// [`Trouble`], also when this one does not have it.
    fn take(&mut self, want: Want<'_>) -> impl Future<Output = Result<Self::Guard, Trouble>> {
        async move {
            match want {
                Want::Exclusive(lock) => self.acquire(lock).await,
                other => Err(Trouble::new(format!("cannot acquire {other:?} here"))),
            }
        }
    }

    /// Gives the lock back.
    ///
    /// # Errors
    /// [`Trouble`], when it is not known whether it was given back.
    fn release(&mut self, guard: Self::Guard) -> impl Future<Output = Result<Released, Trouble>>;

    /// Ends the session.
    fn close(self) -> impl Future<Output = ()>;
}

/// What a client wants to hold.
#[derive(Clone, Debug)]
pub enum Want<'a> {
    /// A lock, beside nobody.
    Exclusive(&'a str),
    /// A lock, beside others who hold it as shared.
    Shared(&'a str),
    /// A permit of a semaphore.
    Permit {
        /// Its name.
        lock: &'a str,
        /// How many it has.
        of: u32,
    },
    /// All of these locks at once.
    All(Vec<&'a str>),
}

/// A lock that is held.
pub trait Guard {
    /// Number of the grant, of a service that gives one. It rises from grant to grant.
    fn token(&self) -> Option<u64>;

    /// The same of one of several locks that were acquired at once, in the order in which they were
    /// named.
    fn token_of(&self, _lock: usize) -> Option<u64> {
        self.token()
    }

    /// Which permit of a semaphore this is, counted from 0.
    fn slot(&self) -> usize {
        0
    }

    /// For how long from now the client may rely on holding the lock, if it hears nothing more.
    fn valid_for(&self) -> Duration;

    /// What a gateway wants to see, of a service that gives such a thing.
    fn ticket(&self) -> Option<String> {
        None
    }
}

/// How long a lock may be relied on that has no lease, and is held for as long as its connection
/// lives: longer than any run.
pub const WHILE_CONNECTED: Duration = Duration::from_secs(24 * 60 * 60);

/// Which member of a cluster each client connects to at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// All of them to the first.
    First,
    /// Each to another one.
    Spread,
}

impl Start {
    /// Number of the member to which this client connects, before it is wrapped around.
    fn of(self, client: usize) -> usize {
        match self {
            Start::First => 0,
            Start::Spread => client,
        }
    }
}

/// What a lock service answered to a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// The lock was held, and is not any more.
    Yes,
    /// The lock was not held (any more).
    NotHeld,
}

/// An operation that did not come to its end, as counted in the report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Trouble(pub String);

impl Trouble {
    /// Trouble of this description.
    pub fn new(what: impl fmt::Display) -> Trouble {
        Trouble(what.to_string())
    }
}

/// What tells a holder from all others, where the client has to say it.
fn random_owner() -> String {
    format!("{:032x}", rand::random::<u128>())
}
