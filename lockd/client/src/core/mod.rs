//! The client's half of the protocol, without I/O.
//!
//! Nothing in here knows sockets, clocks, randomness, the environment or an async runtime: time
//! and the seed for jitter are inputs. Feed a [`SessionCore`] with
//! [`handle`](SessionCore::handle), drain it with [`poll_output`](SessionCore::poll_output), and
//! call it again when [`next_timeout`](SessionCore::next_timeout) has come.
//!
//! * `session`: one session from its opening to its loss; ties the others together.
//! * `interface`: what goes into a session and what comes out.
//! * `renewal`: KeepAlives and the deadline that follows from them.
//! * `requests`: sequence numbers, the window, what to send again after a reconnect.
//! * `watch`: what a watch has seen, and where it goes on.
//! * `endpoint`: which node to talk to, and when.
//! * `silence`: whether the connected node has died.
//! * `backoff`: how long to hold off.
//! * `time`: points in time of the boot-time clock.

mod backoff;
mod endpoint;
mod interface;
mod renewal;
mod requests;
mod session;
mod silence;
mod time;
mod watch;

pub use backoff::Backoff;
pub use endpoint::{EndpointCore, Plan};
pub use interface::{Ended, Input, Output, SessionOptions};
pub use requests::RequestId;
pub use session::SessionCore;
pub use silence::Silence;
pub use time::Time;
pub use watch::{Holders, Snapshot, Update, WatchCore};
