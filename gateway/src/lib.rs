//! lockd's gateway: stands in front of a database and has it refuse the writes of stale lock
//! holders.
//!
//! A lock alone protects nothing: its holder can be paused past its lease and write late. So each
//! grant of lockd has a *token*, higher than all before it, and a *ticket* that proves it. A
//! client shows its ticket to the gateway, on the session that it writes on; the database keeps
//! the highest token it has admitted for each lock, the *fence*, and refuses everything below.
//!
//! # The guarantee
//!
//! > Once the holder of a token has been admitted, so that it may read or write, no write that
//! > carries a lower token of the same lock takes effect there any more.
//!
//! It holds whatever pauses, crashes, delays and lost packets there are, with any number of
//! gateways in front of one database, and across restarts of everything. It does not rest on the
//! gateway: the database enforces it, and a gateway that is paused, killed or replaced can do no
//! harm. Two duties stay here: what follows a ticket is held until it is admitted, and a session
//! changes its tickets only while it is idle.
//!
//! # Limits
//!
//! - In PostgreSQL only tables named in guard rules are under guard, with all that is below them
//!   (partitions, children). Sequences, large objects and DDL are not.
//! - Whoever may switch triggers off (superusers, owners of the tables), or change the rights of
//!   users in Redis, can go around the fence.
//! - A fence belongs to one database. It is moved with it by a backup or a failover; the cell is
//!   asked afterwards what is still granted.
//! - Two locks that cover the same table do not order each other's writes.
//! - In front of HTTP servers ([`http`]) there is no fence, only an order: the guarantee above holds
//!   as far as the operator's settle time is true.
//!
//! `docs/gateway.md` is the guide for operators and application programmers.
//!
//! # How to read the code
//!
//! [`fence`] is the decision core, without I/O: start there. [`store`] is the smallest complete
//! upstream, a key-value store over HTTP. [`postgres`] is the one that matters: its `sql/fence.sql`
//! is the fence in the database, and the relay around it knows as little of the protocol as it can.
//! [`mysql`] has the same fence in MariaDB, [`redis`] has it in a server's access list. [`http`] is
//! for servers that can have none: it keeps the order of writes itself, which is weaker.
//! [`config`], [`rules`], [`tickets`], [`cell`], [`findings`], `admission` and `net` are what they
//! share; [`server`] and [`cli`] make processes of them.

pub(crate) mod admission;
pub mod cell;
pub mod cli;
pub mod config;
pub mod fence;
pub mod findings;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod http;
pub mod limits;
pub mod mysql;
pub(crate) mod net;
pub mod postgres;
pub(crate) mod problem;
pub mod redis;
pub mod rules;
pub mod server;
pub mod store;
pub mod tickets;
pub mod tls;

pub use server::{ServeError, serve};
