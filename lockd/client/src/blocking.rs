//! The client for programs that are not async. Nothing is done here but waiting: the client is the
//! same, and so are its locks, guards and errors.
//!
//! ```
//! use lockd_client::{Client, Wait};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let cell = lockd::dev::DevCell::start(None)?;
//! # let client_toml = cell.client_config();
//! let client = Client::builder().config_file(client_toml)?.connect_blocking()?;
//! let guard = client.lock("orders/42").wait(Wait::For(Duration::from_secs(5))).acquire()?;
//! for _step in 0..3 {
//!     guard.check()?; // an error once the lock must not be relied on any more
//!     // ... a part of the work ...
//! }
//! guard.release()?;
//! # client.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! The sessions are renewed by a thread of the client's own, and that is also whose timers these
//! methods wait by. Inside an async runtime they would stop everything else that runs there, so
//! they refuse with [`CannotBlock::InsideRuntime`]. That includes tokio's `spawn_blocking`, where
//! the async client can be used with `Handle::block_on`.

use std::ops::Deref;
use std::time::Duration;

use lockd_protocol::client::{LockDetail, LockSummary, SessionSummary};
use tokio::runtime::Handle;

use crate::background::Background;
use crate::builder::ClientBuilder;
use crate::error::{
    AcquireError, BreakError, CannotBlock, ConnectError, DowngradeError, LostReason, QueryError,
    ReleaseError, ReleaseOutcome,
};
use crate::handle::Shared;
use crate::lock::{NameArg, Wait, WantArg};
use crate::slot::Broken;

impl ClientBuilder {
    /// Connects to the cell and opens a session, for a program that is not async.
    ///
    /// # Errors
    /// [`ConnectError`], like [`connect`](ClientBuilder::connect).
    pub fn connect_blocking(self) -> Result<Client, ConnectError> {
        if self.background_chosen() == Some(Background::CallersRuntime) {
            let problem = "do not go together: there is no caller's runtime".to_owned();
            let field = "background and connect_blocking";
            return Err(ConnectError::Invalid { field, problem });
        }
        outside_of_runtimes()?;
        // Only for the time until the client has a thread, and with it timers.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(ConnectError::Thread)?;
        runtime.block_on(self.connect()).map(Client::from)
    }
}

fn outside_of_runtimes() -> Result<(), CannotBlock> {
    match Handle::try_current() {
        Ok(_) => Err(CannotBlock::InsideRuntime),
        Err(_) => Ok(()),
    }
}

/// The runtime by whose timers to wait, if one can wait here.
fn can_wait(shared: &Shared) -> Result<&Handle, CannotBlock> {
    outside_of_runtimes()?;
    shared.runtime.as_ref().ok_or(CannotBlock::WithoutRuntime)
}

/// Waits for what a client does.
fn wait<T>(shared: &Shared, work: impl Future<Output = T>) -> Result<T, CannotBlock> {
    can_wait(shared).map(|runtime| runtime.block_on(work))
}

/// A client of a cell, with a session of its own. See [`crate::Client`].
#[derive(Clone, Debug)]
pub struct Client(crate::Client);

impl From<crate::Client> for Client {
    fn from(client: crate::Client) -> Client {
        Client(client)
    }
}

impl Client {
    /// The async client, which shares the session.
    #[must_use]
    pub fn client(&self) -> &crate::Client {
        &self.0
    }

    /// Waits for something that the async client does.
    ///
    /// # Errors
    /// [`CannotBlock`].
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> Result<T, CannotBlock> {
        wait(&self.0.session.shared, work)
    }

    /// See [`crate::Client::lock`].
    pub fn lock(&self, name: impl Into<NameArg>) -> LockBuilder {
        LockBuilder(self.0.lock(name))
    }

    /// See [`crate::Client::rw_lock`].
    #[must_use]
    pub fn rw_lock(&self, name: impl Into<NameArg>) -> RwLock {
        RwLock(self.0.rw_lock(name))
    }

    /// See [`crate::Client::semaphore`].
    #[must_use]
    pub fn semaphore(&self, name: impl Into<NameArg>, permits: u32) -> Semaphore {
        Semaphore(self.0.semaphore(name, permits))
    }

    /// See [`crate::Client::all_of`].
    pub fn all_of<W: Into<WantArg>>(&self, wants: impl IntoIterator<Item = W>) -> LockBuilder {
        LockBuilder(self.0.all_of(wants))
    }

    /// See [`crate::Client::any_of`].
    pub fn any_of<W: Into<WantArg>>(&self, wants: impl IntoIterator<Item = W>) -> LockBuilder {
        LockBuilder(self.0.any_of(wants))
    }

    /// See [`crate::Client::segments`].
    #[must_use]
    pub fn segments(&self, name: impl Into<NameArg>, count: u32) -> Segments {
        Segments(self.0.segments(name, count))
    }

    /// See [`crate::Client::break_lock`].
    ///
    /// # Errors
    /// [`BreakError`].
    pub fn break_lock(
        &self,
        name: impl Into<NameArg>,
        reason: &str,
        at_once: bool,
    ) -> Result<Broken, BreakError> {
        self.wait(self.0.break_lock(name, reason, at_once))?
    }

    /// See [`crate::Client::who`].
    ///
    /// # Errors
    /// [`QueryError`].
    pub fn who(&self, name: impl Into<NameArg>) -> Result<Option<LockDetail>, QueryError> {
        self.wait(self.0.who(name))?
    }

    /// See [`crate::Client::locks`].
    ///
    /// # Errors
    /// [`QueryError`].
    pub fn locks(&self, prefix: &str) -> Result<Vec<LockSummary>, QueryError> {
        self.wait(self.0.locks(prefix))?
    }

    /// See [`crate::Client::sessions`].
    ///
    /// # Errors
    /// [`QueryError`].
    pub fn sessions(&self) -> Result<Vec<SessionSummary>, QueryError> {
        self.wait(self.0.sessions())?
    }

    /// See [`crate::Client::close`].
    ///
    /// # Errors
    /// [`CannotBlock`]; the session is then closed when the last of its handles is dropped.
    pub fn close(self) -> Result<(), CannotBlock> {
        let client = self.0.clone();
        self.wait(client.close())
    }
}

/// A lock that is read by many or written by one. See [`crate::RwLock`].
#[derive(Clone, Debug)]
pub struct RwLock(crate::RwLock);

impl RwLock {
    /// See [`crate::RwLock::read`].
    pub fn read(&self) -> LockBuilder {
        LockBuilder(self.0.read())
    }

    /// See [`crate::RwLock::write`].
    pub fn write(&self) -> LockBuilder {
        LockBuilder(self.0.write())
    }
}

/// A semaphore. See [`crate::Semaphore`].
#[derive(Clone, Debug)]
pub struct Semaphore(crate::Semaphore);

impl Semaphore {
    /// See [`crate::Semaphore::acquire`].
    pub fn acquire(&self) -> LockBuilder {
        LockBuilder(self.0.acquire())
    }
}

/// A lock in segments. See [`crate::Segments`].
#[derive(Clone, Debug)]
pub struct Segments(crate::Segments);

impl Segments {
    /// See [`crate::Segments::any`].
    pub fn any(&self) -> LockBuilder {
        LockBuilder(self.0.any())
    }

    /// See [`crate::Segments::of`].
    pub fn of(&self, key: &[u8]) -> LockBuilder {
        LockBuilder(self.0.of(key))
    }
}

/// How locks are to be acquired. See [`crate::LockBuilder`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens until `acquire`"]
pub struct LockBuilder(crate::LockBuilder);

impl LockBuilder {
    /// See [`crate::LockBuilder::wait`].
    pub fn wait(self, wait: Wait) -> LockBuilder {
        self.with(|lock| lock.wait(wait))
    }

    /// Sets whatever [`crate::LockBuilder`] has: `.with(|lock| lock.owner("a").barging())`.
    pub fn with(
        self,
        settings: impl FnOnce(crate::LockBuilder) -> crate::LockBuilder,
    ) -> LockBuilder {
        LockBuilder(settings(self.0))
    }

    /// See [`crate::LockBuilder::acquire`].
    ///
    /// # Errors
    /// [`AcquireError`]. Whatever it says, nothing is held.
    pub fn acquire(self) -> Result<LockGuard, AcquireError> {
        let session = self.0.session();
        wait(&session.shared, self.0.acquire())?.map(LockGuard::from)
    }
}

/// A held lock: all of [`crate::LockGuard`], and what it has to wait for as methods that wait.
#[derive(Debug)]
#[must_use = "a guard that is dropped gives its locks back"]
pub struct LockGuard(crate::LockGuard);

impl From<crate::LockGuard> for LockGuard {
    fn from(guard: crate::LockGuard) -> LockGuard {
        LockGuard(guard)
    }
}

impl From<LockGuard> for crate::LockGuard {
    fn from(guard: LockGuard) -> crate::LockGuard {
        guard.0
    }
}

impl Deref for LockGuard {
    type Target = crate::LockGuard;

    fn deref(&self) -> &crate::LockGuard {
        &self.0
    }
}

impl LockGuard {
    /// Waits until the lock must not be relied on any more.
    ///
    /// # Errors
    /// [`CannotBlock`].
    pub fn wait_lost(&self) -> Result<LostReason, CannotBlock> {
        wait(self.0.shared(), self.0.lost())
    }

    /// The same, but at most that long: `None` if the lock is held still.
    ///
    /// # Errors
    /// [`CannotBlock`].
    pub fn wait_lost_timeout(&self, within: Duration) -> Result<Option<LostReason>, CannotBlock> {
        let shared = self.0.shared();
        wait(shared, shared.clock.timeout(within, self.0.lost()))
    }

    /// See [`crate::LockGuard::downgrade`].
    ///
    /// # Errors
    /// [`DowngradeError`], which has the guard as it was.
    pub fn downgrade(self) -> Result<LockGuard, DowngradeError> {
        let session = self.0.handle();
        match can_wait(&session.shared) {
            Ok(runtime) => runtime.block_on(self.0.downgrade()).map(LockGuard),
            Err(problem) => Err(DowngradeError {
                guard: Box::new(self.0),
                problem: problem.into(),
            }),
        }
    }

    /// See [`crate::LockGuard::release`].
    ///
    /// # Errors
    /// [`ReleaseError`]; with [`ReleaseError::CannotBlock`] the lock is given back, and nobody
    /// waits for the confirmation.
    pub fn release(self) -> Result<ReleaseOutcome, ReleaseError> {
        let session = self.0.handle();
        wait(&session.shared, self.0.release())?
    }
}
