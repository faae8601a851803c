//! What the gateway asks the lock service, and only when a server may have forgotten its marks:
//! whether a token is granted now, and for a fresh token. Never asked on the way of a write.

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
}
