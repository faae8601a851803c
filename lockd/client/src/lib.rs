//! The client SDK of lockd.

mod builder;
mod client;
mod clock;
mod config;
pub mod core;
mod error;
mod guard;
mod handle;
mod lease;
mod link;
mod lock;
mod query;
mod sessions;
mod slot;
mod task;

pub use builder::ClientBuilder;
pub use client::{Client, SessionBuilder};
pub use clock::now;
pub use config::{ClientConfig, ConfigError};
pub use core::Time;
pub use error::{
    AcquireError, BreakError, ConnectError, ErrorKind, LostReason, QueryError, ReleaseError,
    ReleaseOutcome,
};
pub use guard::{GuardState, LockGuard};
pub use lock::{LockBuilder, NameArg, Wait};
pub use query::Page;
pub use slot::Broken;
