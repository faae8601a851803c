//! What the gateway asks the lock service, and only when a server may have forgotten its marks:
//! whether a token is granted now, and for a fresh token. Never asked on the way of a write. A
//! gateway that has to be the only one holds a lock there.

mod lockd;

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;

use lockd_protocol::types::{LockName, Token};

pub use self::lockd::LockdCell;

/// An answer under way.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, CellError>> + Send + 'a>>;

/// The lock service does not answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the lock service cannot be asked: {0}")]
pub struct CellError(pub String);

/// The lock service, as far as a gateway needs it. Both answers have to be linearizable: true at
/// some moment between the question and the answer.
pub trait Cell: Send + Sync {
    /// Whether the lock is granted under exactly this token now.
    fn grants<'a>(&'a self, lock: &'a LockName, token: Token) -> Answer<'a, bool>;

    /// A token that is higher than every one granted before the question.
    fn draw(&self) -> Answer<'_, Token>;

    /// Waits for a lock for as long as it takes, and holds it for the gateway itself.
    fn hold<'a>(&'a self, lock: &'a LockName) -> Answer<'a, Box<dyn Hold>>;
}

/// A lock that the gateway itself holds; given back when this is dropped.
pub trait Hold: Send + Sync {
    /// The grant's token.
    fn token(&self) -> Token;

    /// Whether the lock is held at this moment.
    ///
    /// # Errors
    /// Why it must not be relied on any more. Final.
    fn check(&self) -> Result<(), String>;

    /// Resolves when the lock must not be relied on any more, and says why.
    fn lost(&self) -> Pin<Box<dyn Future<Output = String> + Send + '_>>;
}

/// A lock service that never changes its mind, for tests.
#[derive(Debug, Clone, Default)]
pub struct StaticCell {
    /// What is granted.
    pub granted: HashSet<(LockName, Token)>,
    /// The token that is drawn.
    pub newest: Token,
}

impl Cell for StaticCell {
    fn grants<'a>(&'a self, lock: &'a LockName, token: Token) -> Answer<'a, bool> {
        let granted = self.granted.contains(&(lock.clone(), token));
        Box::pin(async move { Ok(granted) })
    }

    fn draw(&self) -> Answer<'_, Token> {
        Box::pin(async move { Ok(self.newest) })
    }

    fn hold<'a>(&'a self, _lock: &'a LockName) -> Answer<'a, Box<dyn Hold>> {
        let hold: Box<dyn Hold> = Box::new(StaticHold(self.newest));
        Box::pin(async move { Ok(hold) })
    }
}

/// A lock that is never lost, for tests.
struct StaticHold(Token);

impl Hold for StaticHold {
    fn token(&self) -> Token {
        self.0
    }

    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    fn lost(&self) -> Pin<Box<dyn Future<Output = String> + Send + '_>> {
        Box::pin(std::future::pending())
    }
}
