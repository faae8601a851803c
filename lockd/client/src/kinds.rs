//! Locks of several kinds: how each of them starts an acquisition.

use std::sync::Arc;

use lockd_protocol::client::{Want, Wants};
use lockd_protocol::limits::WANTS_MAX;
use lockd_protocol::{InvalidName, Mode};
use rand::seq::SliceRandom;

use crate::check;
use crate::client::Client;
use crate::lock::{LockBuilder, NameArg, WantArg};

impl Client {
    /// Starts an acquisition of the lock `name`, exclusively.
    pub fn lock(&self, name: impl Into<NameArg>) -> LockBuilder {
        self.one(name.into(), Mode::Exclusive)
    }

    /// A lock that is read by many or written by one.
    #[must_use]
    pub fn rw_lock(&self, name: impl Into<NameArg>) -> RwLock {
        RwLock {
            client: self.clone(),
            name: name.into(),
        }
    }

    /// A semaphore of so many permits. Everybody who uses it at a time has to name the same number.
    #[must_use]
    pub fn semaphore(&self, name: impl Into<NameArg>, permits: u32) -> Semaphore {
        Semaphore {
            client: self.clone(),
            name: name.into(),
            permits,
        }
    }

    /// Starts an acquisition of all these locks, in one step: never of some of them. So nobody who
    /// takes what it needs in this way waits for anybody who waits for it.
    ///
    /// Give names, or names with a [`Mode`] each.
    pub fn all_of<W: Into<WantArg>>(&self, wants: impl IntoIterator<Item = W>) -> LockBuilder {
        self.several(wants, Wants::All)
    }

    /// Starts an acquisition of one of these locks: the first in this order that is free, or else
    /// the first that becomes free. The guard's name says which one it is.
    pub fn any_of<W: Into<WantArg>>(&self, wants: impl IntoIterator<Item = W>) -> LockBuilder {
        self.several(wants, Wants::Any)
    }

    /// A lock in `count` segments, `name/0` and so on, any of which will do.
    #[must_use]
    pub fn segments(&self, name: impl Into<NameArg>, count: u32) -> Segments {
        Segments {
            client: self.clone(),
            name: name.into(),
            count,
        }
    }

    fn one(&self, name: NameArg, mode: Mode) -> LockBuilder {
        let want = WantArg::new(name, mode).0;
        LockBuilder::new(Arc::clone(&self.session), want.map(Wants::One))
    }

    fn several<W: Into<WantArg>>(
        &self,
        wants: impl IntoIterator<Item = W>,
        kind: impl FnOnce(Vec<Want>) -> Wants,
    ) -> LockBuilder {
        let wants: Result<Vec<Want>, InvalidName> =
            wants.into_iter().map(|want| want.into().0).collect();
        LockBuilder::new(Arc::clone(&self.session), wants.map(kind))
    }
}

/// A lock that is read by many or written by one. Whoever waits to write is not overtaken by those
/// who come later to read.
#[derive(Clone, Debug)]
pub struct RwLock {
    client: Client,
    name: NameArg,
}

impl RwLock {
    /// Starts an acquisition to read: beside other readers, and beside no writer.
    pub fn read(&self) -> LockBuilder {
        self.client.one(self.name.clone(), Mode::Shared)
    }

    /// Starts an acquisition to write: beside nobody. [`LockGuard::downgrade`] makes a reader of
    /// the writer; the other way round is refused, since two that upgrade wait for each other.
    ///
    /// [`LockGuard::downgrade`]: crate::LockGuard::downgrade
    pub fn write(&self) -> LockBuilder {
        self.client.one(self.name.clone(), Mode::Exclusive)
    }
}

/// A semaphore: so many may hold it at the same time. Each permit is a numbered slot with a fence
/// of its own, so that a new holder of slot 3 fences off the old holder of slot 3, and nobody else.
#[derive(Clone, Debug)]
pub struct Semaphore {
    client: Client,
    name: NameArg,
    permits: u32,
}

impl Semaphore {
    /// Starts an acquisition of one permit. The guard's [`slot`](crate::LockGuard::slot) says
    /// which.
    pub fn acquire(&self) -> LockBuilder {
        let of = self.permits;
        self.client.one(self.name.clone(), Mode::Permit { of })
    }
}

/// A lock in segments, any of which will do: the more there are, the less anybody waits.
#[derive(Clone, Debug)]
pub struct Segments {
    client: Client,
    name: NameArg,
    count: u32,
}

impl Segments {
    /// Starts an acquisition of one segment, from a random one on.
    pub fn any(&self) -> LockBuilder {
        let allowed = 1..=WANTS_MAX as u32;
        if !allowed.contains(&self.count) {
            let problem = format!(
                "are {}: one acquisition names {} to {} locks",
                self.count,
                allowed.start(),
                allowed.end()
            );
            let none = self.client.any_of::<NameArg>([]);
            return none.invalid(check::invalid("segments", problem));
        }
        let mut numbers: Vec<u32> = (0..self.count).collect();
        numbers.shuffle(&mut rand::rng());
        let names = numbers.into_iter().map(|number| match &self.name.0 {
            Ok(name) => NameArg::from(format!("{name}/{number}")),
            Err(error) => NameArg(Err(*error)),
        });
        self.client.any_of(names)
    }

    /// Starts an acquisition of the one segment that belongs to `key`, always the same one.
    pub fn of(&self, key: &[u8]) -> LockBuilder {
        // FNV-1a: the same in every program and for ever, which std's hasher does not promise.
        let hash = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let number = hash % u64::from(self.count.max(1));
        let name = match &self.name.0 {
            Ok(name) => NameArg::from(format!("{name}/{number}")),
            Err(error) => NameArg(Err(*error)),
        };
        self.client.one(name, Mode::Exclusive)
    }
}
