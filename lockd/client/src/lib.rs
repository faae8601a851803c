//! The client SDK of lockd, a lock service whose grants carry fencing tokens.
//!
//! ```
//! use std::time::Duration;
//! use lockd_client::{Client, GuardState, Wait};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let cell = lockd::dev::DevCell::start(None)?;
//! # let client_toml = cell.client_config();
//! // `client.toml` was written by `lockd init`, or by `lockd dev`.
//! let client = Client::builder()
//!     .config_file(client_toml)?
//!     .ttl(Duration::from_secs(10))
//!     .connect()
//!     .await?;
//!
//! let guard = client
//!     .lock("orders/42")
//!     .wait(Wait::For(Duration::from_secs(5)))
//!     .acquire()
//!     .await?; // an error unless the lock is held
//!
//! println!("show this to the gateway: {:?}", guard.ticket());
//! println!("or compare this where the data is: {}", guard.token());
//! assert_eq!(guard.state(), GuardState::Held);
//!
//! tokio::select! {
//!     reason = guard.lost() => eprintln!("stop at once: {reason}"),
//!     () = work() => {}
//! }
//! guard.release().await?;
//! client.close().await;
//! # Ok(())
//! # }
//! # async fn work() {}
//! ```
//!
//! # What a guard promises
//!
//! While [`LockGuard::state`] says [`GuardState::Held`] or [`GuardState::Jeopardy`], nobody else
//! has been granted the lock, given that no clock runs more than 1 % fast or slow (an operator's
//! break "at once" excepted). The deadline counts from the *send* time of the last renewal that
//! was answered, on the boot-time clock, which goes on while the machine is suspended.
//! [`GuardState::Lost`] is final for a guard.
//!
//! That is a promise about the moment of looking. A process can be paused between looking and
//! writing; so let the data refuse late writes, by ticket or by token.
//!
//! # Sessions
//!
//! A [`Client`] has a session, renewed in the background; everything it holds or waits for ends
//! with it. Elections and lost connections do not end a session: the client finds the new
//! leader and repeats what is unanswered, and each request takes effect once. If a session is
//! lost after all, its guards are lost, and the next acquisition opens another. Many sessions
//! can share a connection: see [`Client::session`].
//!
//! They are renewed by a thread of the client's own, so that a program which blocks its runtime
//! keeps its locks; [`Background`] has the other way. Programs that are not async use
//! [`blocking`].
//!
//! # Errors
//!
//! Every error has a `kind()`: [`ErrorKind::Definite`], [`ErrorKind::Retry`] or
//! [`ErrorKind::Unknown`]. Not to have acquired a lock is always an error, never an `Ok`.
//!
//! # Layout
//!
//! [`core`] is the protocol without I/O; the rest is the shell around it: `dialer` and `link`
//! speak QUIC, `node_reader` asks one node, `task` runs in the background (`background` says where)
//! and owns the `sessions` and the `watches`, `lease` is what guards read without waiting for
//! anybody. `check` looks at what is asked for, `trace` has the spans. What goes by time goes by
//! the client's `clock`.

// Without the test kit, an edge of the client has one variant.
#![cfg_attr(
    not(feature = "test-kit"),
    allow(clippy::infallible_destructuring_match)
)]

mod alarm;
mod background;
pub mod blocking;
mod builder;
mod check;
mod client;
mod clock;
mod config;
pub mod core;
mod dial_error;
mod dialer;
mod election;
mod error;
mod guard;
mod handle;
mod kinds;
mod lease;
mod link;
mod lock;
mod node_reader;
mod query;
mod sessions;
mod slot;
mod task;
#[cfg(feature = "test-kit")]
pub mod test_kit;
mod trace;
mod watch;
mod watches;

pub use background::Background;
pub use builder::ClientBuilder;
pub use client::{Client, SessionBuilder};
pub use clock::now;
pub use config::{ClientConfig, ConfigError};
pub use core::{Holders, Snapshot, Time, Update};
pub use election::{Election, LeaderInfo, Leadership, Observer};
pub use error::{
    AcquireError, BreakError, CannotBlock, ConnectError, DowngradeError, DowngradeProblem,
    ErrorKind, LostReason, MetadataError, QueryError, ReconfigureError, ReleaseError,
    ReleaseOutcome, WatchError,
};
pub use guard::{GuardState, LockGuard};
pub use kinds::{RwLock, Segments, Semaphore};
pub use lease::HeldLock;
pub use lock::{LockBuilder, NameArg, Wait, WantArg};
/// The protocol's types, for what appears in this crate's interface.
pub use lockd_protocol as protocol;
pub use lockd_protocol::client::{Change, Event, Holder, Metadata, Value};
pub use lockd_protocol::{EventNumber, Mode};
pub use node_reader::{NodeReader, probe};
pub use query::Page;
pub use slot::Broken;
pub use watch::Watch;
