//! For HTTP services that refuse writes of stale lock holders themselves.
//!
//! The holder of a lock shows its *ticket* with each request. [`FenceLayer`] verifies it and hands
//! the service a [`Fence`]; the service compares the token, by [`admit`], **in the transaction of
//! the write**. That is all there is to strong fencing: once a newer holder's write, or its read
//! with a ticket, has been committed, no older one is, whatever was paused, delayed or sent twice.
//!
//! `docs/gateway-http.md` has the contract on the wire, for services in other languages;
//! `examples/orders.rs` is a whole service.
//!
//! ```
//! use lockd_origin::{Fence, Marks, admit};
//! use lockd_protocol::types::{LockName, Token};
//! # use std::collections::BTreeMap;
//! # use std::convert::Infallible;
//! /// A transaction of the database that has the data.
//! struct Tx { marks: BTreeMap<String, u64> }
//!
//! impl Marks for Tx {
//!     type Error = Infallible;
//!     fn mark(&mut self, lock: &LockName) -> Result<Option<Token>, Infallible> {
//!         Ok(self.marks.get(lock.as_str()).copied().map(Token))
//!     }
//!     fn raise(&mut self, lock: &LockName, to: Token) -> Result<(), Infallible> {
//!         self.marks.insert(lock.as_str().to_owned(), to.0);
//!         Ok(())
//!     }
//! }
//! # let shown = |token| lockd_origin::Shown {
//! #     lock: LockName::new("orders/42").unwrap(),
//! #     token: Token(token),
//! # };
//! let mut tx = Tx { marks: BTreeMap::new() };
//! assert!(admit(&mut tx, &shown(34)).is_ok());
//! assert!(admit(&mut tx, &shown(33)).is_err());
//! ```

mod fence;
mod layer;
pub mod problem;

pub use fence::{Denied, Fence, FenceError, Marks, Shown, admit};
pub use layer::{Answering, FenceLayer, FenceService};

/// The header that carries tickets, several separated by spaces.
pub const TICKET_HEADER: &str = "fencing-token";

/// Most tickets in one header.
pub const TICKETS_MAX: usize = 16;
